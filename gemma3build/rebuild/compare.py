"""Two releases, file by file: the same, the same once stabilized, or different.

Nothing in the one that was released is trusted: it is read as ``verify`` reads it.
"""

import enum
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn

from gemma3build.formats import litertlm, task
from gemma3build.formats.tflite import read_buffers
from gemma3build.release.checksums import CHECKSUMS, UNLISTED, parse_checksums
from gemma3build.release.sbom import SBOM, numbered
from gemma3build.schema.manifest import MANIFEST
from gemma3build.util.files import BLOCK_SIZE, sha256_file
from gemma3build.util.serialize import canonical_json, load_json
from gemma3build.util.text import truncate
from gemma3build.verify.checks import BUNDLES
from gemma3build.verify.untrusted import UntrustedFolder, missing

ABSENT = "nothing"
# What a part of each kind of file is called, and what finds the parts of one that is safe to read.
PARTS = {suffix: (kind.fact.removesuffix("s"), kind.spans) for suffix, kind in BUNDLES.items()}
PARTS[".tflite"] = ("buffer", read_buffers)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDifference:
    """A part of a file that is not the same in both.

    Attributes:
        part: which one, in words.
        released: its SHA-256 in the release, or what stands there.
        rebuilt: the same of the rebuilt file.
    """

    part: str
    released: str
    rebuilt: str


def find_differences(
    released: UntrustedFolder, rebuilt: UntrustedFolder, name: str
) -> tuple[PartDifference, ...]:
    """Return in which parts a file of two releases differs.

    The released one is read as a file that nobody vouches for; where it has no parts that can be found,
    or they are the same, the bytes that differ are named.

    Raises:
        OSError: a file cannot be read.
        BuildError: a record is too large to be one.
    """
    readers: Mapping[str, Callable[[UntrustedFolder, str], dict[str, str]]] = {
        MANIFEST: _values,
        SBOM: _values,
        CHECKSUMS: _lines,
    }
    read = readers.get(name, _parts)
    try:
        one, other = read(released, name), read(rebuilt, name)
    except (ValueError, RecursionError) as error:
        return (_bytes(released, rebuilt, name, f"; {truncate(str(error))}"),)
    found = tuple(
        PartDifference(
            part=truncate(part), released=one.get(part, ABSENT), rebuilt=other.get(part, ABSENT)
        )
        for part in dict.fromkeys([*one, *other])
        if one.get(part) != other.get(part)
    )
    return found or (_bytes(released, rebuilt, name),)


def _parts(folder: UntrustedFolder, name: str) -> dict[str, str]:
    """Return the digest of each part of a file, by its name; none for a kind that has no parts."""
    kind, spans = PARTS.get(Path(name).suffix, ("", lambda _: {}))
    found = spans(folder.path / name)
    return {f"{kind} {part}": folder.digest_span(name, *span) for part, span in found.items()}


def _lines(folder: UntrustedFolder, name: str) -> dict[str, str]:
    """Return what SHA256SUMS says."""
    return {f"line of {file}": sha for file, sha in parse_checksums(_text(folder, name)).items()}


def _values(folder: UntrustedFolder, name: str) -> dict[str, str]:
    """Return every value in a file of JSON, by where it stands."""
    return dict(_leaves(load_json(_text(folder, name)), ""))


