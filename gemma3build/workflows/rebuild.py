"""Build a release again from its own manifest, in a separate cache, and compare the two part by part."""

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
    """A release, and the steps that build it again.

    Attributes:
        folder: its untrusted files.
        manifest: the release's.
        prepared: the plan of the same request.
        steps: those of the plan that produce artifacts; not the quality gate.
        given: the user's copy of a pinned model's checkpoint; gemma3build does not fetch it then.
        attestation: path of the attestation to write.
        archived: the unpacked archive with wheels and base image, if any.
    """

    folder: UntrustedFolder
    manifest: Manifest
    prepared: Prepared
    steps: tuple[Step, ...]
    given: LocalCheckpoint | None
    attestation: Path
    archived: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """The result of a rebuild.

    Attributes:
        comparisons: one for each file.
        unlike: differences of images and sources from those of the release, in sentences.
        attestation: path of the attestation.
        reports: paths of diffoscope's reports.
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
    """Return the steps that build an untrusted release again.

    Args:
        path: its folder.
        own: the user's copy of its checkpoint.
        attestation: path of the attestation to write; None for next to the release.
        archived: an unpacked archive with wheels and base image, if any.
        remote_digests: digests of its files that are not in the folder.

    Raises:
        BuildError: it is no release, or this version cannot build its request (REQUEST); its
            manifest cannot be used.
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
    """Return the steps that produce the artifacts and the manifest of a plan, in its order."""
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
    """Build a release again, compare the two, and write an attestation.

    Args:
        rebuilding: the steps.
        client: of the Docker engine.
        home: the cache of wheels; gemma3build neither uses its results nor adds any.
        reporter: shows the steps.
        say: shows slow work, and differences of the environment.
        memory: limit of each container, in bytes.
        diffoscope: whether to run diffoscope on files that differ.
        fetch_file: downloads a released file that differs and of which only the digest is here.

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
        unlike = environment_differences(rebuilding.manifest, images, runner.sources)
        for sentence in unlike:
            say(f"{sentence}: this may cause differences")
        if rebuilding.given is not None:
            keep_checkpoint(runner, plan, rebuilding.given)
        done = runner.run(rebuilding.steps, origin(runner, rebuilding.prepared), 1, reporter)
        manifest = make_manifest(plan, done, images, runner.sources)
        with os_errors(REFUSAL):
            texts = release_texts(manifest, make_sbom(manifest, runner.packages(images)))
            rebuilt = write_rebuilt(scratch / "rebuilt", plan, texts, runner, done)
            say("Comparing")
            epoch = runner.config.source_date_epoch
            archived = rebuilding.archived and rebuilding.archived / RELEASE
            # An archive omits the large files of its release.
            sums = read_sums(released) if released.path == archived else {}
            comparisons = compare_releases(released, rebuilt, epoch, scratch, sums, fetch_file)
            path = rebuilding.attestation
            reports = (
                run_diffoscope(released, rebuilt, comparisons, path.parent) if diffoscope else ()
            )
            text = attestation(
                comparisons,
                builder=RebuilderRecord(
                    gemma3build=__version__,
                    cpu=here().cpu,
                    kernel=f"{platform.system()} {platform.release()}",
                    engine=str(client.version()["Version"]),
                ),
                manifest=rebuilding.manifest,
                images=manifest.images,
                unlike=unlike,
            )
            atomic_write(path, text)
    return Rebuilt(comparisons=comparisons, unlike=unlike, attestation=path, reports=reports)


def environment_differences(
    manifest: Manifest, images: Mapping[str, Image], sources: Mapping[str, str]
) -> tuple[str, ...]:
    """Return how images and sources of steps differ from those of the release, in sentences."""
    released = {image.name: image.digest for image in manifest.images}
    built = {name: image.digest for name, image in images.items()}
    used = {module: sources.get(module) for module in manifest.sources}
    found = {
        "images": dict_differences(released, built),
        "sources of the steps": dict_differences(dict(manifest.sources), used),
    }
    return tuple(
        f"Of the {what}, {join_names(names)} not those of the release"
        for what, names in found.items()
        if names
    )


def keep_checkpoint(runner: Runner, plan: Plan, given: LocalCheckpoint) -> None:
    """Store a user's copy of a checkpoint as the result of the step that fetches it."""
    (fetch_step,) = (step for step in plan.steps if step.name in (FETCH, IMPORT))
    runner.keep(fetch_step, given.paths(given.material))
    if not given.unchanged(given.material):
        why = "the checkpoint changed while gemma3build copied it"
        hint = "Run the same command again when nothing writes there."
        raise BuildError(ErrorCode.INPUT_CHANGED, REFUSAL, why, hint)


def write_rebuilt(
    path: Path,
    plan: Plan,
    texts: Mapping[str, bytes],
    runner: Runner,
    done: Mapping[str, FinishedStep],
) -> UntrustedFolder:
    """Write a rebuilt release to a folder, its artifacts as links; raises OSError."""
    path.mkdir()
    for artifact in plan.artifacts:
        folder = intact_output(runner.cache, artifact.source.step, done, REFUSAL)
        link_or_copy(folder / artifact.source.path, path / artifact.file_name)
    for name, text in texts.items():
        (path / name).write_bytes(text)
    return list_folder(path)


def require_diffoscope() -> None:
    """Raise BuildError where diffoscope is not installed."""
    if shutil.which(DIFFOSCOPE) is None:
        what, why = "`--diffoscope` cannot be used", "diffoscope is not installed"
        raise BuildError(ErrorCode.REQUEST, what, why, "Install it, or omit --diffoscope.")


def run_diffoscope(
    released: UntrustedFolder,
    rebuilt: UntrustedFolder,
    comparisons: Sequence[Comparison],
    folder: Path,
) -> tuple[Path, ...]:
    """Write a report of diffoscope on each file that differs to a folder; return the paths."""
    reports = []
    for item in comparisons:
        if item.verdict is Verdict.DIFFERENT and item.path in released.sizes.keys() & rebuilt.sizes:
            report = folder / f"{released.path.name}.{item.path}.{DIFFOSCOPE}.txt"
            pair = [released.path / item.path, rebuilt.path / item.path]
            done = subprocess.run(
                [DIFFOSCOPE, "--text", report, *pair], capture_output=True, text=True, check=False
            )
            if done.returncode not in (0, 1):  # 1: it found a difference
                why = done.stderr.strip()[-200:] or f"its exit status is {done.returncode}"
                what = f"{DIFFOSCOPE} failed on {item.path}"
                raise BuildError(ErrorCode.REQUEST, what, why, "Run it by hand.")
            reports.append(report)
    return tuple(reports)
