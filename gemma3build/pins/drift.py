"""Where a lock and the intent that it was made from no longer agree. Pure."""

import re
from dataclasses import dataclass

from gemma3build.errors import DriftError
from gemma3build.pins.intent import Model
from gemma3build.pins.lock import ImagesLock, LockedModel

PACKAGES = "packages"
SHOWN = 5  # fields that an error names
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One field that differs."""

    field: str
    intent: str
    locked: str

    def __str__(self) -> str:
        """Return the line that people read."""
        return f"{self.field} is {self.intent}, the lock says {self.locked}"


def model_drift(name: str, model: Model, locked: LockedModel | None) -> tuple[Drift, ...]:
    """Return the fields in which a model and its lock differ."""
    if locked is None:
        return (Drift(field=name, intent="in models.toml", locked="nothing about it"),)
    if model.hub is not None:
        wanted = {"source": model.hub.repo}
        if COMMIT.fullmatch(
            model.hub.revision
        ):  # a branch or tag is what it was when it was locked
            wanted["revision"] = model.hub.revision
        wanted |= {f"files.{path}": digest for path, digest in model.hub.sha256.items()}
    elif model.packages is not None:
        wanted = {"source": PACKAGES, "revision": model.packages.gguf_sha256}
        wanted["requirements"] = ", ".join(model.packages.requirements)
    found = fields(locked)
    return tuple(
        Drift(field=f"{name}.{field}", intent=value, locked=found.get(field, "nothing"))
        for field, value in wanted.items()
        if found.get(field) != value
    )


def lock_drift(name: str, new: LockedModel, old: LockedModel | None) -> tuple[Drift, ...]:
    """Return the fields in which the lock that is about to be written differs from the one there."""
    now, then = fields(new), fields(old) if old else {}
    return tuple(
        Drift(
            field=f"{name}.{field}",
            intent=now.get(field, "gone"),
            locked=then.get(field, "nothing"),
        )
        for field in {**now, **then}
        if now.get(field) != then.get(field)
    )


def fields(locked: LockedModel) -> dict[str, str]:
    """Return what a lock says, field by field; empty ones are left out."""
    found = {
        "source": locked.source,
        "revision": locked.revision,
        "requirements": ", ".join(locked.requirements),
        **{f"files.{file.path}": file.sha256 for file in locked.files},
    }
    return {field: value for field, value in found.items() if value}


def images_drift(current: ImagesLock, locked: ImagesLock) -> tuple[Drift, ...]:
    """Return the files of images whose content is not what the lock says."""
    names = sorted(set(current.images) | set(locked.images))
    return tuple(
        Drift(field=f"containers/{name}/{file}", intent=now, locked=then)
        for name in names
        for file in sorted({*current.images.get(name, {}), *locked.images.get(name, {})})
        if (now := current.images.get(name, {}).get(file, "nothing"))
        != (then := locked.images.get(name, {}).get(file, "nothing"))
    )


def refuse_drift(drift: tuple[Drift, ...], command: str) -> None:
    """Raise for any drift, with the command that mends it.

    Raises:
        DriftError: there is some.
    """
    if drift:
        shown = [*map(str, drift[:SHOWN])]
        if more := drift[SHOWN:]:
            shown.append(f"and {len(more)} more")
        raise DriftError(
            "The pins have drifted",
            "; ".join(shown),
            f"Run `{command}`, look at the difference, and commit it.",
        )
