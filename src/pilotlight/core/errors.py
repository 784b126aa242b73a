"""Every error that a caller may see.

    PilotlightError
    ├── InvalidInput       what was asked for makes no sense, here or anywhere
    ├── BadCredentials     no token, a wrong one, or a revoked one
    ├── NotAllowed         known caller, but not theirs to do
    ├── NotFound           there is no such thing, or not for this caller
    ├── AlreadyExists      the name is taken
    ├── WrongState         the thing is there, but not in a state that allows this
    │   └── NotIsolated    a container is not shut in as it should be, and was given nothing
    ├── LostRace           somebody else changed it first; asking again may work
    ├── OverLimit          a limit that has a name was reached
    │   └── DiskFull       the platform can't write; what it has can still be read
    ├── Busy               a dependency is down or not ready; try again
    └── NotBuilt           a feature of the protocol that this platform does not have yet

Each carries a public message that says what happened, why, and what to do next. Context that is only for the log goes into
keyword arguments. `rpc/framework.py` and `edge/` hold the tables that map them to gRPC and HTTP status.
"""


class PilotlightError(Exception):
    """Base of all domain errors: `str(error)` is fit for the user, `error.context` is for the log only."""

    def __init__(self, message: str, **context: object) -> None:
        super().__init__(message)
        self.context = context


class InvalidInput(PilotlightError):
    """The request itself is wrong; repeating it can't help."""


class BadCredentials(PilotlightError):
    """Missing, wrong or revoked token."""


class NotAllowed(PilotlightError):
    """The caller is known and may not do this."""


class NotFound(PilotlightError):
    """No such object, or one hidden from this caller."""


class AlreadyExists(PilotlightError):
    """The name or id is in use."""


class WrongState(PilotlightError):
    """The object's state does not allow this."""


class NotIsolated(WrongState):
    """A container differs from what it was meant to be; it was killed before its program ran. `faults` says what is wrong."""

    def __init__(self, message: str, *, faults: tuple[str, ...], **context: object) -> None:
        super().__init__(message, **context)
        self.faults = faults


class LostRace(PilotlightError):
    """A guarded update found that someone else had won."""


class OverLimit(PilotlightError):
    """A named limit was reached. `retry_after_s` is set where waiting helps."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, **context: object) -> None:
        super().__init__(message, **context)
        self.retry_after_s = retry_after_s


class DiskFull(OverLimit):
    """A disk of the platform takes no more. Nothing was changed; the same request works once there is room."""


class Busy(PilotlightError):
    """A dependency is down or not ready yet."""


class NotBuilt(PilotlightError):
    """The protocol has it, this platform does not have it yet."""
