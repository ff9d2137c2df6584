"""What is to be released: models by name, or the files that list releases; nothing is written."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gemma3build.errors import BuildError, ErrorCode
from gemma3build.pins.config import decode_config, toml
from gemma3build.report.index import INDEX, INDEX_PAGE
from gemma3build.util.serialize import Record
from gemma3build.workflows.request import BuildRequest, Prepared, prepare_build

SUFFIX = ".toml"  # of a release file, and of a scheme file
WHAT = "The releases make no sense together"


class ReleaseSpec(Record):
    """A ``[[release]]`` of a release file; None stands for the default.

    Attributes:
        model: name of a pinned model.
        checkpoint: a directory of the user's own instead, from the directory of the file.
        tokenizer: a tokenizer.model instead of the checkpoint's, from the directory of the file.
        name: of the release.
        schemes: names, ``all``, or scheme files, from the directory of the file.
        prefill_seq_lens: lengths of the prefill signatures, in tokens.
        kv_cache_max_len: length of the key-value cache, in tokens.
        mask_as_input: whether the caller passes the attention mask.
        repo: ``owner/name`` on the Hub, where it is published.
    """

    model: str | None = None
    checkpoint: str | None = None
    tokenizer: str | None = None
    name: str | None = None
    schemes: tuple[str, ...] | None = None
    prefill_seq_lens: tuple[int, ...] | None = None
    kv_cache_max_len: int | None = None
    mask_as_input: bool = True
    repo: str | None = None

    def __post_init__(self) -> None:
        """Refuse what would be read as something else than was meant."""
        if (self.model is None) == (self.checkpoint is None):
            raise ValueError("a release has either model or checkpoint")
        if self.tokenizer is not None and self.checkpoint is None:
            raise ValueError("tokenizer goes with checkpoint")
        for key in ("schemes", "prefill_seq_lens"):
            if getattr(self, key) == ():
                raise ValueError(f"{key} is empty; leave it out for the default")

    def request(self, folder: Path) -> BuildRequest:
        """Return what ``build`` would be asked for; paths begin in ``folder``."""
        return BuildRequest(
            model=self.model or "",
            schemes=tuple(
                str(folder / scheme) if scheme.endswith(SUFFIX) else scheme
                for scheme in self.schemes or ()
            ),
            checkpoint=folder / self.checkpoint if self.checkpoint is not None else None,
            tokenizer=folder / self.tokenizer if self.tokenizer is not None else None,
            name=self.name,
            prefill_seq_lens=self.prefill_seq_lens or (),
            kv_cache_max_len=self.kv_cache_max_len,
            mask_as_input=self.mask_as_input,
        )


class ReleaseFile(Record):
    """The content of a release file."""

    release: tuple[ReleaseSpec, ...]

    def __post_init__(self) -> None:
        """Refuse a file that asks for nothing."""
        if not self.release:
            raise ValueError("it lists no release")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRelease:
    """A release that can be made.

    Attributes:
        request: what was asked for.
        prepared: its plan.
        repo: ``owner/name`` where it is published; empty if unknown.
    """

    request: BuildRequest
    prepared: Prepared
    repo: str = ""

    @property
    def name(self) -> str:
        """Name of the release, and of its directory."""
        return self.prepared.plan.model


def load_releases(path: Path) -> ReleaseFile:
    """Return what a release file says; raises BuildError (CONFIG)."""
    return decode_config(ReleaseFile, toml(path), path.name)


def plan_releases(words: Iterable[str]) -> tuple[PlannedRelease, ...]:
    """Return the plans of models by name, and of the releases that files list, in their order.

    Args:
        words: names of models, and paths of release files, which end in ``.toml``.

    Raises:
        BuildError: one cannot be made, or two would have one name.
    """
    found: list[PlannedRelease] = []
    for word in words:
        if not word.endswith(SUFFIX):
            found.append(plan_release(BuildRequest(model=word)))
            continue
        path = Path(word)
        for number, entry in enumerate(load_releases(path).release, 1):
            try:
                found.append(plan_release(entry.request(path.parent), entry.repo or ""))
            except BuildError as error:
                error.add_note(f"Where: release {number} of {path}")
                raise
    check_release_names(item.name for item in found)
    return tuple(found)


def plan_release(request: BuildRequest, repo: str = "") -> PlannedRelease:
    """Return the plan of one release; raises BuildError."""
    return PlannedRelease(request=request, prepared=prepare_build(request), repo=repo)


def check_release_names(names: Iterable[str]) -> None:
    """Refuse names that would be one directory, or that of the index."""
    counts = Counter(names)
    if twice := [name for name, count in counts.items() if count > 1]:
        why = f"more than one has the name {', '.join(twice)}"
        raise BuildError(
            ErrorCode.REQUEST, WHAT, why, "Give one of them a name of its own in a release file."
        )
    if taken := counts.keys() & {INDEX, INDEX_PAGE}:
        why = f"{', '.join(sorted(taken))} is the name of the index"
        raise BuildError(ErrorCode.REQUEST, WHAT, why, "Give the release another name.")
