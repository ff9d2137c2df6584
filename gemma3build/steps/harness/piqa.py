"""PIQA on a score export, by lm-eval's task: its prompt, its metrics, its standard errors.

Inputs:
    model: a directory with a score export alone, quantized as the artifact is.
    artifact: a directory with the artifact alone, the ``.tflite`` of the release.
    tokenizer: a directory with ``tokenizer.model``.
    data: a directory with ``valid.jsonl`` and ``valid-labels.lst``, as PIQA publishes them.
Parameters:
    limit: how many questions are asked, from the start of the split, at least two; null asks all.
    own: whether ``data`` is a user's own, and not the dataset of ``pins/datasets.toml``.
Outputs:
    ``piqa.json``: a ``Piqa``.
    ``answers.jsonl``: for each question the log-likelihoods of its solutions and whether the model
    was right, to compare two runs question by question.
    ``requests.json``: the tokens of every prompt with its solution and how many of the last ones are
    scored, for another implementation to score.

A prompt is ``<bos>``, then ``Question: … Answer:``; the task adds no examples.
"""

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gemma3build.gemma.checkpoint import TOKENIZER
from gemma3build.gemma.piqa import data_digest, make_questions, read_data
from gemma3build.schema.evaluation import PIQA_FILE, Piqa
from gemma3build.schema.step import StepRequest
from gemma3build.util.machine import here, versions
from gemma3build.util.serialize import pretty_json

# Before the import below, which reads them: nothing is fetched, and caches go to scratch space.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HOME"] = str(Path(tempfile.gettempdir(), "hub"))

import sentencepiece
from datasets import Dataset
from lm_eval import simple_evaluate, tasks
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.tasks._yaml_loader import load_yaml

from gemma3build.steps.harness import packing
from gemma3build.steps.harness.fingerprint import reject_other_weights
from gemma3build.steps.harness.scorer import Scorer

TASK = "piqa"
SPLIT = "validation"
ANSWERS = "answers.jsonl"
REQUESTS = "requests.json"
PACKAGES = ("lm-eval", "ai-edge-litert", "numpy", "sentencepiece")


def run(request: StepRequest, output: Path) -> dict[str, Any]:
    """Ask the questions; return accuracy and how many were asked.

    Raises:
        StepError: the model's weights are not those of the artifact.
        ValueError: the data does not have the form of PIQA's.
    """
    start = time.monotonic()
    reject_other_weights(request.only_file("model"), request.only_file("artifact"))
    lines, labels = read_data(Path(request.inputs["data"]))
    limit = request.parameters["limit"]
    asked = len(lines) if limit is None else min(limit, len(lines))
    questions = make_questions(lines[:asked], labels[:asked])
    harness = Harness(request.only_file("model"), Path(request.inputs["tokenizer"]) / TOKENIZER)
    results = evaluate(harness, questions)
    figures = results["results"][TASK]
    result = Piqa(
        questions=asked,
        of=len(lines),
        acc=figures["acc,none"],
        acc_stderr=figures["acc_stderr,none"],
        acc_norm=figures["acc_norm,none"],
        acc_norm_stderr=figures["acc_norm_stderr,none"],
        own=request.parameters["own"],
        data=data_digest(lines[:asked], labels[:asked]),
        seconds=round(time.monotonic() - start, 3),
        runtime=versions(*PACKAGES),
        machine=here(),
    )
    (output / PIQA_FILE).write_bytes(pretty_json(result))
    write_answers(output / ANSWERS, results["samples"][TASK])
    (output / REQUESTS).write_text(json.dumps(harness.asked), encoding="utf-8")
    return {"acc": result.acc, "acc_norm": result.acc_norm, "questions": asked}


def evaluate(model: TemplateLM, questions: list[dict[str, Any]]) -> Mapping[str, Any]:
    """Return lm-eval's results for the model, with every sample.

    The task is lm-eval's file; only the source of its questions is changed.
    """

    def dataset(**_: object) -> Mapping[str, Dataset]:
        return {SPLIT: Dataset.from_list(questions)}

    task = load_yaml(Path(tasks.__file__).parent / TASK / f"{TASK}.yaml")
    results: Mapping[str, Any] = simple_evaluate(
        model,
        tasks=[{**task, "custom_dataset": dataset, "training_split": None}],
        # Without the index of all other tasks, which takes seconds.
        task_manager=tasks.TaskManager(include_defaults=False),
    )
    return results


def write_answers(path: Path, samples: Sequence[Mapping[str, Any]]) -> None:
    """Write one line for each question, in their order."""
    ordered = sorted(samples, key=lambda sample: int(sample["doc_id"]))
    lines = [
        json.dumps(
            {
                "label": int(sample["doc"]["label"]),
                "log_likelihoods": [float(answer[0]) for answer in sample["filtered_resps"]],
                "acc": int(sample["acc"]),
                "acc_norm": int(sample["acc_norm"]),
            }
        )
        for sample in ordered
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


class Harness(TemplateLM):  # type: ignore[misc]
    """A score export for lm-eval, which asks for log-likelihoods only.

    Attributes:
        asked: the last requests, in the form of ``requests.json``.
    """

    def __init__(self, model: Path, tokenizer: Path) -> None:
        """Load both."""
        super().__init__()
        self._scorer = Scorer(model)
        self._tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
        self.asked: list[dict[str, Any]] = []

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self._tokenizer.eos_id())

    @property
    def prefix_token_id(self) -> int:
        """The token that stands for an empty context."""
        return int(self._tokenizer.bos_id())

    def tok_encode(self, string: str, **options: object) -> list[int]:
        """Return the ids of a text, ``<bos>`` first by default."""
        ids = list(self._tokenizer.EncodeAsIds(string))
        bare = options.get("add_special_tokens") is False
        return ids if bare else [self.prefix_token_id, *ids]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: object
    ) -> list[tuple[float, bool]]:
        contexts: dict[str, int] = {}
        cut = [
            packing.cut(
                [*context, *continuation],
                len(continuation),
                self._scorer.length,
                contexts.setdefault(text, len(contexts)),
            )
            for (text, _), context, continuation in requests
        ]
        self.asked = [{"tokens": item.tokens, "scored": item.scored} for item in cut]
        return [(score.log_likelihood, score.greedy) for score in self._scorer.score(cut)]

    def loglikelihood_rolling(self, requests: list[Instance], **_: object) -> list[float]:
        """Fail: PIQA never asks for this."""
        raise NotImplementedError

    def generate_until(self, requests: list[Instance], **_: object) -> list[str]:
        """Fail: PIQA never asks for this."""
        raise NotImplementedError
