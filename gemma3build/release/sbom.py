"""``sbom.cdx.json``: the contents of a release and of the images that built it, as CycloneDX 1.6.

It is reproducible: no clock, sorted lists, and a serial number derived from the content.
"""

import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from gemma3build.schema.manifest import CheckpointRecord, Manifest
from gemma3build.schema.packages import Packages
from gemma3build.util.serialize import canonical_json, pretty_json

SBOM = "sbom.cdx.json"
ARTIFACT = "artifact:"  # prefix of references to artifacts
CHECKPOINT = "checkpoint"
DISTRIBUTION = "bookworm"
# For serial numbers: a UUID of version 5 over this project's name for its SBOMs (RFC 9562).
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:gemma3build:sbom:v1")
LICENSE = {"name": "Gemma Terms of Use", "url": "https://ai.google.dev/gemma/terms"}
MODEL: dict[str, Any] = {"type": "machine-learning-model", "licenses": [{"license": LICENSE}]}
# The same for every checkpoint that can be built.
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
    """Return the SBOM of a release.

    The release depends on its artifacts, these on the checkpoint and on the images, each image on its
    packages. gemma3build does not know what a model was trained on, so its model card names no dataset.

    Args:
        manifest: of the release.
        packages: of each image of the manifest, by its name.
    """
    checkpoint = manifest.checkpoint
    release = {**MODEL, "bom-ref": f"release:{checkpoint.model}", "name": checkpoint.model}
    found: dict[str, dict[str, Any]] = {CHECKPOINT: _checkpoint(checkpoint)}
    depends: dict[str, list[str]] = {}
    for image in manifest.images:
        parts = {str(part["bom-ref"]): part for part in _parts(packages[image.name])}
        found |= parts
        depends[f"image:{image.name}"] = sorted(parts)
        found[f"image:{image.name}"] = {
            "type": "container",
            "name": f"gemma3build/{image.name}",
            "version": image.digest,
            "description": f"base: {image.parent}",
        }
    made_from = [CHECKPOINT, *sorted(depends)]
    artifacts = {f"{ARTIFACT}{item.path}": item for item in manifest.artifacts}
    for ref, item in artifacts.items():
        found[ref] = {**MODEL, "name": item.path, "hashes": _hashes(item.sha256)}
    depends |= {**dict.fromkeys(artifacts, made_from), release["bom-ref"]: sorted(artifacts)}
    components = [{**item, "bom-ref": ref} for ref, item in found.items()]
    return numbered(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {"component": release},
            "components": sorted(components, key=_order),
            "dependencies": [
                {"ref": ref, **({"dependsOn": depends[ref]} if depends.get(ref) else {})}
                for ref in sorted({*found, *depends})
            ],
        }
    )


def numbered(sbom: Mapping[str, Any]) -> bytes:
    """Return the text of an SBOM with a serial number derived from the rest of it."""
    rest = {name: value for name, value in sbom.items() if name != "serialNumber"}
    number = uuid.uuid5(NAMESPACE, canonical_json(rest).decode()).urn
    return pretty_json({**rest, "serialNumber": number})


def _checkpoint(checkpoint: CheckpointRecord) -> dict[str, Any]:
    version = {"version": checkpoint.revision} if checkpoint.revision else {}
    return {
        **MODEL,
        **version,
        "name": checkpoint.base_model or checkpoint.model,
        "description": f"{checkpoint.parameters} parameters, from {checkpoint.source}",
        "modelCard": MODEL_CARD,
        "properties": [
            {"name": f"sha256:{file.path}", "value": file.sha256}
            for file in sorted(checkpoint.files)
        ],
    }


def _parts(packages: Packages) -> Iterator[dict[str, Any]]:
    """Yield the wheels and the Debian packages of an image, with package URLs (ECMA-427)."""
    for wheel in packages.wheels:
        name, version = wheel.path.split("-")[:2]  # PEP 427
        name = re.sub(r"[-_.]+", "-", name).lower()  # PEP 503
        yield {
            "bom-ref": f"wheel:{wheel.path}",
            "type": "library",
            "name": name,
            "version": version,
            "hashes": _hashes(wheel.sha256),
            "purl": f"pkg:pypi/{name}@{_quoted(version)}?file_name={_quoted(wheel.path)}",
        }
    for package in packages.debian:
        name, version, arch = package.name, package.version, package.architecture
        yield {
            "bom-ref": f"deb:{name}:{arch}@{version}",
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:deb/debian/{_quoted(name)}@{_quoted(version)}?arch={arch}&distro={DISTRIBUTION}",
        }


def _quoted(text: str) -> str:
    return quote(text, safe=":")


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _order(component: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(component.get(key, "") for key in ("type", "name", "version", "bom-ref"))
