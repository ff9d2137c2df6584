"""Export a checkpoint to a float32 ``.tflite`` that scores: the logits after every token of a call.

Inputs:
    checkpoint: the directory with config.json and safetensors, as ``check`` passed it.
Parameters:
    length: tokens that a call takes, which is also the length of the key-value cache.
Outputs:
    ``model_f32.tflite``, for evaluation alone.

An artifact's prefill returns no logits, and its decode takes one token at a time, which is many times
slower. This is the same model with the same weights behind another signature, and quantizing it by a
scheme gives the artifact's weights. The caller gives the position of each token, and by the
mask which others it sees, so that one call can hold several sequences.
"""

from pathlib import Path
from typing import Any

import torch

from gemma3build.gemma.checkpoint import checkpoint_architecture
from gemma3build.gemma.graph import FLOAT_MODEL
from gemma3build.schema.step import StepRequest

# First of the converter's modules, which it makes importable.
from gemma3build.steps.convert.export import load_model

from litert_torch._convert import interface  # isort: skip
from litert_torch.generative.examples.gemma3 import decoder  # isort: skip
from litert_torch.generative.layers import kv_cache  # isort: skip
from litert_torch.generative.utilities import converter as upstream  # isort: skip
from litert_torch.generative.utilities import export_config  # isort: skip

# Schemes know the LM head by the name of the signature that returns its output.
SIGNATURE = "decode"


def run(request: StepRequest, output: Path) -> dict[str, Any]:
    """Export the checkpoint; return the name of the signature."""
    checkpoint = Path(request.inputs["checkpoint"])
    length = request.parameters["length"]
    model = load_model(checkpoint, checkpoint_architecture(checkpoint), 0, ScoreDecoder)
    config = export_config.ExportConfig(
        output_logits_on_prefill=True,
        mask_as_input=True,
        kvcache_layout=kv_cache.KV_LAYOUT_TRANSPOSED,
    )
    converter = interface.Converter()
    converter.add_signature(
        SIGNATURE,
        upstream.ExportableModule(model, export_config=config).eval(),
        sample_kwargs={
            "tokens": torch.zeros((1, length), dtype=torch.int),
            "input_pos": torch.arange(length, dtype=torch.int),
            "kv_cache": kv_cache.KVCache.from_model_config(
                length, model.config, kv_layout=config.kvcache_layout
            ),
            "mask": upstream._build_mask(length, length, model.config.causal_mask_value),
        },
    )
    # Lean, as the artifact's export is; the logits are those of the normal way to the bit.
    converter.convert(lightweight_conversion=True).export(str(output / FLOAT_MODEL))
    return {"signature": SIGNATURE}


class ScoreDecoder(decoder.Decoder):  # type: ignore[misc]
    """Upstream's decoder for a call that fills the whole cache, with positions in any order.

    Upstream measures the sliding window from a token's position to an index of the cache, which is
    the position of the key there if the cache holds one sequence from its first token on. Here it
    holds several next to each other, and ``input_pos`` has the position of each key.
    """

    def create_sliding_mask(
        self, segment_pos: torch.Tensor, cache_len: int, sliding_window_size: int
    ) -> torch.Tensor:
        """Return 0 where a key is within the window, else the value of hidden: ``[1, L, L]``."""
        queries = segment_pos.reshape(1, cache_len, 1)
        keys = segment_pos.reshape(1, 1, cache_len)
        near = (keys > queries - sliding_window_size) & (keys < queries + sliding_window_size)
        hidden = torch.tensor(self.config.causal_mask_value, dtype=torch.float)
        return torch.where(near, torch.zeros((), dtype=torch.float), hidden)
