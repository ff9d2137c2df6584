"""``publish``: publish a release on the Hub."""

from pathlib import Path
from typing import Annotated

import typer

from gemma3build.cli.console import err, warn
from gemma3build.cli.options import ARTIFACTS, DEFAULT_MODEL, AsJson, Private, Skip
from gemma3build.cli.results import show_publication, show_published
from gemma3build.cli.verify import Release, run_checks
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.publish import check_tag


def publish(
    release: Release = ARTIFACTS / DEFAULT_MODEL,
    *,
    repo: Annotated[
        str,
        typer.Option(metavar="OWNER/NAME", help="Repository on the Hub; created if missing."),
    ],
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the changes and the model card; change nothing."),
    ] = False,
    private: Private = False,
    tag: Annotated[str, typer.Option(metavar="TAG", help="Tag of the commit, such as v1.")] = "",
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead of a commit on main.")
    ] = False,
    skip: Skip = None,
    card: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your own text, before the generated model card."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish a verified release on the Hugging Face Hub, with a generated model card.

    gemma3build uploads the release in one commit, then compares the digest of each file.

    Examples:
    * `gemma3build publish --repo you/gemma3-270m-litert --dry-run`
    * `gemma3build publish artifacts/gemma3-1b-it --repo you/gemma3-1b-it-litert --tag v1`
    """
    from gemma3build.pins.resolver import refuse_offline
    from gemma3build.publish import hub
    from gemma3build.publish import publish as publication
    from gemma3build.publish.card import read_prose

    hub.check_repo(repo, hub.NOT_PUBLISHED)
    if create_pr and tag:
        what = "`--tag` and `--create-pr` cannot be used together"
        why = "a tag names a commit of the branch, and a pull request is not merged yet"
        raise BuildError(ErrorCode.REQUEST, what, why, "Tag the commit after the merge.")
    if tag:
        check_tag(tag, "tag")
    refuse_offline(hub.NOT_PUBLISHED)
    prose = read_prose(card) if card is not None else ""
    target = publication.Target(repo=repo, private=private, tag=tag, create_pr=create_pr)
    verified = run_checks(release.absolute())
    found = publication.prepare_publication(verified, target, tuple(skip or ()), prose)
    remote, difference = publication.find_changes(found)
    if dry_run or not as_json:
        show_publication(found, remote, difference, as_json=as_json, card=dry_run)
    if dry_run:
        return
    hub.set_output(progress=err.is_terminal)
    result = publication.publish(found, remote, difference, warn)
    show_published(found, result, difference, as_json=as_json)
