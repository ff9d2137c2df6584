"""Find the files of a checkpoint, and read its config.json and chat template.

The host checks a checkpoint before it starts anything, and the ``check`` step does so again inside its
container, with the same messages.
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
# Files that can hold the template; the first that exists counts, as in transformers.
TEMPLATE_FILES = (TEMPLATE, TOKENIZER_CONFIG)
DEFAULT = "default"  # of several templates with names
# Formats that run code when they are opened.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a checkpoint: one, or the shards that its index names.

    Raises:
        StepError: there are none, or the index names something that is not in the same directory.
    """
    if (folder / INDEX).is_file():
        names = shards(folder / INDEX)
    elif (folder / WEIGHTS).is_file():
        names = [WEIGHTS]
    else:
        names = [path.name for path in sorted(folder.glob("*.safetensors"))]
    if not names:
        reject_missing(folder)
    for name in names:
        if not (folder / name).is_file():
            why = f"{INDEX} names {name}, which is not there"
            reject_checkpoint(StepErrorCode.TENSORS, why, "Copy every shard.")
    return tuple(folder / name for name in names)


def checkpoint_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of a checkpoint that a build reads and that exist."""
    fixed = (folder / name for name in (CONFIG, INDEX, TOKENIZER))
    return (*(path for path in fixed if path.is_file()), *weight_files(folder))


def checkpoint_architecture(folder: Path) -> Architecture:
    """Return the architecture that a checkpoint's config.json describes; raises StepError."""
    try:
        return read_architecture(load_json(read_bounded(folder / CONFIG)))
    except FileNotFoundError:
        reject_checkpoint(
            StepErrorCode.CHECKPOINT_CONFIG,
            "it has no config.json",
            "Give the directory of a checkpoint.",
        )
    except ArchitectureError as error:
        reject_checkpoint(
            StepErrorCode.ARCHITECTURE, str(error), "Only Gemma 3 text models can be built."
        )
    except (ValueError, AttributeError, TypeError) as error:
        reject_checkpoint(
            StepErrorCode.CHECKPOINT_CONFIG,
            f"config.json cannot be read: {error}",
            "Save the model again.",
        )


def shards(index: Path) -> list[str]:
    """Return the names of the files that an index lists; raises StepError."""
    try:
        names = sorted(set(load_json(read_bounded(index))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        reject_checkpoint(
            StepErrorCode.CHECKPOINT_CONFIG,
            f"{INDEX} has no weight_map: {error}",
            "Save the model again.",
        )
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            why = f"{INDEX} names {name!r}, which is not a file in the same directory"
            reject_checkpoint(StepErrorCode.TENSORS, why, "Save the model again.")
    return names


def reject_missing(folder: Path) -> NoReturn:
    """Raise for a directory without safetensors; pickles have their own message."""
    for path in sorted(folder.iterdir()):
        if path.suffix in PICKLES:
            reject_checkpoint(
                StepErrorCode.PICKLE,
                f"{path.name} is a pickle, which can run any code when it is opened",
                "Save the model with save_pretrained(..., safe_serialization=True).",
            )
    why = "it holds no safetensors file"
    reject_checkpoint(StepErrorCode.TENSORS, why, "Give the directory that save_pretrained wrote.")


def reject_checkpoint(code: StepErrorCode, why: str, hint: str) -> NoReturn:
    """Raise the error of a checkpoint that cannot be built."""
    raise StepError(code, "The checkpoint cannot be built", why, hint)


def template_file(names: Iterable[str]) -> str | None:
    """Return the file of a checkpoint that holds its chat template, if there is one."""
    present = set(names)
    return next((name for name in TEMPLATE_FILES if name in present), None)


def read_chat_template(path: Path) -> str:
    """Return the chat template in a file; empty if it has none, as for base models.

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
    """Return the chat template of a tokenizer's configuration: a text, or one of several by name."""
    template = config.get("chat_template") or ""
    if isinstance(template, list):
        template = {item["name"]: item["template"] for item in template}.get(DEFAULT, "")
    if not isinstance(template, str):
        raise TypeError(f"chat_template is a {type(template).__name__}")
    return template
