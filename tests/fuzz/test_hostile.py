"""Untrusted files: a parser reads them, or rejects them with its own error.

Tests of this kind for ``.task`` and ``.litertlm`` files, for the records that ``verify`` reads and for
signatures are with the other tests of those readers.
"""

import contextlib
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma3build.cli.results import figures
from gemma3build.errors import BuildError
from gemma3build.formats.gguf import GgufError, check_header
from gemma3build.gemma.checkpoint import checkpoint_architecture, read_chat_template, weight_files
from gemma3build.gemma.piqa import make_questions, read_data
from gemma3build.pins.config import MODELS_LOCK, PINS_DIR, load_scheme
from gemma3build.pins.lockfile import IMAGES_LOCK, read_images_lock, read_models_lock
from gemma3build.release.directory import is_release
from gemma3build.release.evaluation import manifest_digest, read_evaluation
from gemma3build.release.manifest import read_manifest
from gemma3build.schema.step import StepError, StepRequest
from gemma3build.steps.fetch import check
from gemma3build.steps.fetch import gguf as import_gguf
from gemma3build.util.files import sha256_file
from gemma3build.workflows.release_file import load_releases
from tests.support.checkpoint import write_checkpoint
from tests.support.gguf import SHAPE, write_gguf
from tests.support.hostile import CLAIMS, damaged, odd_json
from tests.support.release import write_release

TERABYTE = 1 << 40
MUCH = 64 << 20  # bytes of memory
INDEX = "model.safetensors.index.json"


def read_questions(path: Path) -> None:
    make_questions(*read_data(path.parent))


def read_figures(path: Path) -> None:
    evaluation = read_evaluation(path.parent)
    for item in evaluation.schemes if evaluation else ():
        figures(item)


def read_release(path: Path) -> None:
    is_release(path.parent)
    manifest_digest(read_manifest(path.parent))


def read_tensors(path: Path) -> None:
    check.check_tensors((path,), SHAPE)


def read_tokenizer(path: Path) -> None:
    check.check_tokenizer(path, SHAPE.vocab_size)


def read_gguf_header(path: Path) -> None:
    with path.open("rb") as file:
        check_header(file)


def import_file(path: Path) -> None:
    """Run the step, on wheels that carry the file and a lock that names it."""
    output = path.parent / "work" / "output"
    output.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path.parent / "m.whl", "w") as wheel:
        wheel.write(path, "m.gguf")
    parameters = {"parts": [["m.whl", "m.gguf"]], "sha256": sha256_file(path)}
    inputs = {"wheels": str(path.parent)}
    import_gguf.run(StepRequest(step="fetch.gguf", parameters=parameters, inputs=inputs), output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parser:
    """A parser of one kind of file.

    Attributes:
        read: is given the path of one.
        errors: all that it may raise.
        header: where its structure ends, in bytes; None if there is nothing else in it.
        large: whether a valid one can have any size.
    """

    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...]
    header: int | None = None
    large: bool = False


PARSERS = {
    "manifest.json": Parser(read=read_release, errors=(BuildError,)),
    "evaluation.json": Parser(read=read_figures, errors=()),
    "models.lock.json": Parser(read=read_models_lock, errors=(BuildError,)),
    "images.lock.json": Parser(read=read_images_lock, errors=(BuildError,)),
    "scheme.toml": Parser(read=load_scheme, errors=(BuildError,)),
    "releases.toml": Parser(read=load_releases, errors=(BuildError,)),
    "config.json": Parser(
        read=lambda path: checkpoint_architecture(path.parent).shape.tensors, errors=(StepError,)
    ),
    INDEX: Parser(read=lambda path: weight_files(path.parent), errors=(StepError,)),
    "tokenizer_config.json": Parser(read=read_chat_template, errors=(StepError,)),
    "chat_template.jinja": Parser(read=read_chat_template, errors=(StepError,)),
    "tokenizer.model": Parser(read=read_tokenizer, errors=(StepError,)),
    "model.safetensors": Parser(read=read_tensors, errors=(StepError,), header=3000, large=True),
    "header.gguf": Parser(read=read_gguf_header, errors=(GgufError,), header=12000, large=True),
    "model.gguf": Parser(read=import_file, errors=(StepError,), header=12000, large=True),
    "valid.jsonl": Parser(read=read_questions, errors=(ValueError,)),
    "valid-labels.lst": Parser(read=read_questions, errors=(ValueError,)),
}
BOTH_ARE_READ = ("valid.jsonl", "valid-labels.lst")


