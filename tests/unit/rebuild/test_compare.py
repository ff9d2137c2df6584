import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flatbuffers
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma3build.formats.flatbuffer import FlatBufferError
from gemma3build.formats.litertlm import stabilize
from gemma3build.formats.tflite import read_buffers
from gemma3build.rebuild.attestation import RebuilderRecord, attestation, attestation_path
from gemma3build.rebuild.compare import Comparison, Verdict, compare_releases, worst
from gemma3build.release.checksums import CHECKSUMS
from gemma3build.release.sbom import SBOM
from gemma3build.schema.manifest import MANIFEST, ImageRecord
from gemma3build.steps.litertlm import package
from gemma3build.util.files import sha256_bytes
from gemma3build.verify.checks import read_record
from gemma3build.verify.untrusted import list_folder
from tests.support.release import TASK, TFLITE, edit_json, seal, write_release

EPOCH = 1735689600


@pytest.fixture
def released(tmp_path: Path) -> Path:
    return write_release(tmp_path / "released")


@pytest.fixture
def rebuilt(tmp_path: Path) -> Path:
    return write_release(tmp_path / "rebuilt")


def compared(
    released: Path, rebuilt: Path, said: Mapping[str, str] | None = None
) -> dict[str, Comparison]:
    found = compare_releases(
        list_folder(released), list_folder(rebuilt), EPOCH, rebuilt.parent, said
    )
    return {item.path: item for item in found}


