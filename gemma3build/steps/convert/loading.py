"""A checkpoint's directory as ``transformers`` loads it."""

import json
from pathlib import Path

from safetensors import safe_open

from gemma3build.gemma.checkpoint import CONFIG, INDEX, WEIGHTS, weight_files


def loadable(checkpoint: Path, folder: Path) -> Path:
    """Return a directory that ``from_pretrained`` loads; where need be, ``folder``, made of links.

    Shards can be loaded without their index, whose ``metadata`` some tools leave out, and whatever
    their names are; ``transformers`` needs both, and prefers ``model.safetensors`` to an index. So
    everything but that one file gets an index that is made from the shards.

    Args:
        checkpoint: as the ``check`` step passed it.
        folder: in scratch space, does not exist.
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
