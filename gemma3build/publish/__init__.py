"""Hand a recorded release to the Hub: what must hold, its model card, one commit, and a look back."""

import enum


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
