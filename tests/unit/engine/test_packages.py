import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound
from hypothesis import given
from hypothesis import strategies as st
from requests import ConnectionError as EngineGoneError

from gemma3build.engine import packages
from gemma3build.engine.cache import Cache
from gemma3build.engine.images import Image
from gemma3build.engine.packages import image_packages, read_status
from gemma3build.errors import ErrorCode
from gemma3build.schema.packages import DebianPackage, Packages
from gemma3build.util.files import FileDigest
from tests.support.errors import raises

DASH = DebianPackage(name="dash", version="0.5.12-2", architecture="amd64")
HELD = DebianPackage(name="zlib1g", version="1:1.2.13.dfsg-1", architecture="amd64")
STATUS = """Package: dash
Status: install ok installed
Maintainer: Somebody
Architecture: amd64
Version: 0.5.12-2
Conffiles:
 /etc/dash 0
Description: shell
 Version: of the description
 .
\tmore

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: never
Status: purge ok not-installed

Package: zlib1g
Status: hold ok installed
Architecture: amd64
Version: 1:1.2.13.dfsg-1
"""
WHEEL = FileDigest(path="a-1-py3-none-any.whl", size=1, sha256="5" * 64)
IMAGE = Image(
    name="convert",
    tag="t",
    image_id="sha256:1",
    digest="2" * 64,
    parent="debian sha256:3",
    layers=(),
    wheels=(WHEEL,),
)


class Engine:
    """An engine with one image; it counts the containers that are left."""

    def __init__(self, answer: bytes | Exception) -> None:
        self.answer, self.left, self.asked = answer, 0, 0
        self.containers = self

    def create(self, *_: object, **__: object) -> "Engine":
        self.left += 1
        self.asked += 1
        return self

    def get_archive(self, path: str) -> tuple[Iterator[bytes], dict[str, Any]]:
        assert path == "/var/lib/dpkg/status"
        if isinstance(self.answer, Exception):
            raise self.answer
        return iter([self.answer[:700], self.answer[700:]]), {}

    def remove(self, **_: object) -> None:
        self.left -= 1


def archive(text: str | None) -> bytes:
    """An archive of the status file; None makes it a link."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        member = tarfile.TarInfo("status")
        if text is None:
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        content = (text or "").encode()
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def ask(engine: Engine, root: Path) -> Packages:
    client: Any = engine
    return image_packages(client, Cache(root), IMAGE)


def test_an_image_is_asked_once(tmp_path: Path) -> None:
    engine = Engine(archive(STATUS))
    expected = Packages(wheels=(WHEEL,), debian=(DASH, HELD))
    assert ask(engine, tmp_path) == ask(engine, tmp_path) == expected
    assert (engine.asked, engine.left) == (1, 0)
    (kept,) = (tmp_path / "images").iterdir()
    kept.write_text('{"wheels": []}')
    assert ask(engine, tmp_path) == expected
    assert (engine.asked, engine.left) == (2, 0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (NotFound("no such file"), "no such file"),
        (EngineGoneError("connection refused"), "connection refused"),
        (b"", "empty file"),
        (b"no archive" * 99, "header"),
        (archive(None), "not a plain file"),
        (archive(""), "no field"),
        (archive("\n".join(STATUS.splitlines()[:1])), "the Status ''"),
        (archive(STATUS.replace("0.5.12-2", "0.5 12")), "the Version '0.5 12'"),
        (archive(STATUS.replace(": dash", ": ../dash")), "the Package '../dash'"),
        (archive(STATUS.replace("Maintainer", "Version")), "one twice"),
        (archive(STATUS.replace("installed", "unpacked")), "no installed package"),
        (archive(STATUS).replace(b"Somebody", b"Some\xffody"), "utf-8"),
    ],
)
def test_an_image_that_cannot_be_read_is_an_error_and_leaves_no_container(
    tmp_path: Path, answer: bytes | Exception, message: str
) -> None:
    engine = Engine(answer)
    with raises(ErrorCode.ENGINE, match=message):
        ask(engine, tmp_path)
    assert engine.left == 0
    assert not (tmp_path / "images").exists()


def test_a_list_without_end_is_not_read_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "LARGEST_STATUS", 999)
    with raises(ErrorCode.ENGINE, match="has more than"):
        ask(Engine(archive(STATUS)), tmp_path)


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("in the way")
    with raises(ErrorCode.OUTPUT, match="of the image convert cannot be kept"):
        ask(Engine(archive(STATUS)), tmp_path)


@given(st.text(), st.integers(0, len(STATUS)))
def test_any_other_text_is_packages_or_an_error(text: str, place: int) -> None:
    try:
        found = list(read_status(STATUS[:place] + text + STATUS[place:]))
    except ValueError:
        return
    assert found
