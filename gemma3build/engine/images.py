"""Images: built from ``containers/``, stabilized, and found by the digest of their sources."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
from docker.errors import BuildError as DockerBuildError
from docker.errors import DockerException, ImageNotFound
from requests import RequestException

from gemma3build.engine.cache import IMAGES, Cache
from gemma3build.engine.docker import bootstrap, engine_failed
from gemma3build.engine.downloads import locked_wheels
from gemma3build.engine.image_archive import export_image, import_image, save_image, stabilize_image
from gemma3build.errors import BuildError, ErrorCode, from_os_error
from gemma3build.pins.config import ImagesConfig
from gemma3build.pins.lockfile import (
    BASE,
    REQUESTED,
    REQUIREMENTS,
    current_images,
    image_files,
    images_drift,
    read_images_lock,
    refuse_drift,
)
from gemma3build.util.files import FileDigest, digest_tree, sha256_bytes, sha256_file
from gemma3build.util.serialize import Record, canonical_json, decode, encode
from gemma3build.util.text import GIBIBYTE

REPOSITORY = "gemma3build"  # prefix of the names of images
REVISION = 3  # of how images are made; a change here makes all of them again
KEY_LABEL = "gemma3build.key"
PARENT_LABEL = "gemma3build.parent"
WHEELS_LABEL = "gemma3build.wheels"
RELOCK = "gemma3build lock"
MACHINES = ("x86_64", "amd64")  # engines' names for the architecture of the wheels
# The largest image three times: saved, its layers stabilized, and as one archive.
SPACE = 8 * GIBIBYTE


class Image(Record):
    """An image in the engine.

    Attributes:
        name: ``base``, or a directory of ``containers/``.
        tag: its name in the engine.
        image_id: its id in this engine.
        digest: SHA-256 over layers and environment, equal in all engines, whose ids may differ.
        parent: kind and digest of the parent of ``base``.
        layers: digests of the uncompressed layers, lowest first.
        wheels: installed in it, ordered by name.
    """

    name: str
    tag: str
    image_id: str
    digest: str
    parent: str
    layers: tuple[str, ...]
    wheels: tuple[FileDigest, ...] = ()


class Images:
    """The project's images in one engine."""

    def __init__(
        self,
        client: docker.DockerClient,
        cache: Cache,
        config: ImagesConfig,
        say: Callable[[str], None],
        archived: Path | None = None,
    ) -> None:
        """Check the sources of images against the lockfile.

        Args:
            client: the engine.
            cache: keeps wheels.
            config: content of images.toml.
            say: gets a line before a long task.
            archived: a directory that ``export_base`` wrote, from which ``base`` is loaded; other builds
                do not find these images.

        Raises:
            BuildError: the files of images have drifted from the lockfile (DRIFT).
        """
        self._client, self._cache, self._config, self._say = client, cache, config, say
        self._archived = archived
        self._repository = REPOSITORY
        if archived is not None:
            self._repository += f"-{sha256_bytes(bytes(archived.resolve()))[:12]}"
        refuse_drift(images_drift(current_images(), read_images_lock()), RELOCK)

    def find(self, name: str) -> Image | None:
        """Return the image if the engine has it as pinned; raises BuildError (ENGINE)."""
        base = None if name == BASE else self.find(BASE)
        if name != BASE and base is None:
            return None
        return self._inspect(name, self._key(name, base))

    def ensure(self, name: str) -> Image:
        """Return the image, making it first if the engine does not have it.

        Raises:
            BuildError: it cannot be made (IMAGE); its wheels cannot be downloaded (DOWNLOAD); the
                disk has too little free (DISK).
        """
        if found := self.find(name):  # without a lock: the cache may be read-only
            return found
        base = None if name == BASE else self.ensure(BASE)
        key = self._key(name, base)
        with self._cache.lock(key):
            found = self._inspect(name, key)
            if found is None:
                self._say(f"Making the image {name}")
                self._make(name, key, base)
                found = self._inspect(name, key)
        if found is None:
            what, why = _cannot_make(name), "the engine loaded it but does not find it"
            raise BuildError(ErrorCode.IMAGE, what, why, "Restart the engine.")
        return found

    def export_base(self, folder: Path) -> None:
        """Write ``base`` to a directory, for ``archived``; raises BuildError (IMAGE)."""
        tag = self.ensure(BASE).tag
        with _image_errors(BASE):
            export_image(self._client, tag, folder)

    def forget(self) -> None:
        """Remove the names of these images from the engine, and images without other names."""
        for image in self._client.images.list():
            for tag in image.tags:
                if tag.startswith(f"{self._repository}/"):
                    with contextlib.suppress(DockerException):
                        self._client.images.remove(tag)

    def _key(self, name: str, base: Image | None) -> str:
        files = image_files(name)
        files.pop(REQUESTED, None)  # its wheels are locked in REQUIREMENTS
        content = {
            "revision": REVISION,
            "base": base.digest if base else None,
            "parent": None if base else encode(self._config.parent),
            "epoch": self._config.source_date_epoch,
            "files": {file: sha256_file(path) for file, path in files.items()},
        }
        return sha256_bytes(canonical_json(content))

    def _tag(self, name: str, key: str) -> str:
        return f"{self._repository}/{name}:{key[:16]}"

    def _inspect(self, name: str, key: str) -> Image | None:
        tag = self._tag(name, key)
        try:
            attributes: dict[str, Any] = self._client.images.get(tag).attrs
        except ImageNotFound:
            return None
        except (DockerException, RequestException) as error:
            raise engine_failed(f"The image {name} cannot be inspected", error) from error
        config = attributes["Config"]
        labels = config.get("Labels") or {}
        if labels.get(KEY_LABEL) != key:
            return None
        wheels = labels.get(WHEELS_LABEL, "[]")
        layers = tuple(attributes["RootFS"]["Layers"])
        content = {"layers": layers, "environment": sorted(config.get("Env") or [])}
        return Image(
            name=name,
            tag=tag,
            image_id=attributes["Id"],
            digest=sha256_bytes(canonical_json(content)),
            parent=labels.get(PARENT_LABEL, ""),
            layers=layers,
            wheels=decode(tuple[FileDigest, ...], json.loads(wheels), WHEELS_LABEL),
        )

    def _make(self, name: str, key: str, base: Image | None) -> None:
        scratch = self._cache.root / IMAGES
        scratch.mkdir(parents=True, exist_ok=True)
        self._check_machine(name, scratch)
        with tempfile.TemporaryDirectory(dir=scratch) as folder, _image_errors(name):
            work = Path(folder)
            if base is None and self._archived is not None:
                import_image(self._client, self._archived, self._tag(name, key), work)
                return
            context = work / "context"
            context.mkdir()
            for file, path in image_files(name).items():
                shutil.copyfile(path, context / file)
            arguments = {"SOURCE_DATE_EPOCH": str(self._config.source_date_epoch)}
            labels = {KEY_LABEL: key}
            if base is None:
                reference, parent = self._parent(work)
                arguments["PARENT"] = reference
            else:
                reference, parent = base.tag, base.parent
                arguments["BASE"] = reference
                text = (context / REQUIREMENTS).read_text(encoding="utf-8")
                wheels = locked_wheels(self._cache, text, self._config, self._say)
                shutil.copytree(wheels, context / "wheels", copy_function=_link)
                labels[WHEELS_LABEL] = canonical_json(digest_tree(wheels)).decode()
            labels[PARENT_LABEL] = parent
            try:
                built = self._build(context, arguments, key)
                self._load_stable(built, reference, self._tag(name, key), labels, work)
            finally:
                self._remove_unstable(key)

    def _check_machine(self, name: str, scratch: Path) -> None:
        """Raise BuildError for another architecture or a disk that is too small."""
        architecture = self._client.info()["Architecture"]
        if architecture not in MACHINES:
            why = f"this engine runs on {architecture}, but the wheels are locked for x86-64"
            hint = "Set DOCKER_HOST to an engine on x86-64."
            raise BuildError(ErrorCode.IMAGE, _cannot_make(name), why, hint)
        if shutil.disk_usage(scratch).free < SPACE:
            why = f"it temporarily needs up to {SPACE // GIBIBYTE} GiB in {scratch}"
            hint = "Free some space, or set GEMMA3BUILD_CACHE to another disk."
            raise BuildError(ErrorCode.DISK, _cannot_make(name), why, hint)

    def _build(self, context: Path, arguments: dict[str, str], key: str) -> str:
        image, _ = self._client.images.build(
            path=str(context),
            buildargs=arguments,
            network_mode="none",
            labels={KEY_LABEL: key},
            nocache=True,
            rm=True,
            forcerm=True,
        )
        return str(image.id)

    def _load_stable(
        self, built: str, reference: str, tag: str, labels: dict[str, str], work: Path
    ) -> None:
        """Stabilize a built image and load it; layers of the parent ``reference`` stay unchanged."""
        parent_layers = len(self._client.images.get(reference).attrs["RootFS"]["Layers"])
        saved, stable = work / "saved.tar", work / "stable.tar"
        save_image(self._client, built, saved)
        stabilize_image(
            saved,
            stable,
            parent_layers=parent_layers,
            epoch=self._config.source_date_epoch,
            tag=tag,
            labels=labels,
        )
        saved.unlink()
        with stable.open("rb") as file:
            self._client.images.load(file)

    def _remove_unstable(self, key: str) -> None:
        filters = {"dangling": True, "label": f"{KEY_LABEL}={key}"}
        for image in self._client.images.list(filters=filters):
            with contextlib.suppress(DockerException):
                self._client.images.remove(str(image.id))

    def _parent(self, work: Path) -> tuple[str, str]:
        """Return the reference of the base's parent, and its kind and digest for the manifest."""
        registry = self._config.parent.registry
        digest = registry.rpartition("@")[2]
        try:
            self._client.images.pull(registry, platform="linux/amd64")
        except DockerException as error:
            self._say(f"No registry answers ({getattr(error, 'explanation', None) or error})")
            self._say("Bootstrapping the base from Debian packages")
            return bootstrap(self._client, self._config, work)
        return registry, f"registry {digest}"


@contextlib.contextmanager
def _image_errors(name: str) -> Iterator[None]:
    """Raise errors of the engine and the disk as BuildError."""
    what = _cannot_make(name)
    try:
        yield
    except DockerBuildError as error:
        lines = [str(line.get("stream", "")).strip() for line in error.build_log]
        tail = " / ".join(line for line in lines[-6:] if line)
        raise BuildError(ErrorCode.IMAGE, what, f"{error.msg}: {tail}") from error
    except (DockerException, RequestException) as error:
        raise BuildError(ErrorCode.IMAGE, what, str(error), "Restart the engine.") from error
    except OSError as error:
        raise from_os_error(what, error) from error


def _cannot_make(name: str) -> str:
    return f"The image {name} cannot be made"


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)
