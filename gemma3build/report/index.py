"""The index of releases that were built together: ``index.json``, and ``index.html`` that shows the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from gemma3build.errors import ErrorCode, from_os_error, release_error
from gemma3build.release.checksums import CHECKSUMS
from gemma3build.release.evaluation import read_evaluation
from gemma3build.release.manifest import read_manifest
from gemma3build.report.rendering import environment, notice
from gemma3build.report.report import Page
from gemma3build.schema.evaluation import REPORT, Evaluation, Piqa, SchemeEvaluation, Speed
from gemma3build.schema.manifest import MANIFEST, Manifest, Parameters
from gemma3build.util.files import FileDigest, atomic_write, read_bounded
from gemma3build.util.git import GitRevision
from gemma3build.util.serialize import Record, decode_json, pretty_json
from gemma3build.verify.untrusted import Advance, ignore
from gemma3build.verify.verify import Verified, verify

FORMAT = "gemma3build.index/1"
INDEX, INDEX_PAGE = "index.json", "index.html"
TEMPLATE = "index.html.j2"


class Signed(Record):
    """Who signed a release.

    Attributes:
        key: id of the key that its signature names; empty for a Sigstore identity.
        identity: the Sigstore identity, if one was required.
        checked: whether the signature was verified.
    """

    key: str = ""
    identity: str = ""
    checked: bool


class Published(Record):
    """Where a release is on the Hub; ``url`` is that of the commit."""

    repo: str
    tag: str
    commit: str
    url: str

    def __post_init__(self) -> None:
        """Refuse what a browser would run instead of opening."""
        if not self.url.startswith(("https://", "http://")):
            message = f"{self.url!r} is no address of a page"
            raise ValueError(message)


class SchemeEntry(Record):
    """The files of one scheme, and what was measured of them."""

    scheme: str
    gate: bool
    files: tuple[FileDigest, ...]
    piqa: Piqa | None = None
    speed: Speed | None = None


class IndexEntry(Record):
    """A release.

    Attributes:
        name: of the release, and of its directory next to the index.
        base_model: name on the Hub of the model that it derives from; empty if unknown.
        source: ``owner/name`` on the Hub, ``packages``, or ``local``.
        revision: commit, or digest of the GGUF file; empty for a local directory.
        weights: number of parameters of the model.
        parameters: the options of its graph.
        schemes: in the order of the build.
        records: all other files of the release.
        signed: who signed it; None if it has no signature.
        published: where it was published; None if that is unknown.
    """

    name: str
    base_model: str
    source: str
    revision: str
    weights: int
    parameters: Parameters
    schemes: tuple[SchemeEntry, ...]
    records: tuple[FileDigest, ...]
    signed: Signed | None = None
    published: Published | None = None


class Index(Record):
    """The content of ``index.json``.

    Attributes:
        format: names this format and its version.
        version: of the releases.
        commit: of gemma3build that built them.
        releases: in the order in which they were built.
    """

    format: str = FORMAT
    version: str
    commit: str
    releases: tuple[IndexEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedRelease:
    """A release as the page shows it: its entry, manifest and evaluation."""

    entry: IndexEntry
    page: Page


def index_release(
    verified: Verified,
    manifest: Manifest,
    evaluation: Evaluation,
    signed: Signed | None,
    published: Published | None = None,
) -> IndexedRelease:
    """Return a release for the index.

    Args:
        verified: the result of its verification, which found no error.
        manifest: its manifest.
        evaluation: its figures.
        signed: who signed it.
        published: where it was published.
    """
    artifacts = {
        item.path: FileDigest(path=item.path, size=item.size, sha256=item.sha256)
        for item in manifest.artifacts
    }
    schemes = tuple(
        SchemeEntry(
            scheme=item.scheme,
            gate=item.gate.passed,
            files=tuple(artifacts[a.path] for a in manifest.artifacts if a.scheme == item.scheme),
            piqa=item.piqa,
            speed=item.speed,
        )
        for item in evaluation.schemes
    )
    records = tuple(
        FileDigest(path=name, size=verified.folder.sizes[name], sha256=digest)
        for name, digest in sorted(verified.digests.items())
        if name not in artifacts
    )
    entry = IndexEntry(
        name=verified.folder.path.name,
        base_model=manifest.checkpoint.base_model,
        source=manifest.checkpoint.source,
        revision=manifest.checkpoint.revision,
        weights=manifest.checkpoint.parameters,
        parameters=manifest.parameters,
        schemes=schemes,
        records=records,
        signed=signed,
        published=published,
    )
    return IndexedRelease(entry=entry, page=Page(manifest, evaluation))


def reindex_release(entry: IndexEntry, folder: Path, advance: Advance = ignore) -> IndexedRelease:
    """Return a release that an index has, if its files are still the same.

    Args:
        entry: what the index says.
        folder: where the release is.
        advance: is told of bytes that were read.

    Raises:
        BuildError: there is none (REQUEST); it does not verify, or has other files than the index
            says.
    """
    verified = verify(folder, advance=advance)
    if verified.error is not None:
        raise verified.error
    evaluation = read_evaluation(folder)
    if evaluation is not None:
        listed = index_release(
            verified, read_manifest(folder), evaluation, entry.signed, entry.published
        )
        if listed.entry == entry:
            return listed
    why = "its files are not those that the index names"
    raise release_error(ErrorCode.CHANGED, f"{entry.name} is another release", why)


def read_index(folder: Path) -> Index | None:
    """Return the index in a directory; None if there is none of this format that can be read."""
    try:
        found = decode_json(Index, read_bounded(folder / INDEX), INDEX)
    except (OSError, ValueError):
        return None
    return found if found.format == FORMAT else None


def known_publication(found: Index | None, entry: IndexEntry) -> Published | None:
    """Return where the same files were published before, as an index says."""
    for known in found.releases if found else ():
        if structs.replace(known, published=None) == structs.replace(entry, published=None):
            return known.published
    return None


def write_index(
    folder: Path, version: str, source: GitRevision, releases: Sequence[IndexedRelease]
) -> bool:
    """Write both files, each whole or not at all; return whether anything had to be written.

    Raises:
        BuildError: the disk is full (DISK); the directory cannot be written (OUTPUT).
    """
    index = Index(
        version=version, commit=source.commit, releases=tuple(item.entry for item in releases)
    )
    text = pretty_json(index)
    path, page = folder / INDEX, folder / INDEX_PAGE
    try:
        if page.is_file() and path.is_file() and path.read_bytes() == text:
            return False
        folder.mkdir(parents=True, exist_ok=True)
        # Last what a later run compares.
        for target, content in ((page, render_index(index, releases)), (path, text)):
            atomic_write(target, content)
    except OSError as error:
        raise from_os_error(f"The index cannot be written to {folder}", error) from error
    return True


def render_index(index: Index, releases: Sequence[IndexedRelease]) -> bytes:
    """Return ``index.html`` in UTF-8: the same bytes for the same arguments."""
    template = environment().get_template(TEMPLATE)
    text = template.render(
        index=index,
        releases=releases,
        together=together(releases),
        rows=[(scheme, item.entry.name) for item in releases for scheme in item.page.schemes],
        files={"report": REPORT, "manifest": MANIFEST, "checksums": CHECKSUMS, "index": INDEX},
        notice=notice(),
    )
    return text.encode()


def together(releases: Sequence[IndexedRelease]) -> Page:
    """Return all schemes of all releases as one page, with the release in their names if there are several."""
    several = len(releases) > 1
    schemes: list[SchemeEvaluation] = []
    for item in releases:
        for scheme in item.page.schemes:
            name = f"{item.entry.name} {scheme.scheme}" if several else scheme.scheme
            schemes.append(structs.replace(scheme, scheme=name))
    first = releases[0].page
    return Page(first.manifest, structs.replace(first.evaluation, schemes=tuple(schemes)))
