"""The index of releases that were made together, and its page, which quotes names from anywhere."""

import json
import re
from pathlib import Path

import pytest
from msgspec import structs

from gemma3build.errors import ErrorCode
from gemma3build.release.checksums import CHECKSUMS
from gemma3build.report.index import (
    INDEX,
    INDEX_PAGE,
    Index,
    IndexedRelease,
    Published,
    Signed,
    index_release,
    known_publication,
    read_index,
    render_index,
    write_index,
)
from gemma3build.schema.evaluation import Evaluation
from gemma3build.schema.manifest import MANIFEST, Manifest
from gemma3build.util.files import partial_path
from gemma3build.util.git import GitRevision
from gemma3build.util.serialize import DecodeError, decode_json, encode, pretty_json
from gemma3build.verify.untrusted import UntrustedFolder
from gemma3build.verify.verify import Verified
from tests.support.errors import raises
from tests.support.pages import Reader, check_loads_nothing, check_sound
from tests.unit.report.test_report import (
    HOSTILE,
    gate,
    measured,
    piqa,
    sample,
    scheme,
    speed,
)

SOURCE = GitRevision(commit="c" * 40, dirty=False)
KEY = "a" * 64
PUBLISHED = Published(
    repo="you/m", tag="v1", commit="d" * 40, url="https://hub.test/you/m/commit/d"
)


def listed(
    found: tuple[Manifest, Evaluation],
    name: str = "gemma3-270m",
    signed: Signed | None = None,
    published: Published | None = None,
) -> IndexedRelease:
    manifest, evaluation = found
    records = (MANIFEST, CHECKSUMS)
    digests = {item.path: item.sha256 for item in manifest.artifacts}
    digests |= {record: f"{number}" * 64 for number, record in enumerate(records)}
    sizes = dict.fromkeys(digests, 9)
    folder = UntrustedFolder(path=Path("/r") / name, sizes=sizes, others=())
    verified = Verified(folder=folder, digests=digests, findings=())
    return index_release(verified, manifest, evaluation, signed, published)


def two() -> tuple[IndexedRelease, ...]:
    other = sample(scheme("dynamic_int8", 9, gate(kl=0.1, text="t"), piqa(0.5), speed(7.0, 8.0, 9)))
    return (
        listed(measured(), signed=Signed(key=KEY, checked=True), published=PUBLISHED),
        listed(other, name="gemma3-270m-2k", signed=Signed(identity="a@b.test", checked=True)),
    )


def index(releases: tuple[IndexedRelease, ...], version: str = "v1.2.0") -> Index:
    entries = tuple(item.entry for item in releases)
    return Index(version=version, commit=SOURCE.commit, releases=entries)


def page(releases: tuple[IndexedRelease, ...], version: str = "v1.2.0") -> str:
    return render_index(index(releases, version), releases).decode()


def test_the_page_shows_every_release_and_what_was_measured() -> None:
    reader = Reader(page(two()))
    for words in (
        "v1.2.0",
        "2 releases of Gemma 3",
        "279.3 MB",
        "0.678 ± 0.011",
        "1,843",
        "512.3 MB",
        "AMD EPYC, 2 cores, 23.5 GiB of memory",
        f"key {KEY}",
        "a@b.test",
        "signature verified",
        "you/m, v1",
        "not recorded in this index",
        "gemma3-270m-2k dynamic_int8",
        "prefill seq lens: 128",
        SOURCE.commit,
        "Gemma is provided under",
    ):
        assert words in reader.text, words
    for item in two():
        for file in (*item.entry.records, *(f for s in item.entry.schemes for f in s.files)):
            assert file.sha256 in reader.text
    links = reader.of("href")
    assert "gemma3-270m/report.html" in links
    assert "gemma3-270m-2k/manifest.json" in links
    assert PUBLISHED.url in links


