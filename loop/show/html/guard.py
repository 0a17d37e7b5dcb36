"""Who may ask, and what a page may do in a browser: what every request and every answer passes.

Nothing here knows what is served.
"""

import os
import secrets
import sys
import traceback

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reflectune.state.text import one_line

__all__ = ["Guard"]

# Of a page: nothing from outside, no script and no style that its template does not hold.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data:; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
# Of a chart that is opened by itself: it is drawn with style attributes, and can do nothing.
_IMAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; sandbox"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


class Guard:
    """An ASGI application around another: it lets only this machine's browser read.

    Requests for another host than its own are refused (400), so that no page of the web can rebind a name to
    this address and read along. So is whatever would write (405), and what another site's page asks for (403)
    unless it is a link that somebody follows. Every answer has a strict content security policy; templates
    mark their scripts by `request.state.nonce`.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        hosts = {"127.0.0.1", "localhost", "[::1]"}
        self._hosts = {f"{host}:{port}" for host in hosts} | (hosts if port == 80 else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        nonce = secrets.token_urlsafe(16)
        scope["state"] = {"nonce": nonce}

        async def send_hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                is_image = headers.get("content-type", "").startswith("image/svg")
                policy = _IMAGE_POLICY if is_image else _PAGE_POLICY.format(nonce=nonce)
                headers.update(_HEADERS | {"content-security-policy": policy})
            await send(message)

        app = self._refuse(scope) or self._app
        try:
            await app(scope, receive, send_hardened)
        except Exception as error:  # noqa: BLE001 (its page was sent: one sentence instead of a traceback)
            print(one_line(f"reflectune: {scope['path']}: {type(error).__name__}: {error}"), file=sys.stderr)  # noqa: T201
            if os.environ.get("REFLECTUNE_DEBUG"):
                traceback.print_exc()

    def _refuse(self, scope: Scope) -> PlainTextResponse | None:
        """The answer to a request that nobody else is to see."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return PlainTextResponse("This server answers only under 127.0.0.1 with its port.\n", 400)
        if scope["method"] not in ("GET", "HEAD"):
            sentence = "This server only shows; nothing can be sent to it.\n"
            return PlainTextResponse(sentence, 405, {"allow": "GET, HEAD"})
        is_own = headers.get("sec-fetch-site", "none") in ("none", "same-origin")
        asked = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
        if not is_own and asked != ("navigate", "document"):
            return PlainTextResponse("Another site's page asked for this; open the address itself.\n", 403)
        return None
