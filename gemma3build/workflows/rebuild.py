"""Build a release again from its own manifest, in its own cache, and compare the two part by part."""

import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import docker

from gemma3build import __version__
from gemma3build.engine import preflight
from gemma3build.engine.cache import Cache
from gemma3build.engine.executor import FinishedStep, Reporter, intact_output
from gemma3build.engine.images import Image
from gemma3build.engine.inputs import LocalCheckpoint
from gemma3build.engine.runner import Runner
from gemma3build.errors import BuildError, ErrorCode, os_errors
from gemma3build.plan.build import CHECK
from gemma3build.plan.checkpoint import FETCH, IMPORT
from gemma3build.plan.graph import Plan, Step
from gemma3build.rebuild.archive import BASE, CHECKPOINT, RELEASE
from gemma3build.rebuild.attestation import RebuilderRecord, attestation, attestation_path
from gemma3build.rebuild.compare import (
    Comparison,
    FetchFile,
    Verdict,
    cannot_fetch,
    compare_releases,
)
from gemma3build.release.directory import link_or_copy, release_texts
from gemma3build.release.manifest import LOCAL
from gemma3build.release.sbom import make_sbom
from gemma3build.schema.manifest import Manifest
from gemma3build.util.files import FileDigest, atomic_write
from gemma3build.util.machine import here
from gemma3build.util.text import join_names
from gemma3build.verify.checks import dict_differences, read_record, read_sums
from gemma3build.verify.untrusted import UntrustedFolder, list_folder
from gemma3build.workflows.assemble import make_manifest
from gemma3build.workflows.build import origin
from gemma3build.workflows.request import (
    OwnCheckpoint,
    Prepared,
    prepare_again,
    read_checkpoint,
    refuse_other_files,
    released_schemes,
)

