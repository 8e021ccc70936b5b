"""A Hugging Face Hub on this machine: the part of its protocol that this project uses."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from local_server import LocalServer

LFS_FROM = 1000
"""Files of at least this many bytes have a SHA-256 as their name, as large files on the hub do."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    byte_range: str | None
    token: str | None
    encoding: str | None
    status: int


@dataclass
class Repo:
    gated: bool
    private: bool
    token: str | None
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)


class HubServer(LocalServer):
    """Serves repositories at ``url`` and records all ``requests``, in order."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.repos: dict[str, Repo] = {}
        self.breaks: dict[str, tuple[int, int]] = {}
        """End of a path -> (bytes after which the connection is cut, how many times)."""
        self.slowed: dict[str, tuple[int, threading.Event]] = {}
        """End of a path -> (bytes after which the answer slows down, event that ends it)."""
        self.damaged: set[str] = set()
        """Ends of paths whose last byte is changed in transfer."""
        self.status: int | None = None
        """Status that every request is answered with, when set."""
        self.ranges = True
        """Whether requests for a part of a file are supported."""
        self.cdn: str | None = None
        """Address of a server that requests for large files are redirected to, when set."""
        self.page: bytes | None = None
        """Body that every request is answered with, when set: networks do this before a login."""
        super().__init__(_handler(self))

    def add(
        self,
        repo: str,
        files: Path | Mapping[str, bytes | str],
        gated: bool = False,
        token: str | None = None,
        private: bool = False,
    ) -> str:
        """Publish a folder, or contents by path, as a new commit of ``main``; return the commit.

        A ``gated`` repository lists its files for everybody and sends them only to ``token``; a
        ``private`` one is hidden from everybody else.
        """
        if isinstance(files, Path):
            inside = (path for path in sorted(files.rglob("*")) if path.is_file())
            contents = {path.relative_to(files).as_posix(): path.read_bytes() for path in inside}
        else:
            contents = {p: c.encode() if isinstance(c, str) else c for p, c in files.items()}
        known = self.repos.setdefault(repo, Repo(gated, private, token))
        known.gated, known.private, known.token = gated, private, token
        digest = hashlib.sha1(f"{repo} {len(known.commits)}".encode())
        for path, content in sorted(contents.items()):
            digest.update(path.encode() + content)
        commit = digest.hexdigest()
        known.commits[commit] = contents
        known.revisions["main"] = commit
        return commit

    def tag(self, repo: str, name: str, commit: str) -> None:
        """Add a tag to a commit."""
        self.repos[repo].revisions[name] = commit

    def break_after(self, path: str, sent: int, times: int = 1) -> None:
        """Cut the next ``times`` answers with this file's contents after ``sent`` bytes."""
        self.breaks[path] = (sent, times)

    def slow_after(self, path: str, sent: int) -> threading.Event:
        """Send this file byte by byte after ``sent`` bytes, until the returned event is set."""
        quick = threading.Event()
        self.slowed[path] = (sent, quick)
        return quick

    def asked(self, part: str, method: str = "GET") -> list[Request]:
        """Return the requests whose path contains ``part``."""
        return [r for r in self.requests if part in r.path and r.method == method]


