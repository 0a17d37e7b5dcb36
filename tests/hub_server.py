"""A server on loopback that speaks as much of the Hugging Face hub's API as loading a dataset by name takes.

It has one revision of one dataset: its number, the files of each folder, and files, whole or a range of one.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.teacher_server import running

__all__ = ["serve_dataset"]

_COMMIT = "1" * 40


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
