"""Bringing a platform up and down: the order of steps, and what is undone when one of them fails.

Owns the state and run directories' existence and modes, and the promise that a second `up` and a second `down` do no harm.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pilotlight.config import SETTINGS_FILE, Settings
from pilotlight.core.errors import Busy, NotAllowed, PilotlightError, WrongState
from pilotlight.supervisor import leftovers, lock, slots, sockets
from pilotlight.supervisor.detach import Reporter, run_in_background
from pilotlight.supervisor.journal import Journal
from pilotlight.supervisor.sockets import Listeners
from pilotlight.supervisor.watch import ReadyCallback, Supervisor

STOP_LIMIT_S = 40.0  # longer than the supervisor's own limits together
SUPERVISOR_LOG = "supervisor.log"

Announce = Callable[[Settings, float, Sequence[str]], None]


def running_settings(settings: Settings) -> Settings:
    """What the running platform of this state resolved at its start; the given ones if none runs."""
    path = settings.run_dir / SETTINGS_FILE
    return Settings.load(path) if path.exists() else settings


def require_root(why: str) -> None:
    """Refuse to go on without root, saying why it is needed. Raises NotAllowed."""
    if os.geteuid() != 0:
        raise NotAllowed(f"{why}: that needs root. Run it with sudo: sudo {Path(sys.argv[0]).resolve()} …")


def _make_directories(settings: Settings) -> None:
    """The state directory, and what is in it that others must not read even if it was there before and lets them in."""
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    for directory in (settings.process_logs_dir, settings.node_dir, settings.layers_dir, settings.images_dir):
        directory.mkdir(mode=0o700, exist_ok=True)
        directory.chmod(0o700)


def _prepare(settings: Settings) -> tuple[Settings, dict[str, Listeners]]:
    """Clear what a killed predecessor left, choose the network, bind, save: settings as resolved and the listeners of each role."""
    leftovers.end_processes(leftovers.processes_of(settings))
    settings.run_dir.mkdir(mode=0o711, exist_ok=True)
    settings.run_dir.chmod(0o711)  # whatever the umask
    try:
        with slots.reserved(settings) as placed:
            resolved, listeners = sockets.open_listeners(placed)
            resolved.save()
        return resolved, listeners
    except BaseException:
        leftovers.remove_run_dir(settings)
        raise


def bring_up(settings: Settings, *, detach: bool, announce: Announce) -> lock.Running | None:
    """Start the platform: the one that runs already, if so, else None once it has ended (or, detached, once it is ready).

    `announce` is called once all processes serve, with the settings as resolved, the seconds that took, and what is to be known.
    Raises PilotlightError when it can't be started; then nothing is left behind.
    """
    require_root("the node agent makes namespaces, mounts and a network for containers")
    _make_directories(settings)
    held = lock.take(settings)
    if held is None:
        return lock.holder(settings) or lock.Running(0, settings.api, settings.web)
    try:
        resolved, listeners = _prepare(settings)
    except BaseException:
        held.release()
        raise
    if not detach:
        _supervise(resolved, listeners, held, lambda seconds, notes: announce(resolved, seconds, notes), echo=True)
        return None
    keep = [held.fd, *(s.fileno() for of_role in listeners.values() for s in of_role.values())]
    log_path = settings.process_logs_dir / SUPERVISOR_LOG
    outcome = run_in_background(lambda reporter: _background(resolved, listeners, held, reporter), log_path, keep)
    if outcome.ready_s is None:
        raise Busy(outcome.error)
    announce(resolved, outcome.ready_s, outcome.notes)
    return None


def _background(settings: Settings, listeners: Mapping[str, Listeners], held: lock.InstanceLock, reporter: Reporter) -> int:
    try:
        _supervise(settings, listeners, held, reporter.ready, echo=False)
    except PilotlightError as exc:
        reporter.failed(str(exc))
        return 1
    return 0


def _supervise(
    settings: Settings, listeners: Mapping[str, Listeners], held: lock.InstanceLock, on_ready: ReadyCallback, *, echo: bool
) -> None:
    """Be the supervisor until the platform ends, then remove what it had while running."""
    held.describe(settings)
    journal = Journal(settings.process_logs_dir / SUPERVISOR_LOG, echo=echo)
    journal.log("supervisor_started", pid=os.getpid(), state=settings.state, api=settings.api, web=settings.web)
    try:
        asyncio.run(Supervisor(settings, listeners, journal).run(on_ready))
    finally:
        for of_role in listeners.values():
            sockets.close_all(of_role)
        try:
            clean_up(settings)
        except PilotlightError as exc:  # why it ended matters more to the caller
            journal.log("clean_up_failed", error=repr(str(exc)))
        journal.log("supervisor_ended", pid=os.getpid())
        held.release()


def bring_down(settings: Settings) -> str:
    """Stop the platform and wait until it is gone: what happened, for the person who asked. Safe to repeat."""
    if not settings.state.is_dir():
        return f"Pilotlight is not running (there is no {settings.state})."
    stopped = _stop_supervisor(settings)
    held = lock.take(settings)
    if held is None:
        raise WrongState(f"another supervisor took over {settings.state} meanwhile; run `pilotlight down` again")
    try:
        cleaned = clean_up(running_settings(settings))
    finally:
        held.release()
    if stopped:
        return "Pilotlight has stopped."
    return "Pilotlight was not running; what a killed one had left is removed." if cleaned else "Pilotlight is not running."


def _stop_supervisor(settings: Settings) -> bool:
    running = lock.holder(settings)
    if running is None:
        return False
    if not running.pid:
        raise Busy(f"a supervisor of {settings.state} is just starting; run `pilotlight down` again in a second")
    pidfd = leftovers.open_process(running.pid)
    if pidfd is None:
        return True
    try:
        if lock.holder(settings) == running:  # else it ended just now, and the number may be another's
            leftovers.end_opened([pidfd], grace_s=STOP_LIMIT_S)
    finally:
        os.close(pidfd)
    return True


def clean_up(settings: Settings) -> bool:
    """Remove processes, containers and directories of a platform whose supervisor is gone or going: whether there were any."""
    pids = leftovers.processes_of(settings)
    leftovers.end_processes(pids)
    had_containers = leftovers.has_containers(settings)
    if had_containers:
        leftovers.sweep_containers(slots.with_kept(settings))
    had_run_dir = settings.run_dir.exists()
    leftovers.remove_run_dir(settings)
    return bool(pids) or had_containers or had_run_dir
