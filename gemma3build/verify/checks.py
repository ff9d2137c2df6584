"""The checks of a release, each a function of what lies in its folder.

Nothing there is trusted. A check returns what it found in words, or a record that it read; one that fails
raises ``BuildError``. docs/guides/verify-and-sign.md says what each of them means.
"""

import json
from collections.abc import Callable, Mapping

from gemma3build.errors import BuildError, ErrorCode, release_error
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
from gemma3build.schema.evaluation import EVALUATION, EVALUATION_FORMAT, Evaluation, Gate
from gemma3build.schema.manifest import MANIFEST, ArtifactRecord, Manifest
from gemma3build.util.serialize import DecodeError, decode_json, pretty_json
from gemma3build.util.text import join_names, truncate
from gemma3build.verify.untrusted import Advance, UntrustedFolder, missing

Trust = Callable[[UntrustedFolder, Mapping[str, str]], str]


def check_plain(folder: UntrustedFolder) -> str:
    """Require that the folder holds plain files alone: nothing that leads elsewhere."""
    if folder.others:
        why = f"{join_names(folder.others)} no plain file"
        hint = "A release has no directories, links or devices."
        raise release_error(ErrorCode.EXTRA, "The release holds other things than files", why, hint)
    return f"{len(folder.sizes)} plain files"


def read_sums(folder: UntrustedFolder) -> dict[str, str]:
    """Return what SHA256SUMS says: name to SHA-256."""
    try:
        return parse_checksums(folder.read(CHECKSUMS).decode("ascii"))
    except ValueError as error:
        raise _unusable(ErrorCode.CHECKSUMS, CHECKSUMS, str(error)) from error


def read_record(folder: UntrustedFolder) -> Manifest:
    """Return the manifest, in the form in which a build writes it."""
    text = folder.read(MANIFEST)
    try:
        manifest = decode_json(Manifest, text, MANIFEST)
    except DecodeError as error:
        raise _unusable(ErrorCode.MANIFEST, MANIFEST, str(error)) from error
    # Two readers of a key that stands there twice could see two manifests.
    if pretty_json(manifest) != text:
        why = "it is not in the form in which a build writes it"
        raise _unusable(ErrorCode.MANIFEST, MANIFEST, why)
    return manifest


def check_names(folder: UntrustedFolder, sums: Mapping[str, str]) -> str:
    """Require every file that SHA256SUMS lists, and no other but the known ones that it cannot."""
    if lacking := sums.keys() - folder.sizes.keys():
        raise missing(lacking)
    if extra := folder.sizes.keys() - sums.keys() - UNLISTED:
        why = f"{join_names(extra)} in no line of {CHECKSUMS}"
        raise release_error(ErrorCode.EXTRA, "There are files that do not belong there", why)
    unlisted = len(UNLISTED & folder.sizes.keys())
    return f"all {len(sums)} are there, and {unlisted} that no checksum covers"


def check_digests(sums: Mapping[str, str], digests: Mapping[str, str]) -> str:
    """Require that every file that is there has the digest that SHA256SUMS gives it."""
    changed = {name for name, digest in digests.items() if sums.get(name, digest) != digest}
    if MANIFEST in changed:
        why = f"it is not the one that {CHECKSUMS} lists"
        raise release_error(ErrorCode.SWAPPED, f"{MANIFEST} was swapped or edited", why)
    if changed:
        why = f"{join_names(changed)} not what {CHECKSUMS} says"
        raise release_error(ErrorCode.CHANGED, "The bytes of a file have changed", why)
    return f"SHA-256 of {len(digests.keys() & sums.keys())} files"


def check_contents(folder: UntrustedFolder, sums: Mapping[str, str], manifest: Manifest) -> str:
    """Require that SHA256SUMS lists the manifest, its artifacts and its terms, and that they agree.

    It lists the bill of materials, too, which the manifest does not name.
    """
    artifacts = {item.path: item for item in manifest.artifacts}
    if len(artifacts) < len(manifest.artifacts):
        raise _unusable(ErrorCode.MANIFEST, MANIFEST, "it names an artifact twice")
    named = {MANIFEST, SBOM, *manifest.terms, *artifacts}
    what = f"{MANIFEST} is of another release"
    if apart := named ^ sums.keys():
        why = f"{join_names(apart)} not in both {MANIFEST} and {CHECKSUMS}"
        raise release_error(ErrorCode.SWAPPED, what, why)
    for name, item in artifacts.items():
        if item.sha256 != sums[name]:
            why = f"it names another {name} than {CHECKSUMS}"
            raise release_error(ErrorCode.SWAPPED, what, why)
        if item.size != folder.sizes.get(name, item.size):
            why = f"it gives {name} {item.size} bytes, the file has {folder.sizes[name]}"
            raise release_error(ErrorCode.SWAPPED, what, why)
    return f"{len(artifacts)} artifacts, terms {', '.join(manifest.terms)}"


