"""The checks of an untrusted release.

Each returns what it found as text, or the record that it read, and raises ``BuildError`` if it fails.
docs/guides/verify-and-sign.md explains them.
"""

import json
from collections.abc import Callable, Mapping

from gemma3build.errors import GET_AGAIN, BuildError, ErrorCode, release_error
from gemma3build.formats.registry import Format
from gemma3build.gemma.checkpoint import TOKENIZER
from gemma3build.pins.lockfile import read_images_lock
from gemma3build.release.checksums import (
    CHECKSUMS,
    PROVENANCE,
    SIGNATURE,
    UNLISTED,
    parse_checksums,
)
from gemma3build.release.provenance import PREDICATE_TYPE, STATEMENT
from gemma3build.release.sbom import ARTIFACT, SBOM
from gemma3build.schema.evaluation import EVALUATION, EVALUATION_FORMAT, Evaluation
from gemma3build.schema.manifest import MANIFEST, ArtifactRecord, Manifest
from gemma3build.util.serialize import DecodeError, decode_json, pretty_json
from gemma3build.util.text import join_names, truncate
from gemma3build.verify.untrusted import Advance, UntrustedFolder, missing

Trust = Callable[[UntrustedFolder, Mapping[str, str]], str]


def check_plain(folder: UntrustedFolder) -> str:
    """Require that the folder holds plain files only: no directories, links or devices."""
    if folder.others:
        why = f"{join_names(folder.others)} not a plain file"
        hint = "Remove it: a release has no directories, links or devices."
        raise release_error(ErrorCode.EXTRA, "The release contains more than files", why, hint)
    return f"{len(folder.sizes)} plain files"


def read_sums(folder: UntrustedFolder) -> dict[str, str]:
    """Return the SHA-256 of each file that SHA256SUMS lists, by name."""
    try:
        return parse_checksums(folder.read(CHECKSUMS).decode("ascii"))
    except ValueError as error:
        raise _unusable(ErrorCode.CHECKSUMS, CHECKSUMS, str(error)) from error


def read_record(folder: UntrustedFolder) -> Manifest:
    """Return the manifest, which must be formatted as a build writes it."""
    text = folder.read(MANIFEST)
    try:
        manifest = decode_json(Manifest, text, MANIFEST)
    except DecodeError as error:
        raise _unusable(ErrorCode.MANIFEST, MANIFEST, str(error)) from error
    # With a duplicate key, two readers could see two manifests.
    if pretty_json(manifest) != text:
        why = "it is not formatted as a build writes it"
        raise _unusable(ErrorCode.MANIFEST, MANIFEST, why)
    return manifest


def check_names(folder: UntrustedFolder, sums: Mapping[str, str]) -> str:
    """Require every file that SHA256SUMS lists, and no others except ``UNLISTED``."""
    if lacking := sums.keys() - folder.sizes.keys():
        raise missing(lacking)
    if extra := folder.sizes.keys() - sums.keys() - UNLISTED:
        why = f"{join_names(extra)} not listed in {CHECKSUMS}"
        raise release_error(ErrorCode.EXTRA, "There are files that do not belong there", why)
    unlisted = len(UNLISTED & folder.sizes.keys())
    return f"all {len(sums)} listed files exist, and {unlisted} that {CHECKSUMS} never lists"


def check_digests(sums: Mapping[str, str], digests: Mapping[str, str]) -> str:
    """Require that the digest of every file is the one in SHA256SUMS."""
    changed = {name for name, digest in digests.items() if sums.get(name, digest) != digest}
    if MANIFEST in changed:
        why = f"its SHA-256 is not the one in {CHECKSUMS}"
        raise release_error(ErrorCode.SWAPPED, f"{MANIFEST} was swapped or edited", why)
    if changed:
        why = f"{join_names(changed)} not the file that {CHECKSUMS} lists"
        raise release_error(ErrorCode.CHANGED, "The bytes of a file have changed", why)
    return f"SHA-256 of {len(digests.keys() & sums.keys())} files"


