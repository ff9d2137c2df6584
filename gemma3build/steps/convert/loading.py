"""A checkpoint's directory as ``transformers`` loads it."""

import json
from pathlib import Path

from safetensors import safe_open

from gemma3build.gemma.checkpoint import CONFIG, INDEX, WEIGHTS, weight_files


def loadable(checkpoint: Path, folder: Path) -> Path:
    """Return a directory that ``from_pretrained`` loads; if need be, ``folder``, which gets links.

    gemma3build reads shards without an index, with an index without ``metadata``, and under any name.
    ``transformers`` needs a whole index, and prefers ``model.safetensors`` to it. So ``folder`` gets an
    index made from the shards, unless ``model.safetensors`` is the only file.
    """
    files = weight_files(checkpoint)
    if [file.name for file in files] == [WEIGHTS]:
        return checkpoint
    folder.mkdir()
    (folder / CONFIG).symlink_to(checkpoint / CONFIG)
    places: dict[str, str] = {}
    for number, file in enumerate(files):
        link = folder / f"part-{number}.safetensors"
        link.symlink_to(file)
        with safe_open(file, framework="numpy") as tensors:
            places |= dict.fromkeys(tensors.keys(), link.name)
    index = {"metadata": {}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return folder
