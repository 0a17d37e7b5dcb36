"""A real OpenAI-compatible HTTP server on loopback, for tests: says whatever a function tells it to say.

with serve_teacher() as server:                  # improves every pair it is asked about
    config = TeacherConfig(engine="openai", model="fake", base_url=server.url)

with serve_teacher(lambda request, number: Reply(status=500)) as server: ...
"""

import json
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Reply:
    """What the server sends back, and how badly. `body`, where given, replaces the chat completion."""

    text: str | None = ""
    finish_reason: str = "stop"
    status: int = 200
    delay: float = 0.0  # seconds
    body: str | bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    drip: float = 0.0  # seconds before each byte, those of the status line and the headers too
    reset: bool = False  # break the connection after all but the last ten bytes


ReplyFunction = Callable[[dict[str, Any], int], Reply]


@dataclass
class TeacherServer:
    """A running server and what it was asked."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)  # bodies, in the order they came
    keys: list[str | None] = field(default_factory=list)  # Authorization headers
    paths: list[str] = field(default_factory=list)  # with their queries
    headers: list[Mapping[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serve_teacher(reply: ReplyFunction | None = None, port: int = 0) -> Iterator[TeacherServer]:
    """Serve /v1/chat/completions on a port of loopback, by default a free one, until the block ends.

    Args:
        reply: gets the request's JSON and its number, from 0; by default every pair is improved.
    """
    httpd = _Server(reply or improve, port)
    with running(httpd):
        yield httpd.state


@contextmanager
def running(httpd: ThreadingHTTPServer) -> Iterator[None]:
    """Serve in a thread of its own until the block ends."""
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def prompt_of(request: Mapping[str, Any]) -> str:
    """The text of a request's prompt."""
    return "\n".join(message["content"] for message in request["messages"])


def is_structured(request: Mapping[str, Any]) -> bool:
    """Whether a request carries a schema."""
    return "response_format" in request


def given(request: Mapping[str, Any], name: str) -> str:
    """A text of the pair a prompt is about: name is instruction, input or response."""
    found = re.search(rf"<given-{name}-(\w+)>\n(.*?)\n</given-{name}-\1>", prompt_of(request), re.DOTALL)
    return found[2] if found else ""


def is_about_instruction(request: Mapping[str, Any]) -> bool:
    """Whether a prompt asks for a new instruction too."""
    if is_structured(request):
        return "instruction" in request["response_format"]["json_schema"]["schema"]["properties"]
    return "<new-instruction-" in prompt_of(request)


def answer_text(
    request: Mapping[str, Any], *, response: str, instruction: str = "", critique: str = "Too short."
) -> str:
    """An answer in the form that the request asks for."""
    texts = {"instruction": instruction} if is_about_instruction(request) else {}
    texts["response"] = response
    if is_structured(request):
        return json.dumps({"critique": critique, **texts})
    nonce = re.findall(r"</critique-(\w+)>", prompt_of(request))[-1]
    tags = {"critique": critique} | {f"new-{name}": text for name, text in texts.items()}
    return "\n".join(f"<{tag}-{nonce}>\n{text}\n</{tag}-{nonce}>" for tag, text in tags.items())


def improve(request: dict[str, Any], number: int) -> Reply:
    """Improve the pair of any prompt: always the same for the same pair."""
    response = f"{given(request, 'response')} And more than that."
    instruction = f"{given(request, 'instruction')} Explain why."
    return Reply(answer_text(request, instruction=instruction, response=response))


class LoopbackServer(ThreadingHTTPServer):
    """Serves many clients at once, any of which may go at any time."""

    daemon_threads = True
    block_on_close = False  # a slow reply must not hold up the test that gave up on it
    request_queue_size = 128  # many clients come at once

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that has gone is no fault
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Server(LoopbackServer):
    def __init__(self, reply: ReplyFunction, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.reply = reply
        self.state = TeacherServer(f"http://127.0.0.1:{self.server_port}/v1")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in one packet; else Nagle's algorithm adds 40 ms to a reply.
    wbufsize = -1
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        if len(body := self.rfile.read(length)) < length:
            self.close_connection = True  # the client has gone
            return
        request = json.loads(body)
        state = self.server.state
        with state.lock:
            number = len(state.requests)
            state.requests.append(request)
            state.keys.append(self.headers.get("Authorization"))
            state.paths.append(self.path)
            state.headers.append(dict(self.headers.items()))
            state.under_way += 1
            state.most_at_once = max(state.most_at_once, state.under_way)
        try:
            if urlsplit(self.path).path.endswith(("/v1/chat/completions", "/gpt/chat/completions")):
                reply = self.server.reply(request, number)
            else:
                reply = Reply(status=404)
            time.sleep(reply.delay)
        finally:
            with state.lock:
                state.under_way -= 1
        self._send(request, reply)

    def _send(self, request: Mapping[str, Any], reply: Reply) -> None:
        body = reply.body if reply.body is not None else reply_body(request, reply)
        body = body.encode() if isinstance(body, str) else body
        try:
            if reply.drip or reply.reset:
                self._misbehave(reply, body)
                return
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # the client has gone

    def _misbehave(self, reply: Reply, body: bytes) -> None:
        self.close_connection = True
        head = f"HTTP/1.1 {reply.status} \r\nContent-Length: {len(body)}\r\n\r\n"
        whole = head.encode() + body
        if reply.reset:
            self.connection.sendall(whole[:-10])
            # Closed with this the socket sends a reset, and no end of the stream.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        for byte in whole:
            time.sleep(reply.drip)
            self.connection.sendall(bytes([byte]))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def reply_body(request: Mapping[str, Any], reply: Reply) -> str:
    """The body of a reply: a chat completion, or an error."""
    if reply.status != 200:
        return json.dumps({"error": {"message": f"status {reply.status}", "type": "fake"}})
    message = {"role": "assistant", "content": reply.text}
    return json.dumps(
        {
            "id": "chatcmpl-0",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
            "usage": {
                "prompt_tokens": len(prompt_of(request).split()),
                "completion_tokens": len((reply.text or "").split()),
            },
        }
    )