def check_contents(folder: UntrustedFolder, sums: Mapping[str, str], manifest: Manifest) -> str:
    """Require that SHA256SUMS and the manifest name the same files, digests and sizes.

    SHA256SUMS also lists the SBOM, which the manifest does not name.
    """
    artifacts = {item.path: item for item in manifest.artifacts}
    if len(artifacts) < len(manifest.artifacts):
        raise _unusable(ErrorCode.MANIFEST, MANIFEST, "it names an artifact twice")
    named = {MANIFEST, SBOM, *manifest.terms, *artifacts}
    if mismatches := named ^ sums.keys():
        why = f"{join_names(mismatches)} not in both {MANIFEST} and {CHECKSUMS}"
        raise _mismatch(ErrorCode.SWAPPED, MANIFEST, why)
    for name, item in artifacts.items():
        if item.sha256 != sums[name]:
            why = f"it has another SHA-256 for {name} than {CHECKSUMS}"
            raise _mismatch(ErrorCode.SWAPPED, MANIFEST, why)
        if item.size != folder.sizes.get(name, item.size):
            why = f"it says that {name} has {item.size} bytes, but it has {folder.sizes[name]}"
            raise _mismatch(ErrorCode.SWAPPED, MANIFEST, why)
    return f"{len(artifacts)} artifacts, terms {', '.join(manifest.terms)}"


def check_bundle(
    folder: UntrustedFolder,
    manifest: Manifest,
    artifact: ArtifactRecord,
    kind: Format,
    advance: Advance,
) -> str:
    """Require that a bundle is safe to open, and that its contents are those in the manifest.

    Its parts must be those of the artifact's facts, its model the ``.tflite`` of the same scheme, and
    its tokenizer the checkpoint's.
    """
    name = artifact.path
    if name not in folder.sizes:
        raise missing([name])
    try:
        parts = kind.read_parts(folder.path / name)
    except (ValueError, OSError) as error:
        what = f"{name} is not safe to open"
        raise release_error(ErrorCode.UNSAFE, what, truncate(str(error))) from error
    found = {part: folder.digest_span(name, *span, advance) for part, span in parts.items()}
    models = {
        item.sha256
        for item in manifest.artifacts
        if item.scheme == artifact.scheme and item.path.endswith(".tflite")
    }
    tokenizers = {file.sha256 for file in manifest.checkpoint.files if file.path == TOKENIZER}
    wrong = ""
    if found != artifact.facts.get(kind.facts):
        wrong = f"its {kind.facts} are not those of {MANIFEST}"
    elif {found.get(kind.model)} != models:
        wrong = f"its model is not the .tflite of {artifact.scheme}"
    elif {found.get(kind.tokenizer)} != tokenizers:
        wrong = "its tokenizer is not the checkpoint's"
    if wrong:
        raise _mismatch(ErrorCode.BUNDLE, name, wrong)
    return f"{len(found)} {kind.facts}, with the model and the tokenizer of the release"


def check_evaluation(
    folder: UntrustedFolder, manifest: Manifest, digests: Mapping[str, str]
) -> Evaluation:
    """Return the evaluation, which must be about the files of the manifest."""
    try:
        found = decode_json(Evaluation, folder.read(EVALUATION), EVALUATION)
    except DecodeError as error:
        raise _unusable(ErrorCode.EVALUATION, EVALUATION, str(error)) from error
    known = {(item.path, item.size, item.sha256) for item in manifest.artifacts}
    files = [file for item in found.schemes for file in (item.model, item.bundle)]
    why = ""
    if found.format != EVALUATION_FORMAT:
        why = f"its format is {found.format!r}"
    elif found.manifest != digests.get(MANIFEST):
        why = f"it is about another {MANIFEST}"
    elif not {(file.path, file.size, file.sha256) for file in files} <= known:
        why = f"it is about files that {MANIFEST} does not name"
    elif {item.scheme for item in found.schemes} != manifest.schemes.keys():
        why = f"its schemes are not those of {MANIFEST}"
    if why:
        raise _mismatch(ErrorCode.EVALUATION, EVALUATION, why, "Build it again: gemma3build build")
    return found


def check_gate(evaluation: Evaluation) -> str:
    """Require that every scheme passed the quality gate."""
    if failed := failed_schemes(evaluation):
        why = truncate(f"{', '.join(failed)} failed the quality gate")
        hint = "See its report, and build another scheme."
        what = "The release is not faithful to its checkpoint"
        raise release_error(ErrorCode.EVALUATION, what, why, hint)
    return f"{len(evaluation.schemes)} schemes passed"


