"""An attacker in one container, a neighbour in another; each probe's report is a line of JSON.

Called with a JSON object of what lies around (see `probes.Surroundings`); `gateways` is where the platform has its sockets.
"""

import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import modal
import probes

PORT = 8000
GVISOR = "4.4.0"  # the kernel that it says it is
SECRET = "canary-of-the-neighbour"

app = modal.App("escape")
image = modal.Image.debian_slim().add_local_python_source("probes")
own = modal.Volume.from_name("escape-own", create_if_missing=True)
other = modal.Volume.from_name("escape-other", create_if_missing=True)


@app.function(image=image, volumes={"/data": own}, timeout=900)
def attack(around: dict[str, Any], wanted: list[str]) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """How this container was started, and the report of each probe."""
    surroundings = probes.Surroundings(**around)
    found = probes.load()
    if os.uname().release == GVISOR:
        found = {name: act for name, act in found.items() if name not in probes.IN_OWN_KERNEL}
    reports = {name: probes.run(name, surroundings) for name in found if not wanted or name in wanted}
    return {"kernel": os.uname().release, "init": Path("/proc/1/comm").read_text().strip()}, reports


@app.function(image=image, volumes={"/data": other}, secrets=[modal.Secret.from_dict({"ESCAPE_NEIGHBOUR": SECRET})], timeout=900)
def neighbour(mail: modal.Queue) -> None:
    """Leaves things in all places that two containers could share, listens, and tells at the end who came."""
    for place in ("/tmp", "/var/tmp", "/root", "/dev/shm", "/data"):
        Path(place, "canary-of-the-neighbour").write_text(SECRET)
    came: list[str] = []
    plain = socket.create_server(("0.0.0.0", PORT))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("0.0.0.0", PORT))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(b"\0canary-of-the-neighbour")
    abstract.listen()

    def accept(listener: socket.socket) -> None:
        while True:
            came.append(f"a connection from {listener.accept()[1]}")

    def receive() -> None:
        while True:
            came.append(f"a datagram from {datagrams.recvfrom(100)[1]}")

    for target, arguments in ((accept, (plain,)), (accept, (abstract,)), (receive, ())):
        threading.Thread(target=target, args=arguments, daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.connect(("192.0.2.1", 9))
        address = door.getsockname()[0]
    mail.put({"address": address, "task": os.environ["MODAL_TASK_ID"]}, partition="up")
    mail.get(partition="down")
    same = {place: Path(place, "canary-of-the-neighbour").read_text() for place in ("/tmp", "/dev/shm", "/data")}
    came += [f"{place} holds {text!r}" for place, text in same.items() if text != SECRET]
    mail.put(came, partition="up")


def main() -> None:
    around, gateways, wanted = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3:]
    with app.run(), modal.Queue.ephemeral() as mail:
        staying = neighbour.spawn(mail)
        there = mail.get(partition="up", timeout=120)
        around["neighbour"], around["neighbour_port"] = there["address"], PORT
        around["abstract"].append("canary-of-the-neighbour")
        around["files"].append(f"{gateways}/{there['task']}.sock")
        around["volume"], around["other_volumes"] = "/data", [other.object_id]
        started, reports = attack.remote(around, wanted)
        for name, report in reports.items():
            print(json.dumps({"probe": name, **report}), flush=True)
        mail.put("enough", partition="down")
        came = mail.get(partition="up", timeout=60)
        staying.get(timeout=60)
        said = {"reached": came, "refused": ["what it had is as it was"], "error": "", "started": started}
        print(json.dumps({"probe": "the_neighbour_says", **said}))


if __name__ == "__main__":
    main()
