"""Bundle a ``.tflite`` and a tokenizer into a ``.task`` by MediaPipe's bundler, then stabilize it.

Inputs:
    model: a directory with the ``.tflite`` alone.
    tokenizer: a directory with ``tokenizer.model`` alone.
Parameters:
    file_name: name of the output.
Outputs:
    the ``.task``.

The tokens and prompts are those of the converter's Gemma 3 page.
"""

import importlib.util
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

from gemma3build.formats.task import stabilize
from gemma3build.gemma.prompts import PROMPT_PREFIX, PROMPT_SUFFIX, START_TOKEN, STOP_TOKENS
from gemma3build.schema.step import StepRequest
from gemma3build.util.files import read_blocks, sha256_blocks


def run(request: StepRequest, output: Path) -> dict[str, Any]:
    """Write the bundle; return the digest of each of its members."""
    target = output / request.parameters["file_name"]
    llm_bundler = import_bundler()
    llm_bundler.create_bundle(
        llm_bundler.BundleConfig(
            tflite_model=str(request.only_file("model")),
            tokenizer_model=str(request.only_file("tokenizer")),
            start_token=START_TOKEN,
            stop_tokens=list(STOP_TOKENS),
            output_filename=str(target),
            prompt_prefix=PROMPT_PREFIX,
            prompt_suffix=PROMPT_SUFFIX,
        )
    )
    stabilize(target)
    return {"members": member_digests(target)}


def import_bundler() -> Any:
    """Return MediaPipe's bundler without the packages around it.

    Importing ``mediapipe`` loads OpenCV, jax and audio devices, which a bundle does not need. Here its
    parent packages are bare ones, which have a path and run no code.
    """
    spec = importlib.util.find_spec("mediapipe")
    root = Path(spec.submodule_search_locations[0])  # type: ignore[union-attr, index]
    for name in ("mediapipe", "mediapipe.tasks", "mediapipe.tasks.python"):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    return importlib.import_module("mediapipe.tasks.python.genai.bundler.llm_bundler")


def member_digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 of every member of an archive."""
    digests = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                digests[name] = sha256_blocks(read_blocks(member))
    return digests
