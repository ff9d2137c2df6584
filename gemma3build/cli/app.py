"""The command: parse, plan, run. The only place that exits."""

import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from gemma3build import __version__
from gemma3build.cli import build, evaluate, publish, rebuild, release, verify
from gemma3build.cli import environment as engine
from gemma3build.cli import lock as pins
from gemma3build.cli.console import out, show_error
from gemma3build.errors import BuildError

app = typer.Typer(
    name="gemma3build",
    help="Build reproducible on-device releases of Gemma 3 in pinned containers.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="Look at and clean the cache.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

for command in (
    build.build,
    build.plan,
    evaluate.evaluate,
    verify.verify,
    verify.sign,
    rebuild.rebuild,
    rebuild.archive,
    publish.publish,
    release.release,
    pins.models,
    pins.schemes,
    pins.lock,
    engine.images,
    engine.engine,
):
    app.command()(command)
cache_app.command("size")(engine.cache_size)
cache_app.command("prune")(engine.cache_prune)


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
    """Run the command; the process ends here."""
    signal.signal(signal.SIGTERM, stop)
    try:
        app()
    except BuildError as error:
        show_error(error)
        sys.exit(error.code.exit_code)
