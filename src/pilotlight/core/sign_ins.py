"""Who tries tokens that are none: counted by address, until that address has to wait (pure: the time is told to it).

Invariant: a client that works goes on working, whatever others at its address try.
"""

from collections import OrderedDict, deque

MAX_FAILURES = 20  # of one address, within WINDOW_S
WINDOW_S = 60.0
MAX_ADDRESSES = 10_000  # that are remembered; the oldest go first
MAX_KNOWN = 20_000  # pairs of address and token that have been accepted


class SignIns:
    """Failures by address, and which tokens were accepted from where."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait_s(self, address: str, token_id: str, now_s: float) -> float:
        """Seconds for which a request of this address is not looked at; 0.0 for one that is."""
        failures = self._failures.get(address)
        if failures is None or len(failures) < MAX_FAILURES or (address, token_id) in self._known:
            return 0.0
        left = failures[0] + WINDOW_S - now_s
        return left if 0.0 < left <= WINDOW_S else 0.0

    def failed(self, address: str, now_s: float) -> None:
        """A token was not accepted."""
        failures = self._failures.setdefault(address, deque(maxlen=MAX_FAILURES))
        failures.append(now_s)
        self._failures.move_to_end(address)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)

    def succeeded(self, address: str, token_id: str) -> None:
        """A token was accepted."""
        pair = (address, token_id)
        if pair not in self._known:
            self._known[pair] = None
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
