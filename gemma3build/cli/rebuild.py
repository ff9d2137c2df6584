"""``rebuild`` and ``archive``: build a release again, today or years later."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gemma3build.cli.console import err, out
from gemma3build.cli.options import (
    ARTIFACTS,
    DEFAULT_MODEL,
    AsJson,
    Checkpoint,
    Memory,
    Tokenizer,
    parse_size,
)
from gemma3build.cli.results import show_findings, show_rebuilt
from gemma3build.cli.verify import (
    PUBLISHED,
    Full,
    Release,
    fetch_published,
    require_verified,
    run_checks,
)
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.util.text import megabytes

if TYPE_CHECKING:
    from gemma3build.publish.download import PartialDownload
    from gemma3build.workflows.rebuild import PreparedRebuild, Rebuilt


def rebuild(
    release: Annotated[
        str | None,
        typer.Argument(
            help="Folder of a release, or hf://OWNER/NAME@REVISION for a published one."
            " [artifacts/gemma3-270m]",
            show_default=False,
        ),
    ] = None,
    *,
    full: Full = False,
    checkpoint: Checkpoint = None,
    tokenizer: Tokenizer = None,
    from_archive: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Use the packages, images and source in an archive."),
    ] = None,
    attestation: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of the attestation. [next to the release; here for a published one]",
        ),
    ] = None,
    diffoscope: Annotated[
        bool, typer.Option("--diffoscope", help="Run diffoscope on files that differ.")
    ] = False,
    memory: Memory = None,
    as_json: AsJson = False,
    unpacked: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Build a release again from its own manifest, and compare each file.

    Examples:
    * `gemma3build rebuild` rebuilds the release of the default model
    * `gemma3build rebuild artifacts/my-finetune --checkpoint ./my-finetune`
    * `gemma3build rebuild hf://you/gemma3-1b-it-litert@v1` downloads only files that differ
    * `gemma3build rebuild --from-archive gemma3-270m.archive.tar` needs no network
    """
    from gemma3build.rebuild.attestation import attestation_path
    from gemma3build.workflows.rebuild import prepare_rebuild, require_diffoscope
    from gemma3build.workflows.request import OwnCheckpoint

    if diffoscope:
        require_diffoscope()
    # The source in an archive may be too old for addresses: it gets a folder with all files.
    with downloaded(release, full=full or from_archive is not None, as_json=as_json) as published:
        path = Path(release) if release else None
        if published is not None:
            path = published.folder
            attestation = attestation or attestation_path(Path(path.name))
        if from_archive is not None:
            options = {
                "--checkpoint": checkpoint,
                "--tokenizer": tokenizer,
                "--attestation": attestation,
            }
            flags = ["--memory", memory] if memory else []
            flags += ["--diffoscope"] * diffoscope + ["--json"] * as_json
            rebuild_archived(from_archive.absolute(), path, options, flags)
            return
        path = path or ARTIFACTS / DEFAULT_MODEL
        prepared = prepare_rebuild(
            path.absolute(),
            OwnCheckpoint(folder=checkpoint, tokenizer=tokenizer),
            attestation=attestation and attestation.absolute(),
            archived=unpacked,
            remote_digests=published.remote_digests if published else (),
        )
        rebuilt = run_rebuild(prepared, published, memory, diffoscope=diffoscope)
    show_rebuilt(release or path, rebuilt, as_json=as_json)


@contextmanager
def downloaded(
    release: str | None, *, full: bool, as_json: bool
) -> Iterator["PartialDownload | None"]:
    """Download and verify a release if it is named by an address, or yield None."""
    if release is None or not release.startswith(PUBLISHED):
        yield None
        return
    from gemma3build.engine.cache import Cache
    from gemma3build.engine.runner import cache_dir
    from gemma3build.publish.hub import set_output

    # In the cache, where `cache prune` removes leftovers of a killed process.
    with Cache(cache_dir()).scratch("published") as scratch:
        published = fetch_published(release, scratch, full=full)
        verified = run_checks(published.folder, None, published.remote_digests)
        if verified.error is not None:
            show_findings(release, verified, as_json=as_json)
        set_output(progress=False)  # the rebuild shows its own progress
        yield published


