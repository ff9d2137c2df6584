"""Print the result of each command: text and tables for people, JSON for programs.

Types are imported for the checker alone: loading them takes longer than an idle build.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from gemma3build.cli.console import make_table, out, print_json
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.schema.evaluation import flag
from gemma3build.util.serialize import encode
from gemma3build.util.text import (
    escape_control_chars,
    gibibytes,
    join_names,
    megabytes,
    truncate,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from gemma3build.engine.executor import FinishedStep
    from gemma3build.plan.graph import Plan
    from gemma3build.publish.diff import Remote, RepoDiff
    from gemma3build.publish.publish import Publication, PublishResult
    from gemma3build.schema.evaluation import SchemeEvaluation
    from gemma3build.verify.verify import Verified
    from gemma3build.workflows.build import BuildResult
    from gemma3build.workflows.evaluate import EvaluatedRelease
    from gemma3build.workflows.rebuild import Rebuilt
    from gemma3build.workflows.release import PipelineConfig, PipelineResult
    from gemma3build.workflows.release_file import PlannedRelease

# Mark and style of a check, by its state.
MARKS = {
    "passed": ("✓", "green"),
    "failed": ("✗", "red"),
    "noted": ("·", "dim"),
    "skipped": ("-", "dim"),
}
SHOWN_PARTS = 3  # of a file that differs


def show_plan(plan: Plan, *, as_json: bool) -> None:
    """Print the steps and files of a build."""
    if as_json:
        print_json(encode(plan))
        return
    from gemma3build.plan.graph import StepOutput

    out.print(f"{plan.model}: {len(plan.steps)} steps, {len(plan.artifacts)} files")
    table = make_table("step", "image", "reads", "memory", "disk")
    for step in plan.steps:
        inputs = step.inputs.values()
        reads = [item.step if isinstance(item, StepOutput) else item.name for item in inputs]
        table.add_row(
            step.name,
            step.image,
            ", ".join(reads) or "the Hub",
            gibibytes(step.memory),
            megabytes(step.disk),
        )
    out.print(table)
    for artifact in plan.artifacts:
        out.print(f"  {artifact.file_name}")


def show_build(plan: Plan, result: BuildResult, seconds: float, *, as_json: bool) -> None:
    """Print the files of a build, and how long it took."""
    steps = {artifact.file_name: artifact.source.step for artifact in plan.artifacts}
    if as_json:
        files = [
            {
                "path": item.path,
                "scheme": item.scheme,
                "size": item.size,
                "sha256": item.sha256,
                **timing(result.done[steps[item.path]]),
            }
            for item in result.manifest.artifacts
        ]
        ran = [
            {"name": name, "ran": not done.cached, **timing(done)}
            for name, done in result.done.items()
        ]
        found = {"release": str(result.folder), "idle": result.idle, "seconds": round(seconds, 3)}
        print_json({**found, "files": files, "steps": ran})
        return
    table = make_table("file", "scheme", "size", "sha256", "seconds", "peak memory")
    for item in result.manifest.artifacts:
        entry = result.done[steps[item.path]].entry
        table.add_row(
            item.path,
            item.scheme,
            megabytes(item.size),
            item.sha256[:16],
            f"{entry.seconds:.1f}",
            megabytes(entry.peak_memory),
        )
    out.print(table)
    if result.idle:
        text = f"Nothing to do: {result.folder} is up to date ({seconds:.1f} s)."
    else:
        count = sum(not done.cached for done in result.done.values())
        text = f"{result.folder} is ready: {count} steps ran, {seconds:.1f} s."
    out.print(text, soft_wrap=True)


def timing(done: FinishedStep) -> dict[str, float]:
    """Return time and memory of a step, for JSON."""
    return {"seconds": done.entry.seconds, "peak_memory": done.entry.peak_memory}


def show_evaluations(releases: Sequence[EvaluatedRelease], *, as_json: bool) -> None:
    """Print the results of releases, by scheme, as on the converter's page."""
    if as_json:
        print_json({str(item.folder): encode(item.evaluation) for item in releases})
        return
    several = len(releases) > 1
    columns = ("size", "PIQA", "prefill", "decode", "peak memory", "KL")
    table = make_table("scheme", *(("release",) if several else ()), *columns)
    names = dict.fromkeys(
        scheme.scheme for release in releases for scheme in release.evaluation.schemes
    )
    for name in names:
        for release in releases:
            for scheme in release.evaluation.schemes:
                if scheme.scheme == name:
                    folder = (str(release.folder),) if several else ()
                    # An untrusted release must not control the terminal.
                    table.add_row(*map(escape_control_chars, (name, *folder, *figures(scheme))))
    out.print(table)


