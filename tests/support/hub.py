"""A hub on loopback that speaks to ``huggingface_hub`` as the public one does, uploads included."""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support import xet
from tests.support.repos import (
    DATE,
    LFS,
    MAIN,
    Commit,
    Fault,
    Pull,
    RefusedError,
    Repo,
    User,
    blob_id,
    describe,
)

__all__ = ["MAIN", "Commit", "Hub", "Pull", "User", "blob_id"]
PAGE = 2  # pull requests in an answer


class Hub:
    """Repositories, users, faults, and a note of every request."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}
        self.users: dict[str, User] = {}
        self.objects: dict[str, bytes] = {}
        self.xet = False  # whether it says that large files are in Xet's store, too
        self.xorbs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.starts: list[int] = []  # of the parts of files that were asked for
        self.before_commit: Callable[[], object] = lambda: None
        self.corrupt: Callable[[bytes], bytes] = lambda data: data
        hub = self

        class Bound(Handler):
            pass

        Bound.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        # As on the public Hub, large files come from elsewhere, where no token may go.
        self.storage = f"http://localhost:{self._server.server_port}"

    def add(
        self, name: str, files: Mapping[str, bytes], *, private: bool = False, gated: bool = False
    ) -> str:
        """Add a repository with one commit; return the commit."""
        self.repos[name] = Repo(private=private, gated=gated)
        return self.repos[name].commit(files, "first", "someone")

    def fail(self, pattern: str, **fault: Any) -> None:
        self.faults.append(Fault(pattern, **fault))

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for the receipt of its headers
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def handle_request(self) -> None:
        split = urlsplit(self.path)
        self.query = parse_qs(split.query)
        path = split.path
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        note = f"{self.command} {unquote(path)}"
        self.hub.requests.append(note + (" with a token" if token else ""))
        self.payload = self.read_body()
        try:
            self.find_fault(note)
            self.user = self.find_user(token)
            self.answer(path)
        except RefusedError as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            if refused.status == HTTPStatus.TEMPORARY_REDIRECT:
                headers = {"Location": refused.message}
            body = {"error": refused.message, "errors": [{"message": refused.message}]}
            own = self.fault.body if self.fault else b""
            self.send(refused.status, own or json.dumps(body).encode(), headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request  # noqa: N815

    def answer(self, path: str) -> None:
        for pattern, methods, method in ROUTES:
            if self.command in methods and (match := re.fullmatch(pattern, path)):
                method(self, *map(unquote, match.groups()))
                return
        raise RefusedError(404, "", f"no such address: {path}")

    def find_fault(self, note: str) -> None:
        matching = (fault for fault in self.hub.faults if re.search(fault.pattern, note))
        self.fault = next((fault for fault in matching if fault.times), None)
        if self.fault is not None:
            self.fault.times -= 1
            if self.fault.status:
                raise RefusedError(self.fault.status, self.fault.code, "on demand")

    def find_user(self, token: str) -> User | None:
        if self.path.startswith(("/v1/", "/v2/", "/xorbs/")):
            # Xet's store knows no user, and no token of one may come there.
            if token not in ("", xet.ACCESS):
                raise RefusedError(401, "", "not a token for this store")
            return None
        if not token:
            return None
        user = self.hub.users.get(token)
        if user is None or user.expired:
            raise RefusedError(401, "", "Invalid credentials in Authorization header")
        return user

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        given = {"Content-Type": "application/json", **(headers or {})}
        given |= self.fault.headers if self.fault else {}
        self.send_response(status)
        for name, value in {**given, "Content-Length": str(len(body))}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault is not None and not self.fault.status:
            self.wfile.write(body[: self.fault.after])
            self.wfile.flush()
            if self.fault.reset:  # linger of zero seconds: close(2) sends a reset
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            return
        self.wfile.write(body)

    def json(self, value: object, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode())

    def repo(self, name: str, *, write: bool = False, content: bool = False) -> Repo:
        """Return a repository that the user may see; a renamed one leads to its new name."""
        if name in self.hub.renamed:
            raise RefusedError(
                HTTPStatus.TEMPORARY_REDIRECT,
                "",
                self.path.replace(name, self.hub.renamed[name], 1),
            )
        repo = self.hub.repos.get(name)
        seen = self.user is not None and (self.user.write or name in self.user.access)
        if repo is None or (repo.private and not seen):
            raise RefusedError(404 if self.user else 401, "RepoNotFound", "Repository not found")
        if content and repo.gated and not seen:
            raise RefusedError(403 if self.user else 401, "GatedRepo", "Access is restricted")
        if write and not (self.user and self.user.write):
            raise RefusedError(403 if self.user else 401, "", "this token may not write")
        return repo

    def commit_of(self, name: str, revision: str, **needs: bool) -> tuple[Repo, Commit]:
        repo = self.repo(name, **needs)
        commit = repo.find(revision)
        if commit is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo, commit

    def whoami(self) -> None:
        if self.user is None:
            raise RefusedError(401, "", "Invalid username or password.")
        role = "write" if self.user.write else "read"
        self.json({"name": self.user.name, "auth": {"accessToken": {"role": role}}})

    def create(self) -> None:
        asked = json.loads(self.payload)
        name = f"{asked['organization']}/{asked['name']}"
        if self.user is None or not self.user.write:
            raise RefusedError(403 if self.user else 401, "", "this token may not create")
        if name in self.hub.repos:
            raise RefusedError(409, "", "You already created this model repo")
        files = {".gitattributes": b"*.tflite filter=lfs\n"}
        self.hub.add(name, files, private=asked.get("visibility") == "private")
        self.json({"url": f"{self.hub.address}/{name}"})

    def validate(self) -> None:
        content = json.loads(self.payload)["content"]
        head = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        if head is None or not re.search(r"^license: ", head[1], re.MULTILINE):
            raise RefusedError(400, "", "license is required")
        self.json({"errors": [], "warnings": []})

    def info(self, name: str, revision: str = "main") -> None:
        repo, commit = self.commit_of(name, revision)
        siblings = [
            {"rfilename": item["path"], "size": item["size"], "blobId": item["oid"]}
            | ({"lfs": {**item["lfs"], "sha256": item["lfs"]["oid"]}} if "lfs" in item else {})
            for item in map(describe, commit.files, commit.files.values())
        ]
        found = {"id": name, "sha": commit.id, "private": repo.private, "gated": repo.gated}
        self.json({**found, "siblings": siblings, "tags": [], "downloads": 0})

    def tree(self, name: str, revision: str) -> None:
        _, commit = self.commit_of(name, revision, content=True)
        self.json([describe(*item) for item in commit.files.items()])

    def paths(self, name: str, revision: str) -> None:
        _, commit = self.commit_of(name, revision, content=True)
        wanted = parse_qs(self.payload.decode())["paths"]
        self.json([describe(*item) for item in commit.files.items() if item[0] in wanted])

    def refs(self, name: str) -> None:
        repo = self.repo(name)
        kinds = {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/"}
        named = {kind: repo.named(prefix) for kind, prefix in kinds.items()}
        self.json({**named, "converts": []})

    def commits(self, name: str, revision: str) -> None:
        repo, commit = self.commit_of(name, revision)
        found = []
        while True:
            author = {"user": commit.author}
            entry = {"id": commit.id, "title": commit.title, "message": "", "date": DATE}
            found.append({**entry, "authors": [author]})
            if not commit.parent:
                self.json(found)
                return
            commit = repo.commits[commit.parent]

    def discussions(self, name: str) -> None:
        kind, status = (self.query.get(key, ["all"])[0] for key in ("type", "status"))
        found = [
            {
                "num": number,
                "title": pull.title,
                "author": {"name": pull.author},
                "createdAt": DATE,
                "status": pull.status,
                "isPullRequest": True,
                "repo": {"name": name, "type": "model"},
            }
            for number, pull in enumerate(self.repo(name).pulls, 1)
            if kind != "discussion" and status in ("all", pull.status)
        ]
        start = int(self.query["p"][0]) * PAGE
        page = found[start : start + PAGE]
        self.json({"discussions": page, "count": len(found), "start": start})

    def preupload(self, name: str, revision: str) -> None:
        # To open a pull request takes a token that may write, to somewhere.
        _, commit = self.commit_of(name, revision, write=True)
        self.json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(LFS) else "regular",
                        "shouldIgnore": False,
                        "oid": None
                        if file["path"] not in commit.files
                        else describe(file["path"], commit.files[file["path"]])["oid"],
                    }
                    for file in json.loads(self.payload)["files"]
                ]
            }
        )

    def batch(self, name: str) -> None:
        self.repo(name, write=True)
        objects = []
        for item in json.loads(self.payload)["objects"]:
            href = f"{self.hub.storage}/lfs/{item['oid']}"
            verify = {"href": f"{self.hub.address}/{name}/verify/{item['oid']}"}
            actions = {"upload": {"href": href}, "verify": verify}
            known = item["oid"] in self.hub.objects
            objects.append({**item} if known else {**item, "actions": actions})
        self.json({"transfer": "basic", "objects": objects})

    def cache(self, oid: str) -> None:
        self.hub.objects[oid] = self.payload
        self.send(200, b"")

    def verify(self, name: str, oid: str) -> None:
        self.repo(name, write=True)
        if hashlib.sha256(self.hub.objects[oid]).hexdigest() != oid:
            raise RefusedError(400, "", "another digest")
        self.send(200, b"")

    def commit(self, name: str, revision: str) -> None:
        repo, _ = self.commit_of(name, revision, write=True)
        assert self.user is not None
        self.hub.before_commit()
        lines = [json.loads(line) for line in self.payload.splitlines()]
        header = lines[0]["value"]
        ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        files = dict(repo.commits[repo.refs[ref]].files)
        if header.get("parentCommit", repo.refs[ref]) != repo.refs[ref]:
            raise RefusedError(
                412, "", "A commit has happened since. Please refresh and try again."
            )
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = self.hub.corrupt(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.corrupt(self.hub.objects[value["oid"]])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        answer = {"commitUrl": "", "pullRequestUrl": ""}
        if self.query.get("create_pr"):
            repo.pulls.append(Pull(header["summary"], self.user.name))
            number = len(repo.pulls)
            answer["pullRequestUrl"] = f"{self.hub.address}/{name}/discussions/{number}"
            repo.refs[f"refs/pr/{number}"], ref = repo.refs[ref], f"refs/pr/{number}"
        oid = repo.commit(files, header["summary"], self.user.name, ref)
        answer["commitUrl"] = f"{self.hub.address}/{name}/commit/{oid}"
        self.json({**answer, "commitOid": oid, "success": True})

    def tag(self, name: str, revision: str) -> None:
        repo, commit = self.commit_of(name, revision, write=True)
        ref = f"refs/tags/{json.loads(self.payload)['tag']}"
        if ref in repo.refs:
            raise RefusedError(409, "", "Tag already exists")
        repo.refs[ref] = commit.id
        self.json({})

    def resolve(self, name: str, revision: str, path: str) -> None:
        _, commit = self.commit_of(name, revision, content=True)
        if path not in commit.files:
            raise RefusedError(404, "EntryNotFound", "Entry not found")
        data = commit.files[path]
        item = describe(path, data)
        headers = {"X-Repo-Commit": commit.id}
        if "lfs" not in item:
            self.send(200, data, {**headers, "ETag": f'"{item["oid"]}"'})
            return
        oid = item["lfs"]["oid"]
        self.hub.objects[oid] = data
        linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        if self.hub.xet:
            route = f"{self.hub.address}/api/models/{name}/xet-read-token/{commit.id}"
            linked |= {"X-Xet-Hash": oid, "X-Xet-Refresh-Route": route}
        self.send(302, b"", {**headers, **linked, "Location": f"{self.hub.storage}/lfs/{oid}"})

    def serve(self, oid: str) -> None:
        self.send_range(self.hub.objects[oid])

    def send_range(self, data: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            self.send(200, data)
            return
        start, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
        self.hub.starts.append(start)
        span = f"bytes {start}-{last}/{len(data)}"
        self.send(206, data[start : last + 1], {"Content-Range": span})

    def xet_token(self, name: str, kind: str, revision: str) -> None:
        self.commit_of(name, revision, write=kind == "write", content=True)
        expires = int(time.time()) + 3600
        found = {"accessToken": xet.ACCESS, "exp": expires, "casUrl": self.hub.address}
        headers = {
            "X-Xet-Access-Token": xet.ACCESS,
            "X-Xet-Token-Expiration": str(expires),
            "X-Xet-Cas-Url": self.hub.address,
        }
        self.send(200, json.dumps(found).encode(), headers)

    def reconstruct(self, oid: str) -> None:
        self.json(xet.reconstruction(oid, self.hub.objects[oid], self.hub.address))

    def serve_xorb(self, oid: str) -> None:
        self.send_range(xet.make_xorb(self.hub.objects[oid]))

    def store_xorb(self, name: str) -> None:
        self.hub.xorbs[name] = self.payload
        self.json({"was_inserted": True})

    def store_shard(self) -> None:
        for oid, content in xet.read_shard(self.payload, self.hub.xorbs):
            assert hashlib.sha256(content).hexdigest() == oid
            self.hub.objects[oid] = content
        self.json({"result": 1})


NAME, REVISION = r"([\w.-]+/[\w.-]+)", r"([^/]+)"
ROUTES: tuple[tuple[str, tuple[str, ...], Callable[..., None]], ...] = (
    (r"/api/whoami-v2", ("GET",), Handler.whoami),
    (r"/api/repos/create", ("POST",), Handler.create),
    (r"/api/validate-yaml", ("POST",), Handler.validate),
    (rf"/api/models/{NAME}", ("GET",), Handler.info),
    (rf"/api/models/{NAME}/revision/{REVISION}", ("GET",), Handler.info),
    (rf"/api/models/{NAME}/tree/{REVISION}", ("GET",), Handler.tree),
    (rf"/api/models/{NAME}/paths-info/{REVISION}", ("POST",), Handler.paths),
    (rf"/api/models/{NAME}/refs", ("GET",), Handler.refs),
    (rf"/api/models/{NAME}/commits/{REVISION}", ("GET",), Handler.commits),
    (rf"/api/models/{NAME}/discussions", ("GET",), Handler.discussions),
    (rf"/api/models/{NAME}/preupload/{REVISION}", ("POST",), Handler.preupload),
    (rf"/api/models/{NAME}/commit/{REVISION}", ("POST",), Handler.commit),
    (rf"/api/models/{NAME}/tag/{REVISION}", ("POST",), Handler.tag),
    (rf"/{NAME}\.git/info/lfs/objects/batch", ("POST",), Handler.batch),
    (rf"/{NAME}/verify/(\w+)", ("POST",), Handler.verify),
    (r"/lfs/(\w+)", ("PUT",), Handler.cache),
    (r"/lfs/(\w+)", ("GET", "HEAD"), Handler.serve),
    (rf"/api/models/{NAME}/xet-(read|write)-token/{REVISION}", ("GET",), Handler.xet_token),
    (r"/v1/reconstructions/(\w+)", ("GET",), Handler.reconstruct),
    (r"/v1/xorbs/default/(\w+)", ("POST",), Handler.store_xorb),
    (r"/v1/shards", ("POST",), Handler.store_shard),
    (r"/xorbs/(\w+)", ("GET",), Handler.serve_xorb),
    (rf"/{NAME}/resolve/{REVISION}/(.+)", ("GET", "HEAD"), Handler.resolve),
)
