"""Moving scale between layers leaves what a float export computes as it is, to the bit."""

import json
from pathlib import Path

import docker
import pytest

from gemma3build.engine.cache import Cache
from gemma3build.engine.images import Images
from gemma3build.engine.runner import cache_dir
from gemma3build.gemma.graph import DOWN, GATE_UP, OUTPUT, QKV
from gemma3build.pins.config import load_images
from gemma3build.util.git import PACKAGE_DIR

pytestmark = pytest.mark.integration

HERE = Path(__file__).parent


def test_an_equalized_export_computes_what_the_export_computes(
    images: None, client: docker.DockerClient, warm_cache: Path, tmp_path: Path
) -> None:
    cache = Cache(warm_cache)
    (export,) = (
        cache.output(key) for key, entry in cache.entries().items() if entry.step == "export"
    )
    image = Images(client, Cache(cache_dir()), load_images(), print).ensure("convert")
    client.containers.run(
        image.image_id,
        ["python", "/tests/equalize_model.py", "/source/model_f32.tflite", "/target/report.json"],
        network_mode="none",
        remove=True,
        environment={"PYTHONPATH": "/src"},
        volumes={
            str(HERE): {"bind": "/tests", "mode": "ro"},
            str(PACKAGE_DIR.parent): {"bind": "/src", "mode": "ro"},
            str(export): {"bind": "/source", "mode": "ro"},
            str(tmp_path): {"bind": "/target", "mode": "rw"},
        },
    )
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["changed"]
    assert found["finite"]
    assert found["equal"]
    for kind in (QKV, GATE_UP, DOWN, OUTPUT):
        before, after = found["spread"][kind]
        assert after < before
