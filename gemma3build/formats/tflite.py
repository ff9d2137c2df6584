"""Find the buffers of an untrusted ``.tflite``.

The layout is that of ``tensorflow/compiler/mlir/lite/schema/schema.fbs``: a FlatBuffer whose root table
``Model`` has subgraphs in field 2 and buffers in field 4. Tensors of a subgraph name their buffer in
field 2 and themselves in field 3. The bytes of a buffer are a vector in field 0, or, in files over 2 GiB,
are outside of the FlatBuffer, at the offset in field 1.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from gemma3build.formats.flatbuffer import FlatBuffer, FlatBufferError, Span

IDENTIFIER = b"TFL3"
MOST = 1 << 16  # buffers, tensors or subgraphs; an export of 26 layers has some 7,000 tensors
LONGEST = 120  # bytes of a tensor's name that are read


def read_buffers(path: Path) -> dict[str, Span]:
    """Return the span of each buffer, by its number and the first tensor that has it.

    Buffers are within the file, and are together no larger than it.

    Raises:
        FlatBufferError: the file is no ``.tflite``, is cut off, or contradicts itself.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        if file.read(8)[4:] != IDENTIFIER:
            raise FlatBufferError("it does not start as a .tflite file does")
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
            buffer = FlatBuffer(data=data)
            names = _names(buffer)
            spans = dict(_buffers(buffer, size))
    if sum(span.size for span in spans.values()) > size:
        raise FlatBufferError("its buffers overlap")
    return {
        f"{number} ({names[number]})" if number in names else f"{number}": span
        for number, span in spans.items()
    }


def _names(buffer: FlatBuffer) -> dict[int, str]:
    """Return the name of the first tensor that has each buffer."""
    names: dict[int, str] = {}
    count = 0
    for subgraph in buffer.tables(buffer.root, 2, MOST):
        for tensor in buffer.tables(subgraph, 0, MOST):
            count += 1
            if count > MOST:
                raise FlatBufferError(f"it has more than {MOST} tensors")
            index, name = buffer.field(tensor, 2), buffer.field(tensor, 3)
            number = 0 if index is None else buffer.number("<I", index)
            if name is not None and number not in names:
                start = buffer.content(name).offset
                end = start + min(buffer.content(name).size, LONGEST)
                names[number] = buffer.data[start:end].decode(errors="replace")
    return names


def _buffers(buffer: FlatBuffer, size: int) -> Iterator[tuple[int, Span]]:
    """Yield number and span of each buffer that is not empty."""
    for number, table in enumerate(buffer.tables(buffer.root, 4, MOST)):
        inside, outside, length = (buffer.field(table, slot) for slot in (0, 1, 2))
        if inside is not None:
            span = buffer.content(inside)
        elif outside is not None and length is not None:
            span = Span(buffer.number("<Q", outside), buffer.number("<Q", length))
        else:
            continue
        if span.offset + span.size > size:
            raise FlatBufferError(f"its buffer {number} leads out of it")
        yield number, span
