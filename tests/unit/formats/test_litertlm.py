import io
import struct
from datetime import UTC, datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litert_lm_builder import litertlm_builder, litertlm_core, litertlm_peek
from litert_lm_builder.runtime.proto.llm_metadata_pb2 import LlmMetadata

from gemma3build.formats.litertlm import (
    TIME,
    UUID,
    Header,
    LitertlmError,
    read_header,
    read_sections,
    replace,
    stable_time,
    stable_uuid,
)
from gemma3build.schema.step import StepRequest
from gemma3build.steps.litertlm import package
from gemma3build.util.files import sha256_bytes, sha256_file

EPOCH = 1735689600
MODEL, TOKENIZER = b"TFL3" * 5000, b"a tokenizer"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    contents = {"model": ("m.tflite", MODEL), "tokenizer": ("tokenizer.model", TOKENIZER)}
    folder = tmp_path_factory.mktemp("inputs")
    for name, (file, content) in contents.items():
        (folder / name).mkdir()
        (folder / name / file).write_bytes(content)
    return {name: str(folder / name) for name in contents}


def packaged(inputs: dict[str, str], folder: Path) -> tuple[Path, dict[str, str]]:
    parameters = {"file_name": "m.litertlm", "kv_cache_max_len": 64}
    request = StepRequest(step="litertlm.package", parameters=parameters, inputs=inputs)
    folder.mkdir()
    facts = package.run(request, folder)
    return folder / "m.litertlm", facts["sections"]


