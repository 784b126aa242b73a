"""What a forked interpreter takes over when it begins: in one of its own, for it changes all of its process."""

import json
import subprocess
import sys

from pilotlight.node.templates.template import PROGRAM

_PROGRAM = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
before = time.tzname, time.localtime(0).tm_hour
import pilotlight_fresh
pilotlight_fresh.begin({"TZ": "THERE-5:30"}, "/", [])
print(json.dumps([before, (time.tzname, time.timezone, time.strftime("%H:%M %Z", time.localtime(0)))]))
"""


def test_the_time_zone_is_that_of_the_container() -> None:
    command = [sys.executable, "-c", _PROGRAM, str(PROGRAM)]
    done = subprocess.run(command, env={"TZ": "HERE0"}, capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout)
    assert before == [["HERE", "HERE"], 0]
    assert after == [["THERE", "THERE"], -19800, "05:30 THERE"]
