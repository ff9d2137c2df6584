"""The app and its entry point, the only place that exits."""

import signal
import sys
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from gemma3build import __version__
from gemma3build.cli import build, environment, evaluate, lock, publish, rebuild, release, verify
from gemma3build.cli.console import out, print_error, show_error
from gemma3build.errors import BuildError, ErrorCode, stopped_error
from gemma3build.schema.hub_errors import first_line

CACHED = frozenset({"build", "evaluate", "release"})  # commands that keep finished steps


class Commands(TyperGroup):
    """The commands; Ctrl-C in any of them becomes an error."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept ``plan``, the old name of ``build --dry-run``, for one more version."""
        if args[:1] == ["plan"]:
            args = ["build", "--dry-run", *args[1:]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            name = ctx.invoked_subcommand
            raise stopped_error(f"`gemma3build {name}`", kept=name in CACHED) from stopped


app = typer.Typer(
    name="gemma3build",
    cls=Commands,
    help="Build reproducible on-device releases of Gemma 3 in pinned containers.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="Show and clean the cache.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

for command in (
    build.build,
    evaluate.evaluate,
    verify.verify,
    verify.sign,
    rebuild.rebuild,
    rebuild.archive,
    publish.publish,
    release.release,
    lock.models,
    lock.schemes,
    lock.lock,
    environment.images,
    environment.engine,
):
    app.command()(command)
cache_app.command("size")(environment.cache_size)
cache_app.command("prune")(environment.cache_prune)


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


def stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler
    """Treat SIGTERM as Ctrl-C, so that containers are stopped and removed."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the command and exit.

    With ``--json``, also print every error as one JSON object on standard output. An error can come before
    options are parsed, so this function searches the arguments for the option.
    """
    signal.signal(signal.SIGTERM, stop)
    as_json = "--json" in sys.argv[1:]
    try:
        app()
    except BuildError as error:
        show_error(error)
        if as_json:
            print_error(error)
        sys.exit(error.code.exit_code)
    except SystemExit as ended:
        wrong = getattr(ended.__context__, "format_message", None)  # of the command line
        if as_json and wrong is not None:
            what, hint = "The command line cannot be used", "To list the options, add --help."
            print_error(BuildError(ErrorCode.USAGE, what, wrong(), hint))
        raise
    except Exception as defect:
        if as_json:
            # Its text may have an address that is signed; the traceback is for you alone.
            why, hint = f"{type(defect).__name__}: {first_line(str(defect))}", "Please report it."
            print_error(BuildError(ErrorCode.INTERNAL, "gemma3build has a defect", why, hint))
        raise
