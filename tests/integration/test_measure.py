"""The measuring steps on a tiny checkpoint: PIQA's figures are the artifact's own, and speed."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from gemma3build.engine.cache import Cache
from gemma3build.engine.container import Containers, Mount
from gemma3build.engine.images import Images
from gemma3build.engine.runner import cache_dir
from gemma3build.errors import ErrorCode
from gemma3build.gemma.graph import FLOAT_MODEL
from gemma3build.pins.config import load_images
from gemma3build.plan.graph import Step
from gemma3build.schema.evaluation import PIQA_FILE, SPEED_FILE, Piqa, Speed
from gemma3build.schema.step import OUTPUT_DIR, RESULT_FILE
from gemma3build.util.git import PACKAGE_DIR
from gemma3build.util.serialize import decode_json
from tests.e2e.piqa_reference import compare
from tests.support.checkpoint import write_checkpoint
from tests.support.errors import raises

pytestmark = pytest.mark.integration

LENGTH = 256
ALL = {"limit": None, "own": True}
INT8 = {name: {"bits": 8} for name in ("embedding", "attention", "feed_forward")}
# The tiny tokenizer has a token for each byte. The last two questions are too long for one tree and
# for one call.
SOLUTIONS = [
    ("to open a jar", "tap its lid", "tap its label", 0),
    ("keep soup warm", "put it in a sieve", "put it in a flask", 1),
    ("dry a wet shoe", "fill it with paper", "fill it with water", 0),
    ("hang a picture", "a nail", "a noodle and some patience", 0),
    ("cross a stream", "step on the flat stones " * 6, "jump in with your boots on " * 5, 0),
    ("sort old screws " * 14, "by length, and then by head", "by taste, and then by smell", 0),
]


@dataclass(frozen=True, slots=True)
class Lab:
    """Runs steps one by one, without a plan."""

    client: docker.DockerClient
    folder: Path

    def image(self, name: str) -> Any:
        return Images(self.client, Cache(cache_dir()), load_images(), print).ensure(name)

    def run(
        self, module: str, parameters: Mapping[str, Any], **inputs: Path
    ) -> tuple[Path, dict[str, Any]]:
        """Return a step's output and its facts."""
        key = uuid.uuid4().hex
        staged = self.folder / f"{module}-{key[:8]}"
        for name in (OUTPUT_DIR, "scratch"):
            (staged / name).mkdir(parents=True)
        targets = {name: f"/inputs/{name}" for name in inputs}
        step = Step(name=module, module=module, parameters=parameters, inputs={}, memory=0, disk=0)
        Containers(self.client, epoch=load_images().source_date_epoch).run(
            step,
            image=self.image(step.image),
            staged=staged,
            inputs=targets,
            mounts=[Mount(path, targets[name]) for name, path in inputs.items()],
            on_memory=lambda _: None,
        )
        facts = json.loads((staged / RESULT_FILE).read_bytes())["facts"]
        return staged / OUTPUT_DIR, facts

    def decode(self, model: Path, requests: Path) -> str:
        """Return the log-likelihoods of requests by an artifact's own signatures, one a line."""
        folders = {
            PACKAGE_DIR: "/src/gemma3build",
            Path(__file__).parents[1] / "e2e": "/tests",
            model: "/model.tflite",
            requests: "/requests.json",
        }
        output: bytes = self.client.containers.run(
            self.image("harness").image_id,
            ["python", "/tests/piqa_reference.py", "decode", "/model.tflite", "/requests.json"],
            environment={"PYTHONPATH": "/src"},
            network_mode="none",
            remove=True,
            volumes={str(path): {"bind": to, "mode": "ro"} for path, to in folders.items()},
        )
        return output.decode()


