"""``build``: build a release, or print its plan."""

import time
from typing import Annotated

import typer

from gemma3build.cli.console import err
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
from gemma3build.cli.results import show_build, show_plan


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
        bool,
        typer.Option("--release", help="Fail if the Git working tree has uncommitted changes."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the steps of the build; run nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build a release: get a checkpoint, export it once, quantize and bundle each scheme.

    Every file is compared with the checkpoint before the release is written.

    Examples:
    * `gemma3build build` builds the default model in three schemes
    * `gemma3build build --model gemma3-1b-it --scheme dynamic_int4_block32`
    * `gemma3build build --checkpoint ./my-finetune --scheme all --output ./release`
    * `gemma3build build --dry-run` shows what would run
    """
    from gemma3build.workflows.build import Builder, clean_revision
    from gemma3build.workflows.request import BuildRequest, prepare_build

    source = clean_revision() if release else None
    if model is None:
        model = DEFAULT_MODEL if checkpoint is None else ""
    prepared = prepare_build(
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
    from gemma3build.cli.progress import Progress
    from gemma3build.engine.runner import open_runner

    folder = (output or ARTIFACTS / prepared.plan.model).absolute()
    limit, started = parse_size(memory), time.monotonic()
    with Progress(err) as progress, open_runner(progress.say, limit) as runner:
        progress.expect(len(prepared.plan.steps))
        result = Builder(runner, source).ensure(prepared, folder, jobs, progress)
    show_build(prepared.plan, result, time.monotonic() - started, as_json=as_json)
