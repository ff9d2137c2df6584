"""``evaluate``: measure a release, or compare two."""

from pathlib import Path
from typing import Annotated

import typer

from gemma3build.cli.console import err, out
from gemma3build.cli.options import (
    ARTIFACTS,
    DEFAULT_MODEL,
    AsJson,
    Checkpoint,
    Limit,
    Memory,
    Piqa,
    Tokenizer,
    parse_size,
)
from gemma3build.cli.results import show_differing_conditions, show_evaluations
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.release.checksums import SIGNATURE
from gemma3build.schema.evaluation import REPORT


def evaluate(
    release: Annotated[
        Path | None, typer.Argument(help=f"Folder of a release. [{ARTIFACTS / DEFAULT_MODEL}]")
    ] = None,
    *,
    piqa: Piqa = None,
    limit: Limit = None,
    checkpoint: Checkpoint = None,
    tokenizer: Tokenizer = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="Compare the results of two releases; run nothing."),
    ] = None,
    memory: Memory = None,
    as_json: AsJson = False,
) -> None:
    """Measure PIQA, speed and memory of a release; write evaluation.json and report.html.

    Examples:
    * `gemma3build evaluate` measures the release of the default model
    * `gemma3build evaluate artifacts/gemma3-1b-it --limit 100`
    * `gemma3build evaluate --compare artifacts/a artifacts/b`
    """
    from gemma3build.cli.progress import Progress
    from gemma3build.engine.runner import open_runner
    from gemma3build.workflows.evaluate import (
        EvaluationRequest,
        prepare_evaluation,
        read_release,
    )
    from gemma3build.workflows.evaluate import evaluate as run_evaluation

    if compare is not None:
        if any(item is not None for item in (release, piqa, limit, checkpoint, tokenizer, memory)):
            what = "`--compare` cannot be used with a release or with options of a measurement"
            why = "it measures nothing, and takes two releases and `--json` only"
            raise BuildError(ErrorCode.REQUEST, what, why, "Omit the other options.")
        releases = [read_release(folder.absolute()) for folder in compare]
        show_evaluations(releases, as_json=as_json)
        if not as_json:
            show_differing_conditions(*releases)
        return
    folder = release if release is not None else ARTIFACTS / DEFAULT_MODEL
    found = read_release(folder.absolute())
    signed = (folder / SIGNATURE).exists()
    request = EvaluationRequest(checkpoint=checkpoint, tokenizer=tokenizer, piqa=piqa, limit=limit)
    with Progress(err) as progress, open_runner(progress.say, parse_size(memory)) as runner:
        steps, inputs = prepare_evaluation(found, request, runner)
        progress.expect(len(steps))
        found = run_evaluation(found, steps, inputs, runner, progress)
    show_evaluations([found], as_json=as_json)
    if signed:
        err.print(f"Removed {SIGNATURE}: it signed the old results. Run `gemma3build sign` again.")
    if not as_json:
        out.print(f"Report: {found.folder / REPORT}", soft_wrap=True)
