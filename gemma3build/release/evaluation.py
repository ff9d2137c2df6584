"""Reads and merges ``evaluation.json``."""

from pathlib import Path

from msgspec import structs

from gemma3build.schema.evaluation import (
    EVALUATION,
    EVALUATION_FORMAT,
    Evaluation,
    Piqa,
    is_quick_look,
)
from gemma3build.schema.manifest import Manifest
from gemma3build.util.files import read_bounded, sha256_bytes
from gemma3build.util.serialize import decode_json, pretty_json


def manifest_digest(manifest: Manifest) -> str:
    """Return the SHA-256 of a manifest as written in a release."""
    return sha256_bytes(pretty_json(manifest))


def read_evaluation(folder: Path) -> Evaluation | None:
    """Return the evaluation of a release; None if it is missing, unreadable or of another format."""
    try:
        found = decode_json(Evaluation, read_bounded(folder / EVALUATION), EVALUATION)
    except (OSError, ValueError):
        return None
    return found if found.format == EVALUATION_FORMAT else None


def carry_over(fresh: Evaluation, found: Evaluation | None) -> Evaluation:
    """Return ``fresh`` with the PIQA and speed figures that ``found`` has for the same files."""
    known = {(item.model, item.bundle): item for item in found.schemes} if found else {}
    schemes = []
    for item in fresh.schemes:
        old = known.get((item.model, item.bundle))
        schemes.append(structs.replace(item, piqa=old.piqa, speed=old.speed) if old else item)
    return structs.replace(fresh, schemes=tuple(schemes))


def merge(found: Evaluation, measured: Evaluation) -> Evaluation:
    """Return the evaluation of a release, updated with new measurements of the same files.

    A PIQA figure is never replaced by one that says less: all of PIQA's questions say more than a
    user's own questions, and those say more than a quick look.
    """
    now = {item.scheme: item for item in measured.schemes}
    schemes = []
    for item in found.schemes:
        new = now.get(item.scheme, item)
        piqa = item.piqa if worth(item.piqa) > worth(new.piqa) else new.piqa
        schemes.append(structs.replace(item, piqa=piqa, speed=new.speed or item.speed))
    return structs.replace(found, schemes=tuple(schemes))


def worth(piqa: Piqa | None) -> int:
    """Return a larger number for a figure that says more."""
    if piqa is None:
        return 0
    return 1 if is_quick_look(piqa) else 2 if piqa.own else 3
