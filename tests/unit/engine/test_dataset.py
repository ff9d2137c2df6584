import errno
import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gemma3build.engine.cache import Cache
from gemma3build.engine.downloads import dataset_files
from gemma3build.errors import ErrorCode
from gemma3build.pins.config import Dataset, load_datasets
from gemma3build.util.files import sha256_bytes
from gemma3build.workflows.evaluate import find_questions
from tests.support.command import run_command
from tests.support.errors import raises

RUNNER: Any = None  # is asked for nothing where a folder is given
FILES = {"/valid.jsonl": b"questions\n" * 1000, "/valid-labels.lst": b"0\n1\n"}


class Handler(http.server.BaseHTTPRequestHandler):
    asked: list[str]
    cut: int | None = None  # after how many bytes

    def do_GET(self) -> None:
        self.asked.append(self.path)
        content = FILES.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write((content or b"")[: self.cut])

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def address(asked: list[str]) -> Iterator[str]:
    handler = type("Asked", (Handler,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def dataset(address: str, **digests: str) -> Dataset:
    sha256 = {name[1:]: sha256_bytes(content) for name, content in FILES.items()} | digests
    return Dataset(summary="Questions", licence="AFL-3.0", base=address, sha256=sha256)


def test_files_are_fetched_once_and_again_when_they_are_damaged(
    tmp_path: Path, address: str, asked: list[str]
) -> None:
    cache, said = Cache(tmp_path), list[str]()
    found = dataset_files(cache, "piqa", dataset(address), said.append)
    assert {f"/{name}": path.read_bytes() for name, path in found.items()} == FILES
    assert dataset_files(cache, "piqa", dataset(address), said.append) == found
    assert len(asked) == len(said) == 2
    found["valid.jsonl"].write_bytes(b"damaged")
    dataset_files(cache, "piqa", dataset(address), said.append)
    assert found["valid.jsonl"].read_bytes() == FILES["/valid.jsonl"]


@pytest.mark.parametrize(
    ("digests", "why"),
    [({"valid.jsonl": "0" * 64}, "the pinned one is 000"), ({"missing.txt": "0" * 64}, "404")],
)
def test_what_is_not_the_pinned_file_is_refused_and_not_kept(
    tmp_path: Path, address: str, digests: dict[str, str], why: str
) -> None:
    with raises(ErrorCode.DOWNLOAD, match=why) as caught:
        dataset_files(Cache(tmp_path), "piqa", dataset(address, **digests), print)
    assert "--piqa DIR" in caught.value.hint
    left = {path.name for path in tmp_path.glob("datasets/*/*")}
    assert not left & set(digests)
    assert not any(name.endswith(".partial") for name in left)


def test_a_line_that_is_cut_in_mid_download_leaves_nothing_and_the_next_try_goes_on(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Handler, "cut", 1000)
        with raises(ErrorCode.DOWNLOAD, match="cannot be fetched"):
            dataset_files(Cache(tmp_path), "piqa", dataset(address), print)
    assert not list(tmp_path.glob("datasets/*/*"))
    found = dataset_files(Cache(tmp_path), "piqa", dataset(address), print)
    assert {f"/{name}": path.read_bytes() for name, path in found.items()} == FILES


def test_a_server_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with raises(ErrorCode.DOWNLOAD, match="cannot be fetched"):
        dataset_files(Cache(tmp_path), "piqa", dataset("http://127.0.0.1:1/"), print)


class FullDisk(io.BytesIO):
    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_an_error_and_leaves_nothing(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def open_full(path: Path, mode: str = "r", **options: Any) -> Any:
        return FullDisk() if mode == "wb" else real(path, mode, **options)

    monkeypatch.setattr(Path, "open", open_full)
    with raises(ErrorCode.DISK, match="piqa cannot be kept: No space left on device"):
        dataset_files(Cache(tmp_path), "piqa", dataset(address), print)
    assert not list(tmp_path.glob("datasets/*/*"))


def test_a_stopped_download_leaves_nothing(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("httpx2.Response.iter_bytes", stop)
    with pytest.raises(KeyboardInterrupt):
        dataset_files(Cache(tmp_path), "piqa", dataset(address), print)
    assert not list(tmp_path.glob("datasets/*/*"))


def test_stopping_the_preparations_of_an_evaluation_is_its_own_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gemma3build.workflows.evaluate.read_release", lambda _: None)
    monkeypatch.setattr("gemma3build.workflows.evaluate.prepare_evaluation", stop)
    monkeypatch.setattr("gemma3build.engine.docker.connect", lambda: None)
    monkeypatch.setattr("gemma3build.engine.runner.cache_dir", lambda: tmp_path)
    done = run_command("evaluate", tmp_path)
    assert done.returncode == ErrorCode.INTERRUPTED.exit_code
    assert "`gemma3build evaluate` was stopped." in done.stderr
    assert "finished steps are kept" in done.stderr


def test_the_pinned_questions_are_two_files() -> None:
    assert set(load_datasets()["piqa"].sha256) == {"valid.jsonl", "valid-labels.lst"}


def own(folder: Path, *lines: str, labels: str = "0\n1\n") -> Path:
    folder.mkdir()
    (folder / "valid.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "valid-labels.lst").write_text(labels)
    return folder


QUESTION = '{"goal": "dry a shoe", "sol1": "with paper", "sol2": "with water"}'


@pytest.mark.parametrize(
    ("lines", "labels", "why"),
    [
        ((QUESTION, QUESTION), "0\n", "has 2 questions, valid-labels.lst has 1 labels"),
        ((QUESTION,), "0\n", "has 1 questions; a standard error needs 2"),
        ((QUESTION, "{"), "0\n1\n", "line 2 of valid.jsonl is not JSON"),
        ((QUESTION, "[" * 100_000), "0\n1\n", "line 2 of valid.jsonl is not JSON"),
        ((QUESTION, '{"goal": "x"}'), "0\n1\n", "line 2 of valid.jsonl has not the texts"),
        ((QUESTION.replace("dry", r"\ud800"), QUESTION), "0\n1\n", "line 1 of valid.jsonl has not"),
        ((QUESTION, QUESTION), "0\n2\n", "line 2 of valid-labels.lst is '2', not 0 or 1"),
    ],
)
def test_questions_that_cannot_be_asked_are_found_before_any_step(
    tmp_path: Path, lines: tuple[str, ...], labels: str, why: str
) -> None:
    folder = own(tmp_path / "piqa", *lines, labels=labels)
    with raises(ErrorCode.REQUEST, match=why):
        find_questions(folder, RUNNER)


def test_a_file_that_is_no_text_is_found_before_any_step(tmp_path: Path) -> None:
    folder = own(tmp_path / "piqa", QUESTION, QUESTION)
    (folder / "valid.jsonl").write_bytes(b"\xff\xfe")
    with raises(ErrorCode.REQUEST, match="has no questions to ask"):
        find_questions(folder, RUNNER)
    with raises(ErrorCode.REQUEST, match="Check the path"):
        find_questions(tmp_path / "gone", RUNNER)


def test_questions_are_piqas_if_their_digests_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = own(tmp_path / "piqa", QUESTION, QUESTION)
    found, own_ones = find_questions(folder, RUNNER)
    assert own_ones
    same = {file.path: file.sha256 for file in found.material.files}
    pins = {"piqa": Dataset(summary="", licence="", base="", sha256=same)}
    monkeypatch.setattr("gemma3build.workflows.evaluate.load_datasets", lambda: pins)
    assert not find_questions(folder, RUNNER)[1]