@pytest.fixture(scope="module")
def raw(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file as the builder writes it."""
    path = tmp_path_factory.mktemp("raw") / "raw.litertlm"
    model, tokenizer = (Path(inputs[name]) for name in ("model", "tokenizer"))
    package.build_package(
        path, package.model_metadata(64), tokenizer / "tokenizer.model", model / "m.tflite"
    )
    return path.read_bytes()


def parse(content: bytes) -> Header:
    return read_header(io.BytesIO(content), len(content))


def content_of(path: Path, name: str) -> bytes:
    offset, size = read_sections(path)[name]
    return path.read_bytes()[offset : offset + size]


@pytest.fixture(autouse=True)
def epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))


def test_two_runs_give_one_file(inputs: dict[str, str], tmp_path: Path) -> None:
    (one, digests), (other, _) = (packaged(inputs, tmp_path / name) for name in ("one", "other"))
    assert sha256_file(one) == sha256_file(other)
    assert content_of(one, "TFLiteModel") == MODEL
    assert content_of(one, "SP_Tokenizer") == TOKENIZER
    assert digests == {name: sha256_bytes(content_of(one, name)) for name in read_sections(one)}


def test_the_builders_own_reader_finds_what_was_put_in(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    path, digests = packaged(inputs, tmp_path / "one")
    header = litertlm_peek.read_litertlm_header(str(path), io.StringIO())
    found = {}
    for number in range(header.SystemMetadata().EntriesLength()):
        entry = header.SystemMetadata().Entries(number)
        found[entry.Key().decode()] = litertlm_peek._get_kvp_value_and_type(entry)[0]
    assert found == {UUID: stable_uuid(digests), TIME: "2025-01-01T00:00:00.000000+00:00"}
    places = {}
    for number in range(header.SectionMetadata().ObjectsLength()):
        item = header.SectionMetadata().Objects(number)
        kind = litertlm_core.any_section_data_type_to_string(item.DataType())
        places[kind] = (item.BeginOffset(), item.EndOffset() - item.BeginOffset())
    assert places == read_sections(path)
    metadata = LlmMetadata.FromString(content_of(path, "LlmMetadataProto"))
    assert metadata.max_num_tokens == 64
    tokens = [metadata.start_token, *metadata.stop_tokens]
    assert [token.token_str for token in tokens] == ["<bos>", "<eos>", "<end_of_turn>"]
    assert metadata.llm_model_type.WhichOneof("model_type") == "gemma3"
    assert metadata.prompt_templates.user.prefix == "<start_of_turn>user\n"


def test_a_clock_at_a_whole_second_makes_no_shorter_header(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = packaged(inputs, tmp_path / "expected")
    times = [datetime(2026, 5, 17, 3, 4, 6, fraction, UTC) for fraction in (7, 0)]

    clock = SimpleNamespace(now=lambda _: times.pop())
    module = SimpleNamespace(datetime=clock, timezone=timezone)
    monkeypatch.setattr(litertlm_builder, "datetime", module)
    found, _ = packaged(inputs, tmp_path / "found")
    assert not times
    assert found.read_bytes() == expected.read_bytes()


def test_a_chat_template_stands_in_the_metadata(inputs: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "template").mkdir()
    (tmp_path / "template" / "chat_template.jinja").write_text("{{ messages }}")
    with_template = {**inputs, "chat_template": str(tmp_path / "template")}
    path, _ = packaged(with_template, tmp_path / "one")
    metadata = LlmMetadata.FromString(content_of(path, "LlmMetadataProto"))
    assert metadata.jinja_prompt_template == "{{ messages }}"
    plain, _ = packaged(inputs, tmp_path / "plain")
    assert b"messages" not in plain.read_bytes()


def test_the_uuid_is_of_the_content() -> None:
    one = stable_uuid({"a": "1", "b": "2"})
    assert one == stable_uuid({"b": "2", "a": "1"})
    assert one != stable_uuid({"a": "1", "b": "3"})
    assert len(one) == 36


def test_the_time_is_as_long_as_the_builders() -> None:
    assert stable_time(EPOCH) == "2025-01-01T00:00:00.000000+00:00"
    assert len(stable_time(EPOCH)) == len(datetime(2026, 5, 17, 3, 4, 6, 7, UTC).isoformat())


def test_replacing_changes_those_strings_and_nothing_else(raw: bytes) -> None:
    header = parse(raw)
    values = {UUID: "0" * 36, TIME: "1" * 32}
    changed = replace(header, values)
    expected = raw
    for key, value in values.items():
        assert raw.count(header.text(key).encode()) == 1
        expected = expected.replace(header.text(key).encode(), value.encode())
    assert changed == expected[: len(changed)]
    assert {key: parse(expected).text(key) for key in values} == values


def test_a_string_of_another_length_is_not_put_in(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not as long"):
        replace(parse(raw), {UUID: "0" * 35})
    with pytest.raises(LitertlmError, match="has no author"):
        replace(parse(raw), {"author": "0"})


def changed(raw: bytes, kind: str, at: int, value: int) -> bytes:
    data = bytearray(raw)
    struct.pack_into(kind, data, at, value)
    return bytes(data)


def test_what_is_not_whole_is_rejected_with_the_reason(raw: bytes) -> None:
    ends = struct.unpack_from("<Q", raw, 24)[0]
    begin = raw.index(struct.pack("<Q", 16384), 32)
    cases = {
        "does not start": b"PK" + raw[2:],
        "the version 2": changed(raw, "<I", 8, 2),
        "header ends at byte 1152921504606846976": changed(raw, "<Q", 24, 1 << 60),
        "leads out": changed(raw, "<I", 32, 0xFFFFFFF0),
        "out of place": changed(raw, "<Q", begin, 16385),
        "last section ends": raw[:-1],
        "UTF-8": raw.replace(b"uuid", b"\xff\xff\xff\xff", 1),
    }
    for message, content in cases.items():
        with pytest.raises(LitertlmError, match=message):
            parse(content)
    with pytest.raises(LitertlmError, match="cut off"):
        read_header(io.BytesIO(raw[: ends - 1]), len(raw))


def test_a_file_with_two_sections_of_one_type_is_rejected(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    builder = litertlm_builder.LitertLmFileBuilder()
    for _ in range(2):
        builder.add_generic_binary_data(f"{inputs['model']}/m.tflite")
    file = io.BytesIO()
    builder.build(file)
    with pytest.raises(LitertlmError, match="'GenericBinaryData' twice"):
        parse(file.getvalue())


def only_known_errors(content: bytes) -> None:
    try:
        header = parse(content)
    except LitertlmError:
        return
    end = len(header.data)
    for span in header.sections.values():
        assert end <= span.offset <= span.offset + span.size <= len(content)
        end = span.offset + span.size


@given(st.binary(max_size=200), st.integers(0, 400))
def test_bytes_of_any_kind_are_read_or_rejected(tail: bytes, end: int) -> None:
    only_known_errors(tail)
    only_known_errors(struct.pack("<8s3I4xQ", b"LITERTLM", 1, 7, 0, end) + tail)


@given(
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 60000),
)
def test_a_mutated_file_is_read_or_rejected(
    raw: bytes, mutations: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(raw)
    for at, value in mutations:
        data[at] = value
    only_known_errors(bytes(data))
    only_known_errors(bytes(data[:cut]))
