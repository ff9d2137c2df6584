"""``rebuild`` and ``archive``: whether a release can be built again, today and later."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from gemma3build.cli.console import err, out, show_findings, show_rebuilt
from gemma3build.cli.options import (
    ARTIFACTS,
    DEFAULT_MODEL,
    AsJson,
    Checkpoint,
    Memory,
    Tokenizer,
    parse_size,
)
from gemma3build.cli.verify import PUBLISHED, Full, Release, download_release, look_at, stoppable
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.util.text import MEGABYTE


def rebuild(
    release: Annotated[
        str | None,
        typer.Argument(
            help="A release, or hf://OWNER/NAME@REVISION for a published one."
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
        typer.Option(metavar="FILE", help="Rebuild with all from an archive, its code included."),
    ] = None,
    attestation: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Attestation. [beside the release, or here for a published one]",
        ),
    ] = None,
    diffoscope: Annotated[
        bool, typer.Option("--diffoscope", help="Run diffoscope on files that differ.")
    ] = False,
    memory: Memory = None,
    as_json: AsJson = False,
    unpacked: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Build a release again from its own manifest, and compare every file part by part.

    Examples:
    * `gemma3build rebuild` rebuilds the release of the default model
    * `gemma3build rebuild artifacts/my-finetune --checkpoint ./my-finetune`
    * `gemma3build rebuild hf://you/gemma3-1b-it-litert@v1` downloads its records, and what differs
    * `gemma3build rebuild --from-archive gemma3-270m.archive.tar` needs no network
    """
    from gemma3build.rebuild.attestation import attestation_path
    from gemma3build.workflows.rebuild import prepare_rebuild, require_diffoscope
    from gemma3build.workflows.request import OwnCheckpoint

    if diffoscope:
        require_diffoscope()
    # An archive's own code may be of a version that knows no addresses: it gets a whole directory.
    with at_hand(release, full=full or from_archive is not None, as_json=as_json) as published:
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
            flags = [
                *(("--memory", memory) if memory else ()),
                *(("--diffoscope",) if diffoscope else ()),
                *(("--json",) if as_json else ()),
            ]
            rebuild_archived(from_archive.absolute(), path, options, flags)
            return
        path = path or ARTIFACTS / DEFAULT_MODEL
        rebuilding = prepare_rebuild(
            path.absolute(),
            OwnCheckpoint(folder=checkpoint, tokenizer=tokenizer),
            attestation=attestation and attestation.absolute(),
            archived=unpacked,
            remote_digests=published.remote_digests if published else (),
        )
        rebuilt = rebuild_here(rebuilding, published, memory, diffoscope=diffoscope)
    show_rebuilt(release or path, rebuilt, as_json=as_json)
    refuse_differences(rebuilt)


@contextmanager
def at_hand(release: str | None, *, full: bool, as_json: bool) -> Iterator[Any]:
    """Bring a release that is named by an address, and refuse it unless it verifies; else give None."""
    if release is None or not release.startswith(PUBLISHED):
        yield None
        return
    from gemma3build.engine.cache import Cache
    from gemma3build.engine.runner import cache_dir
    from gemma3build.publish.hub import set_output

    # In the cache, which `cache prune` cleans of what a kill leaves there.
    with Cache(cache_dir()).scratch("published") as scratch:
        published = download_release(release, scratch, full=full)
        verified = look_at(published.folder, None, published.remote_digests)
        if verified.error is not None:
            show_findings(release, verified.findings, as_json=as_json)
            raise verified.error
        set_output(progress=False)  # from here on, steps are shown
        yield published


def rebuild_here(rebuilding: Any, published: Any, memory: str | None, *, diffoscope: bool) -> Any:
    """Rebuild a prepared release by this code; shows on a terminal how far it is."""
    from gemma3build.cli.progress import Progress
    from gemma3build.engine.cache import Cache
    from gemma3build.engine.container import remove_orphans
    from gemma3build.engine.docker import connect
    from gemma3build.engine.runner import cache_dir
    from gemma3build.workflows.rebuild import rebuild as run_rebuild

    with Progress(err) as progress:

        def fetch(name: str) -> None:
            progress.say(f"Downloading {name}, which differs")
            published.fetch_file(name)

        progress.expect(len(rebuilding.steps))
        client, home = connect(), Cache(rebuilding.archived or cache_dir())
        remove_orphans(client, Cache(cache_dir()))
        try:
            with home.in_use():
                return run_rebuild(
                    rebuilding,
                    client,
                    home,
                    progress,
                    progress.say,
                    memory=parse_size(memory),
                    diffoscope=diffoscope,
                    fetch_file=fetch,
                )
        except KeyboardInterrupt as stopped:
            raise rebuild_stopped() from stopped


