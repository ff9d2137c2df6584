"""Verifying a release on a hub on loopback, without trusting it."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from gemma3build.errors import BuildError, ErrorCode
from gemma3build.publish.hub import listed_names
from gemma3build.release.checksums import CHECKSUMS
from gemma3build.schema.manifest import MANIFEST
from gemma3build.util.files import LARGEST
from tests.support.hub import Hub
from tests.support.publishing import (
    REPO,
    content,
    failed,
    head,
    publish,
    run,
)
from tests.support.release import (
    TASK,
)


@pytest.mark.usefixtures("writer")
def test_a_published_release_is_verified_by_its_records_and_stated_digests(
    hub: Hub, release: Path
) -> None:
    publish(release, "--tag", "v1")
    hub.requests.clear()
    done = run("verify", f"hf://{REPO}@v1")
    assert done.exit_code == 0, done.exception
    assert (
        f"{REPO} at {head(hub).id}; for 4 files only the SHA-256 that the Hub states" in done.stdout
    )
    assert "not opened" in done.stdout
    assert not any("/lfs/" in request for request in hub.requests)
    done = run("verify", "--full", f"hf://{REPO}")
    assert done.exit_code == 0, done.exception
    assert "3 members, with the model and the tokenizer" in done.stdout
    assert sum("GET /lfs/" in request for request in hub.requests) == 4


@pytest.mark.parametrize(
    ("change", "code", "full"),
    [
        ({TASK: b"other"}, ErrorCode.CHANGED, False),
        ({TASK: None}, ErrorCode.MISSING, False),
        ({"Notice": b"other"}, ErrorCode.CHANGED, False),
        ({MANIFEST: b"{}"}, ErrorCode.MANIFEST, False),
        ({CHECKSUMS: None}, ErrorCode.MISSING, False),
        ({CHECKSUMS: b"other"}, ErrorCode.CHECKSUMS, False),
        ({"extra.task": b"other"}, ErrorCode.EXTRA, False),
        ({"README.md": b"other", "images/a.png": b"", "images/b.task": b""}, 0, False),
        ({"images/a.png": b""}, 0, True),
    ],
)
def test_a_published_release_that_was_changed_is_told(
    hub: Hub,
    release: Path,
    change: Mapping[str, bytes | None],
    code: ErrorCode | int,
    *,
    full: bool,
) -> None:
    files = {**content(release), **change}
    hub.add(REPO, {name: data for name, data in files.items() if data is not None})
    done = run("verify", *(["--full"] if full else []), f"hf://{REPO}")
    error = done.exception if code else None
    assert (error.code if isinstance(error, BuildError) else done.exit_code) == code


def test_what_cannot_be_looked_at_is_told(hub: Hub, tmp_path: Path) -> None:
    assert failed("verify", f"hf://{REPO}").code is ErrorCode.NOT_FOUND
    hub.add(REPO, {"README.md": b"nothing"})
    assert failed("verify", f"hf://{REPO}@v9").code is ErrorCode.NOT_FOUND
    assert failed("verify", f"hf://{REPO}").code is ErrorCode.MISSING
    assert failed("verify", "hf://gemma").code is ErrorCode.REQUEST
    hub.add("org/gated", {CHECKSUMS: b"", TASK: b""}, gated=True)
    assert failed("verify", "hf://org/gated").code is ErrorCode.LOGIN


ODD = "images/a\x1b]0;title\x07\n✓ signature  by you.png"


@pytest.mark.usefixtures("writer")
def test_no_name_of_a_file_is_obeyed_by_a_terminal(hub: Hub, release: Path) -> None:
    hub.add(REPO, {**content(release), ODD: b""})
    for command in (("verify", f"hf://{REPO}"), ("publish", str(release), "--repo", REPO)):
        done = run(*command)
        assert done.exit_code == 0, done.exception
        assert r"images/a\x1b]0;title\x07\n\u2713 signature" in done.stdout
        assert not {"\x1b", "\x07"} & set(done.output)
    # The Hub's client shows what it downloads.
    hub.add(REPO, {**content(release), "a\x1b.task": b"other"})
    hub.requests.clear()
    error = failed("verify", "--full", f"hf://{REPO}")
    assert (error.code, error.why) == (
        ErrorCode.EXTRA,
        r"'a\x1b.task' is not a file name of a release",
    )
    assert not any(".task" in request for request in hub.requests)


def test_records_of_a_stranger_are_not_downloaded_or_read_without_a_bound(
    hub: Hub, release: Path, tmp_path: Path
) -> None:
    hub.add(REPO, {**content(release), CHECKSUMS: bytes(LARGEST + 1)})
    error = failed("verify", f"hf://{REPO}")
    assert (error.code, error.why) == (
        ErrorCode.CHANGED,
        f"{CHECKSUMS} is larger than a record can be",
    )
    assert not any(f"/{CHECKSUMS}" in request for request in hub.requests)
    # And a hub that serves more than it stated.
    with (tmp_path / CHECKSUMS).open("wb") as file:
        file.truncate(2**40)
    assert listed_names(tmp_path / CHECKSUMS) == frozenset()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),  # as Xet's client says it
    ],
)
def test_a_disk_that_fills_up_in_mid_download_is_no_dead_network(
    hub: Hub, release: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    hub.add(REPO, content(release))

    def fill(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("gemma3build.publish.hub.hf_hub_download", fill)
    assert failed("verify", f"hf://{REPO}").code is ErrorCode.DISK


def test_a_busy_hub_is_told_of_a_file_that_is_downloaded(
    hub: Hub, release: Path, waits: list[float]
) -> None:
    hub.add(REPO, content(release))
    hub.fail("HEAD .*/resolve/", status=503, times=100)
    error = failed("verify", f"hf://{REPO}")
    assert (error.code, error.why) == (ErrorCode.NETWORK, "the Hub answered 503: on demand")
    assert waits
    hub.faults.clear()
    hub.fail("GET /api/models", status=200, body=b"<html></html>")
    error = failed("verify", f"hf://{REPO}")
    assert (error.code, "does not speak as the Hub does" in error.why) == (ErrorCode.NETWORK, True)


def test_the_addresses_of_large_files_which_are_signed_are_not_shown(
    hub: Hub, release: Path
) -> None:
    hub.add(REPO, content(release))
    hub.fail("GET /lfs/", after=10)
    done = subprocess.run(
        [sys.executable, "-m", "gemma3build", "verify", "--full", f"hf://{REPO}"],
        env={**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert sum(request.startswith("GET /lfs/") for request in hub.requests) == 5
    assert hub.storage not in done.stdout + done.stderr


def test_a_signal_in_mid_download_waits_for_no_large_file(hub: Hub, release: Path) -> None:
    hub.add(REPO, content(release))
    asked, serve = threading.Event(), threading.Event()

    class Slow(dict[str, bytes]):
        def __getitem__(self, oid: str) -> bytes:
            asked.set()
            serve.wait()
            return super().__getitem__(oid)

    hub.objects = Slow()
    with subprocess.Popen(
        [sys.executable, "-m", "gemma3build", "verify", "--full", f"hf://{REPO}"],
        env={**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert asked.wait(60)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=5)  # and the client waits for ten
        finally:
            process.kill()
            serve.set()
    assert (process.returncode, "`gemma3build verify` was stopped." in said) == (130, True), said


def test_a_signature_is_checked_on_bytes_alone(hub: Hub, tmp_path: Path) -> None:
    key = tmp_path / "key"
    for command in (
        ("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key)),
        ("ec", "-in", str(key), "-pubout", "-out", f"{key}.pub"),
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    error = failed("verify", f"hf://{REPO}", "--key", f"{key}.pub")
    assert (error.code, error.hint) == (ErrorCode.REQUEST, "Add --full.")
    assert hub.requests == []
