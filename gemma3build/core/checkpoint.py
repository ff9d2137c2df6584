"""Which files of a directory make up a checkpoint, and what its config.json says.

The host looks before it starts anything, the ``check`` step looks again inside its container; both
refuse with the same words.
"""

from pathlib import Path
from typing import NoReturn

from gemma3build.core.architecture import Architecture, ArchitectureError, read_architecture
from gemma3build.core.codec import load_json
from gemma3build.core.small import read_small
from gemma3build.core.step import Refusal, StepError

CONFIG = "config.json"
TOKENIZER = "tokenizer.model"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
LM_HEAD = "lm_head.weight"
# Formats that run code when they are opened.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a checkpoint: one, or the shards that its index names.

    Raises:
        StepError: there are none, or the index names something that is not beside it.
    """
    if (folder / INDEX).is_file():
        names = shards(folder / INDEX)
    elif (folder / WEIGHTS).is_file():
        names = [WEIGHTS]
    else:
        names = [path.name for path in sorted(folder.glob("*.safetensors"))]
    if not names:
        refuse_missing(folder)
    for name in names:
        if not (folder / name).is_file():
            why = f"{INDEX} names {name}, which is not there"
            refuse(Refusal.TENSORS, why, "Copy every shard.")
    return tuple(folder / name for name in names)


def checkpoint_files(folder: Path) -> tuple[Path, ...]:
    """Return every file that a build reads from a checkpoint, those that are there."""
    fixed = (folder / name for name in (CONFIG, INDEX, TOKENIZER))
    return (*(path for path in fixed if path.is_file()), *weight_files(folder))


def checkpoint_architecture(folder: Path) -> Architecture:
    """Return the architecture that a checkpoint's config.json describes.

    Raises:
        StepError: there is none, it cannot be read, or it is not a Gemma 3 text model.
    """
    try:
        return read_architecture(load_json(read_small(folder / CONFIG)))
    except FileNotFoundError:
        refuse(Refusal.CONFIG, "it has no config.json", "Give the directory of a checkpoint.")
    except ArchitectureError as error:
        refuse(Refusal.ARCHITECTURE, str(error), "Only Gemma 3 text models can be built.")
    except (ValueError, AttributeError, TypeError) as error:
        refuse(Refusal.CONFIG, f"config.json cannot be read: {error}", "Save the model again.")


def shards(index: Path) -> list[str]:
    """Return the names of the files that an index lists; raises StepError."""
    try:
        names = sorted(set(load_json(read_small(index))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        refuse(Refusal.CONFIG, f"{INDEX} has no weight_map: {error}", "Save the model again.")
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            why = f"{INDEX} names {name!r}, which is not a file beside it"
            refuse(Refusal.TENSORS, why, "Save the model again.")
    return names


def refuse_missing(folder: Path) -> NoReturn:
    """Raise for a directory without safetensors; pickles have words of their own."""
    for path in sorted(folder.iterdir()):
        if path.suffix in PICKLES:
            refuse(
                Refusal.PICKLE,
                f"{path.name} is a pickle, which can run any code when it is opened",
                "Save the model with save_pretrained(..., safe_serialization=True).",
            )
    why = "it holds no safetensors file"
    refuse(Refusal.TENSORS, why, "Give the directory that save_pretrained wrote.")


def refuse(code: Refusal, why: str, hint: str) -> NoReturn:
    """Raise the error of a checkpoint that cannot be built."""
    raise StepError(code, "The checkpoint cannot be built", why, hint)
