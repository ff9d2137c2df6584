"""``engine``, ``images`` and ``cache``: Docker, its images, and the cache."""

from contextlib import nullcontext, suppress
from typing import Annotated

import typer

from gemma3build.cli.console import err, make_table, out, print_json
from gemma3build.cli.options import AsJson
from gemma3build.errors import BuildError, os_errors
from gemma3build.pins.config import load_images
from gemma3build.util.serialize import encode
from gemma3build.util.text import megabytes


def engine() -> None:
    """Check that Docker answers; as root on Debian, install and start it if it does not."""
    from gemma3build.engine.docker import ensure

    out.print(f"Docker {ensure(err.print)} answers.")


def images(
    *,
    make: Annotated[bool, typer.Option("--build", help="Build missing images.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the Docker images that builds run in.

    Examples:
    * `gemma3build images` shows which images are built
    * `gemma3build images --build` builds the others
    """
    from gemma3build.engine.cache import Cache
    from gemma3build.engine.docker import connect
    from gemma3build.engine.images import Images
    from gemma3build.engine.runner import cache_dir
    from gemma3build.pins.lockfile import image_names

    client, cache = connect(), Cache(cache_dir())
    all_images = Images(client, cache, load_images(), err.print)
    with cache.in_use() if make else nullcontext():
        found = {
            name: all_images.ensure(name) if make else all_images.find(name)
            for name in image_names()
        }
    if as_json:
        print_json({name: encode(image) if image else None for name, image in found.items()})
        return
    table = make_table("image", "tag", "id", "made from")
    for name, image in found.items():
        if image is None:
            table.add_row(name, "not built", "", "")
        else:
            table.add_row(name, image.tag, image.image_id[:19], image.parent[:26])
    out.print(table)


def cache_size(*, as_json: AsJson = False) -> None:
    """Show the path of the cache and the size of its parts."""
    from gemma3build.engine.cache import DOWNLOADS, Cache, tree_size
    from gemma3build.engine.runner import cache_dir

    root = cache_dir()
    with os_errors("The cache cannot be read"):
        parts = {name: tree_size(root / name) for name in ("steps", "staging", *DOWNLOADS)}
        entries = Cache(root).entries()
    if as_json:
        print_json({"path": str(root), "bytes": parts, "entries": len(entries)})
        return
    out.print(f"{root}: {len(entries)} results", soft_wrap=True)
    for name, size in parts.items():
        out.print(f"  {name:8} {megabytes(size):>13}")


def cache_prune(
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Also remove finished results and downloads.")
    ] = False,
) -> None:
    """Remove leftovers of killed builds from the cache, and with --all everything in it.

    Releases are not in the cache. With --all, no build may be running.
    """
    from gemma3build.engine.cache import Cache
    from gemma3build.engine.container import remove_orphans
    from gemma3build.engine.docker import connect
    from gemma3build.engine.runner import cache_dir

    cache = Cache(cache_dir())
    with suppress(BuildError):  # without Docker, the cache can still be cleaned
        remove_orphans(connect(), cache)
    freed = cache.prune(everything=everything)
    out.print(f"Removed {megabytes(freed)}.")
