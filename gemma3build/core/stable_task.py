"""What two runs of MediaPipe's bundler write differently into a ``.task``, and what it becomes."""

import struct
import zipfile
from pathlib import Path

# Offsets of the two-byte time and two-byte date in the headers of a zip member, and the size of a
# central header before its variable part: APPNOTE.TXT, 4.3.7 and 4.3.12.
LOCAL_TIME = 10
CENTRAL_TIME = 12
CENTRAL_HEADER = 46
# Midnight of 1 January 1980, the earliest time that a zip archive can hold: 4.4.6.
ZIP_EPOCH = struct.pack("<HH", 0, (0 << 9) | (1 << 5) | 1)


def stabilize(path: Path) -> None:
    """Give every member of the archive one fixed time, in place.

    The clock in the headers is all that differs between two runs of the bundler: it stores members
    uncompressed, in a fixed order, each aligned to 4 bytes so that a runtime can map it. Changing
    nothing else keeps the archive one that MediaPipe and LiteRT-LM read.
    """
    with zipfile.ZipFile(path) as archive:
        members, central = archive.infolist(), archive.start_dir
    with path.open("r+b") as file:
        for member in members:
            file.seek(member.header_offset + LOCAL_TIME)
            file.write(ZIP_EPOCH)
            file.seek(central + CENTRAL_TIME)
            file.write(ZIP_EPOCH)
            variable = len(member.orig_filename.encode()) + len(member.extra) + len(member.comment)
            central += CENTRAL_HEADER + variable
