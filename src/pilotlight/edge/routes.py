"""Which web function serves a host name: the table that the server pushes.

Invariant: what `find` gives is what the server said last. While the server is away the table stays as it is; before it has said
anything, `is_told` is false, and a route that is not here may well exist.
"""

from collections.abc import Collection

from pilotlight.core.hosts import host_name, label_of
from pilotlight.wire.platform_pb2 import WebRoute


class Routes:
    """WebRoutes by label and by custom domain."""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._by_label: dict[str, WebRoute] = {}
        self._by_domain: dict[str, WebRoute] = {}
        self.is_told = False

    def set(self, route: WebRoute) -> None:
        """A new route, or what takes the place of the one of its label."""
        self.drop(route.label)
        self._by_label[route.label] = route
        for domain in route.custom_domains:
            self._by_domain[host_name(domain)] = route

    def drop(self, label: str) -> None:
        """Forget a route; unknown ones are no error."""
        if self._by_label.pop(label, None) is not None:
            self._by_domain = {domain: route for domain, route in self._by_domain.items() if route.label != label}

    def keep_only(self, labels: Collection[str]) -> None:
        """These are all that there are: forget the others."""
        self.is_told = True
        for label in [label for label in self._by_label if label not in labels]:
            self.drop(label)

    def is_web(self, host_header: str) -> bool:
        """Whether the host belongs to web functions, be there one of that name or not; else it is the platform's own."""
        name = host_name(host_header)
        return label_of(name, self._domain) is not None or name in self._by_domain

    def find(self, host_header: str) -> WebRoute | None:
        """The route of a Host header."""
        name = host_name(host_header)
        label = label_of(name, self._domain)
        return self._by_domain.get(name) if label is None else self._by_label.get(label)
