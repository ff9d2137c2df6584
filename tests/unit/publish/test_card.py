"""The model card: what the Hub reads of it, what people read, and that neither obeys what a release says."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from msgspec import structs

from gemma3build.errors import ErrorCode
from gemma3build.publish import Rule
from gemma3build.publish.card import Subject, cell, read_prose, render_card
from gemma3build.publish.rules import Violation
from gemma3build.schema.evaluation import EVALUATION, Evaluation, Piqa, Speed
from gemma3build.schema.manifest import MANIFEST, Manifest
from gemma3build.util.git import GitRevision
from gemma3build.util.serialize import decode, decode_json, encode
from tests.support.errors import raises
from tests.support.release import TASK, TFLITE, figures, write_release

MEASURED = figures("A | <b>processor</b>")
PIQA = decode(Piqa, MEASURED["piqa"], "piqa")
SPEED = decode(Speed, MEASURED["speed"], "speed")


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    folder = write_release(tmp_path / "release")
    manifest = decode_json(Manifest, (folder / MANIFEST).read_bytes(), MANIFEST)
    evaluation = decode_json(Evaluation, (folder / EVALUATION).read_bytes(), EVALUATION)
    checkpoint = structs.replace(
        manifest.checkpoint, source="google/gemma-3-270m", base_model="google/gemma-3-270m"
    )
    schemes = tuple(structs.replace(item, piqa=PIQA, speed=SPEED) for item in evaluation.schemes)
    return Subject(
        repo="org/gemma",
        manifest=structs.replace(manifest, checkpoint=checkpoint),
        evaluation=structs.replace(evaluation, schemes=schemes),
        source=GitRevision(commit="c" * 40, dirty=False),
    )


def front_matter(card: str) -> Any:
    return ModelCard(card).data.to_dict()


def test_the_front_matter_is_what_the_hub_knows(subject: Subject) -> None:
    found = front_matter(render_card(subject))
    assert {key: found[key] for key in list(found) if not key.startswith(("extra", "tags"))} == {
        "license": "gemma",
        "base_model": "google/gemma-3-270m",
        "base_model_relation": "quantized",
        "pipeline_tag": "text-generation",
        "library_name": "litert-lm",
    }
    assert {"gemma3", "litert-lm", "mediapipe"} <= set(found["tags"])
    assert "Prohibited Use Policy" in found["extra_gated_prompt"]
    assert found["extra_gated_heading"]
    assert found["extra_gated_button_content"]


def test_a_checkpoint_of_ones_own_has_no_base_model(subject: Subject) -> None:
    checkpoint = structs.replace(subject.manifest.checkpoint, source="local", base_model="")
    local = dataclasses.replace(
        subject, manifest=structs.replace(subject.manifest, checkpoint=checkpoint)
    )
    card = render_card(local)
    assert not {"base_model", "base_model_relation"} & set(front_matter(card))
    assert "A Gemma 3 model for LiteRT, MediaPipe and LiteRT-LM" in card
    assert "gemma3build rebuild hf://org/gemma --checkpoint DIR" in card


def test_every_figure_stands_beside_the_machine_that_it_was_measured_on(subject: Subject) -> None:
    card = render_card(subject)
    row = next(line for line in card.splitlines() if line.startswith("| `fp16` | 66.8"))
    assert row == "| `fp16` | 66.8 ± 1.1 | 67.1 | — | 534.0 tokens/s | 67.0 tokens/s | 481.0 MB |"
    machine = r"A \| \<b\>processor\</b\>, 2 cores, 8.0 GiB of memory"
    assert card.count(machine) == 2
    assert "all 1,838 questions" in card


def test_what_was_not_measured_is_a_dash(subject: Subject) -> None:
    assert subject.evaluation is not None
    schemes = tuple(
        structs.replace(item, piqa=None, speed=None) for item in subject.evaluation.schemes
    )
    bare = structs.replace(subject.evaluation, schemes=schemes)
    assert "| `fp16` | — | — | — | — | — | — |" in render_card(
        dataclasses.replace(subject, evaluation=bare)
    )
    assert "## Quality" not in render_card(dataclasses.replace(subject, evaluation=None))


def test_every_file_is_named_with_its_digest_and_how_to_run_it(subject: Subject) -> None:
    card = render_card(subject)
    for item in subject.manifest.artifacts:
        assert f"| `{item.sha256}` | `{item.path}` |" in card
    assert f'lm.Engine("{TASK}"' in card  # it has no .litertlm
    assert f'.setModelPath("/data/local/tmp/llm/{TASK}")' in card
    assert f'modelAssetPath: "{TASK}"' in card
    assert f"| `{TFLITE}` | `dynamic_int8` | LiteRT; it is also" in card
    for text in ("git checkout " + "c" * 40, "gemma3build verify hf://org/gemma "):
        assert text in card


@pytest.mark.parametrize(
    ("version", "requirement"),
    [("0.19.0", "litert-lm-api==0.19.0"), ("1; rm -r .", "litert-lm-api"), ("", "litert-lm-api")],
)
def test_the_runtime_to_install_is_that_of_the_gate(
    subject: Subject, version: str, requirement: str
) -> None:
    assert subject.evaluation is not None
    schemes = tuple(
        structs.replace(item, gate=structs.replace(item.gate, runtime={"litert-lm-api": version}))
        for item in subject.evaluation.schemes
    )
    measured = structs.replace(subject.evaluation, schemes=schemes)
    card = render_card(dataclasses.replace(subject, evaluation=measured))
    assert f"python -m pip install {requirement}\n" in card


def test_what_has_a_tag_is_found_by_it(subject: Subject) -> None:
    tagged = render_card(dataclasses.replace(subject, tag="v1"))
    for command in ("verify", "verify --full", "rebuild"):
        assert f"gemma3build {command} hf://org/gemma@v1" in tagged
    assert "hf://org/gemma@" not in render_card(subject)


def test_terms_and_changes_are_said(subject: Subject) -> None:
    card = " ".join(render_card(subject).split())
    assert "Gemma is provided under and subject to the Gemma Terms of Use found at" in card
    assert "`GEMMA_TERMS_OF_USE.md` is a copy of the terms" in card
    assert "It quantized the weights by the schemes below" in card
    assert "- `dynamic_int8`: int8 weights" in card


def test_own_prose_stands_before_the_generated_part(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("# Mine\n\nFor {{ reader }}.\n")
    card = render_card(dataclasses.replace(subject, prose=read_prose(tmp_path / "card.md")))
    assert card.index("# Mine\n\nFor {{ reader }}.") < card.index("## Files")
    assert "# gemma\n" not in card


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"---\nlicense: mit\n---\n", "it has front matter"),
        (b"\xff\xfe", "not a small UTF-8 text file"),
        (None, "No such file"),
    ],
)
def test_prose_that_cannot_be_used_is_refused(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    if content is not None:
        (tmp_path / "card.md").write_bytes(content)
    with raises(ErrorCode.PUBLICATION, match=why):
        read_prose(tmp_path / "card.md")


def test_a_skipped_rule_stands_above_the_files(subject: Subject) -> None:
    skipped = (Violation(rule=Rule.PIQA, why="PIQA was not measured", hint=""),)
    card = render_card(dataclasses.replace(subject, skipped=skipped))
    assert card.index("> - PIQA was not measured (`piqa`)") < card.index("## Files")
    assert "skipped" not in render_card(subject)


def test_a_card_is_the_same_for_the_same_release(subject: Subject) -> None:
    again = decode(Manifest, encode(subject.manifest), MANIFEST)
    assert render_card(subject) == render_card(dataclasses.replace(subject, manifest=again))


def test_nothing_that_a_release_says_is_obeyed() -> None:
    assert cell("a|b\n# <img> [x](y) `z`\x1b") == r"a\|b # \<img\> \[x\](y) \`z\`␛"