def check_bundle(
    folder: UntrustedFolder,
    manifest: Manifest,
    artifact: ArtifactRecord,
    kind: Format,
    advance: Advance,
) -> str:
    """Require that a bundle is safe to open, and holds what the manifest says.

    Its parts are those of the artifact's facts, its model is the ``.tflite`` of the same scheme, and its
    tokenizer that of the checkpoint.
    """
    name = artifact.path
    if name not in folder.sizes:
        raise missing([name])
    try:
        parts = kind.read_parts(folder.path / name)
    except (ValueError, OSError) as error:
        why = truncate(str(error))
        raise release_error(ErrorCode.UNSAFE, f"{name} is not safe to open", why) from error
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
        what = f"{name} holds other things than it should"
        raise release_error(ErrorCode.BUNDLE, what, truncate(wrong))
    return f"{len(found)} {kind.facts}, the model and the tokenizer of the release"


def check_evaluation(
    folder: UntrustedFolder, manifest: Manifest, digests: Mapping[str, str]
) -> Evaluation:
    """Return the evaluation, which must go with the manifest."""
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
        why = f"it names another {MANIFEST}"
    elif not {(file.path, file.size, file.sha256) for file in files} <= known:
        why = f"it is about files that {MANIFEST} does not name"
    elif {item.scheme for item in found.schemes} != manifest.schemes.keys():
        why = f"its schemes are not those of {MANIFEST}"
    if why:
        what = f"{EVALUATION} does not speak for this release"
        hint = "Build it again: nox -s build"
        raise release_error(ErrorCode.EVALUATION, what, truncate(why), hint)
    return found


def check_gate(evaluation: Evaluation) -> str:
    """Require that the gate let every scheme pass."""
    refused = [item.scheme for item in evaluation.schemes if not passed(item.gate)]
    if refused:
        why = truncate(f"the gate refused {', '.join(refused)}")
        hint = "Look at its report, and build it of another scheme."
        what = "The release is not faithful to its checkpoint"
        raise release_error(ErrorCode.EVALUATION, what, why, hint)
    return f"it passed {len(evaluation.schemes)} schemes"


def check_sbom(folder: UntrustedFolder, manifest: Manifest) -> str:
    """Require a CycloneDX bill of materials that has the artifacts of the manifest, with its digests."""
    try:
        bill = json.loads(folder.read(SBOM))
        kind = bill["bomFormat"]
        components = {str(item["bom-ref"]): item for item in bill["components"]}
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
    elif apart := dict_differences({a.path: a.sha256 for a in manifest.artifacts}, found):
        why = f"{join_names(apart)} not as the manifest says"
    if why:
        what = f"{SBOM} does not speak for this release"
        raise release_error(ErrorCode.SBOM, what, truncate(why))
    return f"{len(components)} components"


def dict_differences(one: Mapping[str, str | None], other: Mapping[str, str | None]) -> set[str]:
    """Return the keys whose values differ, or that only one has."""
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def passed(gate: Gate) -> bool:
    """Return whether a gate looked at something, and refused nothing."""
    return bool(gate.checks) and gate.passed


def check_provenance(
    folder: UntrustedFolder, sums: Mapping[str, str], digests: Mapping[str, str]
) -> str:
    """Require an in-toto statement with SLSA provenance about the files of SHA256SUMS."""
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
    elif apart := (named.keys() ^ sums.keys()) - {CHECKSUMS}:
        why = f"{join_names(apart)} not in both {PROVENANCE} and {CHECKSUMS}"
    elif wrong := {name for name in named if digests.get(name) != named[name]}:
        why = f"{join_names(wrong)} not what it says"
    if why:
        what = f"{PROVENANCE} does not speak for this release"
        raise release_error(ErrorCode.PROVENANCE, what, truncate(why))
    return f"{len(named)} subjects"


def check_signature(folder: UntrustedFolder, digests: Mapping[str, str], trust: Trust) -> str:
    """Require a signature of every file, by whom the caller trusts."""
    if SIGNATURE not in folder.sizes:
        hint = "Leave --key away, or sign it: gemma3build sign --key PRIVATE_KEY"
        why = f"it has no {SIGNATURE}"
        raise release_error(ErrorCode.UNSIGNED, "The release is not signed", why, hint)
    return trust(folder, digests)


def compare_pins(manifest: Manifest) -> str:
    """Say whether the images of a release are those of this checkout, which may be newer or older."""
    locked = read_images_lock().images
    other = [
        image.name
        for image in manifest.images
        if image.requirements != locked.get(image.name, {}).get("requirements.txt", "")
    ]
    if other:
        return f"{join_names(other)} not from this checkout's pins, which may be older or newer"
    return f"its {len(manifest.images)} images are from this checkout's pins"


def _unusable(code: ErrorCode, name: str, why: str) -> BuildError:
    return release_error(code, f"{name} cannot be used", truncate(why))
