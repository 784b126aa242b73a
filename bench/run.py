"""`make bench`: all measurements on one platform, one after the other; their options are their defaults.

python -m bench.run [--state DIR] [--set SETTING=VALUE] [--json]
"""

import argparse
import subprocess
import sys

from bench import platform

BENCHES = ("warm", "hello", "spawn", "state", "web", "volumes")


def main() -> None:
    """The command line; ends with the first failure's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    platform.add_options(parser)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shared = ["--json"] if options.json else []
    subprocess.run([sys.executable, "-m", "bench.floor", *shared], cwd=platform.REPOSITORY, check=True)
    with platform.running(options) as running:
        for bench in BENCHES:  # each finds the platform running and leaves it so
            command = [sys.executable, "-m", f"bench.{bench}", "--state", str(running.state), *shared]
            subprocess.run(command, cwd=platform.REPOSITORY, check=True)


if __name__ == "__main__":
    main()
