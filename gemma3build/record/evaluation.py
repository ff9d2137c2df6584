"""From the results of gates to ``evaluation.json``, and back from a release."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from gemma3build.core.canonical import pretty_json
from gemma3build.core.codec import decode_json, encode
from gemma3build.core.digests import FileDigest, sha256_bytes
from gemma3build.core.evaluation import (
    EVALUATION,
    FORMAT,
    GATE_FILE,
    Evaluation,
    Gate,
    Piqa,
    SchemeEvaluation,
)
from gemma3build.core.manifest import Manifest
from gemma3build.core.small import read_small
from gemma3build.engine.executor import Done, files
from gemma3build.engine.store import Store
from gemma3build.plan.planner import REFERENCE_STEP, gate_step
from gemma3build.plan.step import Plan
from gemma3build.record.readable import is_quick_look


def make_evaluation(
    plan: Plan, done: Mapping[str, Done], store: Store, manifest: Manifest
) -> Evaluation:
    """Return what the gates of a finished plan measured.

    Args:
        plan: what was run.
        done: its results by name of step.
        store: where they are.
        manifest: of the release.
    """
    return Evaluation(
        format=FORMAT,
        model=manifest.checkpoint.model,
        manifest=manifest_digest(manifest),
        reference=done[REFERENCE_STEP].entry.facts["made_by"],
        schemes=tuple(
            SchemeEvaluation(
                scheme=scheme.name,
                model=_digest(plan, done, scheme.name, ".tflite"),
                bundle=_digest(plan, done, scheme.name, ".task"),
                gate=_gate(store.output(done[gate_step(scheme.name)].key)),
            )
            for scheme in plan.schemes
        ),
    )


def manifest_digest(manifest: Manifest) -> str:
    """Return the SHA-256 of a manifest as it stands in a release."""
    return sha256_bytes(pretty_json(encode(manifest)))


def read_evaluation(folder: Path) -> Evaluation | None:
    """Return the evaluation in a release; None if there is none of this format that can be read."""
    try:
        found = decode_json(Evaluation, read_small(folder / EVALUATION), EVALUATION)
    except (OSError, ValueError):
        return None
    return found if found.format == FORMAT else None


def carry_over(fresh: Evaluation, found: Evaluation | None) -> Evaluation:
    """Return ``fresh`` with the PIQA and speed figures that ``found`` has of the same files."""
    known = {(item.model, item.bundle): item for item in found.schemes} if found else {}
    schemes = []
    for item in fresh.schemes:
        old = known.get((item.model, item.bundle))
        kept = dataclasses.replace(item, piqa=old.piqa, speed=old.speed) if old else item
        schemes.append(kept)
    return dataclasses.replace(fresh, schemes=tuple(schemes))


def merge(found: Evaluation, measured: Evaluation) -> Evaluation:
    """Return what a release has, with what was measured now; the files are the same.

    A PIQA figure is not replaced by one that says less: all of PIQA's questions say more than all of
    a user's own, and those more than a quick look.
    """
    now = {item.scheme: item for item in measured.schemes}
    schemes = []
    for item in found.schemes:
        new = now.get(item.scheme, item)
        piqa = item.piqa if worth(item.piqa) > worth(new.piqa) else new.piqa
        schemes.append(dataclasses.replace(item, piqa=piqa, speed=new.speed or item.speed))
    return dataclasses.replace(found, schemes=tuple(schemes))


def worth(piqa: Piqa | None) -> int:
    """Return a number that is larger for a figure that says more."""
    if piqa is None:
        return 0
    return 1 if is_quick_look(piqa) else 2 if piqa.own else 3


def _digest(plan: Plan, done: Mapping[str, Done], scheme: str, suffix: str) -> FileDigest:
    """Return the digest of a scheme's file of this kind, under its name in the release."""
    (artifact,) = (
        item for item in plan.artifacts if item.scheme == scheme and item.file_name.endswith(suffix)
    )
    (file,) = files(artifact.source, done)
    return dataclasses.replace(file, path=artifact.file_name)


def _gate(folder: Path) -> Gate:
    return decode_json(Gate, (folder / GATE_FILE).read_bytes(), GATE_FILE)
