"""Resolve the config to a lockfile; no other code resolves names over the network."""

import re
import tempfile
import zipfile
from collections.abc import Callable
from json import JSONDecodeError
from pathlib import Path

from gemma3build.errors import BuildError, ErrorCode, from_step
from gemma3build.gemma.checkpoint import CONFIG, INDEX, TEMPLATE_FILES, TOKENIZER
from gemma3build.pins.config import HubSource, ModelConfig, PackageSource
from gemma3build.pins.lockfile import PACKAGES, LockedModel, WheelPart
from gemma3build.schema.hub_errors import endpoint, moved, refusal
from gemma3build.util.files import FileDigest, digest_tree, sha256_bytes

PART = ".gguf.part"  # in the name of a wheel's member that is a piece of a GGUF file
# What is fetched of a repository on the Hub.
WANTED = (CONFIG, INDEX, TOKENIZER, *TEMPLATE_FILES)
WEIGHTS = re.compile(r"[^/]+\.safetensors")

Download = Callable[[tuple[str, ...], Path], None]


def resolve_model(name: str, model: ModelConfig, download: Download) -> LockedModel:
    """Return the lock of a model.

    Args:
        name: its name, for messages.
        model: what models.toml says.
        download: downloads the wheels of requirements into a directory.

    Raises:
        BuildError: something cannot be downloaded, or is not what the config says (DOWNLOAD); the
            Hub refuses, or cannot be reached; HF_HUB_OFFLINE is set (OFFLINE).
    """
    if model.packages is not None:
        return _resolve_packages(name, model.packages, download)
    assert model.hub is not None  # noqa: S101 - a model has either packages or hub
    return _resolve_hub(name, model.hub)


def refuse_offline(what: str) -> None:
    """Raise BuildError (OFFLINE) where HF_HUB_OFFLINE keeps the Hub's client from the network."""
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        raise BuildError(ErrorCode.OFFLINE, what, "HF_HUB_OFFLINE is set", "Unset it once.")


def _resolve_packages(name: str, source: PackageSource, download: Download) -> LockedModel:
    """Return the lock of a model in wheels; the wheels are in the order of their requirements."""
    files, parts = [], []
    for requirement in source.requirements:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            download((requirement,), folder)
            (file,) = digest_tree(folder)
            with zipfile.ZipFile(folder / file.path) as wheel:
                members = [member for member in wheel.namelist() if PART in member]
        if len(members) != 1:
            raise BuildError(
                ErrorCode.DOWNLOAD,
                f"The model {name} cannot be locked",
                f"{file.path} holds {len(members)} parts of a GGUF file, not one",
                "Fix its requirements in models.toml.",
            )
        files.append(file)
        parts.append(WheelPart(wheel=file.path, member=members[0]))
    return LockedModel(
        source=PACKAGES,
        revision=source.gguf_sha256,
        requirements=source.requirements,
        files=tuple(files),
        parts=tuple(parts),
    )


def _resolve_hub(name: str, source: HubSource) -> LockedModel:
    """Return the lock of a model on the Hub: digests of large files come with the listing."""
    # Imported here: the client takes longer to load than an idle build to run.
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, get_token

    what, repo = f"The model {name} cannot be locked", source.repo
    refuse_offline(what)
    try:
        info = HfApi(endpoint()).model_info(repo, revision=source.revision, files_metadata=True)
        if info.id != repo:
            hint = f"Put {info.id} into models.toml if it is the one that you trust."
            raise from_step(moved(what, repo, info.id, hint).failure)
        commit = info.sha or source.revision
        files = sorted(
            FileDigest(
                path=item.rfilename,
                size=item.size or 0,
                sha256=item.lfs.sha256 if item.lfs else _small_digest(repo, item.rfilename, commit),
            )
            for item in info.siblings or ()
            if item.rfilename in WANTED or WEIGHTS.fullmatch(item.rfilename)
        )
    except (HTTPError, OSError, JSONDecodeError) as error:
        logged_in = get_token() is not None
        raise from_step(refusal(what, repo, error, logged_in=logged_in).failure) from error
    found = {file.path: file.sha256 for file in files}
    for path, digest in source.sha256.items():
        if found.get(path) != digest:
            raise BuildError(
                ErrorCode.DOWNLOAD,
                f"The model {name} cannot be locked",
                f"the Hub says {found.get(path)} for {path}, models.toml {digest}",
                "One of them is wrong: do not build before you know which.",
            )
    return LockedModel(source=repo, revision=commit, files=tuple(files))


def _small_digest(repo: str, name: str, commit: str) -> str:
    """Return the SHA-256 of a file of the Hub that is too small to have one in its listing."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    address = hf_hub_url(repo, name, revision=commit, endpoint=endpoint())
    response = http_backoff("GET", address, headers=build_hf_headers())
    hf_raise_for_status(response)
    return sha256_bytes(response.content)
