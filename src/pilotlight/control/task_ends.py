"""How a container ended, in words for the author of its program."""

from collections.abc import Sequence

from pilotlight.wire import platform_pb2


def how_it_ended(event: platform_pb2.TaskExited) -> str:
    """Half a sentence."""
    if event.reason == "oom":
        peak = f"{event.peak_memory_bytes // 2**20} MiB"
        if event.memory_limit_mib:
            return f"it used more memory than its limit of {event.memory_limit_mib} MiB (peak {peak}) and was killed"
        return (
            f"the containers of its node had used all memory that there is for them, and the kernel killed this one (peak {peak}); "
            "it has no limit of its own: memory=(request, limit) sets one"
        )
    if event.reason == "startup_timeout":
        return "it took longer to start than its startup_timeout allows"
    if event.exit_code > 128:
        return f"killed by signal {event.exit_code - 128} (exit code {event.exit_code})"
    return f"exit code {event.exit_code}" + (f": {event.message}" if event.message else "")


def last_output(last_lines: Sequence[str]) -> str:
    """What a container printed last, to be put behind a message; empty for none."""
    return ("\nIts last output:\n" + "".join(last_lines)) if last_lines else ""
