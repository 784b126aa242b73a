"""TLS of the platform's own listeners: one certificate, taken anew from disk once it has been renewed there."""

import ssl
from collections.abc import Callable
from pathlib import Path

import structlog

from pilotlight.config import Settings
from pilotlight.core.errors import InvalidInput

log = structlog.get_logger()

Stamp = tuple[int, ...]


class Certificate:
    """A chain and its key in PEM files. Each handshake uses what the files hold by then, if that is whole."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Raises InvalidInput that says which file is wrong, and why."""
        self._chain = chain
        self._key = key
        self._stamp = self._current_stamp()
        self._contexts: dict[tuple[str, ...], ssl.SSLContext] = {}
        self._load(())

    def context(self, *protocols: str) -> ssl.SSLContext:
        """For a listener that speaks these application protocols ("h2", "http/1.1")."""
        context = self._load(protocols)
        self._contexts[protocols] = context

        def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            self._refresh()
            connection.context = self._contexts[protocols]

        context.sni_callback = renew
        return context

    def by_name(self, protocols_of: Callable[[ssl.SSLObject, str | None], tuple[str, ...] | None]) -> ssl.SSLContext:
        """For a listener where the name that a client asks for decides which protocols are spoken; None: it gets no connection."""
        context = self._load(())

        def choose(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
            protocols = protocols_of(connection, name)
            if protocols is None:
                return ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            self._refresh()
            if protocols not in self._contexts:
                self._contexts[protocols] = self._load(protocols)
            connection.context = self._contexts[protocols]
            return None

        context.sni_callback = choose
        return context

    def _refresh(self) -> None:
        stamp = self._current_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._contexts = {protocols: self._load(protocols) for protocols in self._contexts}
        except InvalidInput as error:  # half written, perhaps: the next change will tell
            log.error("certificate_not_renewed", why=str(error))
        else:
            log.info("certificate_renewed", chain=str(self._chain))

    def _current_stamp(self) -> Stamp:
        """Changes when either file does."""
        return tuple(value for path in (self._chain, self._key) for value in _identity(path))

    def _load(self, protocols: tuple[str, ...]) -> ssl.SSLContext:
        for path, option, holds in ((self._chain, "--tls-cert", "CERTIFICATE"), (self._key, "--tls-key", "PRIVATE KEY")):
            try:
                text = path.read_text(errors="replace")
            except OSError as error:
                raise InvalidInput(f"{option} {path} can't be read: {error.strerror}") from error
            if f"{holds}-----" not in text:
                raise InvalidInput(f"{option} {path} has no PEM block of a {holds.lower()}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if protocols:
            context.set_alpn_protocols(list(protocols))
        try:
            context.load_cert_chain(self._chain, self._key, password=_no_password)
        except ssl.SSLError as error:
            what = "do not belong together" if error.reason == "KEY_VALUES_MISMATCH" else f"can't be used ({error.reason or error})"
            raise InvalidInput(f"--tls-cert {self._chain} and --tls-key {self._key} {what}") from error
        return context


def certificate_of(settings: Settings) -> Certificate | None:
    """The platform's certificate, if it has one; raises InvalidInput for half of one too."""
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise InvalidInput("TLS needs both a certificate chain (--tls-cert FILE) and its key (--tls-key FILE)")
    return Certificate(settings.tls_cert, settings.tls_key)


def _identity(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return (0,)
    return status.st_mtime_ns, status.st_ino, status.st_size


def _no_password() -> str:
    raise InvalidInput("the key of --tls-key has a password; give one without, readable by its owner only")
