"""Hand a recorded release to the Hub: what must hold, its model card, one commit, and a look back."""

import enum
import re

from gemma3build.errors import BuildError, ErrorCode
from gemma3build.schema.scheme import NAME

NOT_A_TAG = re.compile(r"\.\.|\.lock$|\.$")  # names that NAME allows and git rejects


class Rule(enum.StrEnum):
    """The name of each rule, by which it can be skipped.

    Here and not in ``rules``: the command line needs the names, and what the rules read takes time to load.
    """

    GATE = "gate"
    PIQA = "piqa"
    PROVENANCE = "provenance"
    SOURCE = "source"
    SPEED = "speed"
    TERMS = "terms"


def check_tag(text: str, kind: str) -> None:
    """Require that a text can be a tag, and a directory.

    Args:
        text: what somebody gave.
        kind: what it is to be, for messages.

    Raises:
        BuildError: it cannot (REQUEST).
    """
    if not re.fullmatch(NAME, text) or NOT_A_TAG.search(text):
        why = "it must be of letters, digits, dots, dashes and underscores, as a tag of git can be"
        raise BuildError(ErrorCode.REQUEST, f"{text!r} is no {kind}", why, "Try v1.0.0.")