REFUSAL = "The release cannot be rebuilt"
DIFFOSCOPE = "diffoscope"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRebuild:
    """A release, and what will be run to build it again.

    Attributes:
        folder: what lies in its directory.
        manifest: what it says of itself.
        prepared: the plan of the same request, and where its checkpoint comes from.
        steps: those of the plan that an artifact comes from; the gate is none.
        given: the user's copy of a pinned model's checkpoint, which then is not fetched.
        attestation: where the statement about it is written.
        archived: the unpacked archive that wheels and the base image come from, if any.
    """

    folder: UntrustedFolder
    manifest: Manifest
    prepared: Prepared
    steps: tuple[Step, ...]
    given: LocalCheckpoint | None
    attestation: Path
    archived: Path | None

    @property
    def said(self) -> dict[str, str]:
        """What SHA256SUMS says of files that an archive leaves out; nothing for a release elsewhere."""
        if self.archived is None or self.folder.path != self.archived / RELEASE:
            return {}
        return read_sums(self.folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What a rebuild found out.

    Attributes:
        comparisons: of every file.
        unlike: where images and sources are not those of the release, in words.
        attestation: where the statement about it lies.
        reports: what diffoscope wrote.
    """

    comparisons: tuple[Comparison, ...]
    unlike: tuple[str, ...]
    attestation: Path
    reports: tuple[Path, ...]


def prepare_rebuild(
    path: Path,
    own: OwnCheckpoint,
    attestation: Path | None = None,
    archived: Path | None = None,
    remote_digests: Iterable[FileDigest] = (),
) -> PreparedRebuild:
    """Return what will be run to build a release again; nothing in it is trusted.

    Args:
        path: its directory.
        own: where the user has its checkpoint.
        attestation: where the statement about it is written; None for beside the release.
        archived: an unpacked archive, if wheels and the base image come from one.
        remote_digests: digests of its files that lie elsewhere.

    Raises:
        BuildError: it is no release, or its request cannot be made again (REQUEST); its manifest
            cannot be used.
    """
    folder = list_folder(path, remote_digests)
    manifest = read_record(folder)
    if archived is not None and own.folder is None and (archived / CHECKPOINT).is_dir():
        own = OwnCheckpoint(folder=archived / CHECKPOINT)
    prepared = prepare_again(manifest, own, REFUSAL, released_schemes(manifest, REFUSAL))
    given = None
    if own.folder is not None and manifest.checkpoint.source != LOCAL:
        _, given = read_checkpoint(own.folder, own.tokenizer)
        refuse_other_files(given.material.files, manifest.checkpoint.files, own.folder, REFUSAL)
    attestation = attestation or attestation_path(path)
    preflight.check_writable(attestation.parent)
    return PreparedRebuild(
        folder=folder,
        manifest=manifest,
        prepared=prepared,
        steps=artifact_steps(prepared.plan),
        given=given,
        attestation=attestation,
        archived=archived,
    )


def artifact_steps(plan: Plan) -> tuple[Step, ...]:
    """Return the steps that the artifacts and the manifest of a plan come from, in its order."""
    wanted = {CHECK, *(artifact.source.step for artifact in plan.artifacts)}
    for step in reversed(plan.steps):
        if step.name in wanted:
            wanted |= step.needs
    return tuple(step for step in plan.steps if step.name in wanted)


def rebuild(
    rebuilding: PreparedRebuild,
    client: docker.DockerClient,
    home: Cache,
    reporter: Reporter,
    say: Callable[[str], None],
    *,
    memory: int | None = None,
    diffoscope: bool = False,
    fetch_file: FetchFile = cannot_fetch,
) -> Rebuilt:
    """Build a release again, compare, and write an attestation beside it.

    Args:
        rebuilding: what is run.
        client: the engine.
        home: where wheels are kept; no result in it is used, and none is added.
        reporter: is told what happens.
        say: is told what takes long, and what is unlike the release.
        memory: limit of each container, in bytes.
        diffoscope: whether to run diffoscope on files that differ.
        fetch_file: downloads a released file of which only the digest is stated; asked for those that differ.

    Raises:
        BuildError: something failed; nothing is kept.
    """
    plan, released = rebuilding.prepared.plan, rebuilding.folder
    base = rebuilding.archived and rebuilding.archived / BASE
    with ExitStack() as stack:
        scratch = stack.enter_context(home.scratch("rebuild"))
        cache = Cache(scratch / "cache")
        runner = Runner(client, cache, say, memory, downloads=home, archived=base)
        if base is not None:
            stack.callback(runner.forget_images)
        images = runner.images(plan.steps)
        apart = environment_differences(rebuilding.manifest, images, runner.sources)
        for sentence in apart:
            say(f"{sentence}: a difference may come from that")
        if rebuilding.given is not None:
            keep_checkpoint(runner, plan, rebuilding.given)
        done = runner.run(rebuilding.steps, origin(runner, rebuilding.prepared), 1, reporter)
        manifest = make_manifest(plan, done, images, runner.sources)
        with os_errors(REFUSAL):
            texts = release_texts(manifest, make_sbom(manifest, runner.packages(images)))
            rebuilt = write_rebuilt(scratch / "rebuilt", plan, texts, runner, done)
            say("Comparing")
            epoch = runner.config.source_date_epoch
            comparisons = compare_releases(
                released, rebuilt, epoch, scratch, rebuilding.said, fetch_file
            )
            path = rebuilding.attestation
            reports = run_diffoscope(released, rebuilt, comparisons, path) if diffoscope else ()
            text = attestation(
                comparisons,
                builder=rebuilder(client),
                manifest=rebuilding.manifest,
                images=manifest.images,
                unlike=apart,
            )
            atomic_write(path, text)
    return Rebuilt(comparisons=comparisons, unlike=apart, attestation=path, reports=reports)


def environment_differences(
    manifest: Manifest, images: Mapping[str, Image], sources: Mapping[str, str]
) -> tuple[str, ...]:
    """Say in which images and sources of steps a rebuild is unlike the release, in sentences."""
    said = {image.name: image.digest for image in manifest.images}
    here = {name: image.digest for name, image in images.items()}
    used = {module: sources.get(module) for module in manifest.sources}
    found = []
    for what, one, other in (
        ("images", said, here),
        ("sources of the steps", dict(manifest.sources), used),
    ):
        if names := dict_differences(one, other):
            found.append(f"Of the {what}, {join_names(names)} not those of the release")
    return tuple(found)


def keep_checkpoint(runner: Runner, plan: Plan, given: LocalCheckpoint) -> None:
    """Take a user's copy of a checkpoint, which has the manifest's digests, for the fetched one."""
    (fetch_step,) = (step for step in plan.steps if step.name in (FETCH, IMPORT))
    runner.keep(fetch_step, given.paths(given.material))
    if not given.unchanged(given.material):
        what, why = REFUSAL, "the checkpoint changed while it was copied"
        raise BuildError(
            ErrorCode.INPUT_CHANGED,
            what,
            why,
            "Run the same command again when nothing writes there.",
        )


def write_rebuilt(
    path: Path,
    plan: Plan,
    texts: Mapping[str, bytes],
    runner: Runner,
    done: Mapping[str, FinishedStep],
) -> UntrustedFolder:
    """Lay out a rebuilt release as a directory, its artifacts as links; raises OSError."""
    path.mkdir()
    for artifact in plan.artifacts:
        folder = intact_output(runner.cache, artifact.source.step, done, REFUSAL)
        link_or_copy(folder / artifact.source.path, path / artifact.file_name)
    for name, text in texts.items():
        (path / name).write_bytes(text)
    return list_folder(path)


def rebuilder(client: docker.DockerClient) -> RebuilderRecord:
    """Return who rebuilds, for the record."""
    return RebuilderRecord(
        gemma3build=__version__,
        cpu=here().cpu,
        kernel=f"{platform.system()} {platform.release()}",
        engine=str(client.version()["Version"]),
    )


def require_diffoscope() -> None:
    """Raise BuildError where diffoscope is not installed."""
    if shutil.which(DIFFOSCOPE) is None:
        hint = "Install it, or leave --diffoscope away."
        raise BuildError(
            ErrorCode.REQUEST,
            "The files cannot be compared as asked",
            "there is no diffoscope",
            hint,
        )


def run_diffoscope(
    released: UntrustedFolder,
    rebuilt: UntrustedFolder,
    comparisons: Sequence[Comparison],
    beside: Path,
) -> tuple[Path, ...]:
    """Write what diffoscope says about each file that differs, beside another file; return where."""
    reports = []
    for item in comparisons:
        if item.verdict is Verdict.DIFFERENT and item.path in released.sizes.keys() & rebuilt.sizes:
            report = beside.with_name(f"{released.path.name}.{item.path}.{DIFFOSCOPE}.txt")
            pair = [released.path / item.path, rebuilt.path / item.path]
            done = subprocess.run(
                [DIFFOSCOPE, "--text", report, *pair], capture_output=True, text=True, check=False
            )
            if done.returncode not in (0, 1):  # 1: it found a difference
                why = done.stderr.strip()[-200:] or f"its exit status is {done.returncode}"
                raise BuildError(
                    ErrorCode.REQUEST, f"{DIFFOSCOPE} failed on {item.path}", why, "Run it by hand."
                )
            reports.append(report)
    return tuple(reports)