def refuse_differences(rebuilt: Any) -> None:
    """Raise the error of the worst verdict, unless it is that all files are identical."""
    from gemma3build.rebuild.compare import Verdict, worst
    from gemma3build.verify.untrusted import join_names

    verdict = worst(rebuilt.comparisons)
    if verdict is Verdict.IDENTICAL:
        return
    names = join_names(item.path for item in rebuilt.comparisons if item.verdict is verdict)
    code = ErrorCode.NOT_IDENTICAL if verdict is Verdict.EQUIVALENT else ErrorCode.DIFFERENT
    hint = "docs/rebuild.md says what can cause that."
    raise BuildError(code, "The rebuilt release has other bytes", f"{names} {verdict}", hint)


def rebuild_archived(
    archive: Path, release: Path | None, options: Mapping[str, Path | None], flags: list[str]
) -> None:
    """Rebuild from an archive, by its own code; the process ends with its exit code.

    Args:
        archive: the file.
        release: what is compared; None for the records in the archive.
        options: paths by option.
        flags: other options.
    """
    from gemma3build.cli.progress import reading
    from gemma3build.engine.cache import Cache
    from gemma3build.engine.runner import cache_dir
    from gemma3build.rebuild.archive import RELEASE, unpack
    from gemma3build.rebuild.attestation import attestation_path
    from gemma3build.workflows.archive import run_archived

    beside = release.absolute() if release is not None else archive
    options = {**options, "--attestation": options["--attestation"] or attestation_path(beside)}
    paths = [
        text for name, path in options.items() if path for text in (name, str(path.absolute()))
    ]
    try:
        with Cache(cache_dir()).scratch("archive") as folder:
            size = archive.stat().st_size if archive.is_file() else 0
            with reading(err, size) as advance:
                index = unpack(archive, folder, advance)
            if not index.complete and options["--checkpoint"] is None:
                why = f"the archive of {index.model} was made without its checkpoint"
                hint = "Give it: --checkpoint DIR"
                raise BuildError(ErrorCode.REQUEST, "The release cannot be rebuilt", why, hint)
            err.print(
                f"Rebuilding {index.model} by gemma3build {index.version}, the archive's own."
            )
            target = beside if release is not None else folder / RELEASE
            code = run_archived(folder, [str(target), *paths, *flags])
    except KeyboardInterrupt as stopped:
        raise rebuild_stopped() from stopped
    if code:
        raise typer.Exit(code)


def rebuild_stopped() -> BuildError:
    """Return the error of a rebuild that a signal stopped."""
    hint = "Run it again; it begins anew."
    return BuildError(ErrorCode.INTERRUPTED, "The rebuild was stopped", "it got a signal", hint)


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
            "--with-checkpoint", help="Also what the checkpoint is made of: see its licence."
        ),
    ] = False,
) -> None:
    """Put all that a rebuild needs into one file: wheels, base image, source, pins, records.

    Examples:
    * `gemma3build archive --output gemma3-270m.archive.tar --with-checkpoint`
    * `gemma3build rebuild --from-archive gemma3-270m.archive.tar` needs no network then
    """
    from gemma3build.cli.progress import Progress
    from gemma3build.engine.runner import open_runner
    from gemma3build.verify.checks import read_record
    from gemma3build.workflows.archive import make_archive

    verified = look_at(release.absolute())
    if verified.error is not None:
        show_findings(release, verified.findings, as_json=False)
        raise verified.error
    path = release.absolute()
    target = (output or path.with_name(f"{path.name}.archive.tar")).absolute()
    with (
        Progress(err) as progress,
        stoppable("The archive was not made"),
        open_runner(progress.say) as runner,
    ):
        manifest = read_record(verified.folder)
        index = make_archive(path, manifest, target, runner, with_checkpoint=with_checkpoint)
    size = target.stat().st_size / MEGABYTE
    text = f"{target} has {len(index.members)} files, {size:,.1f} MB."
    out.print(text, soft_wrap=True)
