"""How a server is reached: its address, the headers of a request, and how large a reply may be.

The key comes from the environment, goes into a request's header and nowhere else.
"""

import os
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import httpx2
import openai

from reflectune.state.config import TeacherConfig
from reflectune.state.errors import ConfigError

__all__ = [
    "OPENAI_URL",
    "OversizedReplyError",
    "open_client",
    "open_file_client",
    "public_address",
    "read_api_key",
    "request_headers",
    "scrub",
]

# A config without base_url must not be redirected by OPENAI_BASE_URL, which the client would read.
OPENAI_URL = "https://api.openai.com/v1"
_AZURE_HOSTS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
_CONNECT_TIMEOUT = 10.0  # seconds
_MAX_BYTES = 8 * 2**20  # of a reply's body; the longest answers of today are a tenth of it
_MAX_BYTES_COMPRESSED = 64 * 2**10  # nobody asked for compression, and this may become a thousandfold


class OversizedReplyError(openai.OpenAIError):
    """A reply is larger than any answer."""


def open_client(config: TeacherConfig, key: str) -> openai.AsyncOpenAI:
    """A client of the config's server, which retries nothing; give each request its `request_headers`."""
    settings, transport = _connect(config, key)
    hooks = {"response": [_take_in_hand]}
    http_client = openai.DefaultAsyncHttpxClient(**transport, event_hooks=hooks)
    return openai.AsyncOpenAI(**settings, http_client=http_client)


def open_file_client(config: TeacherConfig, key: str) -> openai.OpenAI:
    """The same for files, which may be of any size; it waits for each reply."""
    settings, transport = _connect(config, key)
    return openai.OpenAI(**settings, http_client=openai.DefaultHttpxClient(**transport))


def _connect(config: TeacherConfig, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a client, and of what connects it."""
    url, query = _split_address(config)
    timeout = httpx2.Timeout(config.timeout, connect=min(config.timeout, _CONNECT_TIMEOUT))
    settings = {
        "api_key": key or "none",  # without any it would not start
        "base_url": url,
        "max_retries": 0,
        "timeout": timeout,
        "default_query": query,
    }
    # To another host httpx sends no Authorization on, but it would send api-key.
    return settings, {"timeout": timeout, "follow_redirects": not _is_azure(url, query)}


def request_headers(config: TeacherConfig, key: str) -> dict[str, Any]:
    """The headers of a request besides the client's own; the key in the one that the server reads."""
    headers: dict[str, Any] = {**config.extra_headers, "Accept-Encoding": "identity"}
    is_azure = _is_azure(*_split_address(config))
    if is_azure or not key:
        headers["Authorization"] = openai.Omit()
    return headers | ({"api-key": key} if is_azure and key else {})


def read_api_key(config: TeacherConfig) -> str:
    """The server's key from the environment, empty where the config names none; ConfigError if unusable."""
    if config.base_url is not None:
        _check_address(config.base_url)
    if config.api_key_env is None:
        return ""
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ConfigError(f"teacher.api_key_env: the variable {config.api_key_env} is not set; export it")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"teacher.api_key_env: {config.api_key_env} holds characters no key can have")
    return key


def public_address(config: TeacherConfig, key: str) -> str:
    """The server's address as calls are recorded under it: without query and key."""
    return scrub(_split_address(config)[0], key)


def scrub(text: str, key: str) -> str:
    """A text without the key, which servers and libraries may quote; some escape its slashes."""
    return re.sub(re.escape(key).replace("/", r"\\*/"), "[key]", text) if key else text


def _check_address(address: str) -> None:
    """An address is stored and shown: what may be a key has no place in it."""
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"teacher.base_url = {address!r}: want http://... or https://...")
    parts = urlsplit(address)
    odd_query = set(_read_query(parts.query)) - {"api-version"}
    held = {"user name": "@" in parts.netloc, "query": odd_query, "fragment": parts.fragment}
    if what := next(filter(held.get, held), None):
        raise ConfigError(f"teacher.base_url holds a {what}; name a key's variable in teacher.api_key_env")


def _split_address(config: TeacherConfig) -> tuple[str, dict[str, str]]:
    """The address that paths are put behind, and the query behind these."""
    parts = urlsplit(config.base_url or OPENAI_URL)
    query = _read_query(parts.query)
    if config.api_version is not None:
        query["api-version"] = config.api_version
    return urlunsplit(parts._replace(query="")), query


def _read_query(query: str) -> dict[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True))


def _is_azure(url: str, query: dict[str, str]) -> bool:
    """Whether a server reads the key where Azure does."""
    return "api-version" in query or (urlsplit(url).hostname or "").endswith(_AZURE_HOSTS)


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
