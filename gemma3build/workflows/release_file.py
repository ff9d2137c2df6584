"""Plan releases by the names of models, or by release files."""

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
WHAT = "The releases cannot be made together"


class ReleaseSpec(Record):
    """A ``[[release]]`` of a release file; None stands for the default.

    Attributes:
        model: name of a pinned model.
        checkpoint: folder of the user's own checkpoint, relative to the release file.
        tokenizer: a tokenizer.model instead of the checkpoint's, relative to the release file.
        name: of the release.
        schemes: names, ``all``, or scheme files, relative to the release file.
        prefill_seq_lens: lengths of the prefill signatures, in tokens.
        kv_cache_max_len: length of the key-value cache, in tokens.
        mask_as_input: whether the caller passes the attention mask.
        repo: ``owner/name`` on the Hub.
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
        """Reject contradictions and empty lists."""
        if (self.model is None) == (self.checkpoint is None):
            raise ValueError("a release needs either model or checkpoint")
        if self.tokenizer is not None and self.checkpoint is None:
            raise ValueError("tokenizer needs checkpoint")
        for key in ("schemes", "prefill_seq_lens"):
            if getattr(self, key) == ():
                raise ValueError(f"{key} is empty; omit it for the default")

    def request(self, folder: Path) -> BuildRequest:
        """Return the request to ``build``; paths are relative to ``folder``."""
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
        """Reject an empty list."""
        if not self.release:
            raise ValueError("it lists no release")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRelease:
    """A request, its plan, and its repository on the Hub as ``owner/name``; empty if unknown."""

    request: BuildRequest
    prepared: Prepared
    repo: str = ""

    @property
    def name(self) -> str:
        """Name of the release, and of its folder."""
        return self.prepared.plan.model


def load_releases(path: Path) -> ReleaseFile:
    """Return the content of a release file; raises BuildError (CONFIG)."""
    return decode_config(ReleaseFile, toml(path), path.name)


def plan_releases(words: Iterable[str]) -> tuple[PlannedRelease, ...]:
    """Return the plans of releases; ``words`` are names of models, and paths of release files.

    Raises:
        BuildError: one cannot be made, or two have the same name.
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
    """Reject names that would be one folder, or a file of the index."""
    counts = Counter(names)
    if twice := [name for name, count in counts.items() if count > 1]:
        why = f"more than one has the name {', '.join(twice)}"
        raise BuildError(ErrorCode.REQUEST, WHAT, why, "Name each of them in a release file.")
    if taken := counts.keys() & {INDEX, INDEX_PAGE}:
        why = f"{', '.join(sorted(taken))} is the name of the index"
        raise BuildError(ErrorCode.REQUEST, WHAT, why, "Choose another name for the release.")
