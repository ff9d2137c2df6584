"""``publish``: a release to the Hub."""

from pathlib import Path
from typing import Annotated

import typer

from gemma3build.cli.console import err
from gemma3build.cli.options import ARTIFACTS, DEFAULT_MODEL, AsJson, Private, Skip
from gemma3build.cli.results import show_publication, show_published
from gemma3build.cli.verify import Release, look_at
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.publish import check_tag


def publish(
    release: Release = ARTIFACTS / DEFAULT_MODEL,
    *,
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Where to; made if missing.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and the card.")
    ] = False,
    private: Private = False,
    tag: Annotated[str, typer.Option(metavar="TAG", help="Tag the commit, such as v1.")] = "",
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead.")
    ] = False,
    skip: Skip = None,
    card: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your own text, before the generated part of the card."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish a release that verifies: its card, one commit, and every digest read back.

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
        why = "--tag names a commit of the branch, which a pull request is not yet"
        raise BuildError(ErrorCode.REQUEST, hub.NOT_PUBLISHED, why, "Tag it once it is merged.")
    if tag:
        check_tag(tag, "tag")
    refuse_offline(hub.NOT_PUBLISHED)
    prose = read_prose(card) if card is not None else ""
    target = publication.Target(repo=repo, private=private, tag=tag, create_pr=create_pr)
    verified = look_at(release.absolute())
    found = publication.prepare(verified, target, tuple(skip or ()), prose)
    remote, difference = publication.look(found)
    if dry_run:
        show_publication(found, remote, difference, as_json=as_json)
        return
    if not as_json:
        show_publication(found, remote, difference, as_json=False, card=False)
    hub.set_output(progress=err.is_terminal)
    try:
        outcome = publication.publish(found, remote, difference, say)
    except KeyboardInterrupt as stopped:
        why = "it got a signal"
        hint = "Run it again: what the Hub has already is not uploaded twice."
        raise BuildError(ErrorCode.INTERRUPTED, "Publishing was stopped", why, hint) from stopped
    show_published(found, outcome, difference, as_json=as_json)


def say(text: str) -> None:
    """Show what the Hub remarks."""
    err.print(text, style="yellow")
