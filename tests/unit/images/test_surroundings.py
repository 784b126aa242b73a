"""What of the operator's settings reaches a build step."""

from pathlib import Path

from pilotlight.images.surroundings import GUEST_CA_BUNDLE, PackageIndex, Surroundings


def test_nothing_set_is_nothing_passed() -> None:
    assert Surroundings().container_env() == {}
    assert Surroundings().container_binds() == ()


def test_what_names_this_machine_stays_here() -> None:
    proxies = {"HTTPS_PROXY": "http://127.0.0.1:3128", "http_proxy": "http://proxy.example:3128", "NO_PROXY": "localhost"}
    index = PackageIndex(url="http://localhost:3141/simple", extra_urls=("file:///opt/simple", "https://index.example/simple"))
    env = Surroundings(proxies, index).container_env()
    assert env == {
        "http_proxy": "http://proxy.example:3128",
        "NO_PROXY": "localhost",
        "PIP_EXTRA_INDEX_URL": "https://index.example/simple",
        "UV_INDEX": "https://index.example/simple",
    }


def test_helpers_on_the_host_see_all_of_it() -> None:
    index = PackageIndex(url="http://localhost:3141/simple", extra_urls=("file:///opt/simple",), trusted_hosts=("localhost",))
    arguments = Surroundings(index=index).uv_arguments()
    assert arguments[:2] == ["--default-index", "http://localhost:3141/simple"]
    assert "file:///opt/simple" in arguments
    assert arguments[-2:] == ["--allow-insecure-host", "localhost"]


def test_the_ca_bundle_is_one_file_for_all_tools() -> None:
    surroundings = Surroundings(ca_bundle=Path("/etc/own.pem"))
    env = surroundings.container_env()
    assert {env[name] for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")} == {GUEST_CA_BUNDLE}
    (bind,) = surroundings.container_binds()
    assert (bind.source, bind.target, bind.read_only) == (Path("/etc/own.pem"), GUEST_CA_BUNDLE, True)