def only_other(found: Mapping[str, Comparison]) -> Comparison:
    (item,) = (item for item in found.values() if item.verdict is not Verdict.IDENTICAL)
    return item


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def with_clock(content: bytes) -> bytes:
    """The same archive as a bundler writes it in May 2026."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members, central = archive.infolist(), archive.start_dir
    data = bytearray(content)
    for member in members:
        clock = b"\x01\x23\xb1\x5c"
        data[member.header_offset + 10 : member.header_offset + 14] = clock
        data[central + 12 : central + 16] = clock
        central += 46 + len(member.orig_filename) + len(member.extra)
    return bytes(data)


def test_two_builds_of_one_request_are_identical(released: Path, rebuilt: Path) -> None:
    found = compared(released, rebuilt)
    assert {item.verdict for item in found.values()} == {Verdict.IDENTICAL}
    assert {TASK, TFLITE, MANIFEST, CHECKSUMS, "Notice"} <= found.keys()
    assert "evaluation.json" not in found
    assert worst(tuple(found.values())) is Verdict.IDENTICAL


def test_a_changed_byte_in_a_bundle_is_named_by_its_member(released: Path, rebuilt: Path) -> None:
    edit(released / TASK, lambda data: data.replace(b"tokenizer", b"tokenizeR", 1))
    item = only_other(compared(released, rebuilt))
    assert (item.path, item.verdict) == (TASK, Verdict.DIFFERENT)
    (difference,) = item.differences
    assert difference.part == "member TOKENIZER_MODEL"
    assert difference.rebuilt == sha256_bytes(b"tokenizer" * 9)
    assert difference.released == sha256_bytes(b"tokenizeR" + b"tokenizer" * 8)


def test_a_clock_in_a_bundle_is_what_the_stabilizer_takes_out(
    released: Path, rebuilt: Path
) -> None:
    edit(released / TASK, with_clock)
    before = (released / TASK).read_bytes()
    item = only_other(compared(released, rebuilt))
    assert item.verdict is Verdict.EQUIVALENT
    assert item.stabilizer == "clock of the zip members"
    assert item.released == sha256_bytes(before)
    assert (released / TASK).read_bytes() == before


def test_records_that_name_unstabilized_files_are_equivalent_too(
    released: Path, rebuilt: Path
) -> None:
    old = sha256_bytes((released / TASK).read_bytes())
    edit(released / TASK, with_clock)
    new = sha256_bytes((released / TASK).read_bytes())
    edit(released / MANIFEST, lambda data: data.replace(old.encode(), new.encode()))
    seal(released)
    found = compared(released, rebuilt)
    assert {name for name, item in found.items() if item.verdict is Verdict.EQUIVALENT} == {
        TASK,
        MANIFEST,
        CHECKSUMS,
    }
    assert worst(tuple(found.values())) is Verdict.EQUIVALENT


def test_a_value_of_the_manifest_is_named_by_where_it_stands(released: Path, rebuilt: Path) -> None:
    edit_json(released / MANIFEST, lambda value: value["images"][1].update(digest="1" * 64))
    item = only_other(compared(released, rebuilt))
    (difference,) = item.differences
    assert difference.part == "images[1].digest"
    assert (difference.released, difference.rebuilt) == ("1" * 64, "0" * 64)


def test_a_value_of_the_bill_of_materials_is_named_by_where_it_stands(
    released: Path, rebuilt: Path
) -> None:
    edit_json(released / SBOM, lambda value: value["components"][0].update(name="other"))
    (difference,) = only_other(compared(released, rebuilt)).differences
    assert difference.part == "components[0].name"
    assert difference.released == "other"


def test_a_line_of_the_checksums_is_named_by_its_file(released: Path, rebuilt: Path) -> None:
    (released / "Notice").write_bytes(b"other")
    seal(released)
    found = compared(released, rebuilt)
    assert [difference.part for difference in found[CHECKSUMS].differences] == ["line of Notice"]
    size = (rebuilt / "Notice").stat().st_size
    (difference,) = found["Notice"].differences
    assert difference.part == f"bytes 0 to {size - 1} of 5 and {size}"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_record_that_is_none_is_different_by_its_bytes(
    released: Path, rebuilt: Path, content: bytes
) -> None:
    for name in (MANIFEST, CHECKSUMS):
        (released / name).write_bytes(content)
    found = compared(released, rebuilt)
    for name in (MANIFEST, CHECKSUMS):
        assert found[name].verdict is Verdict.DIFFERENT
        assert found[name].differences[0].part.startswith("bytes ")


@pytest.mark.parametrize("name", [TASK, TFLITE, MANIFEST, CHECKSUMS])
def test_what_is_missing_or_added_is_different(released: Path, rebuilt: Path, name: str) -> None:
    (released / name).unlink()
    (released / "stranger.txt").write_bytes(b"s")
    found = compared(released, rebuilt)
    assert found[name].differences[0].released == "nothing"
    assert found["stranger.txt"].differences[0].rebuilt == "nothing"
    assert {found[name].verdict, found["stranger.txt"].verdict} == {Verdict.DIFFERENT}


def test_digests_can_stand_for_files_that_are_not_at_hand(released: Path, rebuilt: Path) -> None:
    said = {TASK: sha256_bytes((released / TASK).read_bytes()), TFLITE: "0" * 64}
    for name in said:
        (released / name).unlink()
    found = compared(released, rebuilt, said)
    assert found[TASK].verdict is Verdict.IDENTICAL
    assert found[TFLITE].verdict is Verdict.DIFFERENT
    assert found[TFLITE].differences[0].released == "0" * 64


def test_a_link_is_not_followed(released: Path, rebuilt: Path) -> None:
    (released / TASK).unlink()
    (released / TASK).symlink_to(rebuilt / TASK)
    assert compared(released, rebuilt)[TASK].released == ""


def litertlm(folder: Path) -> bytes:
    """A file as LiteRT-LM's builder writes it, with a clock and a random uuid."""
    folder.mkdir(exist_ok=True)
    (folder / "m.tflite").write_bytes(b"TFL3" * 5000)
    (folder / "tokenizer.model").write_bytes(b"a tokenizer")
    path = folder / "raw"
    package.build_package(
        path, package.model_metadata(64), folder / "tokenizer.model", folder / "m.tflite"
    )
    return path.read_bytes()


def test_uuid_and_clock_of_a_litertlm_are_what_the_stabilizer_takes_out(
    released: Path, rebuilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
    raw = litertlm(tmp_path / "raw")
    stable = rebuilt / "m.litertlm"
    stable.write_bytes(raw)
    stabilize(stable, EPOCH)
    (released / "m.litertlm").write_bytes(raw)
    item = only_other(compared(released, rebuilt))
    assert (item.verdict, item.stabilizer) == (Verdict.EQUIVALENT, "uuid and clock of the header")
    edit(released / "m.litertlm", lambda data: data.replace(b"a tokenizer", b"A tokenizer"))
    item = only_other(compared(released, rebuilt))
    assert [difference.part for difference in item.differences] == ["section SP_Tokenizer"]


def tflite(contents: Mapping[str, bytes]) -> bytes:
    """A model with one tensor a buffer; the first buffer is empty, as in every model."""
    new: Any = flatbuffers.Builder
    builder = new(0)
    buffers, tensors = [], []
    for number, (name, content) in enumerate(contents.items(), 1):
        data, text = builder.CreateByteVector(content), builder.CreateString(name)
        builder.StartObject(3)
        builder.PrependUOffsetTRelativeSlot(0, data, 0)
        buffers.append(builder.EndObject())
        builder.StartObject(4)
        builder.PrependUint32Slot(2, number, 0)
        builder.PrependUOffsetTRelativeSlot(3, text, 0)
        tensors.append(builder.EndObject())
    builder.StartObject(3)
    buffers.insert(0, builder.EndObject())

    def vector(items: list[int]) -> int:
        builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            builder.PrependUOffsetTRelative(item)
        return int(builder.EndVector())

    in_subgraph = vector(tensors)
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, in_subgraph, 0)
    subgraphs, places = vector([builder.EndObject()]), vector(buffers)
    builder.StartObject(5)
    builder.PrependUOffsetTRelativeSlot(2, subgraphs, 0)
    builder.PrependUOffsetTRelativeSlot(4, places, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"TFL3")
    return bytes(builder.Output())


