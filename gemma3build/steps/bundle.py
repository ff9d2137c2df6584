"""Bundle a ``.tflite`` and a tokenizer into a ``.task`` by MediaPipe's bundler, then stabilize it.

Inputs:
    model: the ``.tflite``.
    tokenizer: ``tokenizer.model``.
Parameters:
    file_name: name of the output.
Outputs:
    the ``.task``.

The tokens and prompts are those of the converter's Gemma 3 page.
"""

import hashlib
import importlib.util
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

from gemma3build.core.step import StepRequest

START_TOKEN = "<bos>"  # noqa: S105 - not a password
STOP_TOKENS = ("<eos>", "<end_of_turn>")
PROMPT_PREFIX = "<start_of_turn>user\n"
PROMPT_SUFFIX = "<end_of_turn>\n<start_of_turn>model\n"

# What a runtime maps into memory must lie at a multiple of 4: MediaPipe's own alignment.
ALIGNMENT = 4
# The earliest time that a zip archive can hold.
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
LOCAL_HEADER = 30  # bytes of a local file header before the name: APPNOTE.TXT, 4.3.7
COPY_SIZE = 1 << 20


def run(request: StepRequest, output: Path) -> dict[str, Any]:
    """Write the bundle; return the digest of each of its members."""
    target = output / request.parameters["file_name"]
    raw = output.parent / f"bundler-{target.name}"
    llm_bundler = import_bundler()
    llm_bundler.create_bundle(
        llm_bundler.BundleConfig(
            tflite_model=request.inputs["model"],
            tokenizer_model=request.inputs["tokenizer"],
            start_token=START_TOKEN,
            stop_tokens=list(STOP_TOKENS),
            output_filename=str(raw),
            prompt_prefix=PROMPT_PREFIX,
            prompt_suffix=PROMPT_SUFFIX,
        )
    )
    stabilize(raw, target)
    raw.unlink()
    return {"members": member_digests(target)}


def import_bundler() -> Any:
    """Return MediaPipe's bundler without the packages around it.

    Importing ``mediapipe`` loads OpenCV, jax and audio devices, none of which a bundle needs. Here its
    parent packages are bare ones, which know their path and run no code.
    """
    spec = importlib.util.find_spec("mediapipe")
    root = Path(spec.submodule_search_locations[0])  # type: ignore[union-attr, index]
    for name in ("mediapipe", "mediapipe.tasks", "mediapipe.tasks.python"):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    return importlib.import_module("mediapipe.tasks.python.genai.bundler.llm_bundler")


def stabilize(raw: Path, target: Path) -> None:
    """Write the archive ``raw`` again with fixed times, order, flags and alignment.

    What differs between two runs of the bundler is the clock in every header. Members are stored, not
    compressed, byte for byte as the bundler wrote them, in the order of their names.
    """
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(target, "w") as archive:
        for name in sorted(source.namelist()):
            member = zipfile.ZipInfo(name, ZIP_EPOCH)
            member.create_system = 3  # Unix, where this runs; the default depends on the machine
            member.external_attr = 0o644 << 16
            member.file_size = source.getinfo(name).file_size
            offset = archive.fp.tell() + LOCAL_HEADER + len(name.encode())  # type: ignore[union-attr]
            member.extra = bytes(padding(offset))
            with source.open(name) as reader, archive.open(member, "w") as writer:
                while block := reader.read(COPY_SIZE):
                    writer.write(block)


def padding(offset: int) -> int:
    """Return how many bytes of padding take ``offset`` to the alignment."""
    return -offset % ALIGNMENT


def member_digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 of every member of an archive."""
    digests = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            digest = hashlib.sha256()
            with archive.open(name) as member:
                while block := member.read(COPY_SIZE):
                    digest.update(block)
            digests[name] = digest.hexdigest()
    return digests
