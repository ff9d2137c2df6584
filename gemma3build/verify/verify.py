"""Runs every check on a release, in order, and collects what each found."""

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
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
NONE = "there is none"

T = TypeVar("T")


class State(enum.StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    NOTED = "noted"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found; ``error`` is set if it failed."""

    name: str
    state: State
    detail: str
    error: BuildError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A release and what the checks found.

    Attributes:
        folder: its files.
        digests: SHA-256 of its plain files by name; empty if one cannot be read.
        findings: in the order of the checks.
    """

    folder: UntrustedFolder
    digests: Mapping[str, str]
    findings: tuple[Finding, ...]

    @property
    def error(self) -> BuildError | None:
        """The first failure."""
        return next((item.error for item in self.findings if item.error), None)


class _Findings(list[Finding]):
    """What checks found, in order."""

    def run_check(
        self, name: str, check: Callable[..., T], *inputs: Any, describe: Callable[[T], str] = str
    ) -> T | None:
        """Run a check on the results of earlier ones; return None if it fails."""
        if any(item is None for item in inputs):
            self._add(name, State.SKIPPED, "skipped: an earlier check failed")
            return None
        try:
            found = check(*inputs)
        except (BuildError, OSError) as raised:
            error = raised if isinstance(raised, BuildError) else unreadable(raised)
            self._add(name, State.FAILED, f"{error.what}: {error.why}", error)
            return None
        self._add(name, State.PASSED, describe(found))
        return found

    def note(self, name: str, detail: str) -> None:
        """Record something that is not a failure."""
        self._add(name, State.NOTED, detail)

    def _add(self, name: str, state: State, detail: str, error: BuildError | None = None) -> None:
        self.append(Finding(name=name, state=state, detail=detail, error=error))


def verify(
    path: Path,
    trust: Trust | None = None,
    advance: Advance = ignore,
    remote_digests: Iterable[FileDigest] = (),
) -> Verified:
    """Run every check on a release.

    Args:
        path: its directory.
        trust: checks its signature; None to skip that.
        advance: called with the number of bytes that were read.
        remote_digests: digests that the Hub states for files that were not downloaded.

    Raises:
        BuildError: ``path`` is not a readable directory (REQUEST).
    """
    folder, found = list_folder(path, remote_digests), _Findings()
    run = found.run_check
    run("files", checks.check_plain, folder)
    digests = run("bytes", folder.digests, advance, describe=lambda _: _describe_bytes(folder))
    sums = run(CHECKSUMS, checks.read_sums, folder, describe=lambda sums: f"{len(sums)} files")
    manifest = run(MANIFEST, checks.read_record, folder, describe=lambda record: record.format)
    run("names", checks.check_names, folder, sums)
    run("digests", checks.check_digests, sums, digests)
    run("contents", checks.check_contents, folder, sums, manifest)
    if SBOM in folder.sizes:  # otherwise "names" or "contents" failed
        run(SBOM, checks.check_sbom, folder, manifest)
    for artifact in manifest.artifacts if manifest else ():
        kind = BUNDLES.get(Path(artifact.path).suffix)
        if artifact.path in folder.remote_digests:
            found.note(artifact.path, "not opened: only its digest was downloaded")
        elif kind and sums and artifact.path in sums:  # otherwise its name can contain anything
            run(artifact.path, checks.check_bundle, folder, manifest, artifact, kind, advance)
    if EVALUATION in folder.sizes:
        inputs = folder, manifest, digests
        matches = "matches the manifest"
        evaluation = run(EVALUATION, checks.check_evaluation, *inputs, describe=lambda _: matches)
        run(GATE, checks.check_gate, evaluation)
    else:
        found.note(EVALUATION, NONE)
    if PROVENANCE in folder.sizes:
        run(PROVENANCE, checks.check_provenance, folder, sums, digests)
    else:
        found.note(PROVENANCE, NONE)
    if manifest is not None:
        found.note("pins", checks.compare_pins(manifest))
    if trust is not None:
        run(SIGNATURE, checks.check_signature, folder, digests, trust)
    elif SIGNATURE in folder.sizes:
        found.note(SIGNATURE, "not checked: give --key PUBLIC_KEY")
    else:
        found.note(SIGNATURE, NONE)
    return Verified(folder=folder, digests=digests or {}, findings=tuple(found))


def _describe_bytes(folder: UntrustedFolder) -> str:
    """Return how many files were read, and of how many only the digest is known."""
    if not folder.remote_digests:
        return "all can be read"
    remote = len(folder.remote_digests)
    return f"{len(folder.sizes) - remote} files were read, {remote} were not downloaded"


def total_bytes(path: Path) -> int:
    """Return how many bytes ``verify`` reads; it reads bundles twice, as a whole and by part."""
    sizes = list_folder(path).sizes
    return sum(size * (2 if Path(name).suffix in BUNDLES else 1) for name, size in sizes.items())
