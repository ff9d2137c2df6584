"""``models``, ``schemes`` and ``lock``: pinned models, schemes and lockfiles."""

from pathlib import Path
from typing import Annotated

import typer

from gemma3build.cli.console import make_table, out, print_json, warn
from gemma3build.cli.options import AsJson
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.pins.config import (
    INSTALLED,
    find_model,
    load_images,
    load_models,
    load_schemes,
)
from gemma3build.util.serialize import encode
from gemma3build.util.text import MEGABYTE

GATED = (ErrorCode.LOGIN, ErrorCode.ACCESS)  # expected for a gated model without access


def models(*, as_json: AsJson = False) -> None:
    """List the pinned models."""
    from gemma3build.pins.lockfile import model_drift, read_models_lock

    found, locks = load_models(), read_models_lock().models
    drifts = {name: model_drift(name, model, locks.get(name)) for name, model in found.items()}
    if as_json:
        print_json({name: {**encode(found[name]), "locked": not drifts[name]} for name in found})
        return
    table = make_table("model", "parameters", "prefill", "kv cache", "locked", "what it is")
    for name, model in found.items():
        table.add_row(
            name,
            f"{model.shape.parameters / MEGABYTE:,.0f} M",
            ", ".join(map(str, model.prefill_seq_lens)),
            str(model.kv_cache_max_len),
            "no" if drifts[name] else "yes",
            model.summary,
        )
    out.print(table)


def schemes(*, as_json: AsJson = False) -> None:
    """List the quantization schemes. To build with your own, give `--scheme FILE.toml`."""
    found = load_schemes()
    if as_json:
        print_json({name: encode(scheme) for name, scheme in found.items()})
        return
    table = make_table("scheme", "file suffix", "what it does")
    for name, scheme in found.items():
        table.add_row(name, scheme.suffix, scheme.summary)
    out.print(table)


def lock(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names of models. [all models and, in a clone, the images]"),
    ] = None,
) -> None:
    """Update the lockfiles: digests of everything that models.toml and, in a clone, containers/ name.

    Examples:
    * `gemma3build lock` locks every model that your account can access and, in a clone, the images
    * `gemma3build lock gemma3-1b-it` locks one model; HF_TOKEN must have access to it
    """
    from gemma3build.engine.downloads import pip_download
    from gemma3build.pins import lockfile as locks
    from gemma3build.pins.lockfile import images_drift, lock_drift
    from gemma3build.pins.resolver import resolve_model

    config = load_images()

    def download(requirements: tuple[str, ...], folder: Path) -> None:
        pip_download("\n".join(requirements), folder, config)

    found = dict(locks.read_models_lock().models)
    first: BuildError | None = None
    chosen = {name: find_model(name) for name in names} if names else load_models()
    for name, model in chosen.items():
        try:
            resolved = resolve_model(name, model, download)
        except BuildError as error:
            if first is None and (names or error.code not in GATED):
                first = error  # main shows it at the end
            else:
                warn(str(error))
            continue
        drifts = lock_drift(name, resolved, found.get(name))
        for drift in drifts:
            out.print(str(drift))
        found[name] = resolved
        out.print(f"{name} is locked{'' if drifts else ', unchanged'}.")
    written = locks.write_models_lock(found)
    out.print(f"Wrote {written}.", soft_wrap=True)
    if not names and not INSTALLED:  # an installed package has its images locked
        current = locks.current_images()
        for drift in images_drift(current, locks.read_images_lock()):
            out.print(str(drift))
        locks.write_lock(current, locks.IMAGES_LOCK)
        out.print("The images are locked.")
    if first is not None:
        raise first
