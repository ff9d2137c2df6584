"""``release``: the whole pipeline, from a clean checkout to published releases."""

import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gemma3build.cli.console import err, tell, warn
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
from gemma3build.cli.results import show_pipeline, show_planned_releases
from gemma3build.cli.verify import find_signer, find_trust
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.publish import Rule, check_tag

if TYPE_CHECKING:
    from gemma3build.cli.progress import Progress
    from gemma3build.publish.publish import Target
    from gemma3build.verify.untrusted import Advance
    from gemma3build.workflows.release import PipelineResult

WHAT = "The releases cannot be made"


def release(
    model: Annotated[str, typer.Argument(help="A model, or a release file that lists several.")],
    version: Annotated[str, typer.Argument(help="Version and tag of the releases: v1.0.0.")],
    *,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", metavar="NAME", help="Another model or release file; repeatable."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder of the releases. [artifacts/VERSION]"
        ),
    ] = None,
    piqa: Piqa = None,
    limit: Limit = None,
    key: Key = None,
    pkcs11: Pkcs11 = None,
    sigstore: Sigstore = False,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Do not sign.")] = False,
    identity: Identity = None,
    identity_provider: IdentityProvider = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Also publish on the Hub, with a tag.")
    ] = False,
    repo: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Repository on the Hub; {name} stands for the name of each release.",
        ),
    ] = None,
    private: Private = False,
    skip: Skip = None,
    jobs: Jobs = 1,
    memory: Memory = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the steps of the pipeline; run nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build, evaluate, sign and verify releases; with --publish, publish them.

    Examples:
    * `gemma3build release gemma3-270m v1.0.0 --key ~/release.key`
    * `gemma3build release ~/releases.toml v1.0.0 --key ~/release.key --repo 'you/{name}' --publish`
    * `gemma3build release gemma3-270m v1.0.0 --model gemma3-1b-it --unsigned --dry-run`
    """
    from gemma3build.engine.runner import open_runner
    from gemma3build.workflows import preflight
    from gemma3build.workflows.build import clean_revision
    from gemma3build.workflows.evaluate import EvaluationRequest
    from gemma3build.workflows.release import Pipeline, PipelineConfig
    from gemma3build.workflows.release_file import plan_releases

    source = clean_revision()
    check_tag(version, "version")
    limited = parse_size(memory)
    releases = plan_releases((model, *(more or ())))
    repos = preflight.find_repos(releases, repo)
    if (key is not None) + (pkcs11 is not None) + sigstore + unsigned != 1:
        why = "it takes one of --key, --pkcs11, --sigstore and --unsigned"
        raise BuildError(ErrorCode.REQUEST, WHAT, why, "Use one of these options.")
    if (identity or identity_provider) and not sigstore:
        why = "--identity and --identity-provider go with --sigstore"
        raise BuildError(ErrorCode.REQUEST, WHAT, why, "Omit them, or add --sigstore.")
    signer = None if unsigned else find_signer(key, pkcs11, sigstore=sigstore)
    config = PipelineConfig(
        version=version,
        folder=(output or ARTIFACTS / version).absolute(),
        source=source,
        measuring=EvaluationRequest(piqa=piqa, limit=limit),
        signer=signer,
        trust=(signer and signer.trust) or find_trust(None, identity, identity_provider),
        identity=identity or "",
        jobs=jobs,
    )
    preflight.check_output_paths(config.folder, releases)
    if dry_run:
        show_planned_releases(config, releases, repos, as_json=as_json)
        return
    skipped = tuple(skip or ())
    targets: tuple[Target, ...] = ()
    if publish:
        targets = find_targets(repos, version, private=private)
        preflight.check_targets(releases, targets)
    with open_runner(tell, limited) as runner:
        pipeline = Pipeline(config, runner, ConsoleReporter())
        pipeline.preflight_checks(releases, full=publish and Rule.PIQA not in skipped)
        made, indexed = pipeline.make(releases)
        if publish:
            made = pipeline.publish(made, targets, skipped)
    commands = [
        publish_command(item, name, version) for item, name in zip(made, repos, strict=True)
    ]
    show_pipeline(config, made, commands, indexed=indexed, published=publish, as_json=as_json)


class ConsoleReporter:
    """Shows the progress of the pipeline on standard error."""

    def begin(self, stage: str, name: str, number: int, total: int) -> None:
        """Show that a stage of a release begins."""
        several = f" ({number} of {total})" if total > 1 else ""
        err.print(f"{name}{several}: {stage}", style="bold")

    @contextmanager
    def steps(self, number: int) -> "Iterator[Progress]":
        """Show that many steps while they run."""
        from gemma3build.cli.progress import Progress

        with Progress(err) as progress:
            progress.expect(number)
            yield progress

    def reading(self, size: int) -> "AbstractContextManager[Advance]":
        """Show how much of that many bytes is read."""
        from gemma3build.cli.progress import reading

        return reading(err, size)

    def say(self, text: str) -> None:
        """Show a line."""
        warn(text)


def find_targets(repos: tuple[str, ...], version: str, *, private: bool) -> "tuple[Target, ...]":
    """Return the repository and the tag of each release."""
    from gemma3build.publish import hub
    from gemma3build.publish.publish import Target

    hub.set_output(progress=err.is_terminal)
    hint = "Use another VERSION."
    return tuple(Target(repo=name, private=private, tag=version, other_tag=hint) for name in repos)


def publish_command(item: "PipelineResult", repo: str, version: str) -> str:
    """Return the command that publishes a release; OWNER stands for an unknown owner."""
    where = repo or f"OWNER/{item.name}"
    return shlex.join(
        ["gemma3build", "publish", str(item.folder), "--repo", where, "--tag", version]
    )
