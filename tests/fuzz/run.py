"""Drive one target with atheris: `make fuzz TARGET=dockerfiles SECONDS=60`. What it finds is kept below .fuzz/, and shown."""

import os
import subprocess
import sys
from pathlib import Path

KEPT = Path(__file__).parents[2] / ".fuzz" / "corpus"


def fuzz(name: str, seconds: int) -> int:
    """Fuzz in a process of its own, since libFuzzer ends it; its exit code."""
    corpus = KEPT / name
    corpus.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]
    crashes = f"-artifact_prefix={KEPT.parent}/{name}-"
    return subprocess.run([sys.executable, __file__, "--inner", name, str(corpus), *limits, crashes], check=False).returncode


def inner(name: str, arguments: list[str]) -> None:
    import atheris

    # What is watched is our own code and what it leans on; atheris counts the branches of what is imported here.
    with atheris.instrument_imports(include=["pilotlight", "cronsim", "cbor2"]):
        from fuzz import targets

    for number, seed in enumerate(targets.SEEDS[name]):
        Path(arguments[0], f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *arguments], targets.TARGETS[name])
    atheris.Fuzz()


def main() -> None:
    if sys.argv[1] == "--inner":
        inner(sys.argv[2], sys.argv[3:])
        return
    from fuzz import targets

    wanted = list(targets.TARGETS) if sys.argv[1] == "all" else [sys.argv[1]]
    if unknown := set(wanted) - set(targets.TARGETS):
        sys.exit(f"No target {unknown.pop()!r}. There are: {', '.join(targets.TARGETS)}, or all.")
    failed = [name for name in wanted if fuzz(name, int(sys.argv[2]))]
    sys.exit(f"Found something: {', '.join(failed)}; what led there is in {KEPT.parent}" if failed else 0)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
