"""The one frozen configuration of a platform, and the only module that reads the environment.

Sources, later ones win: defaults, PILOTLIGHT_* variables, flags of the command line. The supervisor resolves them once, writes the
result to `settings.json` in the run directory, and each process it starts reads that file: all processes of a platform agree.
"""

import hashlib
import ipaddress
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from pilotlight.core.gpus import parse_inventory, parse_shares
from pilotlight.core.node_labels import parse_labels
from pilotlight.core.tunnels import Place, parse_ports, place_of

RUN_ROOT = Path("/run")
SETTINGS_FILE = "settings.json"
TUNNELS = "127.0.0.1:9943"  # where tunnels are reached by TLS if nothing else is said and the port is free
LISTEN_FDS = "PILOTLIGHT_LISTEN_FDS"  # "api=3,inner=4": listening sockets that the supervisor hands to a process
READY_FD = "PILOTLIGHT_READY_FD"  # where that process says that it serves, or why it does not


def default_state() -> Path:
    """Where a platform lives unless told otherwise: $PILOTLIGHT_STATE, else ~/.local/state/pilotlight."""
    if chosen := os.environ.get("PILOTLIGHT_STATE"):
        return Path(chosen)
    return Path.home() / ".local" / "state" / "pilotlight"


# What an operator tells programs of this machine about the way out; build steps are told the same.
OPERATOR_VARIABLES = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_FIND_LINKS", "PIP_DEFAULT_TIMEOUT", "PIP_CONFIG_FILE"),
    *("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INSECURE_HOST"),
    *("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)


def operator_environment() -> dict[str, str]:
    """Proxies, package index and CA bundle as this machine's environment names them; only what is set."""
    return {name: value for name in OPERATOR_VARIABLES if (value := os.environ.get(name))}


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().resolve()


def _absolute_or_none(path: str | Path | None) -> Path | None:
    return _absolute(path) if path else None


def _inventory(text: str) -> str:
    parse_inventory(text)
    return text


def _labels(text: str) -> str:
    parse_labels(text)
    return text


def _shares(text: str) -> str:
    parse_shares(text)
    return text


def _ports(text: str) -> str:
    parse_ports(text)
    return text


class Settings(BaseSettings):
    """All that a process of the platform may know of its surroundings. Each field is documented in docs/settings.md."""

    model_config = SettingsConfigDict(env_prefix="PILOTLIGHT_", frozen=True, extra="ignore")

    state: Annotated[Path, BeforeValidator(_absolute)] = Field(default_factory=default_state)
    api: str = "127.0.0.1:9900"
    web: str = "127.0.0.1:9980"
    insecure: bool = False  # allow plain HTTP on other than loopback addresses
    web_domain: str = "localhost"  # web functions live at <label>.<domain>
    web_rate_limit: int = 200  # requests a second of one web function, in bursts of five seconds' worth; 0: no limit
    web_workspace_rate_limit: int = 0  # of all web functions together; 0: no limit
    web_redirect_after_s: float = 150.0  # a request without a response is sent to wait on by a redirect after this time
    web_max_waiting: int = 2000  # requests of one function that may wait for a container
    tunnel_tls: str = ""  # where modal.forward is reached by TLS; empty: TUNNELS, or where that is taken a port that is free
    tunnel_ports: Annotated[str, AfterValidator(_ports)] = "20000-20999"  # of the same address, for raw tunnels
    container_reach: Literal["workspace", "environment"] = "workspace"  # how far containers may look things up by name
    bucket_allow_local: bool = False  # bucket mounts may name stores on this machine itself
    webhook_allow_private: bool = False  # completion webhooks may be sent to addresses that are not public
    tls_cert: Annotated[Path | None, BeforeValidator(_absolute_or_none)] = None  # PEM chain: both addresses speak TLS then
    tls_key: Annotated[Path | None, BeforeValidator(_absolute_or_none)] = None
    secrets_key_file: Annotated[Path | None, BeforeValidator(_absolute_or_none)] = None  # None: keys/secrets.key, made by us
    workspace: str = "main"
    log_level: str = "INFO"
    synchronous: str = "FULL"  # SQLite's pragma: FULL survives power loss, NORMAL survives only crashes of ours
    result_ttl_s: int = 7 * 24 * 3600
    gc_grace_s: int = 24 * 3600  # what nobody refers to is kept for so long after its last use
    image_ttl_s: int = 30 * 24 * 3600  # an image that nobody refers to is kept for so long after it was last asked for
    rpc_rate_limit: int = 3000  # requests a second of one token, and of one connection; 0: no limit
    audit_ttl_s: int = 90 * 24 * 3600  # who changed what is known for so long
    oci_runtime: str = "crun"
    isolation: Literal["ordinary", "strict"] = "ordinary"  # strict: gVisor between functions and the machine's kernel
    warm_starts: bool = True  # functions' containers are forked from templates where that is possible
    warm_memory_mib: int = 0  # that templates may have for themselves; 0: a tenth of what this node offers
    network_slot: int = -1  # 0..99, the addresses of this platform's containers; -1: the supervisor picks a free one
    debian_mirror: str = ""  # empty: what the host's apt uses
    pip_index_url: str = ""  # empty: what the host's pip uses
    registry_mirror: str = ""  # "host:port" of a registry asked instead of the reference's own
    registry_insecure: bool = False  # that registry speaks plain HTTP
    volumes_dir: Annotated[Path | None, BeforeValidator(_absolute_or_none)] = None  # files of volumes; None: `volumes` in the state
    cache: Annotated[Path, BeforeValidator(_absolute)] = Path("/var/cache/pilotlight")  # Debian bases, shared by all platforms here
    image_builder_version: str = "2025.06"
    max_containers_per_node: int = 200
    max_containers: int = 0  # of the whole workspace; 0: as many as the nodes take
    max_gpus: int = 0  # that the whole workspace may have at a time; 0: all there are
    unplaceable_timeout_s: float = 300.0  # inputs that no node can ever run fail after this time
    reject_unplaceable: bool = False  # they fail at once
    milli_cpu: int = 0  # what this node offers to containers; 0: all there is
    memory_mib: int = 0
    ephemeral_disk_mib: int = 0  # what a container that asks for no `ephemeral_disk` may write; 0: as much as there is
    node_labels: Annotated[str, AfterValidator(_labels)] = ""  # "region=us-east,cloud=aws": what is said of this node
    gpus: Annotated[str, AfterValidator(_inventory)] = ""  # "A10G:2,H100:8": declared; "none"; empty: those that the driver knows
    gpu_share: Annotated[str, AfterValidator(_shares)] = ""  # "A10G=4": so many containers share one; empty: none is shared
    main_module: str = "pilotlight.main"  # what the supervisor runs as server, edge and node; tests put a stub here

    @property
    def instance(self) -> str:
        """Eight hex digits that tell this platform's mounts, cgroups, bridges and processes from another's."""
        return hashlib.sha256(str(self.state).encode()).hexdigest()[:8]

    @property
    def run_dir(self) -> Path:
        """Sockets, pid files and mount points: on tmpfs, gone after a reboot, 0711 so that mapped roots can walk through."""
        return RUN_ROOT / f"pilotlight-{self.instance}"

    @property
    def database_path(self) -> Path:
        return self.state / "pilotlight.db"

    @property
    def log_database_path(self) -> Path:
        return self.state / "output.db"

    @property
    def objects_dir(self) -> Path:
        """Root of the object store: `blobs/<id>` and `sha256/<hex>`."""
        return self.state / "objects"

    @property
    def volumes_path(self) -> Path:
        """`<volume id>/`: the files of each volume, ids unshifted."""
        return self.volumes_dir or self.state / "volumes"

    @property
    def layers_dir(self) -> Path:
        """Unpacked image layers: `layers/<layer id>/`, ids unshifted."""
        return self.state / "layers"

    @property
    def images_dir(self) -> Path:
        """The local store of base images: `index.json`."""
        return self.state / "images"

    @property
    def node_dir(self) -> Path:
        """What the node agent keeps: task directories, mounts by content hash, client packages."""
        return self.state / "node"

    @property
    def probes_dir(self) -> Path:
        """What the node agent knows of images that it has looked into."""
        return self.node_dir / "probes"

    @property
    def keys_dir(self) -> Path:
        return self.state / "keys"

    @property
    def snapshots_dir(self) -> Path:
        """Copies of the databases while a backup is being made."""
        return self.state / "snapshots"

    @property
    def process_logs_dir(self) -> Path:
        return self.state / "logs"

    @property
    def first_token_path(self) -> Path:
        """`token_id:token_secret` of the token made at first start; mode 0600."""
        return self.state / "token"

    @property
    def inner_socket_path(self) -> Path:
        """The server's listener for what containers ask, for the edge and for the command line (mode 0600)."""
        return self.run_dir / "server.sock"

    @property
    def nodes_socket_path(self) -> Path:
        """The server's listener for the streams of node agents (mode 0600)."""
        return self.run_dir / "nodes.sock"

    @property
    def edges_socket_path(self) -> Path:
        """The server's listener for the streams of edges (mode 0600)."""
        return self.run_dir / "edges.sock"

    @property
    def web_socket_path(self) -> Path:
        """The node agent's listener for web requests from the edge (mode 0600)."""
        return self.run_dir / "web.sock"

    @property
    def gateway_dir(self) -> Path:
        """`gateway/<task id>.sock`: the only thing of ours that a container sees."""
        return self.run_dir / "gateway"

    @property
    def bridge_name(self) -> str:
        return f"pl-{self.instance}"

    @property
    def link_local_address(self) -> str:
        """The host's side of the containers' network: the edge and the DNS forwarder listen here."""
        return f"169.254.{self.network_slot + 10}.1"

    @property
    def container_subnet(self) -> str:
        return f"10.{128 + self.network_slot}.0.0/16"

    @property
    def web_port(self) -> int:
        return int(self.web.rpartition(":")[2])

    @property
    def tunnels(self) -> Place:
        """Where clients find tunnels."""
        return place_of(self.web_domain, self.tunnel_tls or TUNNELS, self.tunnel_ports)

    @property
    def tunnel_address(self) -> str:
        """The address of this machine at which tunnels listen."""
        return (self.tunnel_tls or TUNNELS).rpartition(":")[0].removeprefix("[").removesuffix("]")

    @property
    def web_is_open(self) -> bool:
        """Whether others than this machine reach the edge by plain HTTP."""
        host = self.web.rpartition(":")[0].removeprefix("[").removesuffix("]")
        return self.insecure and self.tls_cert is None and not ipaddress.ip_address(host).is_loopback

    @property
    def container_edge_url(self) -> str:
        """How a container reaches the edge."""
        return f"http://{self.link_local_address}:{self.web_port}"

    def save(self) -> Path:
        """Write what was resolved, for the processes that the supervisor starts."""
        path = self.run_dir / SETTINGS_FILE
        path.write_text(self.model_dump_json(indent=1))
        return path

    @classmethod
    def load(cls, path: Path) -> "Settings":
        """Read what the supervisor resolved."""
        return cls.model_validate_json(path.read_text())


def inherited_sockets() -> dict[str, socket.socket]:
    """The listening sockets that the supervisor handed to this process, by name; empty when it was started by hand.

    They are not passed on to programs that this process starts. To be called once: each call makes new objects of the same sockets.
    """
    sockets: dict[str, socket.socket] = {}
    for entry in filter(None, os.environ.get(LISTEN_FDS, "").split(",")):
        name, _, number = entry.partition("=")
        os.set_inheritable(int(number), False)
        sockets[name] = socket.socket(fileno=int(number))
    return sockets


def ready() -> None:
    """Tell the supervisor that this process serves; without a supervisor, or said before, it does nothing."""
    if number := os.environ.pop(READY_FD, ""):
        os.write(int(number), b"ready\n")
        os.close(int(number))


def note(text: str) -> None:
    """Tell whoever starts the platform something, before `ready`; without a supervisor it does nothing."""
    if number := os.environ.get(READY_FD, ""):
        os.write(int(number), f"note {json.dumps(text)}\n".encode())


def refuse(text: str) -> None:
    """Tell the supervisor why this process will not serve, however often it is started; without a supervisor it does nothing."""
    if number := os.environ.pop(READY_FD, ""):
        os.write(int(number), f"refused {json.dumps(text)}\n".encode())
        os.close(int(number))


def process_environment(listen_fds: Mapping[str, int], ready_fd: int) -> dict[str, str]:
    """The environment of a process of the platform: its sockets, and the supervisor's own less what is for Modal's client."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    listening = ",".join(f"{name}={number}" for name, number in listen_fds.items())
    return inherited | {LISTEN_FDS: listening, READY_FD: str(ready_fd), "PYTHONUNBUFFERED": "1"}


def modal_environment() -> dict[str, str]:
    """The MODAL_* variables of whoever runs the command line: they decide where plain `modal` points."""
    return {name: value for name, value in os.environ.items() if name.startswith("MODAL_")}


def modal_config_path() -> Path:
    """The file in which Modal's client looks for its profiles."""
    return Path(os.environ.get("MODAL_CONFIG_PATH") or Path.home() / ".modal.toml")
