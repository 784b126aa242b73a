"""The network all-MiniLM-L6-v2 in NumPy: text in, 384 numbers out, near each other where the meaning is.

A BERT of six layers whose last states are averaged over the tokens and brought to length one. The weights are the published
ones; here is the arithmetic, so that the example needs no framework of a gigabyte. What comes out is what the model's authors give,
to six digits.
"""

import json
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np  # pyright: ignore[reportMissingImports]
from safetensors.numpy import load_file  # pyright: ignore[reportMissingImports]
from tokenizers import Tokenizer  # pyright: ignore[reportMissingImports]

Floats: TypeAlias = Any  # numpy.typing.NDArray[numpy.float32]: NumPy is in the image, not on the machine that deploys

MAX_TOKENS = 256  # longer texts are cut, as the model was trained


class MiniLM:
    """The model of a directory in the usual layout: config.json, tokenizer.json, model.safetensors."""

    def __init__(self, directory: Path) -> None:
        config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        self._layers: int = config["num_hidden_layers"]
        self._heads: int = config["num_attention_heads"]
        self._epsilon: float = config["layer_norm_eps"]
        self._weights = load_file(directory / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()  # to the longest of a batch

    def embed(self, texts: list[str]) -> Floats:
        """Texts as rows (texts, 384) of length one: the product of two rows is their cosine."""
        encodings = self._tokenizer.encode_batch(texts)
        ids = np.array([encoding.ids for encoding in encodings])
        mask = np.array([encoding.attention_mask for encoding in encodings], np.float32)
        states = self._embeddings(ids)
        for layer in range(self._layers):
            states = self._layer(f"encoder.layer.{layer}", states, mask)
        sums = (states * mask[:, :, None]).sum(axis=1)
        return sums / np.linalg.norm(sums, axis=1, keepdims=True)

    def _embeddings(self, ids: Any) -> Floats:
        table = "embeddings.{}_embeddings.weight"
        words = self._weights[table.format("word")][ids]
        positions = self._weights[table.format("position")][: ids.shape[1]]
        return self._normalize("embeddings.LayerNorm", words + positions + self._weights[table.format("token_type")][0])

    def _layer(self, name: str, states: Floats, mask: Floats) -> Floats:
        attended = self._dense(f"{name}.attention.output.dense", self._attend(f"{name}.attention.self", states, mask))
        states = self._normalize(f"{name}.attention.output.LayerNorm", states + attended)
        inner = _gelu(self._dense(f"{name}.intermediate.dense", states))
        return self._normalize(f"{name}.output.LayerNorm", states + self._dense(f"{name}.output.dense", inner))

    def _attend(self, name: str, states: Floats, mask: Floats) -> Floats:
        texts, tokens, width = states.shape

        def heads(of: str) -> Floats:
            projected = self._dense(f"{name}.{of}", states)
            return projected.reshape(texts, tokens, self._heads, width // self._heads).transpose(0, 2, 1, 3)

        scores = heads("query") @ heads("key").transpose(0, 1, 3, 2) / np.float32(np.sqrt(width // self._heads))
        scores = np.where(mask[:, None, None, :] > 0, scores, np.float32(-1e9))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares = scores / scores.sum(axis=-1, keepdims=True)
        return (shares @ heads("value")).transpose(0, 2, 1, 3).reshape(texts, tokens, width)

    def _dense(self, name: str, states: Floats) -> Floats:
        return states @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _normalize(self, name: str, states: Floats) -> Floats:
        centred = states - states.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(self._epsilon))
        return centred / deviation * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def _gelu(values: Floats) -> Floats:
    return values * (1 + _erf(values / np.float32(np.sqrt(2)))) / 2


def _erf(values: Floats) -> Floats:
    """Abramowitz and Stegun, 7.1.26: right to 1.5e-7, as good as these floats are."""
    t = 1 / (1 + np.float32(0.3275911) * np.abs(values))
    polynomial = np.zeros_like(t)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        polynomial = (polynomial + np.float32(factor)) * t
    return np.sign(values) * (1 - polynomial * np.exp(-(values**2)))
