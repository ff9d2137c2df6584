"""The rules that a release must meet to be published, and how you skip one."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from gemma3build.errors import ErrorCode
from gemma3build.release.checksums import PROVENANCE
from gemma3build.schema.evaluation import EVALUATION
from gemma3build.schema.manifest import MANIFEST
from gemma3build.util.files import sha256_bytes
from tests.support.hub import Hub
from tests.support.publishing import (
    MEASURED,
    REPO,
    failed,
    head,
    measure,
    measured_release,
    name_source,
    publish,
    run,
)
from tests.support.release import (
    TFLITE,
    edit_json,
    seal,
    write_provenance,
)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return measured_release(tmp_path / "release")


def fail_gate(folder: Path) -> None:
    edit_json(
        folder / EVALUATION,
        lambda found: found["schemes"][1]["gate"]["checks"][0].update(passed=False),
    )


def shorten_notice(folder: Path) -> None:
    (folder / "Notice").write_text("Gemma")
    seal(folder)
    name_source(folder)


def lose_agreement(folder: Path) -> None:
    (folder / "GEMMA_TERMS_OF_USE.md").unlink()
    edit_json(folder / MANIFEST, lambda found: found["terms"].remove("GEMMA_TERMS_OF_USE.md"))
    digest = sha256_bytes((folder / MANIFEST).read_bytes())
    edit_json(folder / EVALUATION, lambda found: found.update(manifest=digest))
    seal(folder)
    name_source(folder)


BROKEN: Mapping[str, tuple[str, Callable[[Path], object], str]] = {
    "gate": ("gate", fail_gate, "fp16 failed the quality gate"),
    "no evaluation": (
        "gate",
        lambda folder: (folder / EVALUATION).unlink(),
        "it has no evaluation that compares it",
    ),
    "piqa": ("piqa", lambda folder: measure(folder, piqa=None), "PIQA of dynamic_int8, fp16"),
    "quick look": (
        "piqa",
        lambda folder: measure(folder, piqa={**MEASURED["piqa"], "questions": 100}),
        "was not measured in full",
    ),
    "own questions": (
        "piqa",
        lambda folder: measure(folder, piqa={**MEASURED["piqa"], "own": True}),
        "was not measured in full",
    ),
    "speed": ("speed", lambda folder: measure(folder, speed=None), "speed of dynamic_int8, fp16"),
    "no provenance": (
        "provenance",
        lambda folder: (folder / PROVENANCE).unlink(),
        "it has no provenance",
    ),
    "no source": ("provenance", write_provenance, "its provenance names no Git revision"),
    "dirty": (
        "source",
        lambda folder: name_source(folder, dirty=True),
        "it was built with uncommitted changes on top of commit cccccccccccc",
    ),
    "notice": ("terms", shorten_notice, "Notice lacks the sentence"),
    "agreement": ("terms", lose_agreement, "it lacks GEMMA_TERMS_OF_USE.md"),
}


@pytest.mark.usefixtures("writer")
@pytest.mark.parametrize("case", BROKEN)
def test_a_rule_that_does_not_hold_is_named_and_skipped_by_its_name_alone(
    hub: Hub, release: Path, case: str
) -> None:
    rule, spoil, why = BROKEN[case]
    spoil(release)
    error = failed("publish", str(release), "--repo", REPO)
    assert error.code is ErrorCode.PUBLICATION
    assert why in error.why
    assert f"--skip {rule}" in error.hint
    assert hub.repos == {}
    other = "speed" if rule != "speed" else "piqa"
    assert (
        failed("publish", str(release), "--repo", REPO, "--skip", other).code
        is ErrorCode.PUBLICATION
    )
    broken = {"gate", "piqa", "speed"} if case == "no evaluation" else {rule}
    skips = [text for name in sorted(broken) for text in ("--skip", name)]
    assert set(publish(release, *skips)["skipped"]) == broken
    card = head(hub).files["README.md"].decode()
    assert "The publisher skipped these publication rules" in card
    assert f"(`{rule}`)" in card


@pytest.mark.usefixtures("writer")
def test_a_release_that_does_not_verify_is_never_published(hub: Hub, release: Path) -> None:
    (release / TFLITE).write_bytes(b"other")
    error = failed("publish", str(release), "--repo", REPO, "--skip", "gate")
    assert error.code is ErrorCode.CHANGED
    assert hub.repos == {}
    assert run("publish", str(release), "--repo", REPO, "--skip", "everything").exit_code == 2
