"""From a request to a container's specification."""

from pathlib import Path

from pilotlight.images.surroundings import Surroundings
from pilotlight.node.packing import Packed, environment_of, recipe_of, spec_of
from pilotlight.wire import platform_pb2

EDGE = "169.254.10.1"


def request(**fields: object) -> platform_pb2.StartTask:
    return platform_pb2.StartTask(task_id="ta-1", image_id="im-1", environment_name="main", **fields)  # pyright: ignore[reportArgumentType]


def config(**fields: object) -> platform_pb2.ImageConfig:
    return platform_pb2.ImageConfig(**fields)  # pyright: ignore[reportArgumentType]


def test_later_ones_win_from_operator_over_image_to_secrets() -> None:
    task = request(
        image_config=config(env=["PATH=/image/bin", "A=image", "B=image=1", "PYTHONUNBUFFERED="]), secrets={"A": "secret"}
    )
    env = environment_of(task, Surroundings(), EDGE)
    assert (env["PATH"], env["A"], env["B"], env["PYTHONUNBUFFERED"], env["HOME"]) == (
        "/image/bin",
        "secret",
        "image=1",
        "1",
        "/root",
    )
    assert (env["MODAL_TASK_ID"], env["MODAL_IMAGE_ID"], env["MODAL_ENVIRONMENT"], env["MODAL_IS_REMOTE"]) == (
        "ta-1",
        "im-1",
        "main",
        "1",
    )
    assert env["MODAL_SERVER_URL"] == "unix:///__pilotlight/gateway.sock"


def test_the_client_stays_on_the_path_whatever_else_is_wanted_there() -> None:
    assert environment_of(request(), Surroundings(), EDGE)["PYTHONPATH"] == "/root:/pkg"
    image = config(env=["PYTHONPATH=/app"])
    assert environment_of(request(image_config=image), Surroundings(), EDGE)["PYTHONPATH"] == "/root:/pkg:/app"
    task = request(image_config=image, secrets={"PYTHONPATH": "/mine"})
    assert environment_of(task, Surroundings(), EDGE)["PYTHONPATH"] == "/root:/pkg:/mine"


def test_a_proxy_is_passed_on_and_not_used_for_the_platform_itself() -> None:
    env = environment_of(request(), Surroundings(proxies={"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "intranet"}), EDGE)
    assert env["HTTPS_PROXY"] == "http://proxy:3128"
    assert env["NO_PROXY"] == env["no_proxy"] == f"intranet,localhost,127.0.0.1,{EDGE}"
    assert env["MODAL_DISABLE_API_PROXY"] == "1"
    assert "NO_PROXY" not in environment_of(request(), Surroundings(), EDGE)


def test_the_process_is_the_clients_entrypoint_behind_the_images_own() -> None:
    packed = Packed((Path("/layers/1"), Path("/mounts/2")), "/usr/bin/python3")
    task = request(
        image_config=config(entrypoint=["/init", "--"], workdir="/work"), memory_limit_mib=512, milli_cpu=250, block_network=True
    )
    spec = spec_of(task, packed, Path("/run/g.sock"), Path("/run/arguments"), Surroundings(), EDGE)
    assert spec.args == ("/init", "--", "/usr/bin/python3", "-m", "modal._container_entrypoint")
    assert (spec.container_id, spec.layers, spec.cwd) == ("ta-1", packed.layers, "/work")
    assert (spec.memory_limit_mib, spec.milli_cpu, spec.block_network, spec.upper) == (512, 250, True, None)
    assert {str(bind.source): (bind.target, bind.read_only) for bind in spec.binds} == {
        "/run/g.sock": ("/__pilotlight/gateway.sock", True),
        "/run/arguments": ("/__pilotlight/arguments", True),
    }
    assert spec.env["MODAL_CONTAINER_ARGUMENTS_PATH"] == "/__pilotlight/arguments"
    assert spec_of(request(), packed, Path("/s"), Path("/a"), Surroundings(), EDGE).cwd == "/root"


def test_a_task_that_is_expected_has_the_recipe_of_those_that_come() -> None:
    packed = Packed((Path("/layers/1"), Path("/mounts/2")), "/usr/bin/python3", (Path("/layers/1"),))
    image = config(env=["A=1"])
    like = platform_pb2.StartTask(image_id="im-1", environment_name="main", image_config=image)
    expected = recipe_of(like, Packed(packed.shared, packed.python, packed.shared), Surroundings(), EDGE)
    started = request(image_config=image, secrets={"S": "secret"}, mounts=[platform_pb2.Mount(mount_id="mo-1")])
    assert expected == spec_of(started, packed, Path("/s"), Path("/a"), Surroundings(), EDGE).recipe is not None
    assert recipe_of(request(image_config=config(entrypoint=["/init"])), packed, Surroundings(), EDGE) is None
