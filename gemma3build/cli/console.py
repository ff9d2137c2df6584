"""What people and programs see: tables, errors and JSON. Nothing else prints."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gemma3build.errors import BuildError
from gemma3build.schema.evaluation import flag
from gemma3build.util.serialize import encode
from gemma3build.util.text import GIBIBYTE, MEGABYTE, escape_control_chars

# Progress and errors go to standard error, what was asked for to standard output.
# Where no terminal gives a width, tables are as wide as they need.
FILE_WIDTH = 200
# What stands before the line of a check, by how it ended, and its style.
MARKS = {
    "passed": ("✓", "green"),
    "failed": ("✗", "red"),
    "noted": ("·", "dim"),
    "skipped": ("-", "dim"),
}
SHOWN_PARTS = 3  # of a file that differs


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that prints texts as they are: paths and names are no markup."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else FILE_WIDTH
    return Console(highlight=False, markup=False, emoji=False, stderr=stderr, width=width)


out, err = make_console(), make_console(stderr=True)


def show_evaluations(releases: Any, *, as_json: bool) -> None:
    """Print the table of the converter's page for releases, scheme by scheme, or JSON."""
    if as_json:
        found = {str(item.folder): encode(item.evaluation) for item in releases}
        print_json(found)
        return
    columns = ("size", "PIQA", "prefill", "decode", "peak memory", "KL")
    table = make_table("scheme", *(("release",) if len(releases) > 1 else ()), *columns)
    names = dict.fromkeys(
        scheme.scheme for release in releases for scheme in release.evaluation.schemes
    )
    for name in names:
        for release in releases:
            for scheme in release.evaluation.schemes:
                if scheme.scheme == name:
                    folder = (str(release.folder),) if len(releases) > 1 else ()
                    # What somebody else's release says is nothing that a terminal may obey.
                    table.add_row(*map(escape_control_chars, (name, *folder, *figures(scheme))))
    out.print(table)


def show_unlike(releases: Any) -> None:
    """Say which figures of two releases were not measured alike, and how each was."""
    from gemma3build.report.report import differing_conditions

    first, second = releases
    for entry in differing_conditions(first.evaluation, second.evaluation):
        schemes = ", ".join(entry.schemes)
        text = f"{entry.first.what} of {schemes} was not measured alike in both:"
        for release, way in ((first, entry.first), (second, entry.second)):
            text += f"\n  {release.folder}: {way.how}; {way.machine}; {way.versions}"
        out.print(escape_control_chars(text), style="yellow", soft_wrap=True)


def figures(scheme: Any) -> tuple[str, ...]:
    """Return what is known about a scheme, one text a column."""
    piqa, speed = scheme.piqa, scheme.speed
    mark = f" ({flag(piqa)})" if flag(piqa) else ""
    return (
        f"{scheme.model.size / MEGABYTE:,.1f} MB",
        f"{100 * piqa.acc:.1f} ± {100 * piqa.acc_stderr:.1f}{mark}" if piqa else "—",
        f"{speed.prefill:,.0f} tk/s" if speed else "—",
        f"{speed.decode:,.1f} tk/s" if speed else "—",
        f"{speed.peak_memory / MEGABYTE:,.0f} MB" if speed else "—",
        f"{scheme.gate.agreement.kl:.3g}" if scheme.gate.agreement else "—",
    )


def show_plan(plan: Any, *, as_json: bool) -> None:
    """Print a plan."""
    if as_json:
        print_json(encode(plan))
        return
    out.print(f"{plan.model}: {len(plan.steps)} steps, {len(plan.artifacts)} files")
    table = make_table("step", "image", "reads", "memory", "disk")
    for step in plan.steps:
        reads = ", ".join(getattr(item, "step", None) or item.name for item in step.inputs.values())
        table.add_row(
            step.name,
            step.image,
            reads or "the Hub",
            f"{step.memory / GIBIBYTE:.1f} GiB",
            f"{step.disk / MEGABYTE:,.0f} MB",
        )
    out.print(table)
    for artifact in plan.artifacts:
        out.print(f"  {artifact.file_name}")


