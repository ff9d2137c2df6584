"""Export a checkpoint to one float32 ``.tflite`` with a prefill signature per length and a decode.

Inputs:
    checkpoint: the directory with config.json and safetensors, as ``check`` passed it.
Parameters:
    prefill_seq_lens: lengths of the prefill signatures, in tokens.
    kv_cache_max_len: length of the key-value cache, in tokens.
    mask_as_input: whether the caller passes the attention mask, as MediaPipe and LiteRT-LM do.
    lean: convert with constants kept out of the MLIR module. It halves the memory, and the logits
        are equal to the bit; without it the bytes are those of the upstream script.
Outputs:
    ``model_f32.tflite``.

This is litert_torch's ``convert_gemma3_to_tflite.py`` without its quantization, for any shape of
Gemma 3 text model instead of two.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from ai_edge_litert import schema_py_generated
from safetensors import safe_open

from gemma3build.gemma.architecture import Architecture
from gemma3build.gemma.checkpoint import LM_HEAD, checkpoint_architecture, weight_files
from gemma3build.gemma.graph import FLOAT_MODEL
from gemma3build.schema.step import StepRequest

TENSORFLOW_SCHEMA = "tensorflow.lite.python"


def import_litert_torch() -> None:
    """Import the converter, which wants one generated module of TensorFlow that LiteRT has too.

    litert_torch 0.10.0 imports ``tensorflow.lite.python.schema_py_generated`` in its LoRA layers
    without depending on TensorFlow. The names stand in ``sys.modules`` for that import only: left
    there, torch would take them for a TensorFlow.
    """
    package = type(sys)(TENSORFLOW_SCHEMA)
    package.schema_py_generated = schema_py_generated  # type: ignore[attr-defined]
    names = ("tensorflow", "tensorflow.lite", TENSORFLOW_SCHEMA)
    sys.modules.update(dict.fromkeys(names, package))
    try:
        import litert_torch.generative.layers.lora  # noqa: F401 - see above
    finally:
        for name in names:
            del sys.modules[name]


import_litert_torch()

from litert_torch._convert import interface  # noqa: E402 - needs the lines above
from litert_torch.generative.examples.gemma3 import decoder  # noqa: E402
from litert_torch.generative.layers import kv_cache, model_config  # noqa: E402
from litert_torch.generative.utilities import converter as upstream  # noqa: E402
from litert_torch.generative.utilities import export_config  # noqa: E402
from litert_torch.generative.utilities import loader as upstream_loader  # noqa: E402


def run(request: StepRequest, output: Path) -> dict[str, Any]:
    """Export the checkpoint; return the names of the signatures."""
    checkpoint = Path(request.inputs["checkpoint"])
    architecture = checkpoint_architecture(checkpoint)
    parameters = request.parameters
    mask_as_input = parameters["mask_as_input"]
    kv_cache_max_len = parameters["kv_cache_max_len"]
    # The limit that the upstream script sets before it exports.
    torch._dynamo.config.cache_size_limit = 64
    model = load_model(checkpoint, architecture, 0 if mask_as_input else kv_cache_max_len)
    converter = interface.Converter()
    upstream._add_signatures(
        converter,
        model,
        list(parameters["prefill_seq_lens"]),
        kv_cache_max_len,
        None,
        0,
        model.config,
        [None],
        export_config.ExportConfig(
            mask_as_input=mask_as_input, kvcache_layout=kv_cache.KV_LAYOUT_TRANSPOSED
        ),
    )
    names = [signature.name for signature in converter._signatures]
    edge_model = converter.convert(lightweight_conversion=parameters["lean"])
    edge_model.export(str(output / FLOAT_MODEL))
    return {"signatures": names}


def load_model(
    checkpoint: Path,
    architecture: Architecture,
    mask_cache_size: int,
    kind: type[decoder.Decoder] = decoder.Decoder,
) -> decoder.Decoder:
    """Return upstream's Gemma 3 decoder with the weights of the checkpoint, in float32."""
    # Made without storage, then given some: initializing weights that are about to be replaced
    # takes seconds for each hundred million of them.
    with torch.device("meta"):
        model = kind(decoder_config(architecture))
    model.to_empty(device="cpu")
    model.lm_head.weight.data = model.tok_embedding.weight.data
    model.build_mask_cache(mask_cache_size)
    loader = upstream_loader.ModelLoader(
        str(checkpoint), decoder.TENSOR_NAMES_SEP_QKV, lambda _: read_tensors(checkpoint)
    )
    missing, unexpected = loader.load(model, strict=False)
    if set(missing) - {LM_HEAD} or unexpected:
        raise ValueError(
            f"weights do not fit the model: missing {missing}, unexpected {unexpected}"
        )
    return model.eval()


def read_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the checkpoint's tensors, without a copy of the tied LM head."""
    tensors = {}
    for path in weight_files(checkpoint):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                tensors[name] = file.get_tensor(name)
    tensors.pop(LM_HEAD, None)
    return tensors


def decoder_config(architecture: Architecture) -> model_config.ModelConfig:
    """Return upstream's configuration for this architecture, as its two fixed ones are made."""
    norm = model_config.NormalizationConfig(
        type=model_config.NormalizationType.RMS_NORM,
        epsilon=architecture.norm_epsilon,
        zero_centered=True,
    )
    feed_forward = model_config.FeedForwardConfig(
        type=model_config.FeedForwardType.GATED,
        activation=model_config.ActivationConfig(model_config.ActivationType.GELU_TANH),
        intermediate_size=architecture.shape.intermediate_size,
        pre_ff_norm_config=norm,
        post_ff_norm_config=norm,
    )

    def block(layer: int) -> model_config.TransformerBlockConfig:
        is_global = layer in architecture.global_layers
        attention = model_config.AttentionConfig(
            num_heads=architecture.shape.heads,
            head_dim=architecture.shape.head_dim,
            num_query_groups=architecture.shape.kv_heads,
            rotary_base=architecture.rope_base if is_global else architecture.rope_local_base,
            rotary_percentage=1.0,
            qkv_transpose_before_split=True,
            query_norm_config=norm,
            key_norm_config=norm,
            logit_softcap=None,
            sliding_window_size=architecture.sliding_window,
            attn_type=(
                model_config.AttentionType.GLOBAL
                if is_global
                else model_config.AttentionType.LOCAL_SLIDING
            ),
        )
        return model_config.TransformerBlockConfig(
            attn_config=attention,
            ff_config=feed_forward,
            pre_attention_norm_config=norm,
            post_attention_norm_config=norm,
        )

    return model_config.ModelConfig(
        vocab_size=architecture.shape.vocab_size,
        num_layers=architecture.shape.layers,
        max_seq_len=architecture.context,
        embedding_dim=architecture.shape.hidden_size,
        embedding_scale=architecture.shape.hidden_size**0.5,
        block_configs=[block(layer) for layer in range(architecture.shape.layers)],
        final_norm_config=norm,
        lm_head_use_bias=False,
        final_logit_softcap=None,
    )
