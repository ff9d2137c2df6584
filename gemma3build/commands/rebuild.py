"""``rebuild``: whether a release can be built again, and what of it is not the same."""

from pathlib import Path
from typing import Annotated

import typer

from gemma3build.commands.options import (
    ARTIFACTS,
    DEFAULT_MODEL,
    AsJson,
    Checkpoint,
    Memory,
    Tokenizer,
    parse_size,
)
from gemma3build.errors import DifferentError, InterruptedBuildError, NotIdenticalError
from gemma3build.output import err, show_rebuilt


def rebuild(
    release: Annotated[Path, typer.Argument(help="A release.")] = ARTIFACTS / DEFAULT_MODEL,
    *,
    checkpoint: Checkpoint = None,
    tokenizer: Tokenizer = None,
    diffoscope: Annotated[
        bool, typer.Option("--diffoscope", help="Run diffoscope on files that differ.")
    ] = False,
    memory: Memory = None,
    as_json: AsJson = False,
) -> None:
    """Build a release again from its own manifest, and compare every file part by part.

    Examples:
    * `gemma3build rebuild` rebuilds the release of the default model
    * `gemma3build rebuild artifacts/my-finetune --checkpoint ./my-finetune`
    """
    from gemma3build.engine.docker import connect
    from gemma3build.engine.runner import cache_dir
    from gemma3build.engine.store import Store
    from gemma3build.progress import Progress
    from gemma3build.rebuild import prepare_rebuild, require_diffoscope
    from gemma3build.rebuild import rebuild as run_rebuild
    from gemma3build.record.compare import Verdict, worst
    from gemma3build.record.folder import listed
    from gemma3build.released import OwnCheckpoint

    if diffoscope:
        require_diffoscope()
    own = OwnCheckpoint(folder=checkpoint, tokenizer=tokenizer)
    rebuilding = prepare_rebuild(release.absolute(), own)
    with Progress(err) as progress:
        progress.expect(len(rebuilding.steps))
        try:
            rebuilt = run_rebuild(
                rebuilding,
                connect(),
                Store(cache_dir()),
                progress,
                progress.say,
                memory=parse_size(memory),
                diffoscope=diffoscope,
            )
        except KeyboardInterrupt as stopped:
            why = "it got a signal"
            hint = "Run it again; it begins anew."
            raise InterruptedBuildError("The rebuild was stopped", why, hint) from stopped
    show_rebuilt(release, rebuilt, as_json=as_json)
    verdict = worst(rebuilt.comparisons)
    if verdict is Verdict.IDENTICAL:
        return
    names = listed(item.path for item in rebuilt.comparisons if item.verdict is verdict)
    hint = "docs/rebuild.md says what can cause that."
    if verdict is Verdict.EQUIVALENT:
        what = "The rebuilt release has other bytes"
        raise NotIdenticalError(what, f"{names} {verdict}", hint)
    raise DifferentError("The rebuilt release is another one", f"{names} {verdict}", hint)
