"""Where the sections of a ``.litertlm`` file lie, for files that nobody vouches for."""

from pathlib import Path

from gemma3build.core.litertlm import read_header


def read_sections(path: Path) -> dict[str, tuple[int, int]]:
    """Return offset and size of each section in bytes, by its type such as ``TFLiteModel``.

    Sections are within the file and do not overlap. At most 64 KiB are read, whatever the file says.

    Raises:
        LitertlmError: the file is no ``.litertlm``, is cut off, or contradicts itself.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        header = read_header(file, path.stat().st_size)
    return {name: (span.offset, span.size) for name, span in header.sections.items()}
