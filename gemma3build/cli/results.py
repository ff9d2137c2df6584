"""What people and programs see of releases that are made together, and of those that go to the Hub."""

from typing import Any

from rich.text import Text

from gemma3build.cli.console import make_table, out, print_json, show_evaluations, show_plan
from gemma3build.util.serialize import encode
from gemma3build.util.text import MEGABYTE, escape_control_chars
from gemma3build.verify.untrusted import truncate


def show_publication(
    publication: Any, remote: Any, difference: Any, *, as_json: bool, card: bool = True
) -> None:
    """Print what publishing would change, and the card; or JSON."""
    repo = publication.target.repo
    if as_json:
        changes = encode(difference)
        print_json(
            {"repo": repo, "card": publication.card, **changes, **skipped_rules(publication)}
        )
        return
    sizes = {item.digest.path: item.digest for item in publication.files}
    table = make_table("", "file", "size", "sha256")
    for change in ("added", "changed", "unchanged", "removed", "kept"):
        for name in getattr(difference, change):
            found = sizes.get(name)
            size = f"{found.size / MEGABYTE:,.1f} MB" if found else ""
            table.add_row(change, Text(truncate(name)), size, found.sha256[:16] if found else "")
    where = f"{repo} at {remote.commit[:12]}" if remote else f"{repo}, which is made"
    if remote and remote.pull_request:
        where += f", of {remote.pull_request.url}"
    out.print(escape_control_chars(f"{publication.title} to {where}:"))
    out.print(table)
    for item in publication.skipped:
        out.print(f"Skipped: {item.why} [{item.rule}]", style="yellow")
    if card:
        out.print(publication.card, soft_wrap=True)


def show_published(publication: Any, outcome: Any, difference: Any, *, as_json: bool) -> None:
    """Print where a release was published, or JSON."""
    committed, target = outcome.committed, publication.target
    if as_json:
        print_json(
            {
                "repo": target.repo,
                "commit": committed.commit,
                "url": committed.url,
                "pull_request": committed.pull_request,
                "tag": target.tag,
                "idle": outcome.idle,
                **skipped_rules(publication),
                **encode(difference),
            }
        )
        return
    if outcome.idle:
        where = committed.pull_request or target.repo
        text = f"Nothing to do: {where} has all of it, at {committed.commit[:12]}."
    elif committed.pull_request:
        text = f"{committed.pull_request} is open; all digests were read back."
    else:
        text = f"{committed.url} has all of it; all digests were read back."
    out.print(text, soft_wrap=True)


def show_intended(order: Any, releases: Any, repos: Any, *, as_json: bool) -> None:
    """Print the plans of releases and what would follow, or JSON."""
    from gemma3build.report.index import INDEX_PAGE

    if as_json:
        found = [
            {
                "folder": str(order.folder / item.name),
                "plan": encode(item.prepared.plan),
                "repo": repo,
            }
            for item, repo in zip(releases, repos, strict=True)
        ]
        print_json({"version": order.version, "releases": found})
        return
    for item, repo in zip(releases, repos, strict=True):
        show_plan(item.prepared.plan, as_json=False)
        signing = "sign, " if order.signer is not None else ""
        text = f"  then measure, {signing}verify; in {order.folder / item.name}"
        text += f"; --publish puts it into {repo}" if repo else ""
        out.print(text, soft_wrap=True)
    text = f"{order.folder / INDEX_PAGE} lists what is made."
    out.print(text, soft_wrap=True)


def show_line(
    order: Any, made: Any, commands: Any, *, indexed: bool, published: bool, as_json: bool
) -> None:
    """Print what the line made, and what would publish it; or JSON.

    Args:
        order: what was asked of every release.
        made: the releases.
        commands: what publishes each.
        indexed: whether the index was written now.
        published: whether they were published.
        as_json: whether programs read it.
    """
    from gemma3build.report.index import INDEX, INDEX_PAGE

    idle = not indexed and not any(item.ran for item in made)
    if as_json:
        releases = [
            {
                "folder": str(item.folder),
                "ran": list(item.ran),
                "publish": command,
                **encode(item.listed.entry),
            }
            for item, command in zip(made, commands, strict=True)
        ]
        index = str(order.folder / INDEX)
        print_json({"version": order.version, "index": index, "idle": idle, "releases": releases})
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
            text = f"  {item.published.url} has it, as {item.published.tag}."
            out.print(escape_control_chars(text), soft_wrap=True)
    text = f"{order.folder / INDEX_PAGE} lists {'it' if len(made) == 1 else 'all of them'}."
    out.print(text, soft_wrap=True)
    if idle:
        out.print(f"Nothing to do: {order.version} is up to date.")
    if not published:
        out.print("Nothing was published. To publish, the same command with --publish, or:")
        for command in commands:
            out.print(f"  {command}", soft_wrap=True)


def skipped_rules(publication: Any) -> dict[str, Any]:
    """Return the rules that were skipped, as JSON has them."""
    return {"skipped": [str(item.rule) for item in publication.skipped]}
