"""The formats of a release's artifacts, by suffix: how they differ for readers of a release."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gemma3build.formats import litertlm, task, tflite
from gemma3build.formats.flatbuffer import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format of artifacts.

    Attributes:
        runtime: names of the runtimes that read such a file.
        part: the word for one of its parts.
        read_parts: returns the span of each part; raises ValueError for a file that is not safe.
        facts: which of an artifact's facts has the digests of its parts; empty for none.
        model: the part with the ``.tflite`` of the same scheme, of a format that holds one.
        tokenizer: the part with the checkpoint's tokenizer.
        varies: known differences between two runs of its writer, in words.
        stabilize: takes that out of a file in place; the second argument is SOURCE_DATE_EPOCH, in seconds.
    """

    runtime: str
    part: str
    read_parts: Callable[[Path], dict[str, Span]]
    facts: str = ""
    model: str = ""
    tokenizer: str = ""
    varies: str = ""
    stabilize: Callable[[Path, int], object] | None = None


FORMATS: Mapping[str, Format] = {
    ".litertlm": Format(
        runtime="LiteRT-LM",
        part="section",
        read_parts=litertlm.read_sections,
        facts="sections",
        model="TFLiteModel",
        tokenizer="SP_Tokenizer",
        varies="uuid and clock of the header",
        stabilize=litertlm.stabilize,
    ),
    ".task": Format(
        runtime="MediaPipe LLM Inference, LiteRT-LM",
        part="member",
        read_parts=task.read_members,
        facts="members",
        model="TF_LITE_PREFILL_DECODE",
        tokenizer="TOKENIZER_MODEL",
        varies="clock of the zip members",
        stabilize=lambda path, _: task.stabilize(path),
    ),
    ".tflite": Format(
        runtime="LiteRT; it is also the model in the other two",
        part="buffer",
        read_parts=tflite.read_buffers,
    ),
}
# The formats that hold a model.
BUNDLES = {suffix: kind for suffix, kind in FORMATS.items() if kind.facts}
