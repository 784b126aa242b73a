"""examples/embeddings as its README says: weights into a volume, the class from Python and TypeScript, the endpoint by HTTP.

Downloads a package of 84 MB when its image is built for the first time.
"""

import json
import re
import urllib.request
from collections.abc import Iterator

import pytest
from conftest import Platform, Program
from support.node_programs import REPOSITORY, node_command, node_environment

pytestmark = pytest.mark.e2e

APP = str(REPOSITORY / "examples" / "embeddings" / "app.py")
SEARCH = REPOSITORY / "examples" / "typescript" / "src" / "semantic-search.ts"
BUILD_S = 400.0
# What the model's authors give for the first numbers of this sentence's vector.
SENTENCE, ITS_VECTOR = "This is an example sentence", [0.0676569, 0.0634959, 0.0487131, 0.0793050, 0.0374480]
ASK = """
import modal
embed = modal.Cls.from_name("embeddings", "Embedder")().embed
vectors = list(embed.map(["This is an example sentence", *(f"sentence {n}" for n in range(40))]))
print([round(n, 6) for n in vectors[0][:5]], len(vectors), {len(vector) for vector in vectors})
"""


@pytest.fixture(scope="module")
def address(platform: Platform) -> Iterator[str]:
    """The example is deployed and has its weights; where its endpoint is."""
    stored = platform.modal("run", f"{APP}::store_weights", deadline_s=BUILD_S)
    assert "Traceback" not in stored.text
    said = platform.modal("deploy", APP, deadline_s=BUILD_S).out.replace("\n", "")
    found = re.search(r"https?://[\w.-]*-search\.[\w.:-]+", said)
    assert found, said
    yield found[0]
    platform.modal("app", "stop", "--yes", "embeddings")
    platform.modal("volume", "delete", "--yes", "embedding-weights")


@pytest.mark.usefixtures("address")
def test_the_class_computes_what_the_model_does_in_batches(platform: Platform) -> None:
    finished = platform.run("-c", ASK, deadline_s=BUILD_S)
    numbers, _, rest = finished.out.strip().partition("]")
    assert json.loads(numbers + "]") == pytest.approx(ITS_VECTOR, abs=2e-6)
    assert rest == " 41 {384}"
    sizes = [int(size) for size in re.findall(r"a batch of (\d+)", platform.modal("app", "logs", "embeddings").out)]
    assert sum(sizes) == 41 and max(sizes) > 1, sizes


def test_the_endpoint_ranks_by_meaning(address: str) -> None:
    texts = ["The invoice is due at the end of the month.", "A cat sleeps on the warm windowsill."]
    body = json.dumps({"query": "an animal takes a nap", "texts": texts}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=BUILD_S) as response:
        ranked = json.load(response)
    assert [entry["text"] for entry in ranked] == texts[::-1]
    assert ranked[0]["score"] > 0.3 > ranked[1]["score"]


@pytest.mark.usefixtures("address")
def test_a_search_from_typescript(platform: Platform) -> None:
    command = node_command(SEARCH, "when do I have to pay?")
    finished = Program(command, node_environment(platform.environment), BUILD_S).end()
    assert not finished.code, finished.text
    lines = finished.out.splitlines()
    assert len(lines) == 4 and lines[0].endswith("The invoice is due at the end of the month."), finished.text
