import io
import json
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gemma3build.engine.image_archive import merge_layers, stabilize_image, stable_config
from gemma3build.formats.task import stabilize
from gemma3build.util.files import sha256_file

EPOCH = 1735689600


def layer(
    *members: tuple[str, bytes | None], mtime: int, owner: str = "root", mode: int = 0o644
) -> io.BytesIO:
    """Return a layer; content None is a directory, ``->x`` a hard link."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.mtime, member.uname, member.mode = mtime, owner, mode
            if content is None:
                member.type = tarfile.DIRTYPE
            elif content.startswith(b"->"):
                member.type, member.linkname = tarfile.LNKTYPE, content[2:].decode()
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content or b""))
    file.seek(0)
    return file


def merged(*layers: io.BytesIO, parents: tuple[io.BytesIO, ...] = ()) -> bytes:
    target = io.BytesIO()
    merge_layers(parents, layers, target, EPOCH)
    return target.getvalue()


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


def test_clocks_orders_and_owners_make_no_difference() -> None:
    one = layer(("b", b"2"), ("a", b"1"), mtime=1, owner="x")
    other = layer(("a", b"1"), ("b", b"2"), mtime=2, owner="y")
    assert merged(one) == merged(other)


def test_one_byte_makes_a_difference() -> None:
    assert merged(layer(("a", b"1"), mtime=1)) != merged(layer(("a", b"2"), mtime=1))


def test_what_a_later_layer_removes_is_gone_and_hidden_below() -> None:
    lower = layer(("build", None), ("build/wheel", b"w"), ("builder", b"x"), ("opt", b"o"), mtime=1)
    upper = layer((".wh.build", b""), ("opt", b"new"), mtime=2)
    data = merged(lower, upper)
    assert names(data) == [".wh.build", "builder", "opt"]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        file = archive.extractfile("opt")
        assert file is not None
        assert file.read() == b"new"


def test_a_directory_that_only_a_mount_touched_is_left_out() -> None:
    parent = (("./etc", None), ("./etc/apt", None), ("opt", None))
    own = (("opt", None), ("opt/x", b"1"))
    touched = merged(
        layer(*own, ("etc", None), ("etc/apt", None), mtime=2, mode=0o40644),
        parents=(layer(*parent, mtime=1),),
    )
    untouched = merged(layer(*own, mtime=3), parents=(layer(*parent, mtime=1),))
    assert touched == untouched
    assert names(touched) == ["opt", "opt/x"]


def test_a_directory_of_another_mode_stays() -> None:
    parent, own = layer(("tmp", None), mtime=1), layer(("tmp", None), mtime=1, mode=0o1777)
    assert names(merged(own, parents=(parent,))) == ["tmp"]


def test_a_directory_that_a_parent_removed_again_stays() -> None:
    parents = layer(("tmp", None), mtime=1), layer((".wh.tmp", b""), mtime=1)
    assert names(merged(layer(("tmp", None), mtime=1), parents=parents)) == ["tmp"]


def test_hard_links_follow_what_they_link_to() -> None:
    assert names(merged(layer(("a", b"->z"), ("z", b"1"), mtime=1))) == ["z", "a"]


def test_a_configuration_holds_no_clock_of_its_builder() -> None:
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-02T03:04:05.6Z",
        "container": "abc",
        "config": {"Env": ["A=1"], "Hostname": "builder", "Labels": {"old": "1"}},
    }
    stable = json.loads(stable_config(config, ["sha256:1"], EPOCH, {"new": "2"}))
    assert stable == {
        "architecture": "amd64",
        "config": {"Env": ["A=1"], "Labels": {"new": "2"}},
        "created": "2025-01-01T00:00:00Z",
        "history": [{"created": "2025-01-01T00:00:00Z"}],
        "os": "linux",
        "rootfs": {"diff_ids": ["sha256:1"], "type": "layers"},
    }


def saved_image(path: Path, mtime: int) -> Path:
    parts = {
        "config.json": json.dumps({"architecture": "amd64", "os": "linux", "created": str(mtime)}),
        "manifest.json": json.dumps(
            [{"Config": "config.json", "Layers": ["0.tar", "1.tar", "2.tar"]}]
        ),
    }
    layers = [layer((f"f{i}", b"x"), mtime=mtime if i else 0) for i in range(3)]
    with tarfile.open(path, "w") as archive:
        for name, text in parts.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(text), mtime
            archive.addfile(member, io.BytesIO(text.encode()))
        for i, data in enumerate(layers):
            member = tarfile.TarInfo(f"{i}.tar")
            member.size = len(data.getvalue())
            archive.addfile(member, data)
    return path


def test_two_builds_of_one_image_become_one(tmp_path: Path) -> None:
    for mtime in (1, 2):
        stabilize_image(
            saved_image(tmp_path / f"saved{mtime}.tar", mtime),
            tmp_path / f"stable{mtime}.tar",
            parent_layers=1,
            epoch=EPOCH,
            tag="x:1",
            labels={},
        )
    found = [manifest(tmp_path / f"stable{mtime}.tar") for mtime in (1, 2)]
    assert found[0] == found[1]  # with the digests of the configuration and of both layers
    assert len(found[0]["Layers"]) == 2
    assert names((tmp_path / "stable1.tar").read_bytes())[-2:] == found[0]["Layers"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "saved1.tar",
        "saved2.tar",
        "stable1.tar",
        "stable2.tar",
    ]


def manifest(path: Path) -> dict[str, Any]:
    with tarfile.open(path) as archive:
        file = archive.extractfile("manifest.json")
        assert file is not None
        (found,) = json.load(file)
    return dict(found)


def raw_bundle(path: Path, members: dict[str, bytes], year: int) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (year, 5, 17, 3, 4, 6)), content)
    return path


@given(
    st.dictionaries(
        st.text("ABCDEFG_é", min_size=1, max_size=9), st.binary(max_size=50), min_size=1, max_size=4
    )
)
def test_bundles_of_two_clocks_become_one_with_equal_members(members: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [raw_bundle(Path(folder, str(year)), members, year) for year in (2001, 2026)]
        assert sha256_file(paths[0]) != sha256_file(paths[1])
        for path in paths:
            stabilize(path)
        assert sha256_file(paths[0]) == sha256_file(paths[1])
        with zipfile.ZipFile(paths[0]) as archive:
            assert archive.testzip() is None
            assert {name: archive.read(name) for name in archive.namelist()} == members
            assert {item.date_time for item in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
