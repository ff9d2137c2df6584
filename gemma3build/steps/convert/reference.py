"""Run the checkpoint on the fixed prompts, by transformers in float32.

Inputs:
    checkpoint: the directory with config.json, safetensors and tokenizer.model, as ``check`` passed it.
Parameters:
    longest: tokens that a prompt is cut to.
Outputs:
    ``reference.json``, and ``logits.npy``: float32, ``[positions, vocabulary]``, the rows of each
    prompt's last tokens in the order of ``reference.json``.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import transformers

from gemma3build.gemma.checkpoint import TOKENIZER
from gemma3build.gemma.prompts import (
    LOGITS,
    REFERENCE,
    SAMPLES,
    STOP_TOKENS,
    TEXTS,
    Continuation,
    Prompt,
    Reference,
    make_prompt,
    sample_room,
)
from gemma3build.schema.step import StepRequest
from gemma3build.steps.convert.loading import loadable
from gemma3build.util.serialize import pretty_json


def run(request: StepRequest, output: Path) -> dict[str, Any]:
    """Run the checkpoint; return the program that made the reference."""
    checkpoint = Path(request.inputs["checkpoint"])
    longest = request.parameters["longest"]
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(checkpoint / TOKENIZER))
    # Runs no code of the checkpoint, and opens no pickle.
    model = transformers.Gemma3ForCausalLM.from_pretrained(
        loadable(checkpoint, Path(tempfile.gettempdir(), "checkpoint")),
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
    ).eval()

    def prompt(name: str, text: str, room: int) -> Prompt:
        return make_prompt(name, tokenizer.EncodeAsIds(text), tokenizer.bos_id(), room)

    prompts = tuple(prompt(name, text, longest) for name, text in TEXTS.items())
    room, new = sample_room(longest)
    samples = tuple(prompt(name, text, room) for name, text in SAMPLES.items())
    stop_ids = [tokenizer.PieceToId(piece) for piece in STOP_TOKENS]
    reference = Reference(
        made_by=f"transformers {transformers.__version__}, float32",
        prompts=prompts,
        continuations=tuple(continuation(model, sample, new, stop_ids) for sample in samples),
    )
    (output / REFERENCE).write_bytes(pretty_json(reference))
    np.save(output / LOGITS, np.concatenate([logits(model, item) for item in prompts]))
    return {"made_by": reference.made_by}


def logits(model: Any, prompt: Prompt) -> np.ndarray:
    """Return the logits after the scored tokens, float32, ``[scored, vocabulary]``."""
    # The last token has no next one in the text.
    tokens = torch.tensor([prompt.tokens[:-1]])
    with torch.inference_mode():
        answer = model(tokens, logits_to_keep=prompt.scored)
    rows: np.ndarray = answer.logits[0].numpy()
    return rows


def continuation(model: Any, prompt: Prompt, new: int, stop_ids: list[int]) -> Continuation:
    """Return the greedy continuation of a prompt."""
    tokens = torch.tensor([prompt.tokens])
    with torch.inference_mode():
        answer = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=stop_ids,
            pad_token_id=0,
        )
    generated = answer[0, len(prompt.tokens) :].tolist()
    stopped = bool(generated) and generated[-1] in stop_ids
    return Continuation(
        name=prompt.name,
        prompt=prompt.tokens,
        tokens=tuple(generated[:-1] if stopped else generated),
        stopped=stopped,
    )