@pytest.fixture(scope="module")
def lab(client: docker.DockerClient, images: None, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(client, tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def float_models(lab: Lab, tiny: Path) -> tuple[Path, Path]:
    """Directories with the artifact and the score export, both float32."""
    shapes = {
        "prefill_seq_lens": [64],
        "kv_cache_max_len": LENGTH,
        "mask_as_input": True,
        "lean": True,
    }
    artifact, _ = lab.run("convert.export", shapes, checkpoint=tiny)
    score, _ = lab.run("convert.export_score", {"length": LENGTH}, checkpoint=tiny)
    return artifact, score


@pytest.fixture(scope="module")
def int8_models(lab: Lab, float_models: tuple[Path, Path]) -> tuple[Path, Path]:
    """The same, quantized."""
    parameters = {"groups": INT8, "file_name": FLOAT_MODEL}
    artifact, facts = lab.run("convert.quantize", parameters, model=float_models[0])
    score, score_facts = lab.run("convert.quantize", parameters, model=float_models[1])
    assert score_facts == facts
    return artifact, score


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions in PIQA's own form."""
    folder = tmp_path_factory.mktemp("piqa")
    lines = [
        json.dumps({"goal": goal, "sol1": first, "sol2": second})
        for goal, first, second, _ in SOLUTIONS
    ]
    (folder / "valid.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "valid-labels.lst").write_text("".join(f"{item[3]}\n" for item in SOLUTIONS))
    return folder


@pytest.fixture(scope="module")
def tokenizer(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.model").hardlink_to(tiny / "tokenizer.model")
    return folder


@pytest.mark.parametrize("models", ["float_models", "int8_models"])
def test_packed_questions_score_as_in_the_artifact_one_token_at_a_time(
    lab: Lab,
    data: Path,
    tokenizer: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    models: str,
) -> None:
    artifact, score = request.getfixturevalue(models)
    output, facts = lab.run(
        "harness.piqa", ALL, model=score, artifact=artifact, tokenizer=tokenizer, data=data
    )
    asked = json.loads((output / "requests.json").read_text())
    assert [len(item["tokens"]) > LENGTH for item in asked].count(True) == 2
    assert asked[0]["tokens"][0] == 2
    reference = tmp_path / "reference.txt"
    reference.write_text(lab.decode(artifact / FLOAT_MODEL, output / "requests.json"))
    found = compare(str(output / "answers.jsonl"), str(reference))
    assert found["questions"] == len(SOLUTIONS)
    # Logits are equal to the bit, but the harness sums their exponentials in float32.
    assert found["largest_difference"] < 1e-4
    assert found["acc"] == facts["acc"]


def test_the_figures_are_those_of_the_answers(
    lab: Lab, int8_models: tuple[Path, Path], data: Path, tokenizer: Path
) -> None:
    artifact, score = int8_models
    inputs = {"model": score, "artifact": artifact, "tokenizer": tokenizer, "data": data}
    output, facts = lab.run("harness.piqa", {"limit": 4, "own": True}, **inputs)
    piqa = decode_json(Piqa, (output / PIQA_FILE).read_bytes(), PIQA_FILE)
    answers = [json.loads(line) for line in (output / "answers.jsonl").read_text().splitlines()]
    assert (piqa.questions, piqa.of, piqa.own) == (4, len(SOLUTIONS), True)
    assert facts == {"acc": piqa.acc, "acc_norm": piqa.acc_norm, "questions": 4}
    assert piqa.acc == sum(item["acc"] for item in answers) / 4
    assert piqa.acc_norm == sum(item["acc_norm"] for item in answers) / 4
    assert piqa.acc_stderr == pytest.approx((piqa.acc * (1 - piqa.acc) / 3) ** 0.5)
    for item, (_, *solutions, label) in zip(answers, SOLUTIONS, strict=False):
        scores = item["log_likelihoods"]
        assert item["label"] == label
        assert item["acc"] == (scores.index(max(scores)) == label)
        lengths = [score / len(solution) for score, solution in zip(scores, solutions, strict=True)]
        assert item["acc_norm"] == (lengths.index(max(lengths)) == label)
    again, _ = lab.run("harness.piqa", {"limit": 4, "own": True}, **inputs)
    assert (again / "answers.jsonl").read_bytes() == (output / "answers.jsonl").read_bytes()


def test_a_model_with_other_weights_than_the_artifact_is_not_asked(
    lab: Lab, int8_models: tuple[Path, Path], data: Path, tokenizer: Path, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, seed=1)
    shapes = {"prefill_seq_lens": [8], "kv_cache_max_len": 64, "mask_as_input": True, "lean": True}
    exported, _ = lab.run("convert.export", shapes, checkpoint=tmp_path)
    parameters = {"groups": INT8, "file_name": FLOAT_MODEL}
    other, _ = lab.run("convert.quantize", parameters, model=exported)
    inputs = {"model": int8_models[1], "artifact": other, "tokenizer": tokenizer, "data": data}
    with raises(ErrorCode.OTHER_WEIGHTS, match="now gives other weights"):
        lab.run("harness.piqa", ALL, **inputs)


def test_labels_that_do_not_fit_the_questions_are_refused(
    lab: Lab, int8_models: tuple[Path, Path], data: Path, tokenizer: Path, tmp_path: Path
) -> None:
    (tmp_path / "valid.jsonl").write_bytes((data / "valid.jsonl").read_bytes())
    (tmp_path / "valid-labels.lst").write_text("0\n1\n")
    artifact, score = int8_models
    inputs = {"model": score, "artifact": artifact, "tokenizer": tokenizer, "data": tmp_path}
    with raises(ErrorCode.INTERNAL, match="has 6 questions, valid-labels.lst has 2 labels"):
        lab.run("harness.piqa", ALL, **inputs)


def test_a_bundle_is_measured(lab: Lab, int8_models: tuple[Path, Path], tokenizer: Path) -> None:
    bundle, _ = lab.run(
        "bundle.task", {"file_name": "t.task"}, model=int8_models[0], tokenizer=tokenizer
    )
    output, facts = lab.run("evaluate.speed", {"runs": 3}, bundle=bundle)
    speed = decode_json(Speed, (output / SPEED_FILE).read_bytes(), SPEED_FILE)
    # A cache of 256 positions holds the prompt twice, as the benchmark counts, and what follows.
    assert (speed.prefill_tokens, speed.decode_tokens, speed.runs) == (96, 64, 3)
    assert facts == {"prefill_tokens": 96, "decode_tokens": 64, "runs": 3}
    assert speed.prefill > speed.decode > 0
    assert 10e6 < speed.peak_memory < 1e9
    assert set(speed.runtime) == {"litert-lm-api"}
