"""Servers on loopback that speak as much of the Hugging Face hub's API as the tests take.

One has one revision of one dataset: its number, the files of each folder, and files, whole or a range of one.
Another takes repositories and commits.
"""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.teacher_server import running

__all__ = ["UploadHub", "serve_dataset", "serve_uploads"]

_COMMIT = "1" * 40


@dataclass
class UploadHub:
    """What was sent to a hub."""

    url: str = ""
    repos: dict[str, str] = field(default_factory=dict)  # their types
    commits: list[dict[str, bytes]] = field(default_factory=list)  # files by path
    tokens: set[str | None] = field(default_factory=set)  # Authorization headers


@contextmanager
def serve_uploads(status: int = 200) -> Iterator[UploadHub]:
    """Serve a hub that takes repositories and commits of plain files, or refuses all with a status."""
    hub = UploadHub()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _make_taker(hub, status))
    hub.url = f"http://127.0.0.1:{httpd.server_port}"
    with running(httpd):
        yield hub


def _make_taker(hub: UploadHub, status: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.tokens.add(self.headers.get("Authorization"))
            path = unquote(urlsplit(self.path).path)
            if status != 200:
                self._send({"error": "not yours"}, status)
            elif path == "/api/repos/create":
                asked = json.loads(body)
                name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
                hub.repos[name] = asked.get("type", "model")
                kind = "datasets/" if hub.repos[name] == "dataset" else ""
                self._send({"url": f"{hub.url}/{kind}{name}", "id": name})
            elif path == "/api/validate-yaml":  # the head of a card
                self._send({"errors": [], "warnings": []})
            elif "/preupload/" in path:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                self._send({"files": files})
            elif "/commit/" in path:
                lines = [json.loads(line)["value"] for line in body.splitlines() if b'"file"' in line]
                hub.commits.append({line["path"]: base64.b64decode(line["content"]) for line in lines})
                self._send(
                    {
                        "success": True,
                        "commitUrl": f"{hub.url}/{next(iter(hub.repos))}/commit/{_COMMIT}",
                        "commitOid": _COMMIT,
                    }
                )
            else:
                self._send({"error": path}, 404)

        def do_GET(self) -> None:
            self._send({"id": "ann/tiny-recycled", "sha": _COMMIT, "siblings": []}, status)

        def _send(self, document: Any, code: int = 200) -> None:
            content = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    return Handler


@contextmanager
def serve_dataset(name: str, files: Mapping[str, bytes]) -> Iterator[tuple[str, Counter[str]]]:
    """Serve the dataset "user/name" of these files, by their paths, until the block ends.

    Gives the server's address, and how many bytes of each file it has sent so far.
    """
    sent: Counter[str] = Counter()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(name, files, sent))
    with running(httpd):
        yield f"http://127.0.0.1:{httpd.server_port}", sent


def _make_handler(name: str, files: Mapping[str, bytes], sent: Counter[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if found := re.fullmatch(rf"/datasets/{name}/resolve/\w+/(.+)", path):
                self._send_file(found[1])
            elif found := re.fullmatch(rf"/api/datasets/{name}/tree/\w+/?(.*)", path):
                self._send_json(_list_files(files, found[1]))
            elif re.fullmatch(rf"/api/datasets/{name}/revision/\w+", path):
                self._send_json({"id": name, "sha": _COMMIT})
            else:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET

        def _send_file(self, path: str) -> None:
            if path not in files:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            content, headers = files[path], {"ETag": f'"{_hash(files[path])}"'}
            if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                content = content[int(wanted[1]) : int(wanted[2]) + 1]
                headers["Content-Range"] = f"bytes {wanted[1]}-{wanted[2]}/{len(files[path])}"
            sent[path] += len(content) * (self.command == "GET")
            self._send(206 if wanted else 200, content, headers)

        def _send_json(self, document: Any) -> None:
            self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("X-Repo-Commit", _COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    return Handler


def _list_files(files: Mapping[str, bytes], folder: str) -> list[dict[str, Any]]:
    """What is directly in a folder, as the hub tells it."""
    below = {path.removeprefix(f"{folder}/" if folder else ""): content for path, content in files.items()}
    found = [
        {"type": "file", "path": f"{folder}/{path}".lstrip("/"), "size": len(content), "oid": _hash(content)}
        for path, content in below.items()
        if "/" not in path
    ]
    folders = {path.partition("/")[0] for path in below if "/" in path} if not folder else ()
    return found + [{"type": "directory", "path": name, "oid": _hash(name.encode())} for name in folders]


def _hash(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