def etag(content: bytes) -> str:
    if len(content) >= LFS_FROM:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes, tree: bool) -> dict[str, Any]:
    """Return a file's entry in one of the hub's two listings."""
    name, oid = ("path", "oid") if tree else ("rfilename", "blobId")
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, Any] = {name: path, "size": len(content), oid: git}
    if len(content) >= LFS_FROM:
        entry["lfs"] = {
            "oid" if tree else "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "pointerSize": 130,
        }
    return entry | ({"type": "file"} if tree else {})


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            hub.connections.append(self.connection)

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._serve(body=True)

        def do_HEAD(self) -> None:
            self._serve(body=False)

        def _answer(
            self,
            status: int,
            content: bytes = b"",
            headers: Mapping[str, str] | None = None,
            body: bool = True,
            cut: int | None = None,
            slow: tuple[int, threading.Event] | None = None,
        ) -> None:
            bearer = self.headers.get("Authorization", "")
            hub.requests.append(
                Request(
                    self.command,
                    unquote(self.path),
                    self.headers.get("Range"),
                    bearer.removeprefix("Bearer ") or None,
                    self.headers.get("Accept-Encoding"),
                    status,
                )
            )
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                try:
                    if slow is not None:
                        content = self._trickle(content, *slow)
                    self.wfile.write(content[:cut])
                    self.wfile.flush()
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client was cancelled
            if cut is not None:
                self.close_connection = True

        def _trickle(self, content: bytes, sent: int, quick: threading.Event) -> bytes:
            """Send ``content``, slowly after ``sent`` bytes; return the part that was not sent."""
            self.wfile.write(content[:sent])
            while sent < len(content) and not quick.wait(0.01):
                self.wfile.write(content[sent : sent + 1])
                sent += 1
            return content[sent:]

        def _refuse(self, status: int, code: str, body: bool) -> None:
            self._answer(status, b"", {"X-Error-Code": code, "X-Error-Message": code}, body)

        def _json(self, value: Any, body: bool) -> None:
            content = json.dumps(value).encode()
            self._answer(200, content, {"Content-Type": "application/json"}, body)

        def _serve(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            if hub.status is not None:
                return self._answer(hub.status, b"", body=body)
            if hub.page is not None:
                return self._answer(200, hub.page, body=body)
            api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path)
            resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            match = api or resolve
            repo = hub.repos.get(match.group(1)) if match else None
            bearer = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
            granted = repo is not None and bearer is not None and bearer == repo.token
            if match is None or repo is None or (repo.private and not granted):
                return self._refuse(404 if bearer else 401, "RepoNotFound", body)
            revision = (match.group(3) if api else match.group(2)) or "main"
            revision, _, below = revision.partition("/") if api else (revision, "", "")
            commit = repo.revisions.get(revision, revision)
            files = repo.commits.get(commit)
            if files is None:
                return self._refuse(404, "RevisionNotFound", body)
            if api:
                return self._list(match.group(1), commit, files, api.group(2), below, body)
            if repo.gated and not granted:
                return self._refuse(403 if bearer else 401, "GatedRepo", body)
            if match.group(3) not in files:
                return self._refuse(404, "EntryNotFound", body)
            return self._file(commit, match.group(3), files[match.group(3)], body)

        def _list(
            self,
            repo: str,
            commit: str,
            files: Mapping[str, bytes],
            kind: str | None,
            below: str,
            body: bool,
        ) -> None:
            if kind == "tree":
                inside = [p for p in sorted(files) if not below or p.startswith(f"{below}/")]
                return self._json([_entry(p, files[p], True) for p in inside], body)
            siblings = [_entry(p, files[p], False) for p in sorted(files)]
            info = {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings}
            return self._json(info, body)

        def _file(self, commit: str, path: str, content: bytes, body: bool) -> None:
            headers = {
                "X-Repo-Commit": commit,
                "ETag": f'"{etag(content)}"',
                "X-Linked-Etag": f'"{etag(content)}"',
                "X-Linked-Size": str(len(content)),
                "Accept-Ranges": "bytes",
            }
            if any(path.endswith(end) for end in hub.damaged):
                content = content[:-1] + bytes([content[-1] ^ 1])
            if hub.cdn is not None and body and len(content) >= LFS_FROM:
                return self._answer(302, b"", headers | {"Location": hub.cdn + self.path})
            status, size = 200, len(content)
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if span and hub.ranges:
                start, stop = int(span.group(1)), min(int(span.group(2) or size), size - 1) + 1
                if start >= size:
                    return self._answer(416, b"", {"Content-Range": f"bytes */{size}"}, body)
                content, status = content[start:stop], 206
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
            cut = None
            for end, (sent, times) in list(hub.breaks.items()):
                if body and path.endswith(end) and times > 0:
                    cut, hub.breaks[end] = sent, (sent, times - 1)
            slow = next((s for end, s in hub.slowed.items() if path.endswith(end)), None)
            return self._answer(status, content, headers, body, cut, slow)

    return Handler
