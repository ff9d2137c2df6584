"""LiteRT-LM on the CPU, as an app on a phone uses it."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import litert_lm


@contextlib.contextmanager
def open_engine(path: Path) -> Iterator[litert_lm.Engine]:
    """Open a ``.task`` or a ``.litertlm``; closes the engine and removes its weight cache at the end.

    Raises:
        RuntimeError: LiteRT-LM cannot load it.
    """
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
    with (
        tempfile.TemporaryDirectory() as scratch,  # else it writes next to the file
        litert_lm.Engine(str(path), backend=litert_lm.Backend.CPU(), cache_dir=scratch) as engine,
    ):
        yield engine


def continuation(engine: litert_lm.Engine, prompt: str, new: int) -> str:
    """Return the greedy continuation of a prompt, of at most ``new`` tokens; raises RuntimeError."""
    with engine.create_session(
        apply_prompt_template=False,
        sampler_config=litert_lm.SamplerConfig(top_k=1),
        max_output_tokens=new,
    ) as session:
        session.run_prefill([prompt])
        (text,) = session.run_decode().texts
    return str(text)


def turn(engine: litert_lm.Engine, message: str) -> str:
    """Return a user's message in the file's chat template; empty if the template cannot be applied."""
    with engine.create_conversation() as conversation:
        return str(conversation.render_message_to_string(message))


def stop_tokens(engine: litert_lm.Engine) -> set[int]:
    """Return the ids of the stop tokens that the file names."""
    return {token for tokens in engine.eos_token_ids for token in tokens}
