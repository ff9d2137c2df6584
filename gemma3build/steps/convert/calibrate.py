"""Measure how strong each input of each matrix is, by which ``rounding`` weighs its errors.

Inputs:
    checkpoint: the directory with config.json, safetensors and tokenizer.model.
Parameters:
    none.
Outputs:
    ``<kind>.npy`` for each kind of input: int8, ``[layers, inputs]``, the base-2 logarithm of the mean
    square over the tokens of the calibration texts, rounded.

The forward pass is written out here in float64, because the results must be the same on every
processor. Libraries and vector units differ in the last bits of a float64, some 1e-16 of it, and over
all layers that may grow to 1e-12. The step writes whole numbers; the fact ``margin`` is the distance of
the nearest logarithm from being rounded the other way. If it is too small, the step fails.

It is Gemma 3 as the technical report (arXiv 2503.19786) and ``transformers`` have it: RMSNorm before and
after each block, queries and keys normalized by head, rotary positions, local and global layers.
"""

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import sentencepiece
import torch
from safetensors import safe_open
from torch.nn.functional import gelu

from gemma3build.gemma.architecture import EMBEDDING, Architecture
from gemma3build.gemma.checkpoint import TOKENIZER, checkpoint_architecture, weight_files
from gemma3build.gemma.graph import DOWN, GATE_UP, KINDS, OUTPUT, QKV, SILENT
from gemma3build.gemma.prompts import CALIBRATION_TEXTS
from gemma3build.schema.step import StepRequest
from gemma3build.steps.convert.rounding import round_strengths

Weights: TypeAlias = Mapping[str, torch.Tensor]


def run(request: StepRequest, output: Path) -> dict[str, Any]:
    """Run the texts through all layers; return the margin of the rounding, and the number of tokens.

    Raises:
        StepError: another processor could round a strength differently.
    """
    checkpoint = Path(request.inputs["checkpoint"])
    architecture = checkpoint_architecture(checkpoint)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(checkpoint / TOKENIZER))
    texts = [[tokenizer.bos_id(), *tokenizer.EncodeAsIds(text)] for text in CALIBRATION_TEXTS]
    texts = [tokens[: architecture.context] for tokens in texts]
    with torch.inference_mode():
        reader = Checkpoint(checkpoint)
        # All texts in one tensor, for large multiplications; each attends to itself alone.
        state = reader.embed(list(itertools.chain(*texts)), architecture.shape.hidden_size)
        squares = []
        for layer in range(architecture.shape.layers):
            block = Layer(architecture, layer, reader.layer(layer))
            state = block.run(state, [len(tokens) for tokens in texts])
            squares.append(block.squares)
    margin = 0.5
    for kind in KINDS:
        means = np.stack([sums[kind].numpy() for sums in squares]) / len(state)
        logarithms = np.log2(np.maximum(means, 2.0**SILENT))
        strengths, distance = round_strengths(logarithms)
        margin = min(margin, distance)
        np.save(output / f"{kind}.npy", strengths)
    return {"tokens": len(state), "margin": float(f"{margin:.0e}")}


class Checkpoint:
    """Reads a checkpoint layer by layer, so that no more than one is in memory in float64."""

    def __init__(self, folder: Path) -> None:
        """Open the files."""
        files: list[Any] = [safe_open(path, framework="pt") for path in weight_files(folder)]
        self._of = {name: file for file in files for name in file.keys()}  # noqa: SIM118

    def embed(self, tokens: list[int], hidden_size: int) -> torch.Tensor:
        """Return the embedded tokens, float64, ``[tokens, hidden]``."""
        table: torch.Tensor = self._of[EMBEDDING].get_tensor(EMBEDDING)
        return table[tokens].double() * math.sqrt(hidden_size)

    def layer(self, layer: int) -> Weights:
        """Return the weights of a layer in float64, by their names without prefix and ``.weight``."""
        prefix = f"model.layers.{layer}."
        names = [name for name in self._of if name.startswith(prefix)]
        return {
            name.removeprefix(prefix).removesuffix(".weight"): self._of[name]
            .get_tensor(name)
            .double()
            for name in names
        }


