"""Asks an OpenAI-compatible chat completions server: a hosted one, or vLLM, llama.cpp and the like.

Connections are the openai client's. Whoever asked decides what is asked again; when a busy or stumbling
server may be asked concerns every request, and pacing.py knows it. The key comes from the environment, goes
into the request's header and nowhere else.
"""

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from reflectune.agents.teacher.engines import Request, faults
from reflectune.agents.teacher.engines.pacing import Pace, parse_retry_after
from reflectune.agents.teacher.engines.parameters import Parameters
from reflectune.agents.teacher.engines.replies import read_completion
from reflectune.state.config import TeacherConfig
from reflectune.state.errors import ConfigError, TeacherError
from reflectune.state.records import Answer, AnswerError

__all__ = ["OPENAI_URL", "REFUSED", "OpenAIEngine", "read_api_key", "scrub"]

_logger = logging.getLogger(__name__)

# A config without base_url must not be redirected by OPENAI_BASE_URL, which the client would read.
OPENAI_URL = "https://api.openai.com/v1"
# Statuses that no request of this run can get round, and what to check then.
_FATAL = {
    401: "the key that teacher.api_key_env names",
    402: "the account's credit",
    403: "the rights of the key that teacher.api_key_env names",
    404: "teacher.base_url and teacher.model",
}
REFUSED = (400, 413, 422)
_UNAVAILABLE = (429, 502, 503, 504)  # nobody behind the address could take the request
_NO_CREDIT = "insufficient_quota"  # OpenAI's code of a 429 that no waiting helps against
# Causes that say nobody took the request, as httpx names them.
_NOT_CONNECTED = ("ConnectError", "ConnectTimeout", "ProxyError")
_CONNECT_TIMEOUT = 10.0  # seconds
_MAX_BYTES = 8 * 2**20  # of a reply's body; the longest answers of today are a tenth of it
_MAX_BYTES_COMPRESSED = 64 * 2**10  # nobody asked for compression, and this may become a thousandfold
_MESSAGE_LENGTH = 500