def figures(scheme: SchemeEvaluation) -> tuple[str, ...]:
    """Return the results of a scheme, one text a column."""
    piqa, speed = scheme.piqa, scheme.speed
    mark = f" ({flag(piqa)})" if flag(piqa) else ""
    return (
        megabytes(scheme.model.size),
        f"{100 * piqa.acc:.1f} ± {100 * piqa.acc_stderr:.1f}{mark}" if piqa else "—",
        f"{speed.prefill:,.0f} tk/s" if speed else "—",
        f"{speed.decode:,.1f} tk/s" if speed else "—",
        megabytes(speed.peak_memory) if speed else "—",
        f"{scheme.gate.agreement.kl:.3g}" if scheme.gate.agreement else "—",
    )


def show_differing_conditions(first: EvaluatedRelease, second: EvaluatedRelease) -> None:
    """Print which results of two releases were measured under different conditions."""
    from gemma3build.report.measurement import differing_conditions

    for entry in differing_conditions(first.evaluation, second.evaluation):
        schemes = ", ".join(entry.schemes)
        text = f"{entry.first.what} of {schemes} was measured under different conditions:"
        for release, way in ((first, entry.first), (second, entry.second)):
            text += f"\n  {release.folder}: {way.how}; {way.machine}; {way.versions}"
        out.print(escape_control_chars(text), style="yellow", soft_wrap=True)


def show_findings(release: Path | str, verified: Verified, *, as_json: bool) -> None:
    """Print a line for each check of a release.

    Raises:
        BuildError: one failed; with ``as_json``, the error carries the checks.
    """
    if as_json:
        checks = [
            {
                "name": item.name,
                "state": item.state,
                "detail": item.detail,
                **({"flaw": item.error.code} if item.error else {}),
            }
            for item in verified.findings
        ]
        print_result(
            {"release": str(release), "verified": verified.error is None, "checks": checks},
            verified.error,
        )
    else:
        width = max(len(item.name) for item in verified.findings)
        for item in verified.findings:
            mark, style = MARKS[item.state]
            # An untrusted release must not control the terminal.
            line = Text.assemble(
                (mark, style), f" {item.name:{width}}  ", (escape_control_chars(item.detail), style)
            )
            out.print(line, soft_wrap=True)
    if verified.error is not None:
        raise verified.error


def show_rebuilt(release: Path | str, rebuilt: Rebuilt, *, as_json: bool) -> None:
    """Print how each file of a release compares with the rebuilt one.

    Raises:
        BuildError: a file differs; with ``as_json``, the error carries the comparison.
    """
    error = difference_error(rebuilt)
    if as_json:
        found = {
            "release": str(release),
            "files": encode(rebuilt.comparisons),
            "unlike": list(rebuilt.unlike),
            "attestation": str(rebuilt.attestation),
            "diffoscope": [str(path) for path in rebuilt.reports],
        }
        print_result(found, error)
    else:
        show_comparisons(rebuilt)
    if error is not None:
        raise error


def show_comparisons(rebuilt: Rebuilt) -> None:
    """Print the table of files, and the paths of the reports."""
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
        out.print(f"Report of diffoscope: {report}", soft_wrap=True)
    out.print(f"Attestation: {rebuilt.attestation}", soft_wrap=True)


def difference_error(rebuilt: Rebuilt) -> BuildError | None:
    """Return the error of the worst verdict; None if all files are identical."""
    from gemma3build.rebuild.compare import Verdict, worst

    verdict = worst(rebuilt.comparisons)
    if verdict is Verdict.IDENTICAL:
        return None
    names = join_names(item.path for item in rebuilt.comparisons if item.verdict is verdict)
    code = ErrorCode.NOT_IDENTICAL if verdict is Verdict.EQUIVALENT else ErrorCode.DIFFERENT
    hint = "docs/guides/rebuild.md lists possible causes."
    return BuildError(code, "The rebuilt release differs", f"{names} {verdict}", hint)


def show_publication(
    publication: Publication,
    remote: Remote | None,
    difference: RepoDiff,
    *,
    as_json: bool,
    card: bool = True,
) -> None:
    """Print the changes of a publication, and the model card."""
    repo = publication.target.repo
    if as_json:
        changes = {**encode(difference), **skipped_rules(publication)}
        print_json({"repo": repo, "card": publication.card, **changes})
        return
    sizes = {item.digest.path: item.digest for item in publication.files}
    table = make_table("", "file", "size", "sha256")
    for change in ("added", "changed", "unchanged", "removed", "kept"):
        for name in getattr(difference, change):
            found = sizes.get(name)
            size = megabytes(found.size) if found else ""
            table.add_row(change, Text(truncate(name)), size, found.sha256[:16] if found else "")
    where = f"{repo} at {remote.commit[:12]}" if remote else f"{repo}, a new repository"
    if remote and remote.pull_request:
        where += f", of {remote.pull_request.url}"
    out.print(escape_control_chars(f"{publication.title} to {where}:"))
    out.print(table)
    for item in publication.skipped:
        out.print(f"Skipped: {item.why} [{item.rule}]", style="yellow")
    if card:
        out.print(publication.card, soft_wrap=True)


