import json
from pathlib import Path
from typing import Any

import pytest

from gemma3build.gemma.architecture import ArchitectureError, read_architecture
from gemma3build.gemma.checkpoint import (
    checkpoint_architecture,
    checkpoint_files,
    weight_files,
)
from gemma3build.schema.step import StepError

GEMMA_270M: dict[str, Any] = {
    "model_type": "gemma3_text",
    "vocab_size": 262144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "sliding_window": 512,
    "query_pre_attn_scalar": 256,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rms_norm_eps": 1e-6,
}


def test_the_270m_model_has_its_published_size_and_layers() -> None:
    architecture = read_architecture(GEMMA_270M)
    assert architecture.shape.parameters == 268_098_176
    assert architecture.global_layers == (5, 11, 17)


def test_old_and_new_ways_to_write_rope_and_layers_agree() -> None:
    new = {key: value for key, value in GEMMA_270M.items() if "rope" not in key} | {
        "layer_types": [
            "full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(18)
        ],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    }
    assert read_architecture(new) == read_architecture(GEMMA_270M)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma3"}, "multimodal Gemma 3"),
        (
            {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
            "this is LlamaForCausalLM",
        ),
        ({"model_type": None}, "an unnamed architecture"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ({"rope_scaling": {"factor": 8.0}}, "rope_scaling is"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"tie_word_embeddings": False}, "not tied"),
        ({"hidden_activation": "relu"}, "hidden_activation is 'relu'"),
        ({"query_pre_attn_scalar": 168}, "scales attention by head_dim only"),
        ({"head_dim": 0}, "head_dim must be a positive whole number, not 0"),
        ({"head_dim": True}, "head_dim must be"),
        ({"num_key_value_heads": 3}, "cannot share 3 key-value heads"),
        ({"layer_types": ["full_attention"]}, "for each of 18 layers"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type is 'yarn'"),
    ],
)
def test_what_the_decoder_lacks_is_rejected(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        read_architecture(GEMMA_270M | change)


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def test_shards_are_those_that_the_index_names(tmp_path: Path) -> None:
    make(tmp_path, "a-1.safetensors", "a-2.safetensors", "old.safetensors", "config.json")
    index = {"weight_map": {"x": "a-2.safetensors", "y": "a-1.safetensors", "z": "a-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [path.name for path in weight_files(tmp_path)] == ["a-1.safetensors", "a-2.safetensors"]
    assert [path.name for path in checkpoint_files(tmp_path)] == [
        "config.json",
        "model.safetensors.index.json",
        "a-1.safetensors",
        "a-2.safetensors",
    ]


def test_one_file_is_preferred_to_strays(tmp_path: Path) -> None:
    make(tmp_path, "model.safetensors", "optimizer.safetensors")
    assert [path.name for path in weight_files(tmp_path)] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"x": "../secret.safetensors"}}, "not a file in the same directory"),
        ({"weight_map": {"x": "/etc/passwd"}}, "not a file in the same directory"),
        ({"weight_map": {"x": 7}}, "not a file in the same directory"),
        ({"weight_map": {"x": "gone.safetensors"}}, "gone.safetensors, which is not there"),
        ({"weights": {}}, "has no weight_map"),
        ([], "has no weight_map"),
    ],
)
def test_an_index_cannot_lead_astray(tmp_path: Path, index: object, message: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(StepError, match=message):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    ("names", "code"),
    [(("pytorch_model.bin",), "pickle"), (("model.pt", "config.json"), "pickle"), ((), "tensors")],
)
def test_pickles_are_named_and_never_opened(
    tmp_path: Path, names: tuple[str, ...], code: str
) -> None:
    with pytest.raises(StepError) as caught:
        weight_files(make(tmp_path, *names))
    assert caught.value.failure.code == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "checkpoint_config"),
        ("{", "checkpoint_config"),
        ("[]", "checkpoint_config"),
        ('{"model_type": "t5"}', "architecture"),
    ],
)
def test_a_config_that_cannot_be_built_is_rejected(
    tmp_path: Path, text: str | None, code: str
) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(StepError) as caught:
        checkpoint_architecture(tmp_path)
    assert caught.value.failure.code == code
