"""Programs of the stock client that ask for more than there is, where that is refused at once."""

from collections.abc import Iterator

import modal
import pytest
from platform_in_process import Platform

app = modal.App("too-much")


@app.function(serialized=True, gpu="H100:2")
def fast() -> None:
    pass


@app.function(serialized=True, memory=10_000_000)
def large() -> None:
    pass


@pytest.fixture(scope="module")
def client() -> Iterator[modal.Client]:
    with pytest.MonkeyPatch.context() as patch:
        running = Platform(gpus="A10G:2,T4:1", reject_unplaceable=True)
        running.start()
        patch.setenv("MODAL_SERVER_URL", running.url)
        with modal.Client.from_credentials(*running.token) as client:
            yield client
        running.stop()


def test_the_error_names_what_there_is(client: modal.Client) -> None:
    with app.run(client=client), pytest.raises(modal.exception.Error, match="needs 2×H100, this platform has 2×A10G, 1×T4"):
        fast.remote()


def test_memory_that_no_node_has_is_refused_too(client: modal.Client) -> None:
    with app.run(client=client), pytest.raises(modal.exception.Error, match=r"10000000 MiB, the largest node has .* MiB"):
        large.remote()