class Layer:
    """One transformer block.

    Attributes:
        squares: for each kind of input, the sum of squares of each over all tokens, once run.
    """

    def __init__(self, architecture: Architecture, layer: int, weights: Weights) -> None:
        """Take the model's architecture, the number of the block, and its weights in float64."""
        self._architecture, self._weights = architecture, weights
        self._is_global = layer in architecture.global_layers
        self.squares: dict[str, torch.Tensor] = {}

    def run(self, state: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """Return the residual stream after the block.

        Args:
            state: the stream before it, float64, ``[tokens, hidden]``.
            lengths: how many tokens belong to each text.
        """
        inputs = self._note(QKV, self._norm(state, "input_layernorm"))
        projections = [self._linear(inputs, f"self_attn.{name}_proj") for name in "qkv"]
        parts = zip(*(part.split(lengths) for part in projections), strict=True)
        attended = self._note(OUTPUT, torch.cat([self._attend(*part) for part in parts]))
        projected = self._linear(attended, "self_attn.o_proj")
        state = state + self._norm(projected, "post_attention_layernorm")
        inputs = self._note(GATE_UP, self._norm(state, "pre_feedforward_layernorm"))
        gate = gelu(self._linear(inputs, "mlp.gate_proj"), approximate="tanh")
        inner = self._note(DOWN, gate * self._linear(inputs, "mlp.up_proj"))
        projected = self._linear(inner, "mlp.down_proj")
        return state + self._norm(projected, "post_feedforward_layernorm")

    def _note(self, kind: str, inputs: torch.Tensor) -> torch.Tensor:
        self.squares[kind] = (inputs * inputs).sum(dim=0)
        return inputs

    def _linear(self, inputs: torch.Tensor, name: str) -> torch.Tensor:
        return inputs @ self._weights[name].T

    def _norm(self, values: torch.Tensor, name: str) -> torch.Tensor:
        mean = (values * values).mean(dim=-1, keepdim=True)
        root = torch.sqrt(mean + self._architecture.norm_epsilon)
        return values / root * (1 + self._weights[name])

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return what each token of a text gathers, ``[tokens, heads * head_dim]``."""
        shape = self._architecture.shape
        query, key, value = (
            part.view(len(part), -1, shape.head_dim).transpose(0, 1) for part in (query, key, value)
        )
        query = self._rotate(self._norm(query, "self_attn.q_norm"))
        key = self._rotate(self._norm(key, "self_attn.k_norm"))
        group = shape.heads // shape.kv_heads
        key, value = (part.repeat_interleave(group, dim=0) for part in (key, value))
        scores = query @ key.transpose(1, 2) / math.sqrt(shape.head_dim)
        scores = scores.masked_fill(~self._seen(scores.shape[-1]), -math.inf)
        return (torch.softmax(scores, dim=-1) @ value).transpose(0, 1).flatten(1)

    def _rotate(self, values: torch.Tensor) -> torch.Tensor:
        """Turn heads by their positions; the two halves of a head are the coordinates."""
        architecture = self._architecture
        base = architecture.rope_base if self._is_global else architecture.rope_local_base
        size = architecture.shape.head_dim
        frequencies = base ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
        angles = torch.arange(values.shape[1], dtype=torch.float64)[:, None] * frequencies
        cosine, sine = torch.cos(angles), torch.sin(angles)
        left, right = values.chunk(2, dim=-1)
        return torch.cat((left * cosine - right * sine, right * cosine + left * sine), dim=-1)

    def _seen(self, length: int) -> torch.Tensor:
        """Return whether a position (row) sees another (column)."""
        positions = torch.arange(length)
        distance = positions[:, None] - positions
        seen = distance >= 0
        return seen if self._is_global else seen & (distance < self._architecture.sliding_window)
