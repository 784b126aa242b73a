"""Stands in for pilotlight.main: takes its sockets, answers each connection with its name and pid, ends on SIGTERM.

What it is to do wrong is read from a file in the state directory: `<role>.fail` makes it exit at once, with a line of output;
`<role>.refuse` and `<role>.note` hold what it says before it ends, or serves.
"""

import os
import selectors
import signal
import sys
from pathlib import Path

from pilotlight.config import Settings, inherited_sockets, note, ready, refuse


def main() -> None:
    role, settings = sys.argv[1], Settings.load(Path(sys.argv[3]))
    if (settings.state / f"{role}.fail").exists():
        print(f"{role} can't go on")
        sys.exit(7)
    if (refusal := settings.state / f"{role}.refuse").exists():
        refuse(refusal.read_text())
        sys.exit(1)
    if (noted := settings.state / f"{role}.note").exists():
        note(noted.read_text())
    sockets = inherited_sockets()
    reading, writing = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(writing, b"!"))
    selector = selectors.DefaultSelector()
    selector.register(reading, selectors.EVENT_READ)
    for name, listener in sockets.items():
        selector.register(listener, selectors.EVENT_READ, name)
    ready()
    while True:
        for key, _ in selector.select():
            if key.fd == reading:
                with (settings.state / "ended").open("a") as order:
                    order.write(f"{role}\n")
                return
            connection, _ = sockets[key.data].accept()
            with connection:
                connection.sendall(f"{role} {key.data} {os.getpid()}".encode())


if __name__ == "__main__":
    main()
