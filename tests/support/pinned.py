"""A tiny model on a hub on loopback, pinned and locked as those of models.toml are."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from gemma3build.gemma.architecture import read_architecture
from gemma3build.pins.config import HubSource, ModelConfig
from gemma3build.pins.resolver import resolve_model
from gemma3build.workflows import request
from tests.support.checkpoint import CONFIG, write_checkpoint
from tests.support.hub import Hub, User

TINY, REPO, TOKEN = "tiny", "org/tiny", "hf_secret"


def pin_tiny(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a tiny checkpoint into a gated repository and make ``TINY`` the model of it.

    Args:
        hub: the hub; the environment then names it, and the token that opens the repository.
        folder: where the checkpoint is written.
        monkeypatch: of the test.
    """
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    files = {path.name: path.read_bytes() for path in write_checkpoint(folder).iterdir()}
    hub.add(REPO, files, gated=True)
    hub.users[TOKEN] = User("user", access=frozenset({REPO}))
    model = ModelConfig(
        summary="",
        base_model=REPO,
        prefill_seq_lens=(8,),
        kv_cache_max_len=64,
        context=256,
        schemes=("dynamic_int8",),
        shape=read_architecture(CONFIG).shape,
        hub=HubSource(repo=REPO, revision="main"),
    )
    locked = resolve_model(TINY, model, lambda *_: pytest.fail("nothing is in packages"))
    lock = SimpleNamespace(models={TINY: locked})
    monkeypatch.setattr(request, "find_model", lambda _: model)
    monkeypatch.setattr(request, "read_models_lock", lambda: lock)