def show_published(
    publication: Publication, result: PublishResult, difference: RepoDiff, *, as_json: bool
) -> None:
    """Print the commit of a published release."""
    committed, target = result.committed, publication.target
    if as_json:
        print_json(
            {
                "repo": target.repo,
                "commit": committed.commit,
                "url": committed.url,
                "pull_request": committed.pull_request,
                "tag": target.tag,
                "idle": result.idle,
                **skipped_rules(publication),
                **encode(difference),
            }
        )
        return
    if result.idle:
        where = committed.pull_request or target.repo
        text = f"Nothing to do: {where} has all files, at {committed.commit[:12]}."
    else:
        request = committed.pull_request
        text = f"{request} is open." if request else f"Published: {committed.url}."
        text += " The Hub states the expected digest of each file."
    out.print(text, soft_wrap=True)


def skipped_rules(publication: Publication) -> dict[str, list[str]]:
    """Return the skipped rules, for JSON."""
    return {"skipped": [str(item.rule) for item in publication.skipped]}


def show_planned_releases(
    config: PipelineConfig,
    releases: Sequence[PlannedRelease],
    repos: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Print the plans of releases, and their further stages."""
    from gemma3build.report.index import INDEX_PAGE

    folders = [config.folder / item.name for item in releases]
    if as_json:
        found = [
            {"folder": str(folder), "plan": encode(item.prepared.plan), "repo": repo}
            for folder, item, repo in zip(folders, releases, repos, strict=True)
        ]
        print_json({"version": config.version, "releases": found})
        return
    for folder, item, repo in zip(folders, releases, repos, strict=True):
        show_plan(item.prepared.plan, as_json=False)
        signing = "sign, " if config.signer is not None else ""
        text = f"  then measure, {signing}verify; in {folder}"
        text += f"; with --publish, publish to {repo}" if repo else ""
        out.print(text, soft_wrap=True)
    out.print(f"Index: {config.folder / INDEX_PAGE}", soft_wrap=True)


def show_pipeline(
    config: PipelineConfig,
    made: Sequence[PipelineResult],
    commands: Sequence[str],
    *,
    indexed: bool,
    published: bool,
    as_json: bool,
) -> None:
    """Print the releases of the pipeline, and the commands that publish them.

    ``indexed``: whether this run wrote the index; ``published``: whether it published the releases.
    """
    from gemma3build.report.index import INDEX, INDEX_PAGE

    idle = not indexed and not any(item.ran for item in made)
    if as_json:
        releases = [
            {"folder": str(item.folder), "ran": list(item.ran), "publish": command}
            | encode(item.listed.entry)
            for item, command in zip(made, commands, strict=True)
        ]
        index = str(config.folder / INDEX)
        print_json({"version": config.version, "index": index, "idle": idle, "releases": releases})
        return
    show_evaluations([item.measured for item in made], as_json=False)
    for item in made:
        signed = item.listed.entry.signed
        who = (signed.key[:16] or signed.identity or "an identity of Sigstore") if signed else ""
        text = f"{item.name}: {len(item.manifest.artifacts)} files, verified, "
        text += f"signed by {who}" if signed else "not signed"
        text += f"; now: {', '.join(item.ran)}" if item.ran else "; nothing to do"
        out.print(escape_control_chars(text), soft_wrap=True)
        if item.published is not None:
            text = f"  Published: {item.published.url}, as {item.published.tag}"
            out.print(escape_control_chars(text), soft_wrap=True)
    out.print(f"Index: {config.folder / INDEX_PAGE}", soft_wrap=True)
    if idle:
        out.print(f"Nothing to do: {config.version} is up to date.")
    if not published:
        out.print("Nothing was published. To publish, add --publish to the same command, or run:")
        for command in commands:
            out.print(f"  {command}", soft_wrap=True)


def print_result(found: Mapping[str, object], error: BuildError | None) -> None:
    """Print a result as JSON; an error carries it instead, so that there is one object."""
    if error is None:
        print_json(found)
    else:
        error.result = found
