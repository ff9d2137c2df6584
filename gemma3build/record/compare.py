"""Two releases, file by file: the same, the same once stabilized, or different.

Nothing in the one that was released is trusted: it is read as ``verify`` reads it.
"""

import enum
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gemma3build.core import stable_litertlm, stable_task
from gemma3build.core.digests import sha256_file
from gemma3build.core.manifest import MANIFEST
from gemma3build.record.checks import BUNDLES
from gemma3build.record.checksums import CHECKSUMS, UNLISTED
from gemma3build.record.differences import ABSENT, Difference, find_differences
from gemma3build.record.folder import Folder

RECORDS = (MANIFEST, CHECKSUMS)  # each names files before it by digest


class Verdict(enum.StrEnum):
    """How a file of a release compares with the rebuilt one, best first."""

    IDENTICAL = "identical"
    EQUIVALENT = "equivalent once stabilized"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was found out about a file.

    Attributes:
        path: its name in the release.
        verdict: how it compares.
        released: SHA-256 of the released file; empty where there is none.
        rebuilt: the same of the rebuilt one.
        stabilizer: what makes the two the same; empty for nothing.
        differences: in which parts they differ.
    """

    path: str
    verdict: Verdict
    released: str
    rebuilt: str
    stabilizer: str = ""
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stabilizer:
    """What is known to differ between two runs of what writes a kind of file.

    Attributes:
        name: what that is, in words.
        apply: takes it out of a file in place; the second argument is SOURCE_DATE_EPOCH, in seconds.
    """

    name: str
    apply: Callable[[Path, int], object]


STABILIZERS: Mapping[str, Stabilizer] = {
    ".task": Stabilizer(
        name="clock of the zip members", apply=lambda path, _: stable_task.stabilize(path)
    ),
    ".litertlm": Stabilizer(name="uuid and clock of the header", apply=stable_litertlm.stabilize),
}
NAMES = "digests of stabilized files"  # what a record has that names such files


def compare(
    released: Folder,
    rebuilt: Folder,
    epoch: int,
    scratch: Path,
    said: Mapping[str, str] | None = None,
) -> tuple[Comparison, ...]:
    """Compare a release with a rebuilt one: artifacts and terms, then the records that name them.

    Args:
        released: what lies in its directory.
        rebuilt: what lies in that of the rebuilt one.
        epoch: SOURCE_DATE_EPOCH of the images, in seconds.
        scratch: a directory for the copies that are stabilized.
        said: digests that stand for released files that are not at hand, by name.

    Raises:
        OSError: a file cannot be read.
        VerificationError: a record is too large to be one.
    """
    said = said or {}
    names = (released.sizes.keys() | rebuilt.sizes.keys() | said.keys()) - UNLISTED - {MANIFEST}
    found = []
    for name in sorted(names):
        item = _compare_file(released, rebuilt, name, said)
        found.append(_look_closer(item, released, rebuilt, epoch, scratch))
    for name in RECORDS:
        found.append(_compare_record(released, rebuilt, name, found))
    return tuple(found)


def worst(comparisons: Sequence[Comparison]) -> Verdict:
    """Return the worst verdict."""
    order = list(Verdict)
    return max((item.verdict for item in comparisons), key=order.index)


def _compare_file(
    released: Folder, rebuilt: Folder, name: str, said: Mapping[str, str]
) -> Comparison:
    """Compare the digests of a file."""
    one = released.digest(name) if name in released.sizes else said.get(name, "")
    other = rebuilt.digest(name) if name in rebuilt.sizes else ""
    verdict = Verdict.IDENTICAL if one == other else Verdict.DIFFERENT
    return Comparison(path=name, verdict=verdict, released=one, rebuilt=other)


def _look_closer(
    item: Comparison, released: Folder, rebuilt: Folder, epoch: int, scratch: Path
) -> Comparison:
    """Return what a comparison becomes where the digests differ."""
    name = item.path
    if item.verdict is Verdict.IDENTICAL:
        return item
    if name not in released.sizes or name not in rebuilt.sizes:
        whole = Difference(
            part="the file", released=item.released or ABSENT, rebuilt=item.rebuilt or ABSENT
        )
        return replace(item, differences=(whole,))
    if stable_digest(released, name, epoch, scratch) == item.rebuilt:
        stabilizer = STABILIZERS[Path(name).suffix].name
        return replace(item, verdict=Verdict.EQUIVALENT, stabilizer=stabilizer)
    return replace(item, differences=find_differences(released, rebuilt, name))


def stable_digest(folder: Folder, name: str, epoch: int, scratch: Path) -> str:
    """Return the SHA-256 that a file has once it is stabilized; empty where it cannot be.

    What is changed is a copy in ``scratch``.
    """
    suffix = Path(name).suffix
    stabilizer = STABILIZERS.get(suffix)
    if stabilizer is None:
        return ""
    with tempfile.NamedTemporaryFile(dir=scratch) as copy:
        with folder.open(name) as file:
            shutil.copyfileobj(file, copy)
        copy.flush()
        path = Path(copy.name)
        try:
            BUNDLES[suffix].spans(path)
            stabilizer.apply(path, epoch)
        except ValueError:  # no such file, or with a clock of another length
            return ""
        return sha256_file(path)


def _compare_record(
    released: Folder, rebuilt: Folder, name: str, found: Sequence[Comparison]
) -> Comparison:
    """Compare a record that names files by digest.

    It is equivalent if all that differs is that it names equivalent files by the digests that they have
    before they are stabilized.
    """
    item = _compare_file(released, rebuilt, name, {})
    if item.verdict is Verdict.IDENTICAL:
        return item
    if name not in released.sizes:
        whole = Difference(part="the file", released=ABSENT, rebuilt=item.rebuilt)
        return replace(item, differences=(whole,))
    text = released.read(name)
    for file in found:
        if file.verdict is Verdict.EQUIVALENT:
            text = text.replace(file.released.encode(), file.rebuilt.encode())
    if text == rebuilt.read(name):
        return replace(item, verdict=Verdict.EQUIVALENT, stabilizer=NAMES)
    return replace(item, differences=find_differences(released, rebuilt, name))
