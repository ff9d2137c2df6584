"""Input that cannot be built: a sentence and an exit code of its own each, and nothing left behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from gemma3build.errors import ErrorCode
from tests.conftest import SHAPES, Command
from tests.support.checkpoint import CONFIG, tensors, tokenizer

pytestmark = pytest.mark.integration


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}")


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.model").unlink()


def wrong_tokenizer(folder: Path) -> None:
    content = tokenizer().replace(b"<end_of_turn>", b"<end_of_told>")
    (folder / "tokenizer.model").write_bytes(content)


def larger_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(tokenizer(600))


def tokenizer_that_is_none(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"not a model")


def not_a_number(folder: Path) -> None:
    found = tensors(0)
    found["model.norm.weight"][3] = np.nan
    save_file(found, folder / "model.safetensors")


def infinite(folder: Path) -> None:
    found = tensors(0)
    found["model.norm.weight"][3] = np.inf
    save_file(found, folder / "model.safetensors")


def wrong_shape(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "intermediate_size": 128}))


def missing_tensor(folder: Path) -> None:
    found = tensors(0)
    del found["model.layers.1.self_attn.q_norm.weight"]
    save_file(found, folder / "model.safetensors")


def stray_tensor(folder: Path) -> None:
    found = tensors(0)
    found["model.layers.0.lora_A.weight"] = np.zeros((4, 4), ml_dtypes.bfloat16)
    save_file(found, folder / "model.safetensors")


def integer_weights(folder: Path) -> None:
    found = tensors(0)
    found["model.norm.weight"] = np.zeros(128, np.int8)
    save_file(found, folder / "model.safetensors")


def untied_head(folder: Path) -> None:
    found = tensors(0)
    found["lm_head.weight"] = found["model.embed_tokens.weight"] * 2
    save_file(found, folder / "model.safetensors")


def another_architecture(folder: Path) -> None:
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    )


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        (truncate, ErrorCode.TRUNCATED, "model.safetensors is not a whole safetensors file"),
        (garbage, ErrorCode.TRUNCATED, "model.safetensors is not a whole safetensors file"),
        (only_pickles, ErrorCode.PICKLE, "pytorch_model.bin is a pickle"),
        (no_tokenizer, ErrorCode.TOKENIZER, "it has no tokenizer.model"),
        (wrong_tokenizer, ErrorCode.TOKENIZER, "tokenizer.model has no <end_of_turn> at 106"),
        (
            larger_tokenizer,
            ErrorCode.TOKENIZER,
            "tokenizer.model has 600 pieces, the embedding 512 rows",
        ),
        (tokenizer_that_is_none, ErrorCode.TOKENIZER, "tokenizer.model is no SentencePiece model"),
        (
            not_a_number,
            ErrorCode.VALUES,
            "model.norm.weight holds 1 values that are NaN or infinite",
        ),
        (infinite, ErrorCode.VALUES, "model.norm.weight holds 1 values that are NaN or infinite"),
        (wrong_shape, ErrorCode.TENSORS, "has the shape"),
        (
            missing_tensor,
            ErrorCode.TENSORS,
            "1 tensors are missing, the first is model.layers.1.self_attn.q_norm",
        ),
        (stray_tensor, ErrorCode.TENSORS, "model.layers.0.lora_A.weight is not part of Gemma 3"),
        (integer_weights, ErrorCode.TENSORS, "model.norm.weight is I8"),
        (untied_head, ErrorCode.TENSORS, "lm_head.weight differs from the embedding"),
        (another_architecture, ErrorCode.ARCHITECTURE, "this is LlamaForCausalLM"),
        (no_config, ErrorCode.CHECKPOINT_CONFIG, "it has no config.json"),
    ],
)
def test_a_bad_checkpoint_is_refused(
    cold: Command,
    tiny: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    code: ErrorCode,
    message: str,
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "checkpoint")
    damage(folder)
    done = cold.run("build", "--checkpoint", str(folder), *SHAPES)
    assert (done.returncode, message in done.stderr) == (code.exit_code, True), done.stderr
    assert "  Next: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "artifacts").exists()
    assert not any(cold.cache.glob("st*/*")), "the cache holds something of a refused build"


@pytest.mark.parametrize("index_has", [{"metadata": {}}, {}], ids=["metadata", "no metadata"])
def test_a_tied_head_that_was_saved_twice_is_fine_and_so_is_a_bare_index(
    cold: Command, tiny: Path, tmp_path: Path, index_has: dict[str, object]
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "checkpoint")
    found = tensors(0)
    found["lm_head.weight"] = found["model.embed_tokens.weight"]
    names = sorted(found)
    index = {name: f"part-{position % 2}.safetensors" for position, name in enumerate(names)}
    for part in sorted(set(index.values())):
        save_file({name: found[name] for name in names if index[name] == part}, folder / part)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({**index_has, "weight_map": index})
    )
    done = cold.run("build", "--checkpoint", str(folder), *SHAPES, "--scheme", "dynamic_int8")
    assert done.returncode == 0, done.stderr
