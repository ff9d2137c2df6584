import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from gemma3build.steps.convert.loading import loadable

TENSORS = {name: np.full((2, 2), number, np.float32) for number, name in enumerate("abc")}


def shard(folder: Path, *names: str, index: object = None) -> Path:
    """Write the tensors to files of these names, in turn."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    places = {tensor: names[number % len(names)] for number, tensor in enumerate(TENSORS)}
    for name in names:
        save_file({t: TENSORS[t] for t, place in places.items() if place == name}, folder / name)
    if index is not None:
        text = json.dumps({**index, "weight_map": places} if isinstance(index, dict) else index)
        (folder / "model.safetensors.index.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("names", "index"),
    [
        (("a-1.safetensors", "a-2.safetensors"), {}),
        (("a-1.safetensors", "a-2.safetensors"), {"metadata": {"total_size": 48}}),
        (("model.safetensors", "more.safetensors"), {}),
        (("mine.safetensors",), None),
        (("one.safetensors", "two.safetensors"), None),
    ],
)
def test_shards_are_loaded_though_their_index_lacks_something(
    tmp_path: Path, names: tuple[str, ...], index: object
) -> None:
    found = loadable(shard(tmp_path / "checkpoint", *names, index=index), tmp_path / "scratch")
    made = json.loads((found / "model.safetensors.index.json").read_text())
    assert made["metadata"] == {}
    assert set(made["weight_map"]) == set(TENSORS)
    assert not (found / "model.safetensors").exists(), "transformers would load that alone"
    assert (found / "config.json").read_text() == "{}"
    for name, place in made["weight_map"].items():
        with safe_open(found / place, framework="numpy") as file:
            assert (file.get_tensor(name) == TENSORS[name]).all()


def test_one_file_is_loaded_where_it_is(tmp_path: Path) -> None:
    checkpoint = shard(tmp_path / "checkpoint", "model.safetensors")
    assert loadable(checkpoint, tmp_path / "scratch") == checkpoint
    assert not (tmp_path / "scratch").exists()
