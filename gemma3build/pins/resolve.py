"""From intent to lock: the only code that asks the network what a name means."""

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from gemma3build.core.chat_template import TEMPLATE_FILES
from gemma3build.core.checkpoint import CONFIG, INDEX, TOKENIZER
from gemma3build.core.digests import FileDigest, digest_tree, sha256_file
from gemma3build.errors import DownloadError
from gemma3build.pins.drift import PACKAGES
from gemma3build.pins.intent import HubSource, Model, PackageSource
from gemma3build.pins.lock import LockedModel, Part

PART = ".gguf.part"
WANTED = (CONFIG, INDEX, TOKENIZER, *TEMPLATE_FILES)


def resolve_model(
    name: str,
    model: Model,
    download: Callable[[tuple[str, ...], Path], None],
) -> LockedModel:
    """Return the lock of a model.

    Args:
        name: its name, for messages.
        model: what models.toml says.
        download: downloads the wheels of requirements into a directory.

    Raises:
        DownloadError: something cannot be downloaded, or is not what the intent says.
    """
    if model.packages is not None:
        return resolve_packages(name, model.packages, download)
    if model.hub is not None:
        return resolve_hub(name, model.hub)
    message = "a model has either packages or hub"
    raise AssertionError(message)


def resolve_packages(
    name: str, source: PackageSource, download: Callable[[tuple[str, ...], Path], None]
) -> LockedModel:
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
            raise DownloadError(
                f"The model {name} cannot be locked",
                f"{file.path} holds {len(members)} parts of a GGUF file, not one",
                "Mend its requirements in models.toml.",
            )
        files.append(file)
        parts.append(Part(wheel=file.path, member=members[0]))
    return LockedModel(
        source=PACKAGES,
        revision=source.gguf_sha256,
        requirements=source.requirements,
        files=tuple(files),
        parts=tuple(parts),
    )


def resolve_hub(name: str, source: HubSource) -> LockedModel:
    """Return the lock of a model on the Hub: digests of large files come with the listing."""
    # Imported here: the client takes longer to load than an idle build to run.
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, hf_hub_download

    files = []
    try:
        info = HfApi().model_info(source.repo, revision=source.revision, files_metadata=True)
        for item in info.siblings or ():
            if item.rfilename not in WANTED and not item.rfilename.endswith(".safetensors"):
                continue
            if item.lfs is not None:
                digest = item.lfs.sha256
            else:
                path = hf_hub_download(source.repo, item.rfilename, revision=source.revision)
                digest = sha256_file(Path(path))
            files.append(FileDigest(path=item.rfilename, size=item.size or 0, sha256=digest))
    except (HTTPError, OSError) as error:
        raise DownloadError(
            f"The model {name} cannot be locked",
            str(error).splitlines()[0],
            f"Accept the terms on the Hub's page of {source.repo}, and set HF_TOKEN.",
        ) from error
    found = {file.path: file.sha256 for file in files}
    for path, digest in source.sha256.items():
        if found.get(path) != digest:
            raise DownloadError(
                f"The model {name} cannot be locked",
                f"the Hub says {found.get(path)} for {path}, models.toml {digest}",
                "One of them is wrong: do not build before you know which.",
            )
    return LockedModel(source=source.repo, revision=source.revision, files=tuple(sorted(files)))
