"""The shape of a Gemma 3 text model, read from its checkpoint's config.json.

gemma3build rejects every feature that the converter's Gemma 3 decoder lacks, because the converter would
ignore it and write a broken model.
"""

import math
from collections.abc import Mapping
from typing import Any

from gemma3build.util.serialize import Record

TEXT_MODEL_TYPE = "gemma3_text"
EMBEDDING = "model.embed_tokens.weight"
GLOBAL = "full_attention"
LOCAL = "sliding_attention"
# transformers' defaults for keys that a Gemma 3 config.json may leave out (Gemma3TextConfig).
DEFAULT_PATTERN = 6
DEFAULT_ATTENTION_SCALAR = 256
DEFAULT_GLOBAL_ROPE_BASE = 1_000_000.0
DEFAULT_LOCAL_ROPE_BASE = 10_000.0
DEFAULT_NORM_EPSILON = 1e-6
# Bounds on what a file may claim, checked before anything is allocated.
LARGEST_SIZE = 2**31 - 1  # the extents of a tensor in a .tflite are int32
MOST_LAYERS = 1000  # the largest Gemma 3 has 62


class ArchitectureError(ValueError):
    """The model of a config.json cannot be built; the message says why."""


class Shape(Record):
    """The sizes that give every tensor of a checkpoint its shape.

    Attributes:
        vocab_size: rows of the embedding table, which is also the LM head.
        hidden_size: width of the residual stream.
        intermediate_size: width inside the feed-forward block.
        layers: number of transformer blocks.
        heads: query heads per block.
        kv_heads: key and value heads per block.
        head_dim: width of one head.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the checkpoint by its ``transformers`` name, [out, in] for matrices."""
        hidden, inner = self.hidden_size, self.intermediate_size
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        block: dict[str, tuple[int, ...]] = {
            "input_layernorm": (hidden,),
            "mlp.down_proj": (hidden, inner),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "post_attention_layernorm": (hidden,),
            "post_feedforward_layernorm": (hidden,),
            "pre_feedforward_layernorm": (hidden,),
            "self_attn.k_norm": (self.head_dim,),
            "self_attn.k_proj": (key, hidden),
            "self_attn.o_proj": (hidden, query),
            "self_attn.q_norm": (self.head_dim,),
            "self_attn.q_proj": (query, hidden),
            "self_attn.v_proj": (key, hidden),
        }
        return {
            EMBEDDING: (self.vocab_size, hidden),
            "model.norm.weight": (hidden,),
            **{
                f"model.layers.{layer}.{name}.weight": shape
                for layer in range(self.layers)
                for name, shape in block.items()
            },
        }

    @property
    def parameters(self) -> int:
        """Number of weights, the shared embedding counted once."""
        return sum(math.prod(shape) for shape in self.tensors.values())


