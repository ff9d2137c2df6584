"""The content-addressed store of Xet, as far as its client asks: uncompressed chunks, one xorb a download.

A xorb is chunks in a row. A shard says of which chunks of which xorbs each file is made. Digests stand in
them as four numbers of 64 bits, low byte first.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any

ACCESS = "xet_access"  # the token that the Hub gives for the store
POLICY = {
    "HF_XET_XORB_COMPRESSION_POLICY": "none"
}  # the environment that keeps the client to such chunks
LARGEST = 1 << 16  # bytes of a chunk that is served
ENTRY, DIGEST = 48, 32  # bytes
VERIFIED, NAMED = 1 << 31, 1 << 30  # flags of a file in a shard: what follows its parts


def make_xorb(data: bytes) -> bytes:
    """Return a xorb that holds these bytes."""
    pieces = [data[start : start + LARGEST] for start in range(0, len(data), LARGEST)]
    sizes = [len(piece).to_bytes(3, "little") for piece in pieces]
    return b"".join(
        b"\0" + size + b"\0" + size + piece for size, piece in zip(sizes, pieces, strict=True)
    )


def read_xorb(xorb: bytes) -> list[bytes]:
    """Return the chunks of a xorb."""
    chunks, place = [], 0
    while place < len(xorb):
        assert (xorb[place], xorb[place + 4]) == (0, 0), "of another version, or compressed"
        size = int.from_bytes(xorb[place + 1 : place + 4], "little")
        chunks.append(xorb[place + 8 : place + 8 + size])
        place += 8 + size
    return chunks


def read_shard(shard: bytes, xorbs: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield SHA-256 and content of each file that a shard names."""
    place = ENTRY
    while shard[place : place + DIGEST] != b"\xff" * DIGEST:
        flags, count = struct.unpack_from("<II", shard, place + DIGEST)
        content = b""
        for part in range(place + ENTRY, place + ENTRY * (count + 1), ENTRY):
            _, size, first, last = struct.unpack_from("<IIII", shard, part + DIGEST)
            piece = b"".join(read_xorb(xorbs[digest(shard, part)])[first:last])
            assert len(piece) == size
            content += piece
        place += ENTRY * (count * (2 if flags & VERIFIED else 1) + 1)
        assert flags & NAMED
        yield digest(shard, place), content
        place += ENTRY


def digest(shard: bytes, place: int) -> str:
    """Return the digest that stands there as people write it."""
    return struct.pack(">4Q", *struct.unpack_from("<4Q", shard, place)).hex()


def reconstruction(oid: str, data: bytes, address: str) -> Mapping[str, Any]:
    """Return the place of the one xorb of a file, which is all of the file."""
    chunks = {"start": 0, "end": -(-len(data) // LARGEST)}
    span = {"start": 0, "end": len(make_xorb(data)) - 1}
    place = {"range": chunks, "url": f"{address}/xorbs/{oid}", "url_range": span}
    return {
        "offset_into_first_range": 0,
        "terms": [{"hash": oid, "unpacked_length": len(data), "range": chunks}],
        "fetch_info": {oid: [place]},
    }
