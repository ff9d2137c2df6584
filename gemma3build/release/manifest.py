"""From the results of a plan to its manifest."""

import json
from pathlib import Path

from gemma3build.errors import BuildError, ErrorCode
from gemma3build.schema.manifest import (
    MANIFEST,
    MANIFEST_FORMAT,
    Manifest,
)
from gemma3build.util.files import FileDigest, read_bounded
from gemma3build.util.serialize import decode_json

SCHEMA_FILE = Path(__file__).parents[1] / "schema" / "manifest.schema.json"
LEGAL_DIR = Path(__file__).parent / "legal"
LOCAL = "local"


def terms() -> tuple[str, ...]:
    """Return the names of the files that carry Gemma's terms with every release."""
    return tuple(sorted(path.name for path in LEGAL_DIR.iterdir()))


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a release; raises BuildError (REQUEST)."""
    path = folder / MANIFEST
    hint = "Name the directory of a release, or make one: nox -s build"
    try:
        manifest = decode_json(Manifest, read_bounded(path), str(path))
    except OSError as error:
        why = f"{path} cannot be read: {error.strerror}"
        raise BuildError(ErrorCode.REQUEST, f"{folder} is not a release", why, hint) from error
    except ValueError as error:
        raise BuildError(
            ErrorCode.REQUEST, f"{folder} is not a release", str(error), hint
        ) from error
    if manifest.format != MANIFEST_FORMAT:
        why = f"its manifest has the format {manifest.format!r}, not {MANIFEST_FORMAT!r}"
        raise BuildError(ErrorCode.REQUEST, f"{folder} cannot be read", why, hint)
    return manifest


def artifact_digests(manifest: Manifest) -> tuple[FileDigest, ...]:
    """Return the digests of the artifacts."""
    return tuple(
        FileDigest(path=item.path, size=item.size, sha256=item.sha256)
        for item in manifest.artifacts
    )


def schema() -> dict[str, object]:
    """Return the JSON Schema of manifest.json."""
    loaded: dict[str, object] = json.loads(SCHEMA_FILE.read_bytes())
    return loaded
