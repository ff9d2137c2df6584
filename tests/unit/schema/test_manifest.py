import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from gemma3build.schema.manifest import MANIFEST, Manifest, schema
from gemma3build.util.serialize import DecodeError, decode, pretty_json
from tests.support.release import write_release


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return (write_release(tmp_path_factory.mktemp("schema") / "release") / MANIFEST).read_bytes()


def fits(value: object) -> bool:
    return bool(jsonschema.Draft202012Validator(schema()).is_valid(value))


def test_a_manifest_fits_its_schema_and_keeps_its_bytes(text: bytes) -> None:
    value = json.loads(text)
    assert fits(value)
    assert pretty_json(decode(Manifest, value)) == text


def test_the_schema_is_one_and_describes_every_field() -> None:
    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    sizes = found["$defs"]["Parameters"]["properties"]["kv_cache_max_len"]
    assert sizes["description"] == "length of the key-value cache, in tokens."
    undescribed = {"FileDigest"}  # in one sentence
    for name in found["$defs"].keys() - undescribed:
        properties = found["$defs"][name]["properties"].values()
        assert all("description" in item for item in properties), name


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(format="gemma3build.manifest/2"),
        lambda value: value.update(more=1),
        lambda value: value.update(images=[]),
        lambda value: value.update(schemes={}),
        lambda value: value.update(artifacts=[]),
        lambda value: value.update(terms=[]),
        lambda value: value.update(terms=[".."]),
        lambda value: value.update(terms=["a/b"]),
        lambda value: value.update(terms=["Notice\n"]),
        lambda value: value["sources"].update(bundle="0" * 63),
        lambda value: value["checkpoint"].update(model=""),
        lambda value: value["checkpoint"].update(source=""),
        lambda value: value["checkpoint"].update(revision="0" * 41),
        lambda value: value["checkpoint"].update(revision="A" * 40),
        lambda value: value["checkpoint"].update(parameters=0),
        lambda value: value["checkpoint"].update(files=[]),
        lambda value: value["checkpoint"]["files"][0].update(size=-1),
        lambda value: value["checkpoint"]["files"][0].update(sha256="0" * 64 + "\n"),
        lambda value: value["parameters"].pop("kv_cache_max_len"),
        lambda value: value["parameters"].update(kv_cache_max_len=1),
        lambda value: value["parameters"].update(prefill_seq_lens=[]),
        lambda value: value["parameters"].update(prefill_seq_lens=[0]),
        lambda value: value["schemes"]["fp16"]["embedding"].update(bits=3),
        lambda value: value["schemes"]["fp16"]["embedding"].update(granularity="rowwise"),
        lambda value: value["schemes"]["fp16"]["limits"].update(top1=1.5),
        lambda value: value["schemes"]["fp16"]["limits"].update(kl=-1),
        lambda value: value["images"][0].update(digest=""),
        lambda value: value["images"][0].update(parent="debian"),
        lambda value: value["images"][0].update(requirements="0"),
        lambda value: value["artifacts"][0].update(size=0),
        lambda value: value["artifacts"][0].update(path="../x"),
        lambda value: value["artifacts"][0].update(facts=[]),
    ],
)
def test_what_the_schema_rejects_is_not_decoded(text: bytes, change: Callable[[Any], Any]) -> None:
    value = json.loads(text)
    change(value)
    assert not fits(value)
    with pytest.raises(DecodeError):
        decode(Manifest, value, MANIFEST)


@pytest.mark.parametrize("path", ["", ".", "..", "a/b", "a\\b"])
def test_files_of_a_checkpoint_are_in_one_directory(text: bytes, path: str) -> None:
    value = json.loads(text)
    value["checkpoint"]["files"][0]["path"] = path
    with pytest.raises(DecodeError, match="checkpoint: .* is not the name of a file"):
        decode(Manifest, value, MANIFEST)