def check_sbom(folder: UntrustedFolder, manifest: Manifest) -> str:
    """Require a CycloneDX SBOM that names the artifacts of the manifest with the same digests."""
    try:
        sbom = json.loads(folder.read(SBOM))
        kind = sbom["bomFormat"]
        components = {str(item["bom-ref"]): item for item in sbom["components"]}
        found = {
            ref.removeprefix(ARTIFACT): item["hashes"][0]["content"]
            for ref, item in components.items()
            if ref.startswith(ARTIFACT)
        }
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _unusable(ErrorCode.SBOM, SBOM, f"{type(error).__name__}: {error}") from error
    why = ""
    if kind != "CycloneDX":
        why = f"its format is {kind!r}"
    elif mismatches := dict_differences({a.path: a.sha256 for a in manifest.artifacts}, found):
        why = f"{join_names(mismatches)} not as the manifest says"
    if why:
        raise _mismatch(ErrorCode.SBOM, SBOM, why)
    return f"{len(components)} components"


def dict_differences(one: Mapping[str, str | None], other: Mapping[str, str | None]) -> set[str]:
    """Return the keys whose values differ, or that only one has."""
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def failed_schemes(evaluation: Evaluation) -> list[str]:
    """Return the schemes that did not pass the gate; a gate without checks passes nothing."""
    return [
        item.scheme for item in evaluation.schemes if not (item.gate.checks and item.gate.passed)
    ]


def check_provenance(
    folder: UntrustedFolder, sums: Mapping[str, str], digests: Mapping[str, str]
) -> str:
    """Require an in-toto statement with SLSA provenance for the files in SHA256SUMS."""
    try:
        statement = json.loads(folder.read(PROVENANCE))
        kind = statement["_type"], statement["predicateType"]
        subjects = [
            (str(item["name"]), str(item["digest"]["sha256"])) for item in statement["subject"]
        ]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
        raise _unusable(ErrorCode.PROVENANCE, PROVENANCE, why) from error
    named = dict(subjects)
    why = ""
    if kind != (STATEMENT, PREDICATE_TYPE):
        why = f"it is not {STATEMENT} with {PREDICATE_TYPE}"
    elif len(named) < len(subjects):
        why = "it names a file twice"
    elif mismatches := (named.keys() ^ sums.keys()) - {CHECKSUMS}:
        why = f"{join_names(mismatches)} not in both {PROVENANCE} and {CHECKSUMS}"
    elif wrong := {name for name in named if digests.get(name) != named[name]}:
        why = f"{join_names(wrong)} not what it says"
    if why:
        raise _mismatch(ErrorCode.PROVENANCE, PROVENANCE, why)
    return f"{len(named)} subjects"


def check_signature(folder: UntrustedFolder, digests: Mapping[str, str], trust: Trust) -> str:
    """Require a signature of every file that ``trust`` accepts."""
    if SIGNATURE not in folder.sizes:
        hint = "Omit --key, or sign it: gemma3build sign --key PRIVATE_KEY"
        why = f"it has no {SIGNATURE}"
        raise release_error(ErrorCode.UNSIGNED, "The release is not signed", why, hint)
    return trust(folder, digests)


def compare_pins(manifest: Manifest) -> str:
    """Return whether this gemma3build, which can be older or newer, pins the same images."""
    locked = read_images_lock().images
    other = [
        image.name
        for image in manifest.images
        if image.requirements != locked.get(image.name, {}).get("requirements.txt", "")
    ]
    if other:
        return f"{join_names(other)} not pinned by this gemma3build, which can be older or newer"
    return f"its {len(manifest.images)} images are pinned by this gemma3build"


def _unusable(code: ErrorCode, name: str, why: str) -> BuildError:
    return release_error(code, f"{name} cannot be used", truncate(why))


def _mismatch(code: ErrorCode, name: str, why: str, hint: str = GET_AGAIN) -> BuildError:
    return release_error(code, f"{name} does not match this release", truncate(why), hint)
