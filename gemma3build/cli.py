"""The command: parse, plan, run. The only place that exits."""

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from gemma3build import __version__
from gemma3build.core.codec import encode
from gemma3build.core.evaluation import REPORT
from gemma3build.core.units import GIBIBYTE, MEBIBYTE, MEGABYTE
from gemma3build.errors import (
    BuildError,
    InterruptedBuildError,
    UnknownNameError,
)
from gemma3build.output import (
    err,
    make_table,
    out,
    print_json,
    show_error,
    show_evaluations,
    show_outcome,
    show_plan,
)
from gemma3build.pins.intent import find_model, load_images, load_models, load_schemes

DEFAULT_MODEL = "gemma3-270m"
ARTIFACTS = Path("artifacts")
TERMS = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms;"
    " they travel with every release as Notice and GEMMA_TERMS_OF_USE.md."
)
UNITS = {"K": 1 << 10, "M": MEBIBYTE, "G": GIBIBYTE}

app = typer.Typer(
    name="gemma3build",
    help="Build reproducible on-device releases of Gemma 3 in pinned containers.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="Look at and clean the cache.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

Model = Annotated[str, typer.Option("--model", "-m", help="A model that `models` lists.")]
Schemes = Annotated[
    list[str] | None,
    typer.Option("--scheme", "-s", help="A scheme, a scheme file, or `all`; repeatable."),
]
Checkpoint = Annotated[
    Path | None, typer.Option(help="A directory with config.json and safetensors of your own.")
]
Tokenizer = Annotated[Path | None, typer.Option(help="A tokenizer.model beside --checkpoint.")]
Name = Annotated[str | None, typer.Option(help="Name of the release and of its files.")]
Prefill = Annotated[
    list[int] | None,
    typer.Option(help="Length of a prefill signature, in tokens; repeatable."),
]
KvCache = Annotated[int | None, typer.Option(help="Length of the key-value cache, in tokens.")]
Mask = Annotated[
    bool, typer.Option("--mask-as-input/--no-mask-as-input", help="Whether the caller gives it.")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Release directory. [artifacts/<name>]")
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Containers at a time.")]
Memory = Annotated[
    str | None, typer.Option(help="Limit of each container, such as 8G. [the machine's]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def show_version(*, value: bool) -> None:
    """Print the version and exit."""
    if value:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def common(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Build reproducible on-device releases of Gemma 3 in pinned containers."""


@app.command()
def build(
    *,
    model: Model = DEFAULT_MODEL,
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
    from gemma3build.request import Request, prepare

    prepared = prepare(
        Request(
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
        as_json=as_json,
    )


def run_build(prepared: Any, *, folder: Path, jobs: int, memory: int | None, as_json: bool) -> None:
    """Build a prepared plan and show the outcome."""
    from gemma3build.build import Builder
    from gemma3build.engine.docker import connect
    from gemma3build.engine.runner import Runner, cache_dir
    from gemma3build.engine.store import Store
    from gemma3build.progress import Progress

    started = time.monotonic()
    with Progress(err) as progress:
        progress.expect(len(prepared.plan.steps))
        store = Store(cache_dir())
        builder = Builder(Runner(connect(), store, progress.say, memory))
        outcome = builder.find(prepared, folder)
        if outcome is None:
            if store.once("terms-shown"):
                progress.say(TERMS)
            try:
                outcome = builder.build(prepared, folder, jobs, progress)
            except KeyboardInterrupt as stopped:
                raise stopped_error("The build") from stopped
    show_outcome(prepared.plan, outcome, time.monotonic() - started, as_json=as_json)


@app.command()
def plan(
    *,
    model: Model = DEFAULT_MODEL,
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


@app.command()
def evaluate(
    release: Annotated[Path, typer.Argument(help="A release.")] = ARTIFACTS / DEFAULT_MODEL,
    *,
    piqa: Annotated[
        Path | None, typer.Option(help="A folder with PIQA's valid.jsonl and valid-labels.lst.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Ask the first so many questions only: a quick look.")
    ] = None,
    checkpoint: Checkpoint = None,
    tokenizer: Tokenizer = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Set two releases side by side; run nothing.")
    ] = None,
    memory: Memory = None,
    as_json: AsJson = False,
) -> None:
    """Measure PIQA, speed and memory of a release, into its evaluation.json and report.html.

    Examples:
    * `gemma3build evaluate` measures the release of the default model
    * `gemma3build evaluate artifacts/gemma3-1b-it --limit 100`
    * `gemma3build evaluate --compare artifacts/a artifacts/b`
    """
    from gemma3build.engine.docker import connect
    from gemma3build.engine.runner import Runner, cache_dir
    from gemma3build.engine.store import Store
    from gemma3build.evaluate import (
        EvaluationRequest,
        prepare_evaluation,
        read_release,
    )
    from gemma3build.evaluate import evaluate as run_evaluation
    from gemma3build.progress import Progress

    if compare is not None:
        show_evaluations([read_release(folder.absolute()) for folder in compare], as_json=as_json)
        return
    found = read_release(release.absolute())
    request = EvaluationRequest(checkpoint=checkpoint, tokenizer=tokenizer, piqa=piqa, limit=limit)
    with Progress(err) as progress:
        runner = Runner(connect(), Store(cache_dir()), progress.say, parse_size(memory))
        prepared = prepare_evaluation(found, request, runner)
        progress.expect(len(prepared.steps))
        try:
            found = run_evaluation(found, prepared, runner, progress)
        except KeyboardInterrupt as stopped:
            raise stopped_error("The evaluation") from stopped
    show_evaluations([found], as_json=as_json)
    if not as_json:
        out.print(f"{found.folder / REPORT} has the whole of it.")


@app.command()
def models(*, as_json: AsJson = False) -> None:
    """List the models that can be built by name."""
    from gemma3build.pins.drift import model_drift
    from gemma3build.pins.lock import read_models_lock

    found, locks = load_models(), read_models_lock().models
    drifts = {name: model_drift(name, model, locks.get(name)) for name, model in found.items()}
    if as_json:
        rows = {
            name: {**encode(model), "locked": not drifts[name]} for name, model in found.items()
        }
        print_json(rows)
        return
    table = make_table("model", "parameters", "prefill", "kv cache", "locked", "what it is")
    for name, model in found.items():
        table.add_row(
            name,
            f"{model.shape.parameters / MEGABYTE:,.0f} M",
            ", ".join(map(str, model.prefill_seq_lens)),
            str(model.kv_cache_max_len),
            "no" if drifts[name] else "yes",
            model.summary,
        )
    out.print(table)


@app.command()
def schemes(*, as_json: AsJson = False) -> None:
    """List the quantization schemes; a file like those in pins/schemes/ adds one."""
    found = load_schemes()
    if as_json:
        print_json({name: encode(scheme) for name, scheme in found.items()})
        return
    table = make_table("scheme", "file suffix", "what it does")
    for name, scheme in found.items():
        table.add_row(name, scheme.suffix, scheme.summary)
    out.print(table)


@app.command()
def images(
    *,
    make: Annotated[bool, typer.Option("--build", help="Make those that are missing.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the images that steps run in, and make them if asked to.

    Examples:
    * `gemma3build images` shows which are there
    * `gemma3build images --build` makes the others
    """
    from gemma3build.engine.docker import connect
    from gemma3build.engine.images import Images
    from gemma3build.engine.runner import cache_dir
    from gemma3build.engine.store import Store

    all_images = Images(connect(), Store(cache_dir()), load_images(), err.print)
    found = {
        name: all_images.ensure(name) if make else all_images.find(name)
        for name in all_images.names()
    }
    if as_json:
        print_json({name: encode(image) if image else None for name, image in found.items()})
        return
    table = make_table("image", "tag", "id", "made from")
    for name, image in found.items():
        if image is None:
            table.add_row(name, "not there", "", "")
        else:
            table.add_row(name, image.tag, image.image_id[:19], image.parent[:26])
    out.print(table)


@app.command()
def engine() -> None:
    """Make sure that a Docker engine answers; on bare Debian, as root, install and start one."""
    from gemma3build.engine.docker import ensure

    out.print(f"Docker engine {ensure(err.print)} answers.")


@app.command()
def lock(
    names: Annotated[list[str] | None, typer.Argument(help="Models. [all, and the images]")] = None,
) -> None:
    """Write locks anew: digests of everything that models.toml and containers/ name.

    Examples:
    * `gemma3build lock` locks the images, and every model that can be reached
    * `gemma3build lock gemma3-1b-it` locks one model of the Hub; HF_TOKEN must have access
    """
    from gemma3build.engine.wheels import pip_download
    from gemma3build.pins import lock as locks
    from gemma3build.pins.drift import images_drift, model_drift
    from gemma3build.pins.resolve import resolve_model

    intent = load_images()

    def download(requirements: tuple[str, ...], folder: Path) -> None:
        pip_download("\n".join(requirements), folder, intent, hashed=False)

    found = dict(locks.read_models_lock().models)
    failed: BuildError | None = None
    chosen = {name: find_model(name) for name in names} if names else load_models()
    for name, model in chosen.items():
        for drift in model_drift(name, model, found.get(name)):
            out.print(str(drift))
        try:
            found[name] = resolve_model(name, model, download)
        except BuildError as error:
            failed = error
            err.print(f"{error.what}: {error.why}. {error.hint}", style="yellow")
        else:
            out.print(f"{name} is locked.")
    locks.write_lock(locks.ModelsLock(models=found), locks.MODELS_LOCK)
    current = locks.current_images()
    for drift in images_drift(current, locks.read_images_lock()):
        out.print(str(drift))
    locks.write_lock(current, locks.IMAGES_LOCK)
    out.print("The images are locked.")
    if names and failed is not None:
        raise failed


@cache_app.command("size")
def cache_size(*, as_json: AsJson = False) -> None:
    """Show where the cache is and what it holds."""
    from gemma3build.engine.runner import cache_dir
    from gemma3build.engine.store import Store, tree_size

    root = cache_dir()
    parts = {name: tree_size(root / name) for name in ("steps", "wheels", "staging", "images")}
    entries = Store(root).entries()
    if as_json:
        print_json({"path": str(root), "bytes": parts, "entries": len(entries)})
        return
    out.print(f"{root}: {len(entries)} results")
    for name, size in parts.items():
        out.print(f"  {name:8} {size / MEGABYTE:10,.1f} MB")


@cache_app.command("prune")
def cache_prune(
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Also finished results and downloaded wheels.")
    ] = False,
) -> None:
    """Remove what killed builds left; with --all, everything. Releases stay."""
    from gemma3build.engine.runner import cache_dir
    from gemma3build.engine.store import Store

    freed = Store(cache_dir()).prune(everything=everything)
    out.print(f"{freed / MEGABYTE:,.1f} MB were removed.")


def stopped_error(what: str) -> InterruptedBuildError:
    """Return the error of something that a signal stopped."""
    why, hint = "it got a signal", "The same command goes on: finished steps are kept."
    return InterruptedBuildError(f"{what} was stopped", why, hint)


def parse_size(text: str | None) -> int | None:
    """Return the bytes that a text such as 8G, 512M or 1000000 means; raises UnknownNameError."""
    if text is None:
        return None
    digits, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not digits.isdigit() or (unit and unit not in UNITS):
        raise UnknownNameError(
            f"{text!r} is no size", "it must be a number with K, M, G or nothing", "Try 8G."
        )
    return int(digits) * UNITS.get(unit, 1)


def stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler
    """Treat SIGTERM as Ctrl-C, so that containers are stopped and removed."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the command; the process ends here."""
    signal.signal(signal.SIGTERM, stop)
    try:
        app()
    except BuildError as error:
        show_error(error)
        sys.exit(error.exit_code)
