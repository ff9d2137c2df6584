"""Log-likelihoods of PIQA's requests, computed in other ways than by the score export.

piqa_reference.py transformers CHECKPOINT REQUESTS   in the convert image: float32, by transformers
piqa_reference.py decode MODEL REQUESTS              in the harness image: the artifact's signatures
piqa_reference.py compare ANSWERS REFERENCE          anywhere: how far they agree

REQUESTS is the ``requests.json`` and ANSWERS the ``answers.jsonl`` of the step ``piqa``. The first
two print one number a line, in the order of the requests; REFERENCE is a file of such lines, and
may end early. The third prints JSON.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def read_requests(path: str) -> Iterator[tuple[list[int], int]]:
    """Yield the tokens of each request, and how many of the last ones are scored."""
    for item in json.loads(Path(path).read_text(encoding="utf-8")):
        yield item["tokens"], item["scored"]


def by_transformers(checkpoint: str, requests: str) -> Iterator[float]:
    """Yield the log-likelihood of each request by the checkpoint itself."""
    import torch
    from transformers import Gemma3ForCausalLM

    model = Gemma3ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    for tokens, scored in read_requests(requests):
        with torch.inference_mode():
            answer = model(torch.tensor([tokens[:-1]]), logits_to_keep=scored)
            found = torch.log_softmax(answer.logits[0].double(), dim=-1)
            picked = found.gather(1, torch.tensor(tokens[-scored:])[:, None])
        yield float(picked.sum())


def by_decode(path: str, requests: str) -> Iterator[float]:
    """Yield the log-likelihood of each request by a model's prefill and decode signatures."""
    from gemma3build.steps.evaluate.interpreter import TfliteModel, log_softmax

    model = TfliteModel(Path(path))
    length = model.prefill_lengths[0]
    for tokens, scored in read_requests(requests):
        rows = log_softmax(model.score(tokens[:-1], scored, length))
        yield float(rows[range(scored), tokens[-scored:]].sum())


def compare(answers: str, reference: str) -> Mapping[str, Any]:
    """Return accuracy of both on the questions that both have, and how far they agree.

    The differences are of log-likelihoods, in nats.
    """
    lines = Path(answers).read_text(encoding="utf-8").splitlines()
    ours = [json.loads(line) for line in lines]
    numbers = [float(line) for line in Path(reference).read_text(encoding="utf-8").splitlines()]
    theirs = list(zip(numbers[::2], numbers[1::2], strict=False))
    both = list(zip(ours, theirs, strict=False))
    chosen = [
        (found["log_likelihoods"].index(max(found["log_likelihoods"])), other.index(max(other)))
        for found, other in both
    ]
    labels = [found["label"] for found, _ in both]
    differences = [
        abs(mine - other)
        for found, others in both
        for mine, other in zip(found["log_likelihoods"], others, strict=True)
    ]
    return {
        "questions": len(both),
        "acc": statistics.mean(
            mine == label for (mine, _), label in zip(chosen, labels, strict=True)
        ),
        "reference_acc": statistics.mean(
            other == label for (_, other), label in zip(chosen, labels, strict=True)
        ),
        "same_answer": statistics.mean(mine == other for mine, other in chosen),
        "largest_difference": max(differences),
        "mean_difference": statistics.mean(differences),
    }


if __name__ == "__main__":
    if sys.argv[1] == "compare":
        print(json.dumps(compare(*sys.argv[2:])))
    else:
        for number in {"transformers": by_transformers, "decode": by_decode}[sys.argv[1]](
            *sys.argv[2:]
        ):
            print(number, flush=True)
