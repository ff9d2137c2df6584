"""Two releases, file by file: the same, the same once stabilized, or different.

Nothing in the one that was released is trusted: it is read as ``verify`` reads it.
"""

import enum
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn

from msgspec import structs

from gemma3build.formats.registry import FORMATS
from gemma3build.release.checksums import CHECKSUMS, UNLISTED, parse_checksums
from gemma3build.release.sbom import SBOM, numbered
from gemma3build.schema.manifest import MANIFEST
from gemma3build.util.files import BLOCK_SIZE, sha256_file
from gemma3build.util.serialize import Record, canonical_json, load_json
from gemma3build.util.text import truncate
from gemma3build.verify.untrusted import UntrustedFolder, missing

RECORDS = (SBOM, MANIFEST, CHECKSUMS)  # each names files before it by digest
NAMES = "digests of stabilized files"  # what such a record can differ in
ABSENT = "nothing"

FetchFile = Callable[[str], object]  # is told of a file that is to be looked into


class Verdict(enum.StrEnum):
    """How a file of a release compares with the rebuilt one, best first."""

    IDENTICAL = "identical"
    EQUIVALENT = "equivalent once stabilized"
    DIFFERENT = "different"


class PartDifference(Record):
    """A part of a file that is not the same in both.

    Attributes:
        part: which one, in words.
        released: its SHA-256 in the release, or what stands there.
        rebuilt: the same of the rebuilt file.
    """

    part: str
    released: str
    rebuilt: str


class Comparison(Record):
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


def cannot_fetch(name: str) -> NoReturn:
    """Raise the error of a file that cannot be downloaded."""
    raise missing([name])


def compare_releases(
    released: UntrustedFolder,
    rebuilt: UntrustedFolder,
    epoch: int,
    scratch: Path,
    listed: Mapping[str, str] | None = None,
    fetch_file: FetchFile = cannot_fetch,
) -> tuple[Comparison, ...]:
    """Compare a release with a rebuilt one: artifacts and terms, then the records that name them.

    Args:
        released: contents of its directory.
        rebuilt: contents of the rebuilt directory.
        epoch: SOURCE_DATE_EPOCH of the images, in seconds.
        scratch: a directory for the copies that are stabilized.
        listed: digests of released files that are not at hand, by name.
        fetch_file: puts a released file of which only the digest is known where it belongs.

    Raises:
        OSError: a file cannot be read.
        BuildError: a record is too large to be one.
    """
    listed = listed or {}
    names = released.sizes.keys() | rebuilt.sizes.keys() | listed.keys() | {MANIFEST, CHECKSUMS}
    names -= UNLISTED - set(RECORDS)
    found: list[Comparison] = []
    for name in (*sorted(names - set(RECORDS)), *(name for name in RECORDS if name in names)):
        one = released.digest(name) if name in released.sizes else listed.get(name, "")
        other = rebuilt.digest(name) if name in rebuilt.sizes else ""
        item = Comparison(path=name, verdict=Verdict.IDENTICAL, released=one, rebuilt=other)
        if one != other:
            if name in released.remote_digests and name in rebuilt.sizes:
                fetch_file(name)
            item = _explain(item, released, rebuilt, found, epoch, scratch)
        found.append(item)
    return tuple(found)


def worst(comparisons: Sequence[Comparison]) -> Verdict:
    """Return the worst verdict."""
    order = list(Verdict)
    return max((item.verdict for item in comparisons), key=order.index)


def _explain(
    item: Comparison,
    released: UntrustedFolder,
    rebuilt: UntrustedFolder,
    found: Sequence[Comparison],
    epoch: int,
    scratch: Path,
) -> Comparison:
    """Return what the comparison of a file becomes whose digests differ."""
    name, suffix = item.path, Path(item.path).suffix
    if name not in released.sizes or name not in rebuilt.sizes:
        one, other = item.released or ABSENT, item.rebuilt or ABSENT
        part = PartDifference(part="the file", released=one, rebuilt=other)
        return structs.replace(item, verdict=Verdict.DIFFERENT, differences=(part,))
    stabilizer = ""
    if name in RECORDS:
        if _renamed(released.read(name), name, found) == rebuilt.read(name):
            stabilizer = NAMES
    elif _stable_digest(released, name, epoch, scratch) == item.rebuilt:
        stabilizer = FORMATS[suffix].varies
    if stabilizer:
        return structs.replace(item, verdict=Verdict.EQUIVALENT, stabilizer=stabilizer)
    differences = _find_differences(released, rebuilt, name)
    return structs.replace(item, verdict=Verdict.DIFFERENT, differences=differences)


