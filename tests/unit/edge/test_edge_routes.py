"""The table of routes."""

from typing import Any

from pilotlight.edge.routes import Routes
from pilotlight.wire.platform_pb2 import WebRoute


def route(label: str, function_id: str = "fu-1", **more: Any) -> WebRoute:
    return WebRoute(label=label, function_id=function_id, **more)


def test_labels_and_custom_domains_lead_to_routes() -> None:
    routes = Routes("example.com")
    routes.set(route("one", custom_domains=["Api.One.org"]))
    routes.set(route("two"))
    found = {host: routes.find(host) for host in ("one.example.com:80", "ONE.EXAMPLE.COM", "api.one.org", "two.example.com")}
    assert [route.label if route else None for route in found.values()] == ["one", "one", "one", "two"]
    assert routes.find("three.example.com") is None and routes.is_web("three.example.com")
    assert not routes.is_web("example.com") and not routes.is_web("other.org")


def test_a_route_takes_the_place_of_the_one_of_its_label() -> None:
    routes = Routes("example.com")
    routes.set(route("one", custom_domains=["old.org"]))
    routes.set(route("one", "fu-2", custom_domains=["new.org"]))
    assert routes.find("old.org") is None and not routes.is_web("old.org")
    found = routes.find("new.org")
    assert found is not None and found.function_id == "fu-2"


def test_what_is_dropped_or_not_kept_is_gone() -> None:
    routes = Routes("example.com")
    for label in ("one", "two", "three"):
        routes.set(route(label, custom_domains=[f"{label}.org"]))
    routes.drop("one")
    routes.drop("unknown")
    routes.keep_only({"two"})
    assert [bool(routes.find(f"{label}.example.com")) for label in ("one", "two", "three")] == [False, True, False]
    assert [routes.is_web(f"{label}.org") for label in ("one", "two", "three")] == [False, True, False]
