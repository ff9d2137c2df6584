"""The manifest of a release, read and digested."""

from pathlib import Path

from gemma3build.errors import BuildError, ErrorCode
from gemma3build.schema.manifest import MANIFEST, Manifest
from gemma3build.util.files import FileDigest, read_bounded
from gemma3build.util.serialize import decode_json

LEGAL_DIR = Path(__file__).parent / "legal"
LOCAL = "local"


def term_files() -> tuple[str, ...]:
    """Return the names of the files with Gemma's terms, which every release contains."""
    return tuple(sorted(path.name for path in LEGAL_DIR.iterdir()))


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a release; raises BuildError (REQUEST)."""
    path = folder / MANIFEST
    hint = "Give the directory of a release, or build one: gemma3build build"
    try:
        return decode_json(Manifest, read_bounded(path), str(path))
    except (OSError, ValueError) as error:
        why = str(error)
        if isinstance(error, OSError):
            why = f"{path} cannot be read: {error.strerror}"
        raise BuildError(ErrorCode.REQUEST, f"{folder} is not a release", why, hint) from error


def artifact_digests(manifest: Manifest) -> tuple[FileDigest, ...]:
    """Return the digests of the artifacts."""
    return tuple(
        FileDigest(path=item.path, size=item.size, sha256=item.sha256)
        for item in manifest.artifacts
    )
