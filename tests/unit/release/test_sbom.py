import json
import os
import subprocess
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from gemma3build.pins.config import load_images
from gemma3build.release.sbom import DISTRIBUTION, make_sbom
from gemma3build.schema.packages import DebianPackage, Packages
from gemma3build.util.files import FileDigest
from tests.support.release import make_manifest

WHEEL = FileDigest(path="Some_New.Package-2.4+cpu-cp311-cp311-linux.whl", size=1, sha256="5" * 64)
SHELL = DebianPackage(name="dash", version="0.5.12-2", architecture="amd64")
LIBRARY = DebianPackage(name="libstdc++6", version="12.2.0-14", architecture="amd64")
PACKAGES = {
    "bundle": Packages(wheels=(), debian=(SHELL,)),
    "convert": Packages(wheels=(WHEEL,), debian=(SHELL, LIBRARY)),
}


def sbom() -> bytes:
    artifacts = {"m_fp16.tflite": b"model", "m_fp16.task": b"bundle"}
    return make_sbom(make_manifest(artifacts, {}), PACKAGES)


def test_it_fits_the_schema_of_cyclonedx() -> None:
    errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom().decode())
    assert errors is None


def test_it_is_the_same_every_time_and_tells_no_clock() -> None:
    assert sbom() == sbom()
    found = json.loads(sbom())
    assert "timestamp" not in found["metadata"]
    other = make_sbom(make_manifest({"m_fp16.tflite": b"other"}, {}), PACKAGES)
    assert json.loads(other)["serialNumber"] != found["serialNumber"]


def test_it_names_models_wheels_and_debian_packages() -> None:
    found = json.loads(sbom())
    components = {item["bom-ref"]: item for item in found["components"]}
    assert [ref for ref, item in components.items() if "modelCard" in item] == ["checkpoint"]
    assert "datasets" not in components["checkpoint"]["modelCard"]["modelParameters"]
    model = components["artifact:m_fp16.tflite"]
    assert model["type"] == "machine-learning-model"
    assert model["licenses"][0]["license"]["name"] == "Gemma Terms of Use"
    purls = {item["purl"] for item in found["components"] if "purl" in item}
    assert "pkg:deb/debian/dash@0.5.12-2?arch=amd64&distro=bookworm" in purls
    (wheel,) = (purl for purl in purls if purl.startswith("pkg:pypi/some-new-package@2.4%2Bcpu"))
    assert WHEEL.path.replace("+", "%2B") in wheel
    depends = {item["ref"]: set(item.get("dependsOn", ())) for item in found["dependencies"]}
    assert depends["release:m"] == {"artifact:m_fp16.task", "artifact:m_fp16.tflite"}
    assert "image:convert" in depends["artifact:m_fp16.task"]
    assert f"wheel:{WHEEL.path}" in depends["image:convert"]
    assert len(depends["image:bundle"]) == 1


def test_it_does_not_depend_on_the_hash_seed() -> None:
    code = (
        "import sys; from tests.unit.release.test_sbom import sbom; sys.stdout.buffer.write(sbom())"
    )
    mine = os.environ.get("PYTHONHASHSEED")
    environment = {**os.environ, "PYTHONHASHSEED": "2" if mine == "1" else "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[3],
        env=environment,
    )
    assert done.stdout == sbom()


def test_the_distribution_is_that_of_the_base() -> None:
    parent = load_images().parent
    assert parent.suite == DISTRIBUTION
    assert f"-{DISTRIBUTION}@" in parent.registry
