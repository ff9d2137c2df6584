"""``release``: the whole line, from a clean source to releases that can be published."""

import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from gemma3build.cli.console import err
from gemma3build.cli.options import (
    ARTIFACTS,
    AsJson,
    Identity,
    IdentityProvider,
    Jobs,
    Key,
    Limit,
    Memory,
    Piqa,
    Pkcs11,
    Private,
    Sigstore,
    Skip,
    parse_size,
)
from gemma3build.cli.publish import say
from gemma3build.cli.results import show_intended, show_line
from gemma3build.cli.verify import find_signer, find_trust
from gemma3build.errors import BuildError, ErrorCode, stopped_error
from gemma3build.publish import Rule, check_tag

WHAT = "The releases cannot be made"


def release(
    model: Annotated[str, typer.Argument(help="A model, or a release file that lists several.")],
    version: Annotated[str, typer.Argument(help="Of the releases, and their tag: v1.0.0.")],
    *,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", metavar="NAME", help="One more model or release file; repeatable."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to. [artifacts/VERSION]"),
    ] = None,
    piqa: Piqa = None,
    limit: Limit = None,
    key: Key = None,
    pkcs11: Pkcs11 = None,
    sigstore: Sigstore = False,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Sign nothing.")] = False,
    identity: Identity = None,
    identity_provider: IdentityProvider = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Go on: publish to the Hub, tagged.")
    ] = False,
    repo: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Where to; {name} is each release's.")
    ] = None,
    private: Private = False,
    skip: Skip = None,
    jobs: Jobs = 1,
    memory: Memory = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build, measure, sign and verify releases, and stop before publishing with a summary.

    Examples:
    * `gemma3build release gemma3-270m v1.0.0 --key ~/release.key`
    * `gemma3build release ~/releases.toml v1.0.0 --key ~/release.key --repo 'you/{name}' --publish`
    * `gemma3build release gemma3-270m v1.0.0 --model gemma3-1b-it --unsigned --dry-run`
    """
    from gemma3build.engine.runner import open_runner
    from gemma3build.workflows import preflight as preconditions
    from gemma3build.workflows import release as line
    from gemma3build.workflows.build import clean_revision
    from gemma3build.workflows.evaluate import EvaluationRequest
    from gemma3build.workflows.release_file import plan_releases

    source = clean_revision()
    check_tag(version, "version")
    limited = parse_size(memory)
    releases = plan_releases((model, *(more or ())))
    repos = preconditions.find_repos(releases, repo)
    if (key is not None) + (pkcs11 is not None) + sigstore + unsigned != 1:
        why = "it takes one of --key, --pkcs11, --sigstore and --unsigned"
        raise BuildError(ErrorCode.REQUEST, WHAT, why, "Name what signs them.")
    if (identity or identity_provider) and not sigstore:
        why = "--identity and --identity-provider go with --sigstore"
        raise BuildError(ErrorCode.REQUEST, WHAT, why, "Leave them away.")
    signer = None if unsigned else find_signer(key, pkcs11, sigstore=sigstore)
    order = line.PipelineConfig(
        version=version,
        folder=(output or ARTIFACTS / version).absolute(),
        source=source,
        measuring=EvaluationRequest(piqa=piqa, limit=limit),
        signer=signer,
        trust=(signer and signer.trust) or find_trust(None, identity, identity_provider),
        identity=identity or "",
        jobs=jobs,
    )
    preconditions.check_output_paths(order.folder, releases)
    skipped = tuple(skip or ())
    if dry_run:
        show_intended(order, releases, repos, as_json=as_json)
        return
    targets: tuple[Any, ...] = ()
    if publish:
        from gemma3build.publish import hub
        from gemma3build.publish.publish import Target

        hub.set_output(progress=err.is_terminal)
        hint = "Give another VERSION."
        targets = tuple(
            Target(repo=name, private=private, tag=version, other_tag=hint) for name in repos
        )
        preconditions.check_targets(releases, targets)
    try:
        with open_runner(tell, limited) as runner:
            works = line.Pipeline(order, runner, ConsoleReporter())
            works.preflight_checks(releases, full=publish and Rule.PIQA not in skipped)
            made, indexed = works.make(releases)
            if publish:
                made = works.publish(made, targets, skipped)
    except KeyboardInterrupt as stopped:  # between two parts
        raise stopped_error("The line") from stopped
    commands = [
        publish_command(item, name, version) for item, name in zip(made, repos, strict=True)
    ]
    show_line(order, made, commands, indexed=indexed, published=publish, as_json=as_json)


class ConsoleReporter:
    """Shows on standard error what the line does."""

    def begin(self, part: str, name: str, number: int, total: int) -> None:
        """Show that a part of a release begins."""
        several = f" ({number} of {total})" if total > 1 else ""
        err.print(f"{name}{several}: {part}", style="bold")

    @contextmanager
    def steps(self, number: int) -> Iterator[Any]:
        """Show that many steps while they run."""
        from gemma3build.cli.progress import Progress

        with Progress(err) as progress:
            progress.expect(number)
            yield progress

    def reading(self, size: int) -> AbstractContextManager[Any]:
        """Show how much of that many bytes was read."""
        from gemma3build.cli.progress import reading

        return reading(err, size)

    def say(self, text: str) -> None:
        """Show a line."""
        say(text)


def tell(text: str) -> None:
    """Show what takes long in a part."""
    err.print(f"  {text}", style="dim")


def publish_command(item: Any, repo: str, version: str) -> str:
    """Return the command that publishes a release; where nobody named a repository, with a gap."""
    where = repo or f"OWNER/{item.name}"
    return shlex.join(
        ["gemma3build", "publish", str(item.folder), "--repo", where, "--tag", version]
    )
