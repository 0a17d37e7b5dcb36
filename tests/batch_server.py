"""A server on loopback that keeps files and batches as OpenAI's does, for tests.

with serve_batches() as server:                  # improves every pair it is asked about
    config = TeacherConfig(engine="batch", model="fake", base_url=server.url)

with serve_batches(answer, work) as server: ...  # what becomes of a line, and of a batch
"""

import email
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import policy
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.teacher_server import LoopbackServer, Reply, improve, reply_body, running

Line = dict[str, Any]
# What becomes of one request's body; None: the batch ends before it comes to it.
AnswerFunction = Callable[[dict[str, Any]], Reply | None]
# Called with what is being done and how often it was; a Reply is sent instead of what would be.
Watch = Callable[[str, int], Reply | None]


@dataclass
class BatchServer:
    """A running server, and what it keeps."""

    url: str
    answer: AnswerFunction
    status: Callable[[int], str] = lambda number: "completed"  # that each batch ends with
    error: dict[str, Any] = field(  # of a batch that fails
        default_factory=lambda: {"code": "invalid", "message": "the file's model is unknown", "line": 1}
    )
    watch: Watch = lambda doing, number: None
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)  # oldest first
    done: Counter[str] = field(default_factory=Counter)
    keys: set[str | None] = field(default_factory=set)  # Authorization headers

    def lines(self, batch: dict[str, Any]) -> list[Line]:
        """What was asked in a batch."""
        return [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]

    def asked(self) -> list[list[str]]:
        """Custom ids of each batch, oldest first."""
        return [[line["custom_id"] for line in self.lines(batch)] for batch in self.batches.values()]

    def bodies(self) -> list[list[dict[str, Any]]]:
        """Bodies of the requests of each batch, oldest first."""
        return [[line["body"] for line in self.lines(batch)] for batch in self.batches.values()]

    def listed(self) -> list[dict[str, Any]]:
        """All batches as they are, newest first."""
        return [_show(batch) for batch in reversed(self.batches.values())]

    def forget(self) -> None:
        """Begin anew."""
        self.files.clear()
        self.batches.clear()
        self.done.clear()

    def keep(self, content: bytes) -> dict[str, Any]:
        """Take a file."""
        id = f"file-{len(self.files)}"
        self.files[id] = content
        return {"id": id, "object": "file", "bytes": len(content), "purpose": "batch", "status": "processed"}

    def create(self, order: dict[str, Any]) -> dict[str, Any]:
        """Take a batch, and do its work at once: it shows with the second look at it."""
        number = len(self.batches)
        batch = order | {"id": f"batch_{number}", "object": "batch", "status": "validating", "created_at": 0}
        self.batches[batch["id"]] = batch
        batch["will_be"] = {"status": self.status(number)}
        if batch["will_be"]["status"] == "failed":
            batch["will_be"] |= {"errors": {"object": "list", "data": [self.error]}}
            return batch
        output, errors = [], []
        for line in self.lines(batch):
            reply, told = (
                self.answer(line["body"]),
                {"id": "r", "custom_id": line["custom_id"], "error": None},
            )
            if reply is None:
                error = {"code": f"batch_{batch['will_be']['status']}", "message": "too late"}
                errors.append(told | {"response": None, "error": error})
                continue
            body = json.loads(reply.body or reply_body(line["body"], reply))
            place = output if reply.status == 200 else errors
            place.append(told | {"response": {"status_code": reply.status, "request_id": "q", "body": body}})
        for name, lines in {"output_file_id": output, "error_file_id": errors}.items():
            content = "".join(json.dumps(line) + "\n" for line in reversed(lines)).encode()
            batch["will_be"][name] = self.keep(content)["id"] if lines else None
        return batch


@contextmanager
def serve_batches(answer: AnswerFunction | None = None, **settings: Any) -> Iterator[BatchServer]:
    """Serve files, batches and chat completions on a free port of loopback until the block ends."""
    httpd = _Server(("127.0.0.1", 0), _Handler)
    url = f"http://127.0.0.1:{httpd.server_port}/v1"
    httpd.state = BatchServer(url, answer or (lambda body: improve(body, 0)), **settings)
    with running(httpd):
        yield httpd.state


class _Server(LoopbackServer):
    state: BatchServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave in one packet
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        match self.path:
            case "/v1/files":
                self._do("upload", lambda state: state.keep(self._read_file(body)))
            case "/v1/batches":
                self._do("create", lambda state: _show(state.create(json.loads(body))))
            case "/v1/chat/completions":
                request = json.loads(body)
                self._do("ask", lambda state: json.loads(reply_body(request, state.answer(request))))

    def do_GET(self) -> None:
        match self.path.partition("?")[0].split("/")[2:]:
            case ["batches"]:
                self._do("list", lambda state: {"data": state.listed(), "has_more": False})
            case ["batches", id]:
                self._do("poll", lambda state: _proceed(state.batches[id]))
            case ["files", id, "content"]:
                self._do("read", lambda state: state.files[id])

    def _read_file(self, body: bytes) -> bytes:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + body, policy=policy.HTTP)
        return next(p for p in message.iter_parts() if p.get_filename()).get_payload(decode=True)

    def _do(self, what: str, make: Callable[[BatchServer], Any]) -> None:
        """Do something between two looks of whoever watches."""
        state = self.server.state
        state.keys.add(self.headers.get("Authorization"))
        state.done[what] += 1
        number = state.done[what]
        reply = state.watch(f"before {what}", number)
        if reply is None:
            try:
                made = make(state)
            except KeyError:
                reply = Reply(status=404)
            reply = reply or state.watch(f"after {what}", number)
        if reply is not None:
            made = json.loads(reply.body or reply_body({"model": ""}, reply))
        body = made if isinstance(made, bytes) else json.dumps(made).encode()
        try:
            self.send_response(reply.status if reply else 200)
            self.send_header("Content-Type", "application/json" if body is not made else "application/jsonl")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()
        except OSError:
            self.close_connection = True  # the client has gone

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _show(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name != "will_be"}


def _proceed(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch as it is, one look after the last."""
    if batch["status"] == "validating":
        batch["status"] = "in_progress"
    else:
        batch |= batch["will_be"]
    return _show(batch)