class OpenAIEngine:
    """Keeps up to `teacher.concurrency` requests under way, on an event loop in a thread of its own.

    A server that is too busy gets fewer at once, and is asked again until it takes them. A failure is handed
    over after a pause, so that it is not asked for again at once. After a fault that no request can get
    round, nothing more is sent, and what is under way is still handed over.
    """

    name = "openai"
    structured = True

    def __init__(self, config: TeacherConfig) -> None:
        assert config.model is not None
        self.model = config.model
        self.capacity = config.capacity
        self._config = config
        self._url = config.base_url or OPENAI_URL
        self._key = read_api_key(config)
        timeout = httpx2.Timeout(config.timeout, connect=min(config.timeout, _CONNECT_TIMEOUT))
        hooks = {"response": [_take_in_hand]}
        self._client = openai.AsyncOpenAI(
            api_key=self._key or "none",  # without any it would not start; see _arguments
            base_url=self._url,
            max_retries=0,
            timeout=timeout,
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultAsyncHttpxClient(timeout=timeout, event_hooks=hooks),
        )
        self._has_answered = False
        self._parameters = Parameters(config)
        self._pace = Pace(config.capacity, give_up_after=config.wait)
        self._requests: asyncio.Queue[Request] = asyncio.Queue()
        self._answers: SimpleQueue[Answer | Exception] = SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._fault: asyncio.Future[Exception] = self._loop.create_future()  # no request can succeed
        self._serving = self._loop.create_task(self._serve())
        # A daemon: Python does not wait for it when it exits.
        threading.Thread(target=self._work, name="teacher", daemon=True).start()

    def submit(self, request: Request) -> None:
        """Have the request sent as soon as the server bears another one."""
        self._loop.call_soon_threadsafe(self._requests.put_nowait, request)

    def next_answer(self) -> Answer:
        """The next answer that arrives; the fault that ends all comes last."""
        answer = self._answers.get()
        if isinstance(answer, Exception):
            self._answers.put(answer)  # nothing else will come, however often it is asked for
            raise answer
        return answer

    def has_answer(self) -> bool:
        """Whether an answer, or the fault, has arrived."""
        return not self._answers.empty()

    def close(self) -> None:
        """Send nothing more and forget what is under way."""
        with suppress(RuntimeError):  # closed before
            self._loop.call_soon_threadsafe(self._serving.cancel)

    def _work(self) -> None:
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._serving)
        self._loop.close()

    async def _serve(self) -> None:
        async with self._client:
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(self._send(tasks))
                self._fault.add_done_callback(lambda fault: sending.cancel())
            self._answers.put(self._fault.result())
            await self._loop.create_future()  # requests may still be submitted, until close()

    async def _send(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            request = await self._requests.get()
            entered = await self._pace.enter()
            if self._fault.done():
                return  # the reply that says so may have let this request pass
            tasks.create_task(self._answer(request, entered))

    async def _answer(self, request: Request, entered: float) -> None:
        try:
            answer = await self._ask(request, entered)
            if answer is None:
                self._requests.put_nowait(request)
                return
            answer = replace(answer, seconds=time.monotonic() - entered)
            if answer.error not in ("failed", "unavailable"):
                self._pace.recover()
            elif self._config.retries:
                # Keeps a place under way busy, unless nothing more is sent anyway.
                pause = self._pace.stumble(entered, request.reflection.attempts + 1)
                await asyncio.wait([self._fault], timeout=pause)
            self._answers.put(self._scrub_answer(answer))
        except Exception as error:  # noqa: BLE001 - next_answer raises it where it can be seen
            if not self._fault.done():
                self._fault.set_result(error)
        finally:
            self._pace.leave()

    async def _ask(self, request: Request, entered: float) -> Answer | None:
        """Send the request and understand the reply; None where a busy server wants it later."""
        # Not parsed by the client: what it makes of a server's odd JSON is not defined.
        create: Any = self._client.chat.completions.with_raw_response.create
        sent = self._parameters.build(request)
        try:
            async with asyncio.timeout(self._config.timeout):
                response = await create(**self._arguments(sent))
        except (TimeoutError, _OversizedReplyError) as error:
            late = f"no whole answer within {self._config.timeout:g} s (teacher.timeout)"
            return Answer(request.id, error="failed", message=f"{self._url}: {str(error) or late}")
        except openai.APIStatusError as error:
            body, headers = error.response.text, error.response.headers
            if error.status_code in REFUSED and self._leave_out(faults.find_refused(body, sent), sent):
                return await self._ask(request, entered)
            return self._read_fault(request, entered, error.status_code, body, headers)
        except openai.APIConnectionError as error:
            unavailable = type(error.__cause__).__name__ in _NOT_CONNECTED
            message = f"{self._url}: {error.message} {_first_cause(error)!r}"
            return Answer(request.id, error="unavailable" if unavailable else "failed", message=message)
        body = response.content.decode("utf-8", errors="replace")
        if (status := faults.read_error(body)) is not None:
            return self._read_fault(request, entered, status, body, response.headers)
        self._pace.widen()
        answer = read_completion(request.id, body)
        self._has_answered |= answer.error is None
        return answer

    def _arguments(self, body: dict[str, Any]) -> dict[str, Any]:
        # The client knows some parameters by name; it takes all of them as extra_body.
        arguments: dict[str, Any] = {key: body[key] for key in ("model", "messages")}
        arguments["extra_body"] = {key: value for key, value in body.items() if key not in arguments}
        if not self._key:
            arguments["extra_headers"] = {"Authorization": openai.Omit()}
        return arguments

    def _leave_out(self, name: str | None, sent: dict[str, Any]) -> bool:
        """Send a parameter no more that the server refuses; False where that cannot help."""
        if name is None or not self._parameters.may_leave_out(name):
            return False
        if warning := self._parameters.leave_out(name, sent[name]):
            _logger.warning("teacher %s at %s: %s", self.model, self._url, warning)
        return True

    def _read_fault(
        self, request: Request, entered: float, status: int, body: str, headers: Mapping[str, str]
    ) -> Answer | None:
        """What became of a request that the server did not answer; None where it may come later."""
        reason = faults.read_reason(self._scrub(body), status)  # before a cut leaves a part of the key
        message = f"HTTP {status}: {reason}"
        is_broke = status == 429 and _NO_CREDIT in body
        about_schema = request.schema is not None and faults.is_about_schema(reason)
        if not is_broke and faults.is_busy(status, reason):
            if self._pace.narrow(entered, parse_retry_after(headers.get("retry-after"))):
                return None
            return Answer(request.id, error="unavailable", message=message)
        if status not in _UNAVAILABLE:
            self._pace.widen()
        # 403 with a key that is good: this one text is not wanted there.
        if (
            status in REFUSED
            or (status == 403 and self._has_answered)
            or (status in (403, 404) and about_schema)
        ):
            return Answer(request.id, error="refused-request", message=message)
        if status in _FATAL or is_broke:
            advice = _FATAL.get(status, _FATAL[402])
            shown = self._scrub_message(message)
            raise TeacherError(f"teacher {self.model} at {self._url}: {shown}; check {advice}") from None
        what: AnswerError = "unavailable" if status in _UNAVAILABLE else "failed"
        return Answer(request.id, error=what, message=message)

    def _scrub_answer(self, answer: Answer) -> Answer:
        return replace(
            answer,
            text=self._scrub(answer.text),
            finish_reason=answer.finish_reason and self._scrub(answer.finish_reason),
            message=answer.message and self._scrub_message(answer.message),
        )

    def _scrub_message(self, message: str) -> str:
        return " ".join(self._scrub(message).split())[:_MESSAGE_LENGTH]

    def _scrub(self, text: str) -> str:
        return scrub(text, self._key)


def scrub(text: str, key: str) -> str:
    """A text without the key, which servers and libraries may quote; some escape its slashes."""
    return re.sub(re.escape(key).replace("/", r"\\*/"), "[key]", text) if key else text


def _first_cause(error: BaseException) -> BaseException:
    """What a chain of errors began with; of several addresses that were tried, the last one's."""
    if isinstance(error, BaseExceptionGroup):
        return _first_cause(error.exceptions[-1])
    cause = error.__cause__ or error.__context__
    return _first_cause(cause) if cause else error


class _OversizedReplyError(openai.OpenAIError):
    """A reply is larger than any answer."""


class _BoundedStream(httpx2.AsyncByteStream):
    """A reply's body that may not grow without end."""

    def __init__(self, stream: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._stream, self._max_bytes = stream, max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > self._max_bytes:
                raise _OversizedReplyError(f"the reply is larger than {self._max_bytes} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _take_in_hand(response: httpx2.Response) -> None:
    """Before a reply's body is read: bound it, and read it as UTF-8."""
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    compressed = response.headers.get("content-encoding", "identity") != "identity"
    response.stream = _BoundedStream(response.stream, _MAX_BYTES_COMPRESSED if compressed else _MAX_BYTES)
    response.encoding = "utf-8"  # JSON is; the header may name what Python cannot read text with


def _check_address(address: str) -> None:
    """An address is stored and shown: what may be a key has no place in it."""
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"teacher.base_url = {address!r}: want http://... or https://...")
    parts = urlsplit(address)
    held = {"user name": "@" in parts.netloc, "query": parts.query, "fragment": parts.fragment}
    if what := next(filter(held.get, held), None):
        raise ConfigError(f"teacher.base_url holds a {what}; name a key's variable in teacher.api_key_env")


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
