"""Whether a release is what it says: every check in its order, and what each found."""

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gemma3build.errors import BuildError
from gemma3build.formats.registry import BUNDLES
from gemma3build.release.checksums import CHECKSUMS, PROVENANCE, SIGNATURE
from gemma3build.release.sbom import SBOM
from gemma3build.schema.evaluation import EVALUATION
from gemma3build.schema.manifest import MANIFEST
from gemma3build.util.files import FileDigest
from gemma3build.verify import checks
from gemma3build.verify.checks import Trust
from gemma3build.verify.untrusted import Advance, UntrustedFolder, ignore, list_folder, unreadable

GATE = "gate"  # a check

T = TypeVar("T")


class State(enum.StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    NOTED = "noted"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found.

    Attributes:
        name: of the check.
        state: how it ended.
        detail: what people read.
        error: of one that failed.
    """

    name: str
    state: State
    detail: str
    error: BuildError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A release and what was found out about it.

    Attributes:
        folder: what lies there.
        digests: SHA-256 of its plain files by name; none where one cannot be read.
        findings: in the order of the checks.
    """

    folder: UntrustedFolder
    digests: Mapping[str, str]
    findings: tuple[Finding, ...]

    @property
    def error(self) -> BuildError | None:
        """The first failure."""
        return next((item.error for item in self.findings if item.error), None)


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Notes down what checks find."""

    findings: list[Finding] = field(default_factory=list)

    def look(
        self, name: str, check: Callable[..., T], *given: Any, say: Callable[[T], str] = str
    ) -> T | None:
        """Run a check on what earlier ones gave; None is what a failed one gives."""
        if any(item is None for item in given):
            why = "not looked at: something before it failed"
            self.findings.append(Finding(name=name, state=State.SKIPPED, detail=why))
            return None
        try:
            found = check(*given)
        except (BuildError, OSError) as raised:
            error = raised if isinstance(raised, BuildError) else unreadable(raised)
            if not error.code.is_flaw:
                raise
            detail = f"{error.what}: {error.why}"
            finding = Finding(name=name, state=State.FAILED, detail=detail, error=error)
            self.findings.append(finding)
            return None
        self.findings.append(Finding(name=name, state=State.PASSED, detail=say(found)))
        return found

    def note(self, name: str, detail: str) -> None:
        """Say something that is no failure."""
        self.findings.append(Finding(name=name, state=State.NOTED, detail=detail))


def verify(
    path: Path,
    trust: Trust | None = None,
    advance: Advance = ignore,
    remote_digests: Iterable[FileDigest] = (),
) -> Verified:
    """Look at everything in a release.

    Args:
        path: its directory.
        trust: checks its signature: takes the folder and the digests of its files, says who signed,
            raises BuildError.
        advance: is told of bytes that were read.
        remote_digests: digests of files that lie elsewhere, by whoever has them.

    Raises:
        BuildError: ``path`` is no directory that can be read (REQUEST).
    """
    folder, sheet = list_folder(path, remote_digests), _Sheet()
    sheet.look("files", checks.check_plain, folder)
    digests = sheet.look("bytes", folder.digests, advance, say=lambda _: bytes_detail(folder))
    sums = sheet.look(CHECKSUMS, checks.read_sums, folder, say=lambda found: f"{len(found)} files")
    manifest = sheet.look(MANIFEST, checks.read_record, folder, say=lambda found: found.format)
    sheet.look("names", checks.check_names, folder, sums)
    sheet.look("digests", checks.check_digests, sums, digests)
    sheet.look("contents", checks.check_contents, folder, sums, manifest)
    if SBOM in folder.sizes:  # else an earlier check has said so
        sheet.look(SBOM, checks.check_bill, folder, manifest)
    for artifact in manifest.artifacts if manifest else ():
        kind = BUNDLES.get(Path(artifact.path).suffix)
        if artifact.path in folder.remote_digests:
            sheet.note(artifact.path, "not opened: it is not here, its digest is")
        elif (
            kind is not None and sums and artifact.path in sums
        ):  # else its name may be no plain one
            arguments = (folder, manifest, artifact, kind, advance)
            sheet.look(artifact.path, checks.check_bundle, *arguments)
    if EVALUATION in folder.sizes:
        evaluation = sheet.look(
            EVALUATION,
            checks.check_evaluation,
            folder,
            manifest,
            digests,
            say=lambda _: "of this manifest",
        )
        sheet.look(GATE, checks.check_gate, evaluation)
    else:
        sheet.note(EVALUATION, "there is none")
    if PROVENANCE in folder.sizes:
        sheet.look(PROVENANCE, checks.check_provenance, folder, sums, digests)
    else:
        sheet.note(PROVENANCE, "there is none")
    if manifest is not None:
        sheet.note("pins", checks.compare_pins(manifest))
    if trust is not None:
        sheet.look(SIGNATURE, checks.check_signature, folder, digests, trust)
    elif SIGNATURE in folder.sizes:
        sheet.note(SIGNATURE, "there is one, and it was not checked: give --key PUBLIC_KEY")
    else:
        sheet.note(SIGNATURE, "there is none")
    return Verified(folder=folder, digests=digests or {}, findings=tuple(sheet.findings))


def bytes_detail(folder: UntrustedFolder) -> str:
    """Return which digests are of bytes that were read."""
    if not folder.remote_digests:
        return "all can be read"
    return f"{len(folder.sizes) - len(folder.remote_digests)} files were read, {len(folder.remote_digests)} were not"


def total_bytes(path: Path) -> int:
    """Return how many bytes ``verify`` reads of a release: of bundles twice, whole and by part."""
    sizes = list_folder(path).sizes
    return sum(size * (2 if Path(name).suffix in BUNDLES else 1) for name, size in sizes.items())
