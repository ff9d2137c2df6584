"""The chat template of a checkpoint: Jinja, in a file of its own or in the tokenizer's configuration."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gemma3build.core.codec import load_json
from gemma3build.core.small import read_small_text
from gemma3build.core.step import Refusal, StepError

TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
# Where it can stand: the first of them that is there, as in transformers.
TEMPLATE_FILES = (TEMPLATE, TOKENIZER_CONFIG)
DEFAULT = "default"  # of several templates with names


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
        text = read_small_text(path)
        return text if path.name == TEMPLATE else configured(load_json(text))
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise StepError(
            Refusal.CONFIG,
            f"{path.name} has no chat template that can be read",
            f"{type(error).__name__}: {error}",
            "Save the tokenizer again, or remove the file.",
        ) from error


def configured(config: Any) -> str:
    """Return the chat template in a tokenizer's configuration.

    It is a text, or a list of texts with names.

    Raises:
        AttributeError, KeyError, TypeError: it is neither.
    """
    found = config.get("chat_template") or ""
    if isinstance(found, list):
        found = {item["name"]: item["template"] for item in found}.get(DEFAULT, "")
    if not isinstance(found, str):
        raise TypeError(f"chat_template is a {type(found).__name__}")
    return found