def write_good(folder: Path) -> Path:
    """Write a valid file for each parser."""
    folder.mkdir(exist_ok=True)
    write_release(folder / "release")
    write_checkpoint(folder)
    question = {"goal": "To open a jar", "sol1": "turn the lid", "sol2": "turn the jar"}
    template = {"chat_template": [{"name": "default", "template": "{{ messages }}"}]}
    texts = {
        "manifest.json": (folder / "release" / "manifest.json").read_text(),
        "evaluation.json": (folder / "release" / "evaluation.json").read_text(),
        "models.lock.json": MODELS_LOCK.read_text(),
        "images.lock.json": IMAGES_LOCK.read_text(),
        "scheme.toml": (PINS_DIR / "schemes" / "dynamic_int4_block32.toml").read_text(),
        "releases.toml": '[[release]]\nmodel = "gemma3-270m"\nprefill_seq_lens = [128, 512]\n',
        INDEX: json.dumps({"weight_map": {"x": "model.safetensors"}}),
        "tokenizer_config.json": json.dumps(template),
        "chat_template.jinja": "{{ messages }}",
        "valid.jsonl": f"{json.dumps(question)}\n" * 3,
        "valid-labels.lst": "0\n1\n1\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    write_gguf(folder / "model.gguf")
    (folder / "header.gguf").write_bytes((folder / "model.gguf").read_bytes())
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_good(tmp_path_factory.mktemp("good"))


def only_its_error(path: Path, data: bytes) -> None:
    """Read ``data`` in the place of a valid file, which others of its folder may need."""
    parser, content = PARSERS[path.name], path.read_bytes()
    try:
        path.write_bytes(data)
        with contextlib.suppress(*parser.errors):
            parser.read(path)
    finally:
        path.write_bytes(content)


def test_what_is_good_is_read(good: Path) -> None:
    for name, parser in PARSERS.items():
        parser.read(good / name)


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_damaged_bytes_raise_nothing_else(good: Path, name: str, data: st.DataObject) -> None:
    path = good / name
    only_its_error(path, data.draw(damaged(path.read_bytes(), PARSERS[name].header)))


@pytest.mark.parametrize("name", [name for name in PARSERS if name.endswith(".json")])
@given(data=st.data())
def test_odd_values_raise_nothing_else(good: Path, name: str, data: st.DataObject) -> None:
    path = good / name
    only_its_error(path, data.draw(odd_json(path.read_bytes())))


@given(data=st.data())
def test_odd_tensors_raise_nothing_else(good: Path, data: st.DataObject) -> None:
    path = good / "model.safetensors"
    content = path.read_bytes()
    (size,) = struct.unpack_from("<Q", content)
    header = data.draw(odd_json(content[8 : 8 + size]))
    only_its_error(path, struct.pack("<Q", len(header)) + header + content[8 + size :])


def gguf(*parts: bytes, tensors: int = 0, entries: int = 0) -> bytes:
    return b"".join((b"GGUF", struct.pack("<IQQ", 3, tensors, entries), *parts))


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


TENSOR = text(b"token_embd.weight")
CLAIMING = {
    "tensors": gguf(tensors=1 << 60),
    "entries": gguf(entries=1 << 60),
    "key": gguf(struct.pack("<Q", 1 << 60), entries=1),
    "string": gguf(text(b"a"), struct.pack("<IQ", 8, 1 << 40), entries=1),
    "bytes": gguf(text(b"a"), struct.pack("<IIQ", 9, 0, 1 << 60), entries=1),
    "numbers": gguf(text(b"a"), struct.pack("<IIQ", 9, 4, 1 << 20), entries=1),
    "strings": gguf(text(b"a"), struct.pack("<IIQ", 9, 8, 1 << 60), entries=1),
    "lists": gguf(text(b"a"), struct.pack("<IIQ", 9, 9, 1), entries=1),
    "dimensions": gguf(TENSOR, struct.pack("<I", 1 << 31), tensors=1),
    "shape": gguf(TENSOR, struct.pack("<I2QIQ", 2, 1 << 30, 1 << 30, 0, 0), tensors=1),
    "offset": gguf(TENSOR, struct.pack("<IQIQ", 1, 1, 0, 1 << 60), tensors=1),
    "nothing": gguf(TENSOR, struct.pack("<IQIQ", 1, 0, 0, 0), tensors=1),
    "twice": gguf(*(text(b"a") + struct.pack("<IB", 0, 0) for _ in range(2)), entries=2),
    "text": gguf(text(b"\xff"), entries=1),
}


@pytest.mark.parametrize("claim", CLAIMING)
def test_a_gguf_header_that_claims_too_much_is_rejected(tmp_path: Path, claim: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(CLAIMING[claim])
    with pytest.raises(StepError, match="The GGUF file cannot be imported: ") as caught:
        import_file(path)
    assert caught.value.failure.code == "truncated"


LIMITED = f"""
import resource, sys
from contextlib import suppress
from pathlib import Path
from tests.fuzz.test_hostile import PARSERS
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + {MUCH},) * 2)
for path in map(Path, sys.argv[1:]):
    parser = PARSERS[path.name]
    with suppress(*parser.errors):
        parser.read(path)
    print(path)
"""


def test_what_claims_terabytes_needs_little_memory(tmp_path: Path) -> None:
    """Files of a terabyte, all but their start empty, and headers that claim as much."""
    good = write_good(tmp_path / "good")
    paths = []
    for name, parser in PARSERS.items():
        folder = tmp_path / f"large {name}"
        folder.mkdir()
        for other in BOTH_ARE_READ:
            (folder / other).write_bytes((good / other).read_bytes())
        with (folder / name).open("wb") as file:
            file.write((good / name).read_bytes())
            file.truncate(TERABYTE)
        paths += [] if parser.large else [folder / name]
    for claim, content in CLAIMING.items():
        folder = tmp_path / claim
        folder.mkdir()
        (folder / "header.gguf").write_bytes(content)
        paths.append(folder / "header.gguf")
    for size in CLAIMS[3:]:
        folder = tmp_path / f"{size}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + bytes(100))
        paths.append(folder / "model.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, paths)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == list(map(str, paths))
