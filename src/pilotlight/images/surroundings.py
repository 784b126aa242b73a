"""What the operator's machine knows of the way out (proxies, package index, CA bundle, apt's mirror), as build steps get it.

Invariant: it is given to processes, never written into an image: an image built behind one proxy runs behind another.
"""

import configparser
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pilotlight.config import Settings, operator_environment
from pilotlight.core.containers import Bind

GUEST_DIR = "/run/pilotlight"  # mount points of ours in a build step, removed from what it leaves
GUEST_CA_BUNDLE = f"{GUEST_DIR}/ca-certificates.crt"
GUEST_APT_CONF = f"{GUEST_DIR}/apt.conf"
HOST_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
HOST_ADDED_CAS = Path("/usr/local/share/ca-certificates")
_CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS")
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_APT_OPTIONS = re.compile(
    r'^(Acquire::(?:(?:http|https)::(?:Proxy|No-Cache|Timeout)[^ ]*|Check-Valid-Until|Check-Date)) "([^"]+)";$'
)


@dataclass(frozen=True)
class PackageIndex:
    """Where Python packages come from; empty means the client's own default."""

    url: str = ""
    extra_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    timeout_s: str = ""


@dataclass(frozen=True)
class AptSources:
    """The mirror that the host's apt uses: of releases and of security updates; empty where it is not Debian's."""

    mirror: str = ""
    security_mirror: str = ""
    has_updates: bool = False


@dataclass(frozen=True)
class Surroundings:
    """The operator's settings, read once per process."""

    proxies: Mapping[str, str] = field(default_factory=dict[str, str])
    index: PackageIndex = PackageIndex()
    ca_bundle: Path | None = None
    apt_conf: Path | None = None  # proxies and the like of the host's apt
    apt: AptSources = AptSources()

    def own_env(self) -> dict[str, str]:
        """For a program of this machine that speaks to the outside."""
        return {**self.proxies, **({"SSL_CERT_FILE": str(self.ca_bundle)} if self.ca_bundle else {})}

    def container_env(self) -> dict[str, str]:
        """For a process in a container: nothing that names the host itself or its files."""
        env = {name: value for name, value in self.proxies.items() if name.upper() == "NO_PROXY" or not _names_this_machine(value)}
        index = self.index
        extra = " ".join(url for url in index.extra_urls if not _names_this_machine(url))
        if index.url and not _names_this_machine(index.url):
            env |= {"PIP_INDEX_URL": index.url, "UV_DEFAULT_INDEX": index.url}
        if extra:
            env |= {"PIP_EXTRA_INDEX_URL": extra, "UV_INDEX": extra}
        if index.trusted_hosts:
            env |= {"PIP_TRUSTED_HOST": " ".join(index.trusted_hosts), "UV_INSECURE_HOST": " ".join(index.trusted_hosts)}
        if index.timeout_s:
            env |= {"PIP_DEFAULT_TIMEOUT": index.timeout_s, "UV_HTTP_TIMEOUT": index.timeout_s}
        if self.ca_bundle:
            env |= dict.fromkeys(_CA_VARIABLES, GUEST_CA_BUNDLE)
        if self.apt_conf:
            env["APT_CONFIG"] = GUEST_APT_CONF
        return env

    def container_binds(self) -> tuple[Bind, ...]:
        """The files that `container_env` names."""
        binds = [Bind(self.ca_bundle, GUEST_CA_BUNDLE)] if self.ca_bundle else []
        return (*binds, Bind(self.apt_conf, GUEST_APT_CONF)) if self.apt_conf else tuple(binds)

    def uv_arguments(self) -> list[str]:
        """For `uv pip` on the host."""
        index = self.index
        arguments = ["--default-index", index.url] if index.url else []
        arguments += [part for url in index.extra_urls for part in ("--index", url)]
        # pip takes the best version of all indexes, uv that of the first which has the package.
        arguments += ["--index-strategy", "unsafe-best-match"] if index.extra_urls else []
        arguments += [part for place in index.find_links for part in ("--find-links", place)]
        return arguments + [part for host in index.trusted_hosts for part in ("--allow-insecure-host", host)]

    def host_env(self) -> dict[str, str]:
        """For helpers that run on the host."""
        env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(Path.home()), **self.proxies}
        if self.ca_bundle:
            env |= dict.fromkeys(_CA_VARIABLES, str(self.ca_bundle))
        if self.index.timeout_s:
            env["UV_HTTP_TIMEOUT"] = self.index.timeout_s
        return env


