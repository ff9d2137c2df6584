"""What must hold for a release to be published. Pure; docs/guides/publish.md gives the reasons."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gemma3build.errors import BuildError, ErrorCode
from gemma3build.publish import Rule
from gemma3build.schema.evaluation import Evaluation, flag
from gemma3build.schema.manifest import Manifest
from gemma3build.util.git import GitRevision
from gemma3build.verify.checks import passed

AGREEMENT, NOTICE = "GEMMA_TERMS_OF_USE.md", "Notice"
# The sentence that section 3.1 of the Gemma Terms of Use asks for.
SENTENCE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at"
    " ai.google.dev/gemma/terms"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the rules look at.

    Attributes:
        manifest: the record.
        evaluation: what was measured; None for nothing.
        provenance: whether there is one.
        source: which source it names; None for none.
        texts: the terms that travel with the release, by name.
    """

    manifest: Manifest
    evaluation: Evaluation | None
    provenance: bool
    source: GitRevision | None
    texts: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A rule that does not hold, why, and what mends it."""

    rule: Rule
    why: str
    hint: str


def violations(facts: Facts) -> tuple[Violation, ...]:
    """Return the rules that do not hold."""
    checks: Mapping[Rule, tuple[Callable[[Facts], str], str]] = {
        Rule.GATE: (gate, "Use another scheme"),
        Rule.TERMS: (terms, "Build it again: nox -s build"),
        Rule.PROVENANCE: (provenance, "Build it in a checkout of git: nox -s build -- --release"),
        Rule.SOURCE: (source, "Commit the changes and build again: nox -s build -- --release"),
        Rule.PIQA: (piqa, "Measure it: nox -s evaluate"),
        Rule.SPEED: (speed, "Measure it: nox -s evaluate"),
    }
    return tuple(
        Violation(rule=rule, why=why, hint=hint)
        for rule, (check, hint) in checks.items()
        if (why := check(facts))
    )


def refuse(found: Iterable[Violation], skipped: Iterable[Rule]) -> tuple[Violation, ...]:
    """Return the violations that were skipped by name; raises BuildError (PUBLICATION)."""
    found, names = tuple(found), frozenset(skipped)
    left = [item for item in found if item.rule not in names]
    if left:
        why = "; ".join(f"{item.why} [{item.rule}]" for item in left)
        skips = " ".join(f"--skip {item.rule}" for item in left)
        hints = dict.fromkeys(item.hint for item in left)
        hint = f"{'; '.join(hints)}. Or {skips}, and the model card says so."
        raise BuildError(ErrorCode.PUBLICATION, "The release cannot be published", why, hint)
    return found


def gate(facts: Facts) -> str:
    """Return why the gate stands in the way, empty if it does not."""
    if facts.evaluation is None:
        return "nothing shows that it is faithful to its checkpoint"
    refused = [item.scheme for item in facts.evaluation.schemes if not passed(item.gate)]
    return f"the gate refused {', '.join(refused)}" if refused else ""


def terms(facts: Facts) -> str:
    """Return what is missing of what Gemma's terms ask of who distributes, empty for nothing."""
    lacking = [name for name in (AGREEMENT, NOTICE) if name not in facts.texts]
    if lacking:
        return f"it lacks {' and '.join(lacking)}"
    notice = " ".join(facts.texts[NOTICE].split())
    return "" if SENTENCE in notice else f"{NOTICE} lacks the sentence that Gemma's terms prescribe"


def provenance(facts: Facts) -> str:
    """Return why it is unknown what built it, empty if the provenance says so."""
    if not facts.provenance:
        return "it has no provenance"
    return "" if facts.source else "its provenance names no source of gemma3build"


def source(facts: Facts) -> str:
    """Return why it cannot be built again, empty if the source is that of a commit."""
    if facts.source is None or facts.source.dirty is False:
        return ""
    return f"it was built from changes that commit {facts.source.commit[:12]} does not have"


def piqa(facts: Facts) -> str:
    """Return which schemes have no result on PIQA, empty for none; a quick look is no result."""
    schemes = facts.evaluation.schemes if facts.evaluation else ()
    lacking = [item.scheme for item in schemes if item.piqa is None or flag(item.piqa)]
    return unmeasured("PIQA", lacking, schemes)


def speed(facts: Facts) -> str:
    """Return which schemes have no speed, empty for none."""
    schemes = facts.evaluation.schemes if facts.evaluation else ()
    return unmeasured("speed", [item.scheme for item in schemes if item.speed is None], schemes)


def unmeasured(what: str, lacking: list[str], schemes: tuple[object, ...]) -> str:
    """Return in words of which schemes something was not measured."""
    if not schemes:
        return f"{what} was not measured"
    return f"{what} of {', '.join(lacking)} was not measured in full" if lacking else ""