def run_rebuild(
    prepared: "PreparedRebuild",
    published: "PartialDownload | None",
    memory: str | None,
    *,
    diffoscope: bool,
) -> "Rebuilt":
    """Rebuild a prepared release; show progress on a terminal."""
    from gemma3build.cli.progress import Progress
    from gemma3build.engine.cache import Cache
    from gemma3build.engine.container import remove_orphans
    from gemma3build.engine.docker import connect
    from gemma3build.engine.runner import cache_dir
    from gemma3build.workflows import rebuild as workflow

    with Progress(err) as progress:

        def fetch(name: str) -> None:
            assert published is not None  # noqa: S101 - only its files can be missing
            progress.say(f"Downloading {name}, which differs")
            published.fetch_file(name)

        progress.expect(len(prepared.steps))
        client, home = connect(), Cache(prepared.archived or cache_dir())
        remove_orphans(client, Cache(cache_dir()))
        with home.in_use():
            return workflow.rebuild(
                prepared,
                client,
                home,
                progress,
                progress.say,
                memory=parse_size(memory),
                diffoscope=diffoscope,
                fetch_file=fetch,
            )


def rebuild_archived(
    archive: Path, release: Path | None, options: Mapping[str, Path | None], flags: list[str]
) -> None:
    """Rebuild with the source in an archive, and exit with its exit code.

    Without a ``release``, it compares with the records in the archive. ``options`` are paths by option.
    """
    from gemma3build.cli.progress import reading
    from gemma3build.engine.cache import Cache
    from gemma3build.engine.runner import cache_dir
    from gemma3build.rebuild.archive import RELEASE, unpack
    from gemma3build.rebuild.attestation import attestation_path
    from gemma3build.workflows.archive import run_archived

    compared = release.absolute() if release is not None else archive
    options = {**options, "--attestation": options["--attestation"] or attestation_path(compared)}
    paths = [
        text for name, path in options.items() if path for text in (name, str(path.absolute()))
    ]
    with Cache(cache_dir()).scratch("archive") as folder:
        size = archive.stat().st_size if archive.is_file() else 0
        with reading(err, size) as advance:
            index = unpack(archive, folder, advance)
        if not index.complete and options["--checkpoint"] is None:
            why = f"the archive of {index.model} has no checkpoint"
            hint = "Add --checkpoint DIR."
            raise BuildError(ErrorCode.REQUEST, "The release cannot be rebuilt", why, hint)
        err.print(f"Rebuilding {index.model} with gemma3build {index.version} from the archive.")
        target = compared if release is not None else folder / RELEASE
        code = run_archived(folder, [str(target), *paths, *flags])
    if code:
        raise typer.Exit(code)


def archive(
    release: Release = ARTIFACTS / DEFAULT_MODEL,
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The archive. [RELEASE.archive.tar]"),
    ] = None,
    with_checkpoint: Annotated[
        bool,
        typer.Option(
            "--with-checkpoint", help="Include the checkpoint. Its licence must allow this."
        ),
    ] = False,
) -> None:
    """Write one file with everything that a rebuild needs: packages, base image, source, pins.

    Examples:
    * `gemma3build archive --output gemma3-270m.archive.tar --with-checkpoint`
    * `gemma3build rebuild --from-archive gemma3-270m.archive.tar` then needs no network
    """
    from gemma3build.cli.progress import Progress
    from gemma3build.engine.runner import open_runner
    from gemma3build.verify.checks import read_record
    from gemma3build.workflows.archive import make_archive

    verified = require_verified(release)
    path = release.absolute()
    target = (output or path.with_name(f"{path.name}.archive.tar")).absolute()
    with Progress(err) as progress, open_runner(progress.say) as runner:
        manifest = read_record(verified.folder)
        index = make_archive(path, manifest, target, runner, with_checkpoint=with_checkpoint)
    size = megabytes(target.stat().st_size)
    out.print(f"{target}: {len(index.members)} files, {size}", soft_wrap=True)
