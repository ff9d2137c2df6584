"""A hub on loopback that serves one gated repository at one revision."""

import hashlib
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class Hub:
    """Answers as the public Hub does; see huggingface_hub's ``file_download`` for what it reads."""

    REVISION = "a" * 40

    def __init__(self, files: Mapping[str, bytes], token: str, *, cut: bool = False) -> None:
        """Serve files to who has the token; of each file, half alone if the line is to be cut."""
        outer_files, outer_token = files, token

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

            def answer(self, *, body: bool) -> None:
                prefix = f"/org/name/resolve/{Hub.REVISION}/"
                data = outer_files.get(self.path.removeprefix(prefix))
                if self.headers.get("Authorization") != f"Bearer {outer_token}":
                    self.refuse(403, "GatedRepo")
                elif data is None:
                    self.refuse(404, "EntryNotFound")
                else:
                    self.send_response(200)
                    self.send_header("X-Repo-Commit", Hub.REVISION)
                    self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')  # noqa: S324
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    if body:
                        self.wfile.write(data[: len(data) // 2] if cut else data)
                        self.close_connection = cut

            def refuse(self, status: int, code: str) -> None:
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("X-Error-Message", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                self.answer(body=True)

            def do_HEAD(self) -> None:
                self.answer(body=False)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
