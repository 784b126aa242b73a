"""`make chaos SEED=n`: a campaign of faults on a platform of its own; the same seed draws the same faults.

python -m tests.chaos [--seed N] [--kills N] [--minutes N] [--directory DIR] [--list]
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from pilotlight.config import Settings
from tests.chaos import campaign, schedule, verdict
from tests.chaos.clients import ROLES
from tests.chaos.clock import Clock
from tests.chaos.disk import Disk, see_mounts_alone
from tests.chaos.schedule import OF_A_CLOCK, Kind
from tests.chaos.target import PlatformFailed, Target, free_address

DISK_MIB = 8192


def main() -> int:
    """The command line; 0 if nothing was lost, doubled, wrong, hung or left behind."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=campaign.environment_seed())
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60.0, help="No event after so many.")
    parser.add_argument("--directory", type=Path, help="Keep the platform's disk and the logs here (a disk that is there is used).")
    parser.add_argument("--kinds", default="", help="Only these, by commas: 'kill server,cut power'.")
    parser.add_argument("--roles", default="", help="Only these clients, by commas.")
    parser.add_argument("--no-traces", action="store_true", help="Do not count what is left behind.")
    parser.add_argument("--list", action="store_true", help="Only show what would be done.")
    options = parser.parse_args()
    kinds = frozenset(Kind(name.strip()) for name in options.kinds.split(",")) if options.kinds else frozenset(Kind)
    has_clock = Clock.can_be_made()
    kinds = kinds if has_clock else kinds - OF_A_CLOCK
    events = list(schedule.draw(options.seed, options.kills, kinds))
    say(f"seed {options.seed}, {len(events)} events{'' if has_clock else '; no clock jumps: there is no C compiler (cc)'}")
    if options.list:
        print(*events, sep="\n")
        return 0
    if os.geteuid() != 0:
        print("Containers and file systems need root.", file=sys.stderr)
        return 2
    see_mounts_alone()
    directory = (options.directory or Path(tempfile.mkdtemp(prefix="pilotlight-chaos-"))).resolve()
    roles = options.roles.split(",") if options.roles else list(ROLES)
    report = _on_a_disk(directory, events, options, roles, has_clock=has_clock)
    print(verdict.table(report.tally))
    for line in report.tally.guilty:
        print(line)
    for name, (before, after) in report.grown.items():
        print(f"left behind: {name}: {before:g} before, {after:g} after")
    counts = ", ".join(f"{name} {report.tally.total(name)}" for name in ("lost", "doubled", "wrong", "failed", "hung"))
    say(f"seed {options.seed}, {report.kills} kills: {counts}; {'GOOD' if report.is_good else 'BAD'}")
    if report.is_good and not options.directory:
        shutil.rmtree(directory)
    else:
        print(f"Logs and journals: {directory}")
    return 0 if report.is_good else 1


def _on_a_disk(
    directory: Path, events: list[schedule.Event], options: argparse.Namespace, roles: list[str], *, has_clock: bool
) -> campaign.Report:
    run = directory / f"run-{options.seed}-{int(time.time())}"
    run.mkdir(parents=True)
    disk = Disk(directory / "disk.img", directory / "disk")
    if not (directory / "disk.img").exists():
        disk.make(DISK_MIB)
    disk.mount()
    try:
        listening = ("--api", free_address(), "--web", free_address(), "--web-rate-limit", "off")
        settings = Settings(state=disk.path / "state")
        target = Target(settings, listening, disk, Clock(directory) if has_clock else None)
        target.up()
        try:
            return campaign.campaign(
                target,
                events,
                seed=options.seed,
                minutes=options.minutes,
                directory=run,
                say=say,
                roles=roles,
                count_traces=not options.no_traces,
            )
        finally:
            with suppress(shutil.Error):  # of a disk that has lost its power
                shutil.copytree(settings.process_logs_dir, run / "logs")
            with suppress(PlatformFailed):
                target.down()
            target.kill_all()
    finally:
        disk.unmount()


def say(text: str) -> None:
    """A line of what is going on, with the time."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
