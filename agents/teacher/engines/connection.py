"""How a server is connected to: the headers of a request, and how large a reply may be."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai

from reflectune.agents.teacher.engines.addresses import Address
from reflectune.state.config import EngineConfig

__all__ = ["OversizedReplyError", "open_client", "open_file_client", "request_headers"]

_CONNECT_TIMEOUT = 10.0  # seconds
_MAX_BYTES = 8 * 2**20  # of a reply's body; the longest answers of today are a tenth of it
_MAX_BYTES_COMPRESSED = 64 * 2**10  # nobody asked for compression, and this may become a thousandfold


class OversizedReplyError(openai.OpenAIError):
    """A reply is larger than any answer."""


def open_client(config: EngineConfig, address: Address) -> openai.AsyncOpenAI:
    """A client of a server, which retries nothing; give each request its `request_headers`."""
    settings, transport = _connect(config, address)
    hooks = {"response": [_take_in_hand]}
    http_client = openai.DefaultAsyncHttpxClient(**transport, event_hooks=hooks)
    return openai.AsyncOpenAI(**settings, http_client=http_client)


def open_file_client(config: EngineConfig, address: Address) -> openai.OpenAI:
    """The same for files, which may be of any size; it waits for each reply."""
    settings, transport = _connect(config, address)
    return openai.OpenAI(**settings, http_client=openai.DefaultHttpxClient(**transport))


def _connect(config: EngineConfig, address: Address) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a client, and of what connects it."""
    timeout = httpx2.Timeout(config.timeout, connect=min(config.timeout, _CONNECT_TIMEOUT))
    settings = {
        "api_key": address.key or "none",  # without any it would not start
        "base_url": address.base,
        "max_retries": 0,
        "timeout": timeout,
        "default_query": dict(address.query),
    }
    # To another host httpx sends no Authorization on, but it would send api-key.
    return settings, {"timeout": timeout, "follow_redirects": not address.is_azure}


def request_headers(config: EngineConfig, address: Address) -> dict[str, Any]:
    """The headers of a request besides the client's own; the key in the one that the server reads."""
    headers: dict[str, Any] = {**config.extra_headers, "Accept-Encoding": "identity"}
    if address.is_azure or not address.key:
        headers["Authorization"] = openai.Omit()
    return headers | ({"api-key": address.key} if address.is_azure and address.key else {})


class _BoundedStream(httpx2.AsyncByteStream):
    """A reply's body that may not grow without end."""

    def __init__(self, stream: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._stream, self._max_bytes = stream, max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > self._max_bytes:
                raise OversizedReplyError(f"the reply is larger than {self._max_bytes} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _take_in_hand(response: httpx2.Response) -> None:
    """Before a reply's body is read: bound it, and read it as UTF-8."""
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    compressed = response.headers.get("content-encoding", "identity") != "identity"
    response.stream = _BoundedStream(response.stream, _MAX_BYTES_COMPRESSED if compressed else _MAX_BYTES)
    response.encoding = "utf-8"  # JSON is; the header may name what Python cannot read text with