def _stable_digest(folder: UntrustedFolder, name: str, epoch: int, scratch: Path) -> str:
    """Return the SHA-256 that a copy of a file has once it is stabilized; empty where it cannot be."""
    kind = FORMATS.get(Path(name).suffix)
    if kind is None or kind.stabilize is None:
        return ""
    with tempfile.NamedTemporaryFile(dir=scratch) as copy:
        with folder.open(name) as file:
            shutil.copyfileobj(file, copy)
        copy.flush()
        path = Path(copy.name)
        try:
            kind.read_parts(path)  # else it is not safe to change
            kind.stabilize(path, epoch)
        except ValueError:  # no such file, or with a clock of another length
            return ""
        return sha256_file(path)


def _renamed(text: bytes, name: str, found: Sequence[Comparison]) -> bytes:
    """Return a released record with the digests that equivalent files have once they are stabilized."""
    before = text
    for file in found:
        if file.verdict is Verdict.EQUIVALENT:
            text = text.replace(file.released.encode(), file.rebuilt.encode())
    if name != SBOM or text == before:
        return text
    try:
        sbom = load_json(text)
    except ValueError:
        return text
    return numbered(sbom) if isinstance(sbom, dict) else text  # its serial number is of its content


def _find_differences(
    released: UntrustedFolder, rebuilt: UntrustedFolder, name: str
) -> tuple[PartDifference, ...]:
    """Return in which parts a file differs, or which bytes do where it has no parts that can be read."""
    try:
        one, other = _read_parts(released, name), _read_parts(rebuilt, name)
    except (ValueError, RecursionError) as error:
        return (_differing_bytes(released, rebuilt, name, f"; {truncate(str(error))}"),)
    found = tuple(
        PartDifference(
            part=truncate(part), released=one.get(part, ABSENT), rebuilt=other.get(part, ABSENT)
        )
        for part in dict.fromkeys([*one, *other])
        if one.get(part) != other.get(part)
    )
    return found or (_differing_bytes(released, rebuilt, name),)


def _read_parts(folder: UntrustedFolder, name: str) -> dict[str, str]:
    """Return what a file has by part: values of JSON, lines of SHA256SUMS, else digests of its parts."""
    if name in (MANIFEST, SBOM):
        return dict(_leaves(load_json(folder.read(name).decode()), ""))
    if name == CHECKSUMS:
        sums = parse_checksums(folder.read(name).decode())
        return {f"line of {file}": sha256 for file, sha256 in sums.items()}
    kind = FORMATS.get(Path(name).suffix)
    if kind is None:
        return {}
    spans = kind.read_parts(folder.path / name)
    return {f"{kind.part} {part}": folder.digest_span(name, *span) for part, span in spans.items()}


def _leaves(value: object, where: str) -> Iterator[tuple[str, str]]:
    """Yield every value in JSON, by where it stands."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{where}.{key}" if where else key)
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from _leaves(item, f"{where}[{number}]")
    else:
        text = value if isinstance(value, str) else canonical_json(value).decode()
        yield where, truncate(text)


def _differing_bytes(
    released: UntrustedFolder, rebuilt: UntrustedFolder, name: str, why: str = ""
) -> PartDifference:
    """Return the first and the last byte that differ, and the digests of both files."""
    differing: list[tuple[int, bytes, bytes]] = []  # the first and the last block
    place = 0
    with released.open(name) as one, rebuilt.open(name) as other:
        while any(blocks := (one.read(BLOCK_SIZE), other.read(BLOCK_SIZE))):
            if blocks[0] != blocks[1]:
                differing[1:] = [(place, *blocks)]
            place += BLOCK_SIZE
    places = [
        at
        for place, *pair in (differing[0], differing[-1])
        for at, (a, b) in enumerate(zip_longest(*pair), place)
        if a != b
    ]
    sizes = released.sizes[name], rebuilt.sizes[name]
    length = f"{sizes[0]} and {sizes[1]}" if sizes[0] != sizes[1] else f"{sizes[0]}"
    return PartDifference(
        part=f"bytes {places[0]} to {places[-1]} of {length}{why}",
        released=released.digest(name),
        rebuilt=rebuilt.digest(name),
    )
