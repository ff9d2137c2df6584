"""Package a ``.tflite`` and a tokenizer into a ``.litertlm`` by LiteRT-LM's builder, then stabilize it.

Inputs:
    model: a directory with the ``.tflite`` alone.
    tokenizer: a directory with ``tokenizer.model`` alone.
    chat_template: a directory with the file that has the checkpoint's chat template; optional.
Parameters:
    file_name: name of the output.
    kv_cache_max_len: length of the model's key-value cache, in tokens.
Outputs:
    the ``.litertlm``.

Tokens and prompts are those of the ``.task``. Without a chat template the runtime makes one from the
prompts.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from litert_lm_builder import LitertLmFileBuilder, TfLiteModelType
from litert_lm_builder.runtime.proto.llm_metadata_pb2 import LlmMetadata

from gemma3build.formats.litertlm import TIME, Header, read_header, stabilize, stable_time
from gemma3build.gemma.checkpoint import read_chat_template
from gemma3build.gemma.prompts import (
    MODEL_PREFIX,
    START_TOKEN,
    STOP_TOKENS,
    TURN_SUFFIX,
    USER_PREFIX,
)
from gemma3build.schema.step import StepRequest


def run(request: StepRequest, output: Path) -> dict[str, Any]:
    """Write the file; return the digest of each of its sections."""
    target = output / request.parameters["file_name"]
    metadata = model_metadata(request.parameters["kv_cache_max_len"])
    if "chat_template" in request.inputs:
        template = read_chat_template(request.only_file("chat_template"))
        if template:
            metadata.jinja_prompt_template = template
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    header = build_package(
        target, metadata, request.only_file("tokenizer"), request.only_file("model")
    )
    while len(header.text(TIME)) != len(stable_time(epoch)):
        # Once in a million runs the clock is at a whole second, and is written without a fraction.
        header = build_package(
            target, metadata, request.only_file("tokenizer"), request.only_file("model")
        )
    return {"sections": stabilize(target, epoch)}


def model_metadata(cache: int) -> LlmMetadata:
    """Return the metadata of the model for LiteRT-LM."""
    metadata = LlmMetadata(
        max_num_tokens=cache, supports_thinking=False, supports_function_calling=False
    )
    metadata.start_token.token_str = START_TOKEN
    for token in STOP_TOKENS:
        metadata.stop_tokens.add(token_str=token)
    metadata.llm_model_type.gemma3.SetInParent()
    templates = metadata.prompt_templates
    templates.user.prefix, templates.user.suffix = USER_PREFIX, TURN_SUFFIX
    templates.model.prefix, templates.model.suffix = MODEL_PREFIX, TURN_SUFFIX
    return metadata


def build_package(target: Path, metadata: LlmMetadata, tokenizer: Path, model: Path) -> Header:
    """Write a file by LiteRT-LM's builder; return its header."""
    with tempfile.NamedTemporaryFile() as proto:  # the builder takes paths only
        proto.write(metadata.SerializeToString(deterministic=True))
        proto.flush()
        builder = LitertLmFileBuilder()
        builder.add_llm_metadata(proto.name)
        builder.add_sentencepiece_tokenizer(str(tokenizer))
        builder.add_tflite_model(str(model), TfLiteModelType.PREFILL_DECODE)
        with target.open("wb") as file:
            builder.build(file, validate_metadata=True)
    with target.open("rb") as file:
        return read_header(file, target.stat().st_size)
