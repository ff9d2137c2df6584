"""``build`` and ``plan``: the main job."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from gemma3build.cli.console import err, show_outcome, show_plan
from gemma3build.cli.options import (
    ARTIFACTS,
    DEFAULT_MODEL,
    AsJson,
    Checkpoint,
    Jobs,
    KvCache,
    Mask,
    Memory,
    Model,
    Name,
    Output,
    Prefill,
    Schemes,
    Tokenizer,
    parse_size,
)
from gemma3build.errors import stopped_error


def build(
    *,
    model: Model = None,
    scheme: Schemes = None,
    checkpoint: Checkpoint = None,
    tokenizer: Tokenizer = None,
    name: Name = None,
    prefill_seq_lens: Prefill = None,
    kv_cache_max_len: KvCache = None,
    mask_as_input: Mask = True,
    output: Output = None,
    jobs: Jobs = 1,
    memory: Memory = None,
    release: Annotated[
        bool, typer.Option("--release", help="Refuse a source tree that no commit has.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build a release: fetch, check, export once, quantize many, bundle, record.

    Examples:
    * `gemma3build build` builds the default model in three schemes
    * `gemma3build build --model gemma3-1b-it --scheme dynamic_int4_block32`
    * `gemma3build build --checkpoint ./my-finetune --scheme all --output ./release`
    * `gemma3build build --dry-run` shows what would run, and touches nothing
    """
    from gemma3build.workflows.build import clean_revision
    from gemma3build.workflows.request import BuildRequest, prepare

    source = clean_revision() if release else None
    if model is None:
        model = DEFAULT_MODEL if checkpoint is None else ""
    prepared = prepare(
        BuildRequest(
            model=model,
            schemes=tuple(scheme or ()),
            checkpoint=checkpoint,
            tokenizer=tokenizer,
            name=name,
            prefill_seq_lens=tuple(prefill_seq_lens or ()),
            kv_cache_max_len=kv_cache_max_len,
            mask_as_input=mask_as_input,
        )
    )
    if dry_run:
        show_plan(prepared.plan, as_json=as_json)
        return
    run_build(
        prepared,
        folder=(output or ARTIFACTS / prepared.plan.model).absolute(),
        jobs=jobs,
        memory=parse_size(memory),
        source=source,
        as_json=as_json,
    )


def plan(
    *,
    model: Model = None,
    scheme: Schemes = None,
    checkpoint: Checkpoint = None,
    tokenizer: Tokenizer = None,
    name: Name = None,
    prefill_seq_lens: Prefill = None,
    kv_cache_max_len: KvCache = None,
    mask_as_input: Mask = True,
    as_json: AsJson = False,
) -> None:
    """Print what `build` would run, and touch nothing.

    Examples:
    * `gemma3build plan --scheme all`
    * `gemma3build plan --model gemma3-1b-it --json`
    """
    build(
        model=model,
        scheme=scheme,
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        name=name,
        prefill_seq_lens=prefill_seq_lens,
        kv_cache_max_len=kv_cache_max_len,
        mask_as_input=mask_as_input,
        dry_run=True,
        as_json=as_json,
    )


def run_build(
    prepared: Any, *, folder: Path, jobs: int, memory: int | None, source: Any, as_json: bool
) -> None:
    """Build a prepared plan and show the outcome; ``source`` is what a release must be from."""
    from gemma3build.cli.progress import Progress
    from gemma3build.engine.runner import open_runner
    from gemma3build.workflows.build import Builder

    started = time.monotonic()
    with Progress(err) as progress:
        progress.expect(len(prepared.plan.steps))
        try:
            with open_runner(progress.say, memory) as runner:
                outcome = Builder(runner, source).ensure(prepared, folder, jobs, progress)
        except KeyboardInterrupt as stopped:
            raise stopped_error("The build") from stopped
    show_outcome(prepared.plan, outcome, time.monotonic() - started, as_json=as_json)