def _leaves(value: object, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{where}.{key}" if where else key)
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from _leaves(item, f"{where}[{number}]")
    else:
        text = value if isinstance(value, str) else canonical_json(value).decode()
        yield where, truncate(text)


def _text(folder: UntrustedFolder, name: str) -> str:
    return folder.read(name).decode()


def _bytes(
    released: UntrustedFolder, rebuilt: UntrustedFolder, name: str, why: str = ""
) -> PartDifference:
    """Return the first and the last byte that differ, and the digests of both files."""
    differing: list[tuple[int, bytes, bytes]] = []
    place = 0
    with released.open(name) as one, rebuilt.open(name) as other:
        while any(blocks := (one.read(BLOCK_SIZE), other.read(BLOCK_SIZE))):
            if blocks[0] != blocks[1]:
                differing[1:] = [(place, *blocks)]  # the first and the last
            place += BLOCK_SIZE
    first = differing[0][0] + _unequal(*differing[0][1:])[0]
    last = differing[-1][0] + _unequal(*differing[-1][1:])[-1]
    sizes = released.sizes[name], rebuilt.sizes[name]
    length = f"{sizes[0]} and {sizes[1]}" if sizes[0] != sizes[1] else f"{sizes[0]}"
    return PartDifference(
        part=f"bytes {first} to {last} of {length}{why}",
        released=released.digest(name),
        rebuilt=rebuilt.digest(name),
    )


def _unequal(one: bytes, other: bytes) -> list[int]:
    """Return the places at which two blocks differ."""
    return [at for at, pair in enumerate(zip_longest(one, other)) if pair[0] != pair[1]]


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
    differences: tuple[PartDifference, ...] = ()


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
        name="clock of the zip members", apply=lambda path, _: task.stabilize(path)
    ),
    ".litertlm": Stabilizer(name="uuid and clock of the header", apply=litertlm.stabilize),
}
NAMES = "digests of stabilized files"  # what a record has that names such files

FetchFile = Callable[[str], object]  # is told of a file that is to be looked into


def cannot_fetch(name: str) -> NoReturn:
    """Raise the error of a file that nobody can bring."""
    raise missing([name])


def compare(
    released: UntrustedFolder,
    rebuilt: UntrustedFolder,
    epoch: int,
    scratch: Path,
    said: Mapping[str, str] | None = None,
    fetch_file: FetchFile = cannot_fetch,
) -> tuple[Comparison, ...]:
    """Compare a release with a rebuilt one: artifacts and terms, then the records that name them.

    Args:
        released: what lies in its directory.
        rebuilt: what lies in that of the rebuilt one.
        epoch: SOURCE_DATE_EPOCH of the images, in seconds.
        scratch: a directory for the copies that are stabilized.
        said: digests that stand for released files that are not at hand, by name.
        fetch_file: puts a released file of which only the digest is stated where it belongs.

    Raises:
        OSError: a file cannot be read.
        BuildError: a record is too large to be one.
    """
    said = said or {}
    names = released.sizes.keys() | rebuilt.sizes.keys() | said.keys() | {MANIFEST, CHECKSUMS}
    found = []
    for name in sorted(names - UNLISTED - set(RECORDS)):
        item = _compare_file(released, rebuilt, name, said)
        found.append(_look_closer(item, released, rebuilt, epoch, scratch, fetch_file))
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
    released: UntrustedFolder, rebuilt: UntrustedFolder, name: str, said: Mapping[str, str]
) -> Comparison:
    """Compare the digests of a file."""
    one = released.digest(name) if name in released.sizes else said.get(name, "")
    other = rebuilt.digest(name) if name in rebuilt.sizes else ""
    verdict = Verdict.IDENTICAL if one == other else Verdict.DIFFERENT
    return Comparison(path=name, verdict=verdict, released=one, rebuilt=other)


def _look_closer(
    item: Comparison,
    released: UntrustedFolder,
    rebuilt: UntrustedFolder,
    epoch: int,
    scratch: Path,
    fetch_file: FetchFile,
) -> Comparison:
    """Return what a comparison becomes where the digests differ."""
    name = item.path
    if item.verdict is Verdict.IDENTICAL:
        return item
    if name not in released.sizes or name not in rebuilt.sizes:
        return replace(item, differences=(whole(item),))
    if name in released.remote_digests:
        fetch_file(name)
    if stable_digest(released, name, epoch, scratch) == item.rebuilt:
        stabilizer = STABILIZERS[Path(name).suffix].name
        return replace(item, verdict=Verdict.EQUIVALENT, stabilizer=stabilizer)
    return replace(item, differences=find_differences(released, rebuilt, name))


def whole(item: Comparison) -> PartDifference:
    """Return the difference of a file of which nothing can be looked into."""
    return PartDifference(
        part="the file", released=item.released or ABSENT, rebuilt=item.rebuilt or ABSENT
    )


def stable_digest(folder: UntrustedFolder, name: str, epoch: int, scratch: Path) -> str:
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
    item: Comparison,
    released: UntrustedFolder,
    rebuilt: UntrustedFolder,
    found: Sequence[Comparison],
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