class Architecture(Record):
    """A Gemma 3 text model without its weights.

    Attributes:
        shape: the sizes of its tensors.
        context: longest position that the model supports, in tokens.
        sliding_window: reach of a local layer, in tokens.
        global_layers: indices of the layers that see the whole context.
        rope_base: rotary base of global layers.
        rope_local_base: rotary base of local layers.
        norm_epsilon: added to the mean square in RMSNorm.
    """

    shape: Shape
    context: int
    sliding_window: int
    global_layers: tuple[int, ...]
    rope_base: float
    rope_local_base: float
    norm_epsilon: float


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture that a config.json describes.

    Raises:
        ArchitectureError: it is not a Gemma 3 text model, or has a feature that the converter's
            decoder lacks.
    """
    model_type = config.get("model_type")
    if model_type == "gemma3":
        raise ArchitectureError(
            "this is a multimodal Gemma 3 (model_type 'gemma3', with a vision tower);"
            " only the text models (270M and 1B, model_type 'gemma3_text') can be built"
        )
    if model_type != TEXT_MODEL_TYPE:
        name = ", ".join(config.get("architectures") or ()) or "an unnamed architecture"
        raise ArchitectureError(
            f"this is {name} (model_type {model_type!r}), not a Gemma 3 text model"
        )
    _reject_features(config)
    shape = Shape(
        vocab_size=_positive(config, "vocab_size"),
        hidden_size=_positive(config, "hidden_size"),
        intermediate_size=_positive(config, "intermediate_size"),
        layers=_positive(config, "num_hidden_layers", MOST_LAYERS),
        heads=_positive(config, "num_attention_heads"),
        kv_heads=_positive(config, "num_key_value_heads"),
        head_dim=_positive(config, "head_dim"),
    )
    if shape.heads % shape.kv_heads:
        raise ArchitectureError(
            f"{shape.heads} query heads cannot share {shape.kv_heads} key-value heads evenly"
        )
    scalar = config.get("query_pre_attn_scalar", DEFAULT_ATTENTION_SCALAR)
    if scalar != shape.head_dim:
        raise ArchitectureError(
            f"query_pre_attn_scalar is {scalar}, head_dim {shape.head_dim};"
            " the converter's decoder scales attention by head_dim only"
        )
    rope_base, rope_local_base = _rope_bases(config)
    return Architecture(
        shape=shape,
        context=_positive(config, "max_position_embeddings"),
        sliding_window=_positive(config, "sliding_window"),
        global_layers=_global_layers(config, shape.layers),
        rope_base=rope_base,
        rope_local_base=rope_local_base,
        norm_epsilon=_real(config, "rms_norm_eps", DEFAULT_NORM_EPSILON),
    )


def _reject_features(config: Mapping[str, Any]) -> None:
    if not config.get("tie_word_embeddings", True):
        raise ArchitectureError(
            "its LM head is not tied to the embedding; the converter's decoder shares them"
        )
    activation = config.get("hidden_activation", "gelu_pytorch_tanh")
    if activation != "gelu_pytorch_tanh":
        raise ArchitectureError(
            f"hidden_activation is {activation!r}; the decoder has gelu_pytorch_tanh"
        )
    for key in (
        "attention_bias",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "rope_scaling",
        "use_bidirectional_attention",
        "quantization_config",
    ):
        if config.get(key):
            raise ArchitectureError(
                f"{key} is {config[key]!r}; the converter's decoder does not have it"
            )


def _rope_bases(config: Mapping[str, Any]) -> tuple[float, float]:
    # transformers 5 keeps one table per layer type; version 4 has two keys.
    parameters = config.get("rope_parameters")
    if parameters is None:
        return (
            _real(config, "rope_theta", DEFAULT_GLOBAL_ROPE_BASE),
            _real(config, "rope_local_base_freq", DEFAULT_LOCAL_ROPE_BASE),
        )
    if not isinstance(parameters, Mapping) or set(parameters) - {GLOBAL, LOCAL}:
        raise ArchitectureError(
            f"rope_parameters must have a table for {GLOBAL} and {LOCAL}, nothing else"
        )
    bases = []
    for kind, default in ((GLOBAL, DEFAULT_GLOBAL_ROPE_BASE), (LOCAL, DEFAULT_LOCAL_ROPE_BASE)):
        table = parameters.get(kind, {})
        if table.get("rope_type", "default") != "default":
            raise ArchitectureError(
                f"its rope_type is {table['rope_type']!r}; the decoder has 'default' only"
            )
        bases.append(_real(table, "rope_theta", default))
    return bases[0], bases[1]


def _global_layers(config: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    types = config.get("layer_types")
    if types is None:
        has_period = config.get("sliding_window_pattern")
        period = _positive(config, "sliding_window_pattern") if has_period else DEFAULT_PATTERN
        return tuple(layer for layer in range(layers) if (layer + 1) % period == 0)
    if len(types) != layers or set(types) - {GLOBAL, LOCAL}:
        raise ArchitectureError(
            f"layer_types must name {GLOBAL} or {LOCAL} for each of {layers} layers"
        )
    return tuple(layer for layer, kind in enumerate(types) if kind == GLOBAL)


def _positive(config: Mapping[str, Any], key: str, most: int = LARGEST_SIZE) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ArchitectureError(f"{key} must be a positive whole number, not {value!r}")
    if value > most:
        raise ArchitectureError(f"{key} is {value}, more than any model has")
    return value


def _real(table: Mapping[str, Any], key: str, default: float) -> float:
    value = table.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ArchitectureError(f"{key} must be a positive number, not {value!r}")
    return float(value)
