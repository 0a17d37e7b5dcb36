"""What every request and every answer passes: who may ask, and what a page may do in a browser.

Nothing here knows what is served.
"""

import re
import secrets
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

from reflectune.state.text import inert, one_line

__all__ = ["Guard", "csp_nonce"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_NONCE: ContextVar[str] = ContextVar("nonce")

# Of a page: nothing from outside, no script and no style that its template does not hold.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data:; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
# Datasette's templates set a few colours and heights in style attributes.
_ATTRIBUTES = "; style-src-attr 'unsafe-inline'"
# Of a chart that is opened by itself: it is drawn with style attributes, and can do nothing.
_IMAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; sandbox"
)
_HEADERS: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
# What Datasette has that makes no sense for one reader of one file: accounts, debugging, its own settings.
_CLOSED = re.compile(rb"^/(-/(?!static/)|_|:memory:)")
# A path that a browser may take for another host where it stands in a redirect.
_AMBIGUOUS = re.compile(rb"^/[/\\]|[\\\x00-\x20]|^[^/]")


def csp_nonce() -> str:
    """What marks a script or style as one of the page that is being answered."""
    return _NONCE.get()


class Guard:
    """An ASGI application around another: it lets only this machine's browser read.

    Requests for another host than its own are refused (400), so that no page of the web can rebind a name to
    this address and read along; so is whatever would write (405), and what another site's page asks for (403)
    unless it is a link that somebody follows. Every answer has a strict content security policy, and no HTML
    page holds a character that steers a terminal or turns the direction of writing.
    """

    def __init__(self, app: App, port: int, lenient: str) -> None:
        """Guard an application.

        Args:
            app: the application.
            port: where it listens.
            lenient: the start of paths whose pages may have style attributes, and take questions that can
                keep a machine busy: no link of another site leads there.
        """
        self._app = app
        hosts = ("127.0.0.1", "localhost", "[::1]")
        self._hosts = {f"{host}:{port}".encode() for host in hosts}
        if port == 80:
            self._hosts |= {host.encode() for host in hosts}
        self._lenient = lenient

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or take part in starting and ending."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        _NONCE.set(secrets.token_urlsafe(16))
        answer = _Answer(send, scope["path"].startswith(self._lenient))
        if refusal := self._refusal(scope):
            await answer.say(*refusal)
            return
        try:
            await self._app({**scope, "method": "GET"}, receive, answer.send)
        except Exception as error:  # noqa: BLE001 (the last resort: one sentence instead of a traceback)
            print(one_line(f"reflectune: {scope['path']}: {type(error).__name__}: {error}"), file=sys.stderr)  # noqa: T201
            if not answer.has_begun:
                await answer.say(500, "This page could not be made; the server's terminal says why.")

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        hosts = [value.lower() for name, value in scope["headers"] if name.lower() == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return 400, "This server answers only under its own address, 127.0.0.1 with its port."
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "This server only shows; nothing can be sent to it."
        if self._is_foreign(scope):
            return 403, "Another site's page asked for this; open the address itself to see it."
        path = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0]
        if _AMBIGUOUS.search(path) or _CLOSED.search(path):
            return 404, "There is no such page."
        return None

    def _is_foreign(self, scope: Message) -> bool:
        """Whether another site's page asks, as browsers tell of it, for more than a page to go to."""
        fetch = {
            name.lower().removeprefix(b"sec-fetch-"): value.lower() for name, value in scope["headers"]
            if name.lower().startswith(b"sec-fetch-")
        }  # fmt: skip
        if fetch.get(b"site", b"none") in (b"none", b"same-origin"):
            return False
        is_followed = (fetch.get(b"mode"), fetch.get(b"dest")) == (b"navigate", b"document")
        return not is_followed or scope["path"].startswith(self._lenient)


class _Answer:
    """Passes an answer on with the headers that every answer has."""

    def __init__(self, send: Send, is_lenient: bool) -> None:
        self.has_begun = False
        self._send = send
        self._is_lenient = is_lenient
        self._start: Message | None = None  # of an HTML page that is not whole yet
        self._body = b""

    async def say(self, status: int, sentence: str) -> None:
        """Answer by one sentence."""
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": f"{sentence}\n".encode()})

    async def send(self, message: Message) -> None:
        """Pass on one message of the answer; a page of HTML is kept until it is whole."""
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = [(bytes(name).lower(), bytes(value)) for name, value in message["headers"]]
            kind = dict(headers).get(b"content-type", b"")
            message = {**message, "headers": self._harden(headers, kind)}
            if kind.startswith(b"text/html"):
                self._start = message
                return
        elif self._start is not None:
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            body = inert(self._body.decode("utf-8", errors="replace")).encode()
            headers = [item for item in self._start["headers"] if item[0] != b"content-length"]
            headers.append((b"content-length", str(len(body)).encode()))
            await self._send({**self._start, "headers": headers})
            message = {"type": "http.response.body", "body": body}
        await self._send(message)

    def _harden(self, headers: Headers, kind: bytes) -> Headers:
        if kind.startswith(b"image/svg"):
            policy = _IMAGE_POLICY
        else:
            policy = _PAGE_POLICY.format(nonce=csp_nonce()) + (_ATTRIBUTES if self._is_lenient else "")
        ours = [(b"content-security-policy", policy.encode()), *_HEADERS]
        if b"cache-control" not in dict(headers):
            ours.append((b"cache-control", b"no-cache"))
        names = {name for name, _ in ours} | {b"link", b"set-cookie"}
        return [item for item in headers if item[0] not in names] + ours
