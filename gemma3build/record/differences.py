"""In which parts two files differ: members, sections, buffers, values, lines; else, which bytes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from gemma3build.core.canonical import canonical_json
from gemma3build.core.codec import load_json
from gemma3build.core.manifest import MANIFEST
from gemma3build.record.checks import BUNDLES
from gemma3build.record.checksums import CHECKSUMS, parse_checksums
from gemma3build.record.folder import BLOCK, Folder, short
from gemma3build.record.sbom import SBOM
from gemma3build.record.tflite_file import read_buffers

ABSENT = "nothing"
# What a part of each kind of file is called, and what finds the parts of one that is safe to read.
PARTS = {suffix: (kind.fact.removesuffix("s"), kind.spans) for suffix, kind in BUNDLES.items()}
PARTS[".tflite"] = ("buffer", read_buffers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A part of a file that is not the same in both.

    Attributes:
        part: which one, in words.
        released: its SHA-256 in the release, or what stands there.
        rebuilt: the same of the rebuilt file.
    """

    part: str
    released: str
    rebuilt: str


def find_differences(released: Folder, rebuilt: Folder, name: str) -> tuple[Difference, ...]:
    """Return in which parts a file of two releases differs.

    The released one is read as a file that nobody vouches for; where it has no parts that can be found,
    or they are the same, the bytes that differ are named.

    Raises:
        OSError: a file cannot be read.
        VerificationError: a record is too large to be one.
    """
    readers: Mapping[str, Callable[[Folder, str], dict[str, str]]] = {
        MANIFEST: _values,
        SBOM: _values,
        CHECKSUMS: _lines,
    }
    read = readers.get(name, _parts)
    try:
        one, other = read(released, name), read(rebuilt, name)
    except (ValueError, RecursionError) as error:
        return (_bytes(released, rebuilt, name, f"; {short(str(error))}"),)
    found = tuple(
        Difference(
            part=short(part), released=one.get(part, ABSENT), rebuilt=other.get(part, ABSENT)
        )
        for part in dict.fromkeys([*one, *other])
        if one.get(part) != other.get(part)
    )
    return found or (_bytes(released, rebuilt, name),)


def _parts(folder: Folder, name: str) -> dict[str, str]:
    """Return the digest of each part of a file, by its name; none for a kind that has no parts."""
    kind, spans = PARTS.get(Path(name).suffix, ("", lambda _: {}))
    found = spans(folder.path / name)
    return {f"{kind} {part}": folder.digest_span(name, *span) for part, span in found.items()}


def _lines(folder: Folder, name: str) -> dict[str, str]:
    """Return what SHA256SUMS says."""
    return {f"line of {file}": sha for file, sha in parse_checksums(_text(folder, name)).items()}


def _values(folder: Folder, name: str) -> dict[str, str]:
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
        yield where, short(text)


def _text(folder: Folder, name: str) -> str:
    return folder.read(name).decode()


def _bytes(released: Folder, rebuilt: Folder, name: str, why: str = "") -> Difference:
    """Return the first and the last byte that differ, and the digests of both files."""
    differing: list[tuple[int, bytes, bytes]] = []
    place = 0
    with released.open(name) as one, rebuilt.open(name) as other:
        while any(blocks := (one.read(BLOCK), other.read(BLOCK))):
            if blocks[0] != blocks[1]:
                differing[1:] = [(place, *blocks)]  # the first and the last
            place += BLOCK
    first = differing[0][0] + _unequal(*differing[0][1:])[0]
    last = differing[-1][0] + _unequal(*differing[-1][1:])[-1]
    sizes = released.sizes[name], rebuilt.sizes[name]
    length = f"{sizes[0]} and {sizes[1]}" if sizes[0] != sizes[1] else f"{sizes[0]}"
    return Difference(
        part=f"bytes {first} to {last} of {length}{why}",
        released=released.digest(name),
        rebuilt=rebuilt.digest(name),
    )


def _unequal(one: bytes, other: bytes) -> list[int]:
    """Return the places at which two blocks differ."""
    return [at for at, pair in enumerate(zip_longest(one, other)) if pair[0] != pair[1]]
