import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma3build.engine.runner import CACHE_VARIABLE
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.rebuild import archive as record_archive
from gemma3build.rebuild.archive import FIRST_MEMBER, FORMAT, header, unpack, write_archive
from gemma3build.util.files import digest_file, sha256_bytes
from gemma3build.util.serialize import pretty_json
from gemma3build.workflows import archive as archive_workflow
from gemma3build.workflows.archive import run_archived, source_files
from tests.support.command import run_command
from tests.support.errors import raises

CONTENTS = {
    "source/gemma3build/__init__.py": b"",
    "base/config.json": b"{}",
    "wheels/0/a-1.0+cpu-py3-none-any.whl": b"w" * 513,
    f"wheels/0/{'long' * 30}.whl": b"l" * 512,
    "release/manifest.json": b"m",
}


def made(folder: Path, contents: dict[str, bytes] = CONTENTS) -> bytes:
    folder.mkdir(exist_ok=True)
    files = {}
    for number, (name, content) in enumerate(contents.items()):
        files[name] = folder / str(number)
        files[name].write_bytes(content)
    write_archive(folder / "a.tar", files, model="m", version="1", complete=True)
    return (folder / "a.tar").read_bytes()


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def unpacked(content: bytes, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    (folder / "a.tar").write_bytes(content)
    (folder / "out").mkdir()
    unpack(folder / "a.tar", folder / "out")
    return tree(folder / "out")


def test_what_goes_in_comes_out_whoever_made_it_and_when(tmp_path: Path) -> None:
    content = made(tmp_path / "one")
    other = made(tmp_path / "other", dict(reversed(CONTENTS.items())))
    assert content == other
    assert unpacked(content, tmp_path / "out") == CONTENTS
    assert not list((tmp_path / "one").glob(".*"))


def test_any_tar_reads_it(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(made(tmp_path / "one"))) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == [FIRST_MEMBER, *sorted(CONTENTS)]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode, m.type) for m in members} == {
            (0, 0, 0, "", 0o644, tarfile.REGTYPE)
        }
        file = archive.extractfile(FIRST_MEMBER)
        assert file is not None
        index = json.load(file)
    assert {item["path"]: item["sha256"] for item in index["members"]} == {
        name: sha256_bytes(content) for name, content in CONTENTS.items()
    }


@pytest.mark.parametrize(
    "path", ["source/../x", "source/.git", "/etc/passwd", "other/file", "source", "source/a\nb"]
)
def test_a_path_that_leads_elsewhere_is_neither_written_nor_read(tmp_path: Path, path: str) -> None:
    with raises(ErrorCode.ARCHIVE, match="is no path in an archive"):
        made(tmp_path / "one", {path: b"x"})
    assert not (tmp_path / "one" / "a.tar").exists()
    with raises(ErrorCode.ARCHIVE, match="is no path in an archive"):
        unpacked(forged([(path, b"x")]), tmp_path / "out")


def forged(
    members: list[tuple[str, bytes]], change: Callable[[Any], object] = lambda _: None
) -> bytes:
    """An archive whose index may say anything."""
    index = {
        "complete": True,
        "format": FORMAT,
        "members": [
            {"path": path, "size": len(content), "sha256": sha256_bytes(content)}
            for path, content in members
        ],
        "model": "m",
        "version": "1",
    }
    change(index)
    text = pretty_json(index)
    parts = [(FIRST_MEMBER, text), *members]
    return b"".join(
        header(path, len(content)) + content + bytes(-len(content) % 512) for path, content in parts
    ) + bytes(1024)


ONE, TWO = ("source/a", b"a"), ("source/b", b"b")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (forged([TWO, ONE]), "out of order"),
        (forged([ONE, ONE]), "there twice"),
        (forged([ONE, ("source/a/b", b"b")]), "is below a file"),
        (forged([ONE], lambda index: index.update(format="x")), "its format is 'x'"),
        (forged([ONE], lambda index: index.update(more=1)), "unknown key"),
        (
            forged([ONE], lambda index: index["members"][0].update(size=-1)),
            "size: expected int >= 0",
        ),
        (
            forged([ONE], lambda index: index["members"][0].update(size=1 << 90)),
            "more than 64 bits",
        ),
        (forged([ONE], lambda index: index["members"][0].update(size=513)), "others"),
        (forged([ONE], lambda index: index["members"][0].update(sha256="0")), "text of the form"),
        (forged([ONE], lambda index: index["members"][0].update(sha256="0" * 64)), "is not what"),
        (forged([ONE], lambda index: index["members"][0].update(path="source/b")), "the header"),
        (forged([ONE]) + b"x", "others"),
        (forged([ONE])[:-1], "others"),
        (forged([ONE])[:-1] + b"x", "something follows its last member"),
        (forged([ONE]).replace(b"a\0\0", b"a\0x", 9), "something follows|header"),
        (b"", "does not start"),
        (b"PK" * 999, "does not start"),
        (header(FIRST_MEMBER, 1 << 40), "does not start"),
    ],
)
def test_what_is_not_as_the_index_says_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    with raises(ErrorCode.ARCHIVE, match=why):
        unpacked(content, tmp_path / "out")


def test_a_link_in_an_archive_is_no_member(tmp_path: Path) -> None:
    link = tarfile.TarInfo("source/a")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    content = forged([("source/a", b"")]).replace(
        header("source/a", 0), link.tobuf(tarfile.GNU_FORMAT)
    )
    with raises(ErrorCode.ARCHIVE, match="header of source/a"):
        unpacked(content, tmp_path / "out")
    assert not (tmp_path / "out" / "out" / "source").exists()


