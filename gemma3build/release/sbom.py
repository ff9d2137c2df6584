"""``sbom.cdx.json``: what is in a release and in the images that made it, as CycloneDX 1.6.

The same bytes for everyone: no clock, ordered lists, and a serial number made of the content. The
library that writes it is pinned to one version, which decides about details of the format.
"""

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gemma3build.schema.manifest import ImageRecord, Manifest
from gemma3build.schema.packages import DebianPackage, Packages
from gemma3build.util.files import FileDigest
from gemma3build.util.serialize import canonical_json, pretty_json

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

SBOM = "sbom.cdx.json"
ARTIFACT = "artifact:"  # what references to artifacts begin with
# For serial numbers: a UUID of version 5 over this project's name for its SBOMs (RFC 9562).
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:gemma3build:sbom:v1")
TERMS_NAME, TERMS_URL = "Gemma Terms of Use", "https://ai.google.dev/gemma/terms"
DISTRIBUTION = "bookworm"
CHECKPOINT = "checkpoint"
# What is known of every checkpoint that can be built, in the words of CycloneDX's model card.
MODEL_CARD = {
    "modelParameters": {
        "task": "text-generation",
        "architectureFamily": "transformer",
        "modelArchitecture": "Gemma3ForCausalLM",
        "inputs": [{"format": "text"}],
        "outputs": [{"format": "text"}],
    }
}


def make_sbom(manifest: Manifest, packages: Mapping[str, Packages]) -> bytes:
    """Return the bill of materials of a release.

    The release depends on its artifacts, these on the checkpoint and on the images, each image on its
    packages. What a model was trained on is unknown here, so its model card names no dataset.

    Args:
        manifest: the record of the release.
        packages: what each image of the manifest is made of, by its name.
    """
    # Slow to import, and an idle build has no use for it.
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot6

    bom = Bom()
    release = model_component(f"release:{manifest.checkpoint.model}", manifest.checkpoint.model)
    bom.metadata.component = release
    checkpoint = checkpoint_component(manifest)
    images = {image.name: image_component(image) for image in manifest.images}
    artifacts = [artifact_component(item) for item in artifact_files(manifest)]
    bom.components.update([checkpoint, *images.values(), *artifacts])
    bom.register_dependency(release, artifacts)
    for artifact in artifacts:
        bom.register_dependency(artifact, [checkpoint, *images.values()])
    for name, image in images.items():
        parts = [
            *map(wheel_component, packages[name].wheels),
            *map(debian_component, packages[name].debian),
        ]
        bom.components.update(parts)
        bom.register_dependency(image, parts)
    found: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del found["metadata"]["timestamp"]
    (model,) = (item for item in found["components"] if item["bom-ref"] == CHECKPOINT)
    model["modelCard"] = MODEL_CARD  # which the library does not know
    return numbered(found)


def numbered(bill: Mapping[str, Any]) -> bytes:
    """Return the text of a bill with the serial number that is made of the rest of it."""
    rest = {name: value for name, value in bill.items() if name != "serialNumber"}
    number = uuid.uuid5(NAMESPACE, canonical_json(rest).decode()).urn
    return pretty_json({**rest, "serialNumber": number})


def artifact_files(manifest: Manifest) -> Iterator[FileDigest]:
    """Yield the artifacts."""
    for item in manifest.artifacts:
        yield FileDigest(path=item.path, size=item.size, sha256=item.sha256)


def model_component(ref: str, name: str, *files: FileDigest) -> "Component":
    """Return a model under Gemma's terms."""
    from cyclonedx.model import Property, XsUri
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import DisjunctiveLicense

    return Component(
        name=name,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=ref,
        licenses=[DisjunctiveLicense(name=TERMS_NAME, url=XsUri(TERMS_URL))],
        properties=[Property(name=f"sha256:{file.path}", value=file.sha256) for file in files],
    )


def checkpoint_component(manifest: Manifest) -> "Component":
    """Return the checkpoint that was built, with the digests of its files."""
    checkpoint = manifest.checkpoint
    name = checkpoint.base_model or checkpoint.model
    found = model_component(CHECKPOINT, name, *checkpoint.files)
    found.version = checkpoint.revision or None
    found.description = f"{checkpoint.parameters} parameters, from {checkpoint.source}"
    return found


def artifact_component(file: FileDigest) -> "Component":
    """Return a file of the release."""
    found = model_component(f"{ARTIFACT}{file.path}", file.path)
    found.hashes.add(sha256(file.sha256))
    return found


def image_component(image: ImageRecord) -> "Component":
    """Return an image that a step ran in."""
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        name=f"gemma3build/{image.name}",
        type=ComponentType.CONTAINER,
        bom_ref=f"image:{image.name}",
        version=image.digest,
        description=f"base: {image.parent}",
    )


def wheel_component(wheel: FileDigest) -> "Component":
    """Return a wheel; its name and version are the first parts of its file name (PEP 427)."""
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    name, version = wheel.path.split("-")[:2]
    name = re.sub(r"[-_.]+", "-", name).lower()  # as an index has it: PEP 503
    return Component(
        name=name,
        version=version,
        bom_ref=f"wheel:{wheel.path}",
        hashes=[sha256(wheel.sha256)],
        purl=PackageURL("pypi", None, name, version, {"file_name": wheel.path}),
    )


def debian_component(package: DebianPackage) -> "Component":
    """Return a package of Debian."""
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    qualifiers = {"arch": package.architecture, "distro": DISTRIBUTION}
    return Component(
        name=package.name,
        version=package.version,
        bom_ref=f"deb:{package.name}:{package.architecture}@{package.version}",
        purl=PackageURL("deb", "debian", package.name, package.version, qualifiers),
    )


def sha256(digest: str) -> Any:
    """Return a digest as CycloneDX has it."""
    from cyclonedx.model import HashAlgorithm, HashType

    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
