from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound
from requests import ConnectionError as EngineGoneError

from gemma3build.engine.cache import Cache
from gemma3build.engine.images import Image
from gemma3build.engine.packages import image_packages
from gemma3build.errors import ErrorCode
from gemma3build.schema.packages import DebianPackage, Packages
from gemma3build.util.files import FileDigest
from tests.support.errors import raises

DASH = DebianPackage(name="dash", version="0.5.12-2", architecture="amd64")
HELD = DebianPackage(name="zlib1g", version="1:1.2.13.dfsg-1", architecture="amd64")
ANSWER = (
    b"installed zlib1g 1:1.2.13.dfsg-1 amd64\n"
    b"config-files gone 1 amd64\n"
    b"not-installed never  \n"
    b"installed dash 0.5.12-2 amd64\n"
)
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

    def __init__(self, answer: bytes | Exception, status: int = 0) -> None:
        self.answer, self.status, self.left, self.asked = answer, status, 0, 0
        self.containers = self

    def create(self, image: str, command: list[str], **isolation: object) -> "Engine":
        assert (image, command[0]) == (IMAGE.image_id, "dpkg-query")
        assert isolation["network_mode"] == "none"
        assert isolation["read_only"]
        assert isolation["cap_drop"] == ["ALL"]
        self.left += 1
        self.asked += 1
        return self

    def start(self) -> None:
        """Say nothing."""

    def wait(self) -> dict[str, int]:
        return {"StatusCode": self.status}

    def logs(self, **_: object) -> bytes:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def remove(self, **_: object) -> None:
        self.left -= 1


def ask(engine: Engine, root: Path) -> Packages:
    client: Any = engine
    return image_packages(client, Cache(root), IMAGE)


def test_an_image_is_asked_once(tmp_path: Path) -> None:
    engine = Engine(ANSWER)
    expected = Packages(wheels=(WHEEL,), debian=(DASH, HELD))
    assert ask(engine, tmp_path) == ask(engine, tmp_path) == expected
    assert (engine.asked, engine.left) == (1, 0)
    (kept,) = (tmp_path / "images").iterdir()
    kept.write_text('{"wheels": []}')
    assert ask(engine, tmp_path) == expected
    assert (engine.asked, engine.left) == (2, 0)


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (NotFound("no such container"), 0, "no such container"),
        (EngineGoneError("connection refused"), 0, "connection refused"),
        (ANSWER, 127, "exit status 127"),
        (b"", 0, "no installed package"),
        (b"config-files gone 1 amd64", 0, "no installed package"),
        (b"installed dash", 0, "not enough values"),
        (b"installed dash 1 amd64 more", 0, "too many values"),
        (b"installed d\xffsh 1 amd64", 0, "utf-8"),
    ],
)
def test_an_image_that_cannot_be_read_is_an_error_and_leaves_no_container(
    tmp_path: Path, answer: bytes | Exception, status: int, message: str
) -> None:
    engine = Engine(answer, status)
    with raises(ErrorCode.ENGINE, match=message):
        ask(engine, tmp_path)
    assert engine.left == 0
    assert not (tmp_path / "images").exists()


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("in the way")
    with raises(ErrorCode.OUTPUT, match="of the image convert cannot be kept"):
        ask(Engine(ANSWER), tmp_path)
