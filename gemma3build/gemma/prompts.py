"""The fixed texts of the gate and of calibration (``prompts.toml``), and the records of continuations."""

import tomllib
from pathlib import Path
from typing import Any

from gemma3build.util.serialize import Record

# The tokens and the template of the converter's Gemma 3 page.
START_TOKEN = "<bos>"  # noqa: S105 - not a password
STOP_TOKENS = ("<eos>", "<end_of_turn>")
USER_PREFIX = "<start_of_turn>user\n"
MODEL_PREFIX = "<start_of_turn>model\n"
TURN_SUFFIX = "<end_of_turn>\n"
PROMPT_PREFIX = USER_PREFIX
PROMPT_SUFFIX = f"{TURN_SUFFIX}{MODEL_PREFIX}"

SCORED = 16  # last tokens of a prompt whose next-token distributions are compared
LONGEST = 704  # tokens: past the sliding window, and no longer than it takes to see that
NEW_TOKENS = 24  # that a sample continues for

_FILE: dict[str, Any] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
)
# The texts that the gate compares on, by name. The last is longer than the sliding window.
TEXTS: dict[str, str] = {
    **_FILE["texts"],
    "long sums": "".join(f"{number} + 7 = {number + 7}, " for number in range(11, 93)),
}
SAMPLES: dict[str, str] = _FILE["samples"]  # the prompts that a model continues, by name
QUESTION = "question"  # the sample with turns
CALIBRATION_TEXTS: tuple[str, ...] = tuple(_FILE["calibration"]["texts"])


class Prompt(Record):
    """A text as tokens.

    Attributes:
        name: of the text.
        tokens: its ids, ``<bos>`` first, cut to what fits.
        scored: how many of the distributions after its last tokens are compared; each has a next
            token in the text.
    """

    name: str
    tokens: tuple[int, ...]
    scored: int


class Continuation(Record):
    """A model's greedy continuation of a prompt.

    Attributes:
        name: of the prompt.
        prompt: its ids, ``<bos>`` first.
        tokens: new ids, without the stop token.
        stopped: whether a stop token ended it.
    """

    name: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    stopped: bool


class Reference(Record):
    """The results of the checkpoint: ``reference.json``, with the logits in a file next to it.

    Attributes:
        made_by: such as ``transformers 5.23.0, float32``.
        prompts: in the order of the rows of the logits.
        continuations: of the samples.
    """

    made_by: str
    prompts: tuple[Prompt, ...]
    continuations: tuple[Continuation, ...]


REFERENCE = "reference.json"
LOGITS = "logits.npy"


def sample_room(longest: int) -> tuple[int, int]:
    """Return how many tokens a sample's prompt may have, and how many it may continue for."""
    prompt = max(2, longest - NEW_TOKENS)
    return prompt, longest - prompt


def make_prompt(name: str, ids: list[int], bos: int, longest: int) -> Prompt:
    """Return a text's ids as a prompt of at most ``longest`` tokens, the last of them unscored."""
    tokens = (bos, *ids)[:longest]
    return Prompt(name=name, tokens=tokens, scored=min(SCORED, len(tokens) // 2))