MODEL = tflite({"embedding": b"e" * 40, "layer_0/q": b"q" * 30})


def test_buffers_are_found_by_the_tensor_that_has_them(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(MODEL)
    found = {
        name: MODEL[offset : offset + size] for name, (offset, size) in read_buffers(path).items()
    }
    assert found == {"1 (embedding)": b"e" * 40, "2 (layer_0/q)": b"q" * 30}


def test_a_changed_weight_is_named_by_its_tensor(released: Path, rebuilt: Path) -> None:
    (rebuilt / TFLITE).write_bytes(MODEL)
    (released / TFLITE).write_bytes(MODEL.replace(b"qqqq", b"qqqr", 1))
    (difference,) = only_other(compared(released, rebuilt)).differences
    assert difference.part == "buffer 2 (layer_0/q)"
    assert difference.rebuilt == sha256_bytes(b"q" * 30)
    (released / TFLITE).write_bytes(MODEL.replace(b"embedding", b"Embedding"))
    names = [item.part for item in only_other(compared(released, rebuilt)).differences]
    assert names == ["buffer 1 (Embedding)", "buffer 1 (embedding)"]


def test_a_model_that_cannot_be_read_differs_by_its_bytes(released: Path, rebuilt: Path) -> None:
    (rebuilt / TFLITE).write_bytes(MODEL)
    (released / TFLITE).write_bytes(b"\0" + MODEL[1:4] + b"XXXX" + MODEL[8:])
    (difference,) = only_other(compared(released, rebuilt)).differences
    assert difference.part == (
        f"bytes 0 to 7 of {len(MODEL)}; it does not start as a .tflite file does"
    )


def test_buffers_that_would_be_read_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    too_long = MODEL.replace((40).to_bytes(4, "little"), b"\xff\xff\xff\x7f")
    for content in (too_long, MODEL[:-8]):
        path.write_bytes(content)
        with pytest.raises(FlatBufferError, match="leads out"):
            read_buffers(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(MODEL) - 1), st.integers(0, 255)), max_size=8))
def test_whatever_a_model_says_buffers_are_within_it_or_it_is_refused(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(MODEL)
    for at, value in changes:
        data[at] = value
    path = tmp_path / "m.tflite"
    path.write_bytes(data)
    try:
        found = read_buffers(path)
    except FlatBufferError:
        return
    assert all(0 <= offset <= offset + size <= len(data) for offset, size in found.values())


def test_the_attestation_is_a_statement_about_the_artifacts(released: Path, rebuilt: Path) -> None:
    edit(released / TASK, with_clock)
    found = tuple(compared(released, rebuilt).values())
    image = ImageRecord(name="fetch", digest="1" * 64, parent="p", requirements="")
    text = attestation(
        found,
        builder=RebuilderRecord(gemma3build="1", cpu="c", kernel="k", engine="e"),
        manifest=read_record(list_folder(released)),
        images=(image,),
        unlike=("Of the images, x is not those of the release",),
    )
    assert text.endswith(b"}\n")
    assert text.count(b"\n") == 1
    statement = json.loads(text)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:gemma3build:rebuild:v1"
    subjects = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}
    assert subjects[TASK] == sha256_bytes((released / TASK).read_bytes())
    assert subjects.keys() == {
        f"m_{s}.{k}" for s in ("dynamic_int8", "fp16") for k in ("task", "tflite")
    }
    predicate = statement["predicate"]
    assert predicate["verdict"] == "equivalent once stabilized"
    assert predicate["images"][0]["digest"] == "1" * 64
    assert predicate["builder"]["cpu"] == "c"
    (task,) = (item for item in predicate["files"] if item["path"] == TASK)
    assert task["stabilizer"] == "clock of the zip members"


def test_the_attestation_lies_beside_the_release() -> None:
    assert attestation_path(Path("/a/gemma3-270m")) == Path("/a/gemma3-270m.rebuild.intoto.jsonl")