def surroundings_of(settings: Settings) -> Surroundings:
    """Read the host's environment, pip's and apt's configuration; the platform's own settings win."""
    env = operator_environment()
    options = dict(_apt_options())
    bundle = next((Path(env[name]) for name in _CA_VARIABLES if name in env), None)
    if bundle is None and any(HOST_ADDED_CAS.rglob("*.crt")):
        bundle = HOST_CA_BUNDLE
    ca_bundle = bundle.resolve() if bundle is not None and bundle.is_file() else None
    if ca_bundle:
        options["Acquire::https::CAInfo"] = GUEST_CA_BUNDLE
    proxies = {name: env[name] for upper in _PROXY_VARIABLES for name in (upper, upper.lower()) if name in env}
    apt = AptSources(mirror=settings.debian_mirror) if settings.debian_mirror else _apt_sources(Path("/etc/apt"))
    return Surroundings(proxies, _package_index(env, settings.pip_index_url), ca_bundle, _write_apt_conf(settings, options), apt)


def _names_this_machine(url: str) -> bool:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    host = parts.hostname or ""
    return parts.scheme == "file" or host in ("localhost", "::1") or host.startswith("127.") or host.endswith(".localhost")


def _package_index(env: Mapping[str, str], chosen_url: str) -> PackageIndex:
    files = [
        Path("/etc/pip.conf"),
        Path.home() / ".pip/pip.conf",
        Path.home() / ".config/pip/pip.conf",
        Path(sys.prefix) / "pip.conf",
    ]
    if "PIP_CONFIG_FILE" in env:
        files = [Path(env["PIP_CONFIG_FILE"])]
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(files)

    def option(name: str) -> str:
        return env.get("PIP_" + name.upper().replace("-", "_")) or parser.get("global", name, fallback="")

    return PackageIndex(
        url=chosen_url or option("index-url") or env.get("UV_DEFAULT_INDEX", "") or env.get("UV_INDEX_URL", ""),
        extra_urls=tuple((option("extra-index-url") or env.get("UV_INDEX", "") or env.get("UV_EXTRA_INDEX_URL", "")).split()),
        find_links=tuple(option("find-links").split()),
        trusted_hosts=tuple((option("trusted-host") or env.get("UV_INSECURE_HOST", "")).split()),
        timeout_s=option("timeout") or option("default-timeout"),
    )


def _apt_options() -> Iterator[tuple[str, str]]:
    try:
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return  # not a Debian host
    for line in dump.splitlines():
        if match := _APT_OPTIONS.match(line):
            yield match[1], match[2]


def _write_apt_conf(settings: Settings, options: Mapping[str, str]) -> Path | None:
    kept = {name: value for name, value in options.items() if "Proxy" not in name or not _names_this_machine(value)}
    if not kept:
        return None
    path = settings.node_dir / "apt.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f'{name} "{value}";\n' for name, value in sorted(kept.items())))
    path.chmod(0o644)
    return path


def _apt_sources(root: Path) -> AptSources:
    """The first mirror among the host's sources that offers a release of Debian, by the names of its suites."""
    mirror, security, has_updates = "", "", False
    for uri, suites in _source_entries(root):
        for suite in suites:
            codename, _, pocket = suite.partition("-")
            if not _is_debian_suite(codename):
                continue
            mirror = mirror or (uri if not pocket else "")
            security = security or (uri if pocket == "security" else "")
            has_updates = has_updates or pocket == "updates"
    return AptSources(mirror, security, has_updates)


def _is_debian_suite(name: str) -> bool:
    return name in ("bullseye", "bookworm", "trixie", "forky", "sid", "stable", "oldstable", "testing", "unstable")


def _source_entries(root: Path) -> Iterator[tuple[str, list[str]]]:
    for path in [root / "sources.list", *sorted((root / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = "\n".join(line for line in path.read_text(errors="replace").splitlines() if not line.lstrip().startswith("#"))
        if path.suffix == ".sources":
            for block in re.split(r"\n\s*\n", text):
                fields = {name.lower(): value.split() for name, value in re.findall(r"(?m)^([A-Za-z-]+):[ \t]*(.*)$", block)}
                if "deb" in fields.get("types", []) and fields.get("enabled") != ["no"] and "main" in fields.get("components", []):
                    yield from ((uri, fields.get("suites", [])) for uri in fields.get("uris", []))
        else:
            for match in re.finditer(r"(?m)^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+.*\bmain\b", text):
                yield match[1], [match[2]]