def show_outcome(plan: Any, outcome: Any, seconds: float, *, as_json: bool) -> None:
    """Print what a build did: a table of files, or JSON."""
    entries = {
        artifact.file_name: outcome.done[artifact.source.step] for artifact in plan.artifacts
    }
    if as_json:
        files = [
            {
                "path": item.path,
                "scheme": item.scheme,
                "size": item.size,
                "sha256": item.sha256,
                "seconds": entries[item.path].entry.seconds,
                "peak_memory": entries[item.path].entry.peak_memory,
            }
            for item in outcome.manifest.artifacts
        ]
        print_json(
            {
                "release": str(outcome.folder),
                "idle": outcome.idle,
                "seconds": round(seconds, 3),
                "files": files,
                "steps": [
                    {
                        "name": name,
                        "ran": not done.cached,
                        "seconds": done.entry.seconds,
                        "peak_memory": done.entry.peak_memory,
                    }
                    for name, done in outcome.done.items()
                ],
            }
        )
        return
    table = make_table("file", "scheme", "size", "sha256", "seconds", "peak memory")
    for item in outcome.manifest.artifacts:
        entry = entries[item.path].entry
        table.add_row(
            item.path,
            item.scheme,
            f"{item.size / MEGABYTE:,.1f} MB",
            item.sha256[:16],
            f"{entry.seconds:.1f}",
            f"{entry.peak_memory / GIBIBYTE:.2f} GiB",
        )
    out.print(table)
    if outcome.idle:
        out.print(
            f"Nothing to do: {outcome.folder} is up to date ({seconds:.1f} s).", soft_wrap=True
        )
    else:
        ran = sum(not done.cached for done in outcome.done.values())
        out.print(f"{outcome.folder} is ready: {ran} steps ran, {seconds:.1f} s.", soft_wrap=True)


def checks_table(checks: Any) -> Table:
    """Return the table of checks that failed, given by scheme."""
    table = make_table("scheme", "check", "measured", "allowed", "")
    for scheme, items in checks.items():
        for check in items:
            table.add_row(scheme, check.name, check.measured, check.allowed, "refused")
    return table


def show_findings(folder: Path | str, findings: Any, *, as_json: bool) -> None:
    """Print what the checks of a release found, a line each, or JSON."""
    if as_json:
        checks = [
            {
                "name": item.name,
                "state": item.state,
                "detail": item.detail,
                **({"flaw": item.error.code} if item.error else {}),
            }
            for item in findings
        ]
        verified = not any(item.error for item in findings)
        print_json({"release": str(folder), "verified": verified, "checks": checks})
        return
    width = max(len(item.name) for item in findings)
    for item in findings:
        mark, style = MARKS[item.state]
        # What a release holds is no markup, and nothing that a terminal may obey.
        line = Text.assemble(
            (mark, style), f" {item.name:{width}}  ", (escape_control_chars(item.detail), style)
        )
        out.print(line, soft_wrap=True)


def show_rebuilt(folder: Path | str, rebuilt: Any, *, as_json: bool) -> None:
    """Print how each file of a release compares with the rebuilt one: a table, or JSON."""
    if as_json:
        print_json(
            {
                "release": str(folder),
                "files": encode(rebuilt.comparisons),
                "unlike": list(rebuilt.unlike),
                "attestation": str(rebuilt.attestation),
                "diffoscope": [str(path) for path in rebuilt.reports],
            }
        )
        return
    table = make_table("file", "verdict", "released", "rebuilt", "where")
    for item in rebuilt.comparisons:
        parts = [difference.part for difference in item.differences]
        if len(parts) > SHOWN_PARTS:
            parts[SHOWN_PARTS:] = [f"{len(parts) - SHOWN_PARTS} more"]
        where = item.stabilizer or ", ".join(parts)
        digests = (item.released[:16] or "—", item.rebuilt[:16] or "—")
        table.add_row(
            escape_control_chars(item.path), item.verdict, *digests, escape_control_chars(where)
        )
    out.print(table)
    for report in rebuilt.reports:
        out.print(f"{report} has what diffoscope says.", soft_wrap=True)
    out.print(f"{rebuilt.attestation} attests this.", soft_wrap=True)


def make_table(*columns: str) -> Table:
    """Return an empty table in the style of this command."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    numbers = {"size", "seconds", "peak memory", "memory", "disk", "parameters"}
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return table


def print_json(value: object) -> None:
    """Print JSON as it is, whatever the width of the terminal."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def show_error(error: BuildError) -> None:
    """Print an error: what failed, why, what to do, and the end of the log where it helps."""
    if error.log:
        err.print(escape_control_chars(error.log), style="dim", soft_wrap=True)
    if error.checks:
        err.print(checks_table(error.checks))
    # What a file of somebody else's says is nothing that a terminal may obey.
    err.print(escape_control_chars(f"{error.what}."), style="bold red", soft_wrap=True)
    err.print(escape_control_chars(f"  Why: {error.why}"), soft_wrap=True)
    if error.hint:
        err.print(escape_control_chars(f"  Next: {error.hint}"), soft_wrap=True)
    for note in getattr(error, "__notes__", ()):
        err.print(escape_control_chars(f"  {note}"), soft_wrap=True)
    if error.log_file is not None:
        err.print(f"  Log: {error.log_file}", soft_wrap=True)
