"""Consoles, tables, JSON and errors: commands print through this module.

Results go to standard output, progress and errors to standard error.
"""

import json
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from gemma3build.errors import BuildError
from gemma3build.schema.evaluation import Check
from gemma3build.util.serialize import encode
from gemma3build.util.text import escape_control_chars

FILE_WIDTH = 200  # of tables without a terminal
NUMBERS = frozenset({"size", "seconds", "peak memory", "memory", "disk", "parameters"})


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that prints text unchanged: paths and names are no markup."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else FILE_WIDTH
    return Console(highlight=False, markup=False, emoji=False, stderr=stderr, width=width)


out, err = make_console(), make_console(stderr=True)


def tell(text: str) -> None:
    """Show what gemma3build does now."""
    err.print(f"  {text}", style="dim", soft_wrap=True)


def warn(text: str) -> None:
    """Show a warning."""
    err.print(text, style="yellow", soft_wrap=True)


def make_table(*columns: str) -> Table:
    """Return an empty table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in NUMBERS else "left", overflow="fold")
    return table


def print_json(value: object) -> None:
    """Print JSON in ASCII: the name of a file need not be text, and a terminal need not know Unicode."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_error(error: BuildError) -> None:
    """Print an error as JSON, with the result that the command found before."""
    found = {"code": error.code.value, "what": error.what, "why": error.why, "hint": error.hint}
    more = {
        "notes": list(getattr(error, "__notes__", ())),
        "checks": {scheme: encode(checks) for scheme, checks in error.checks.items()},
        "log": str(error.log_file or ""),
    }
    known = {name: value for name, value in more.items() if value}
    print_json({**error.result, "error": {**found, **known}})


def show_error(error: BuildError) -> None:
    """Print an error for people, with the failed checks and the end of the log."""
    if error.log:
        err.print(escape_control_chars(error.log), style="dim", soft_wrap=True)
    if error.checks:
        err.print(checks_table(error.checks))
    # Text from an untrusted file must not control the terminal.
    err.print(escape_control_chars(f"{error.what}."), style="bold red", soft_wrap=True)
    lines = [f"Why: {error.why}"]
    if error.hint:
        lines.append(f"Next: {error.hint}")
    lines += getattr(error, "__notes__", ())
    if error.log_file is not None:
        lines.append(f"Log: {error.log_file}")
    for line in lines:
        err.print(escape_control_chars(f"  {line}"), soft_wrap=True)


def checks_table(checks: Mapping[str, tuple[Check, ...]]) -> Table:
    """Return the table of failed checks."""
    table = make_table("scheme", "check", "measured", "allowed", "")
    for scheme, items in checks.items():
        for check in items:
            table.add_row(scheme, check.name, check.measured, check.allowed, "failed")
    return table