@pytest.mark.parametrize(
    ("signed", "words"),
    [
        (None, "not signed"),
        (Signed(key=KEY, checked=False), "signature not verified"),
        (Signed(checked=False), "a Sigstore identity"),
    ],
)
def test_who_signed_is_said(signed: Signed | None, words: str) -> None:
    assert words in Reader(page((listed(measured(), signed=signed),))).text


def test_a_quick_look_is_never_shown_as_a_result() -> None:
    assert Reader(page(two())).text.count("first 100 of 1,838") == 3


def hostile() -> tuple[IndexedRelease, ...]:
    found, evaluation = sample(
        scheme(HOSTILE, 1, gate(kl=1e-3, text=HOSTILE), piqa(0.5), speed(1, 1, 1)), model=HOSTILE
    )
    record = structs.replace(found.checkpoint, base_model=HOSTILE, source=HOSTILE, revision=HOSTILE)
    manifest = structs.replace(found, checkpoint=record)
    published = Published(repo=HOSTILE, tag=HOSTILE, commit=HOSTILE, url=f"https://{HOSTILE}")
    # A directory's name has no slash and no zero byte, but anything else.
    name = HOSTILE.replace("/", "").replace("\0", "").replace("\ud800", "")
    signed = Signed(identity=HOSTILE, checked=True)
    return (listed((manifest, evaluation), name, signed, published),)


def test_names_from_anywhere_stay_text() -> None:
    reader = Reader(page(hostile(), HOSTILE))
    assert set(reader.tags) <= set(Reader(page(two())).tags)
    assert not {"script", "img"} & set(reader.tags)
    assert not any(name.startswith("on") for _, name, _ in reader.attributes)
    assert '<script>alert("1")</script></td></table></p>--><!-- & &amp; {{ 7 * 7 }}' in reader.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", reader.text)


@pytest.mark.parametrize("releases", [two(), two()[:1], hostile()], ids=["two", "one", "hostile"])
def test_the_page_is_sound_and_loads_nothing(releases: tuple[IndexedRelease, ...]) -> None:
    text = page(releases)
    check_sound(text)
    check_loads_nothing(text)
    assert "prefers-color-scheme: dark" in text


def test_the_index_is_the_same_for_the_same_releases_and_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "v1"
    assert write_index(folder, "v1", SOURCE, two())
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert first.keys() == {INDEX, INDEX_PAGE}
    assert read_index(folder) == index(two(), "v1")
    assert first[INDEX] == pretty_json(read_index(folder))
    assert not write_index(folder, "v1", SOURCE, two())
    (folder / INDEX_PAGE).unlink()
    assert write_index(folder, "v1", SOURCE, two())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert write_index(folder, "v1", SOURCE, two()[:1])
    assert "gemma3-270m-2k" not in (folder / INDEX_PAGE).read_text()


def test_where_the_same_files_were_published_is_remembered(tmp_path: Path) -> None:
    write_index(tmp_path, "v1", SOURCE, two())
    first, second = two()
    known = structs.replace(first.entry, published=None)
    assert known_publication(read_index(tmp_path), known) == PUBLISHED
    assert known_publication(read_index(tmp_path), second.entry) is None
    assert known_publication(None, known) is None
    other = structs.replace(known, records=known.records[:1])
    assert known_publication(read_index(tmp_path), other) is None


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": "other"}', b"[" * 10**5])
def test_what_is_no_index_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / INDEX).write_bytes(content)
    assert read_index(tmp_path) is None


def test_an_address_that_runs_is_no_address() -> None:
    value = {**encode(PUBLISHED), "url": "javascript:alert(1)"}
    with pytest.raises(DecodeError, match="no address of a page"):
        decode_json(Published, json.dumps(value), "")


def test_an_index_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_index(tmp_path, "v1", SOURCE, two()[:1])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("secrets.token_hex", lambda _: "0" * 8)
    partial_path(tmp_path / INDEX_PAGE).mkdir()
    with raises(ErrorCode.OUTPUT, match="The index cannot be written"):
        write_index(tmp_path, "v1", SOURCE, two())
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
