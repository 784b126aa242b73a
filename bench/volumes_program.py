"""What is measured on a volume inside a container, and on the host's own directory: the same code.

On the host: python -m bench.volumes_program DIRECTORY; each line of its standard input, {"mib": …}, is answered with the figures.
"""

import json
import os
import platform
import sys
import time
from pathlib import Path

import modal

APP, FUNCTION, VOLUME = "pilotlight-bench-volumes", "on_volume", "pilotlight-bench-volumes"
MOUNT = "/volume"
PIECE_BYTES = 1 << 20

app = modal.App(APP, image=modal.Image.debian_slim(), include_source=True)
volume = modal.Volume.from_name(VOLUME, create_if_missing=True, version=2)


@app.function(max_containers=1, volumes={MOUNT: volume}, timeout=900)
def on_volume(mib: int) -> dict[str, object]:
    interpreter = f"{os.path.realpath(sys.executable)} {platform.python_version()}"
    return {"interpreter": interpreter, **sequential(Path(MOUNT) / "in-container", mib)}


def sequential(path: Path, mib: int) -> dict[str, float]:
    """MB/s of a new file written from one end to the other and synced, then read again from the disk."""
    piece = os.urandom(PIECE_BYTES)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        started = time.perf_counter()
        for _ in range(mib):
            if os.write(descriptor, piece) != PIECE_BYTES:
                raise OSError(f"{path}: a short write")
        os.fsync(descriptor)
        written_s = time.perf_counter() - started
        cached_s = _read(descriptor, mib)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # all of it is clean, so all of it goes
        read_s = _read(descriptor, mib)
    finally:
        os.close(descriptor)
        path.unlink()
    size_mb = mib * PIECE_BYTES / 1e6
    return {"write_mb_per_s": size_mb / written_s, "read_mb_per_s": size_mb / read_s, "read_cached_mb_per_s": size_mb / cached_s}


def _read(descriptor: int, mib: int) -> float:
    """Seconds for the whole file."""
    buffer = bytearray(PIECE_BYTES)
    started = time.perf_counter()
    for number in range(mib):
        if os.preadv(descriptor, [buffer], number * PIECE_BYTES) != PIECE_BYTES:
            raise OSError("a short read")
    return time.perf_counter() - started


def main() -> None:
    """Serve on the host until standard input ends."""
    for line in sys.stdin:
        print(json.dumps(sequential(Path(sys.argv[1]) / "on-host", json.loads(line)["mib"])), flush=True)


if __name__ == "__main__":
    main()
