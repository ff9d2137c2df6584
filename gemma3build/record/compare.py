"""Two releases, file by file: the same, the same once stabilized, or different.

Nothing in the one that was released is trusted: it is read as ``verify`` reads it.
"""

import enum
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from gemma3build.core import stable_litertlm, stable_task
from gemma3build.core.codec import load_json
from gemma3build.core.digests import sha256_file
from gemma3build.core.manifest import MANIFEST
from gemma3build.record.checks import BUNDLES
from gemma3build.record.checksums import CHECKSUMS, UNLISTED
from gemma3build.record.differences import ABSENT, Difference, find_differences
from gemma3build.record.folder import Folder, missing
from gemma3build.record.sbom import SBOM, numbered

RECORDS = (SBOM, MANIFEST, CHECKSUMS)  # each names files before it by digest


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

Bring = Callable[[str], object]  # is told of a file that is to be looked into


def not_there(name: str) -> NoReturn:
    """Raise the error of a file that nobody can bring."""
    raise missing([name])


def compare(
    released: Folder,
    rebuilt: Folder,
    epoch: int,
    scratch: Path,
    said: Mapping[str, str] | None = None,
    bring: Bring = not_there,
) -> tuple[Comparison, ...]:
    """Compare a release with a rebuilt one: artifacts and terms, then the records that name them.

    Args:
        released: what lies in its directory.
        rebuilt: what lies in that of the rebuilt one.
        epoch: SOURCE_DATE_EPOCH of the images, in seconds.
        scratch: a directory for the copies that are stabilized.
        said: digests that stand for released files that are not at hand, by name.
        bring: puts a released file of which only the digest is stated where it belongs.

    Raises:
        OSError: a file cannot be read.
        VerificationError: a record is too large to be one.
    """
    said = said or {}
    names = released.sizes.keys() | rebuilt.sizes.keys() | said.keys() | {MANIFEST, CHECKSUMS}
    found = []
    for name in sorted(names - UNLISTED - set(RECORDS)):
        item = _compare_file(released, rebuilt, name, said)
        found.append(_look_closer(item, released, rebuilt, epoch, scratch, bring))
    for name in RECORDS:
        if name in names:
            item = _compare_file(released, rebuilt, name, said)
            found.append(_compare_record(item, released, rebuilt, found))
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
    item: Comparison, released: Folder, rebuilt: Folder, epoch: int, scratch: Path, bring: Bring
) -> Comparison:
    """Return what a comparison becomes where the digests differ."""
    name = item.path
    if item.verdict is Verdict.IDENTICAL:
        return item
    if name not in released.sizes or name not in rebuilt.sizes:
        return replace(item, differences=(whole(item),))
    if name in released.stated:
        bring(name)
    if stable_digest(released, name, epoch, scratch) == item.rebuilt:
        stabilizer = STABILIZERS[Path(name).suffix].name
        return replace(item, verdict=Verdict.EQUIVALENT, stabilizer=stabilizer)
    return replace(item, differences=find_differences(released, rebuilt, name))


def whole(item: Comparison) -> Difference:
    """Return the difference of a file of which nothing can be looked into."""
    return Difference(
        part="the file", released=item.released or ABSENT, rebuilt=item.rebuilt or ABSENT
    )


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
    item: Comparison, released: Folder, rebuilt: Folder, found: Sequence[Comparison]
) -> Comparison:
    """Return what the comparison of a record becomes that names files by digest.

    It is equivalent if all that differs is that it names equivalent files by the digests that they have
    before they are stabilized.
    """
    name = item.path
    if item.verdict is Verdict.IDENTICAL:
        return item
    if name not in released.sizes or name not in rebuilt.sizes:
        return replace(item, differences=(whole(item),))
    text = before = released.read(name)
    for file in found:
        if file.verdict is Verdict.EQUIVALENT:
            text = text.replace(file.released.encode(), file.rebuilt.encode())
    if name == SBOM and text != before:
        text = renumbered(text)
    if text == rebuilt.read(name):
        return replace(item, verdict=Verdict.EQUIVALENT, stabilizer=NAMES)
    return replace(item, differences=find_differences(released, rebuilt, name))


def renumbered(text: bytes) -> bytes:
    """Return a bill of materials with the serial number of its content; as it is, if it is no bill."""
    try:
        found = load_json(text)
    except ValueError:
        return text
    return numbered(found) if isinstance(found, dict) else text
