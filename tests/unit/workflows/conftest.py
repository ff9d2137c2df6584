"""The release pipeline in a folder, with a key and a release file."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gemma3build.engine.cache import Cache
from gemma3build.verify import signature
from gemma3build.workflows import release as line
from tests.support.pipeline import CLEAN, FILE, Works
from tests.unit.verify.test_signature import write_key


@pytest.fixture
def works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Works:
    found = Works(Cache(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gemma3build.workflows.build.find_revision", lambda: CLEAN)
    monkeypatch.setattr(
        "gemma3build.engine.runner.open_runner", lambda *_: contextlib.nullcontext(found)
    )
    monkeypatch.setattr(line, "Builder", lambda *_: found)
    monkeypatch.setattr(line, "prepare_evaluation", found.prepare)
    monkeypatch.setattr(line, "evaluate", found.evaluate)
    monkeypatch.setattr(line, "find_questions", found.find_questions)
    signed = signature.sign

    def sign(verified: Any, signer: Any) -> None:
        found.run("sign", verified.folder.path)
        signed(verified, signer)

    monkeypatch.setattr(signature, "sign", sign)
    write_key(tmp_path / "release.key", ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "releases.toml").write_text(FILE)
    return found