def test_an_archive_that_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with raises(ErrorCode.ARCHIVE, match="is no file"):
            unpack(path, tmp_path)


def only_known_errors(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        inner = Path(folder, "in")
        try:
            found = unpacked(content, inner)
        except BuildError:
            found = {}
        outside = [path for path in Path(folder).rglob("*") if path.is_file()]
        assert all(path == inner / "a.tar" or inner / "out" in path.parents for path in outside)
    assert sum(map(len, found.values())) <= len(content)


GOOD = forged([("base/config.json", b"{}"), ("release/manifest.json", b"m" * 600), ONE, TWO])


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6))
def test_no_changed_byte_is_unforeseen(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    only_known_errors(bytes(data))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)
MEMBER = st.fixed_dictionaries(
    {
        "path": st.text(max_size=30)
        | st.sampled_from(["source/a", "source/../../x", "base/\0", "wheels/" + "a/" * 20]),
        "size": st.integers(),
        "sha256": st.text(max_size=9) | st.just(sha256_bytes(b"a")),
    }
)


@given(JSON | st.lists(MEMBER, max_size=4), st.binary(max_size=600))
def test_no_index_is_unforeseen(members: Any, rest: bytes) -> None:
    only_known_errors(forged([ONE], lambda index: index.update(members=members)) + rest)
    text = json.dumps(members).encode()
    only_known_errors(header(FIRST_MEMBER, len(text)) + text + rest)


def test_what_cannot_be_written_or_changes_meanwhile_leaves_no_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")

    def write(target: Path) -> None:
        write_archive(target, {"source/a": file}, model="m", version="1", complete=False)

    with raises(ErrorCode.OUTPUT, match="nowhere"):
        write(tmp_path / "nowhere" / "a.tar")
    before = digest_file(file, "source/a")
    monkeypatch.setattr(record_archive, "digest_file", lambda *_: before)
    file.write_bytes(b"y")
    with raises(ErrorCode.ARCHIVE, match="source/a changed while it was read"):
        write(tmp_path / "a.tar")
    assert list(tmp_path.iterdir()) == [file]


def command(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, CACHE_VARIABLE: str(folder / "cache")}
    return run_command(*arguments, cwd=folder, environment=environment)


def test_an_archive_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for content, code, why in (
        (GOOD[:-1], ErrorCode.ARCHIVE, "The archive cannot be used"),
        (
            forged([ONE], lambda index: index.update(complete=False)),
            ErrorCode.REQUEST,
            "--checkpoint DIR",
        ),
    ):
        path.write_bytes(content)
        done = command(tmp_path, "rebuild", "--from-archive", "a.tar")
        assert (done.returncode, why in done.stderr) == (code.exit_code, True), done.stderr
        assert not list((tmp_path / "cache" / "staging").iterdir())


def test_the_source_is_whole_and_nothing_else(tmp_path: Path) -> None:
    files = dict(source_files())
    for name in (
        "gemma3build/pins/models.lock.json",
        "gemma3build/pins/images.toml",
        "gemma3build/pins/schemes/fp16.toml",
        "gemma3build/steps/__main__.py",
        "containers/fetch/requirements.txt",
        "containers/Dockerfile",
        "containers/base.Dockerfile",
        "pyproject.toml",
    ):
        assert f"source/{name}" in files
    assert not any("__pycache__" in name or "/." in name for name in files)
    made(tmp_path / "one", {name: path.read_bytes() for name, path in files.items()})
    content = (tmp_path / "one" / "a.tar").read_bytes()
    assert unpacked(content, tmp_path / "out").keys() == files.keys()


def test_the_source_of_an_installed_package_has_its_containers_and_the_users_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, own = tmp_path / "site" / "gemma3build", tmp_path / "own"
    for path in (
        package / "containers" / "Dockerfile",
        package / "pins" / "models.toml",
        package / "__pycache__" / "a.pyc",
        tmp_path / "site" / "gemma3build-1.dist-info" / "licenses" / "LICENSE",
        tmp_path / "site" / "other" / "a.py",
        own / "models.toml",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(archive_workflow, "INSTALLED", True)
    monkeypatch.setattr(archive_workflow, "PACKAGE_DIR", package)
    monkeypatch.setattr(archive_workflow, "model_dirs", lambda: (package / "pins", own))
    assert dict(source_files()) == {
        "source/LICENSE": tmp_path / "site" / "gemma3build-1.dist-info" / "licenses" / "LICENSE",
        "source/models.toml": own / "models.toml",
        "source/gemma3build/containers/Dockerfile": package / "containers" / "Dockerfile",
        "source/gemma3build/pins/models.toml": package / "pins" / "models.toml",
    }


def test_the_archived_source_runs_not_this_one_and_pip_has_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "source" / "gemma3build"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(
        "import os, sys\n"
        "names = ('PIP_NO_INDEX', 'PIP_CONFIG_FILE', 'PIP_INDEX_URL', 'PIP_FIND_LINKS')\n"
        "print(__file__, sys.argv[1:], [os.environ.get(name) for name in names])\n"
        "sys.exit(71)\n"
    )
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "http://127.0.0.1:1/links")
    assert run_archived(tmp_path, ["r", "--json"]) == 71
    arguments = ["rebuild", "r", "--json", "--unpacked", str(tmp_path)]
    said = capfd.readouterr().out
    assert said == f"{package / '__main__.py'} {arguments} ['1', '/dev/null', None, None]\n"
