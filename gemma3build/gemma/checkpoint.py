"""Which files of a directory make up a checkpoint, and what its config.json and chat template say.

The host looks before it starts anything, the ``check`` step looks again inside its container; both
refuse with the same words.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from gemma3build.gemma.architecture import Architecture, ArchitectureError, read_architecture
from gemma3build.schema.step import StepError, StepErrorCode
from gemma3build.util.files import read_bounded, read_bounded_text
from gemma3build.util.serialize import load_json

CONFIG = "config.json"
TOKENIZER = "tokenizer.model"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
LM_HEAD = "lm_head.weight"
TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
# Where it can stand: the first of them that is there, as in transformers.
TEMPLATE_FILES = (TEMPLATE, TOKENIZER_CONFIG)
DEFAULT = "default"  # of several templates with names
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
            refuse(StepErrorCode.TENSORS, why, "Copy every shard.")
    return tuple(folder / name for name in names)


def checkpoint_files(folder: Path) -> tuple[Path, ...]:
    """Return every file that a build reads from a checkpoint, those that are there."""
    fixed = (folder / name for name in (CONFIG, INDEX, TOKENIZER))
    return (*(path for path in fixed if path.is_file()), *weight_files(folder))


def checkpoint_architecture(folder: Path) -> Architecture:
    """Return the architecture that a checkpoint's config.json describes; raises StepError."""
    try:
        return read_architecture(load_json(read_bounded(folder / CONFIG)))
    except FileNotFoundError:
        refuse(
            StepErrorCode.CHECKPOINT_CONFIG,
            "it has no config.json",
            "Give the directory of a checkpoint.",
        )
    except ArchitectureError as error:
        refuse(StepErrorCode.ARCHITECTURE, str(error), "Only Gemma 3 text models can be built.")
    except (ValueError, AttributeError, TypeError) as error:
        refuse(
            StepErrorCode.CHECKPOINT_CONFIG,
            f"config.json cannot be read: {error}",
            "Save the model again.",
        )


def shards(index: Path) -> list[str]:
    """Return the names of the files that an index lists; raises StepError."""
    try:
        names = sorted(set(load_json(read_bounded(index))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        refuse(
            StepErrorCode.CHECKPOINT_CONFIG,
            f"{INDEX} has no weight_map: {error}",
            "Save the model again.",
        )
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            why = f"{INDEX} names {name!r}, which is not a file beside it"
            refuse(StepErrorCode.TENSORS, why, "Save the model again.")
    return names


def refuse_missing(folder: Path) -> NoReturn:
    """Raise for a directory without safetensors; pickles have words of their own."""
    for path in sorted(folder.iterdir()):
        if path.suffix in PICKLES:
            refuse(
                StepErrorCode.PICKLE,
                f"{path.name} is a pickle, which can run any code when it is opened",
                "Save the model with save_pretrained(..., safe_serialization=True).",
            )
    why = "it holds no safetensors file"
    refuse(StepErrorCode.TENSORS, why, "Give the directory that save_pretrained wrote.")


def refuse(code: StepErrorCode, why: str, hint: str) -> NoReturn:
    """Raise the error of a checkpoint that cannot be built."""
    raise StepError(code, "The checkpoint cannot be built", why, hint)


def template_file(names: Iterable[str]) -> str | None:
    """Return which file of a checkpoint is asked for its chat template, if there is one."""
    found = set(names)
    return next((name for name in TEMPLATE_FILES if name in found), None)


def read_chat_template(path: Path) -> str:
    """Return the chat template in a file; empty if it has none, as those of base models.

    Raises:
        StepError: the file cannot be read.
    """
    try:
        text = read_bounded_text(path)
        return text if path.name == TEMPLATE else configured(load_json(text))
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise StepError(
            StepErrorCode.CHECKPOINT_CONFIG,
            f"{path.name} has no chat template that can be read",
            f"{type(error).__name__}: {error}",
            "Save the tokenizer again, or remove the file.",
        ) from error


def configured(config: Any) -> str:
    """Return the chat template in a tokenizer's configuration.

    It is a text, or a list of texts with names.
    """
    found = config.get("chat_template") or ""
    if isinstance(found, list):
        found = {item["name"]: item["template"] for item in found}.get(DEFAULT, "")
    if not isinstance(found, str):
        raise TypeError(f"chat_template is a {type(found).__name__}")
    return found
