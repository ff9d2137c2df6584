"""The rules that a release must meet to be published. Pure; docs/guides/publish.md gives the reasons."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gemma3build.errors import BuildError, ErrorCode
from gemma3build.publish import Rule
from gemma3build.schema.evaluation import Evaluation, flag
from gemma3build.schema.manifest import Manifest
from gemma3build.util.git import GitRevision
from gemma3build.verify.checks import failed_schemes

AGREEMENT, NOTICE = "GEMMA_TERMS_OF_USE.md", "Notice"
# The sentence that section 3.1 of the Gemma Terms of Use requires.
SENTENCE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at"
    " ai.google.dev/gemma/terms"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the rules check.

    Attributes:
        manifest: of the release.
        evaluation: of the release; None if it has none.
        provenance: whether the release has one.
        source: the revision that the provenance names, if any.
        texts: the terms in the release, by file name.
    """

    manifest: Manifest
    evaluation: Evaluation | None
    provenance: bool
    source: GitRevision | None
    texts: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A rule that the release does not meet, why, and what to do about it."""

    rule: Rule
    why: str
    hint: str


def violations(facts: Facts) -> tuple[Violation, ...]:
    """Return the rules that the release does not meet."""
    checks: Mapping[Rule, tuple[Callable[[Facts], str], str]] = {
        Rule.GATE: (gate, "Use another scheme"),
        Rule.TERMS: (terms, "Build it again: gemma3build build"),
        Rule.PROVENANCE: (provenance, "Build it in a Git clone: gemma3build build --release"),
        Rule.SOURCE: (source, "Commit the changes and build again: gemma3build build --release"),
        Rule.PIQA: (piqa, "Measure it: gemma3build evaluate"),
        Rule.SPEED: (speed, "Measure it: gemma3build evaluate"),
    }
    return tuple(
        Violation(rule=rule, why=why, hint=hint)
        for rule, (check, hint) in checks.items()
        if (why := check(facts))
    )


def reject_publication(
    found: tuple[Violation, ...], skipped: Iterable[Rule]
) -> tuple[Violation, ...]:
    """Return the violations if all are skipped; raises BuildError (PUBLICATION)."""
    names = frozenset(skipped)
    left = [item for item in found if item.rule not in names]
    if left:
        why = "; ".join(f"{item.why} [{item.rule}]" for item in left)
        skips = " ".join(f"--skip {item.rule}" for item in left)
        hints = dict.fromkeys(item.hint for item in left)
        hint = f"{'; '.join(hints)}. Or give {skips}: the model card then says so."
        raise BuildError(ErrorCode.PUBLICATION, "The release cannot be published", why, hint)
    return found


def gate(facts: Facts) -> str:
    """Return which schemes failed the quality gate, empty for none."""
    if facts.evaluation is None:
        return "it has no evaluation that compares it with its checkpoint"
    failed = failed_schemes(facts.evaluation)
    return f"{', '.join(failed)} failed the quality gate" if failed else ""


def terms(facts: Facts) -> str:
    """Return what is missing that Gemma's terms require of a distributor, empty for nothing."""
    lacking = [name for name in (AGREEMENT, NOTICE) if name not in facts.texts]
    if lacking:
        return f"it lacks {' and '.join(lacking)}"
    notice = " ".join(facts.texts[NOTICE].split())
    return "" if SENTENCE in notice else f"{NOTICE} lacks the sentence that Gemma's terms require"


def provenance(facts: Facts) -> str:
    """Return why it is unknown which source built it, empty if the provenance names one."""
    if not facts.provenance:
        return "it has no provenance"
    return "" if facts.source else "its provenance names no Git revision of gemma3build"


def source(facts: Facts) -> str:
    """Return why the source cannot be checked out again, empty if it is that of a commit."""
    if facts.source is None or facts.source.dirty is False:
        return ""
    return f"it was built with uncommitted changes on top of commit {facts.source.commit[:12]}"


def piqa(facts: Facts) -> str:
    """Return which schemes have no full PIQA result, empty for none."""
    schemes = facts.evaluation.schemes if facts.evaluation else ()
    lacking = [item.scheme for item in schemes if item.piqa is None or flag(item.piqa)]
    return unmeasured("PIQA", lacking, schemes)


def speed(facts: Facts) -> str:
    """Return which schemes have no speed, empty for none."""
    schemes = facts.evaluation.schemes if facts.evaluation else ()
    return unmeasured("speed", [item.scheme for item in schemes if item.speed is None], schemes)


def unmeasured(what: str, lacking: list[str], schemes: tuple[object, ...]) -> str:
    """Return for which schemes something was not measured."""
    if not schemes:
        return f"{what} was not measured"
    return f"{what} of {', '.join(lacking)} was not measured in full" if lacking else ""
