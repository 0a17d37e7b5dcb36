"""Asks an OpenAI-compatible chat completions server: a hosted one, or vLLM, llama.cpp and the like.

Connections are the openai client's. Whoever asked decides what is asked again; when a busy or stumbling
server may be asked concerns every request, and pacing.py knows it.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import openai

from reflectune.agents.teacher.engines import Request, faults
from reflectune.agents.teacher.engines.connection import (
    OPENAI_URL,
    OversizedReplyError,
    open_client,
    public_address,
    read_api_key,
    request_headers,
    scrub,
)
from reflectune.agents.teacher.engines.pacing import Pace, parse_retry_after
from reflectune.agents.teacher.engines.parameters import Parameters
from reflectune.agents.teacher.engines.replies import read_completion
from reflectune.state.config import TeacherConfig
from reflectune.state.errors import TeacherError
from reflectune.state.live import Worker
from reflectune.state.records import Answer

__all__ = ["OpenAIEngine"]

# What to check where a server denies all requests.
_DENIED = {
    401: "the key that teacher.api_key_env names",
    403: "the rights of the key that teacher.api_key_env names",
    404: "teacher.base_url and teacher.model",
}
# Causes that say nobody took the request, as httpx names them.
_NOT_CONNECTED = ("ConnectError", "ConnectTimeout", "ProxyError")
_MESSAGE_LENGTH = 500
_SHOWN_LENGTH = 100  # of the same where it is shown while the server is waited for
_SHOWN_AFTER = 1.0  # seconds; a server that lets something pass now and then is not waited for
_SLICE = 0.2  # seconds within which a wish to stop is noticed
_PASSED_OVER = 3  # times that a request was put off while others were taken


@dataclass(slots=True)
class _Postponed:
    """A request that was put off."""

    since: float  # time.monotonic()
    taken: int  # requests that the server had taken by the last time
    passed_over: int = 0  # how often it had taken others meanwhile


# Addresses that have answered in this process: one that is gone may be starting again.
_answered: set[str] = set()


class OpenAIEngine:
    """Keeps up to `teacher.concurrency` requests under way, on an event loop in a thread of its own.

    A server that is too busy, or that has answered and now takes no connection, gets fewer at once, and is
    asked again until it takes them. A failure is handed over after a pause, so that it is not asked for again
    at once. After a fault that no request can get round, nothing more is sent, and what is under way is still
    handed over; that a server took nothing for `teacher.wait`, or while somebody is `stopping`, is one.
    """

    name = "openai"
    structured = True

    def __init__(self, config: TeacherConfig, stopping: Callable[[], bool] = lambda: False) -> None:
        assert config.model is not None
        self.model = config.model
        self.capacity = config.capacity
        self._config, self._stopping = config, stopping
        self._url = config.base_url or OPENAI_URL
        self._key = read_api_key(config)
        self._address = public_address(config, self._key)
        self._client = open_client(config, self._key)
        self._headers = request_headers(config, self._key)
        self._has_answered = False
        self.parameters = Parameters(config)
        self._pace = Pace(config.capacity, give_up_after=config.wait)
        self._postponed_for = ""  # the last reason
        self._postponed: dict[str, _Postponed] = {}  # by request id
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

    def workers(self) -> Sequence[Worker]:
        """The server."""
        pace = self._pace
        return (Worker("teacher", self._address, pace.under_way, pace.taken, self._requests.qsize()),)

    @property
    def waiting(self) -> str:
        """What the server says while it takes no request, and for how long it has taken none."""
        since = self._pace.busy_since
        if since is None or (seconds := time.monotonic() - since) < _SHOWN_AFTER:
            return ""
        return f"waiting for the server: {seconds:.0f} s ({self._postponed_for[:_SHOWN_LENGTH]})"

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
            entered = None
            while entered is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_SLICE):
                        entered = await self._pace.enter()
                if self._pace.busy_since is not None and self._stopping() and not self._fault.done():
                    self._fault.set_result(self._give_up("takes no request"))
                if self._fault.done():
                    return  # the reply that says so may have let this request pass
            tasks.create_task(self._answer(request, entered))

    async def _answer(self, request: Request, entered: float) -> None:
        try:
            answer = await self._ask(request, entered)
            if answer is None:
                self._requests.put_nowait(request)
                return
            self._postponed.pop(request.id, None)
            answer = replace(answer, seconds=time.monotonic() - entered, server=self._address)
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
        sent = self.parameters.build(request)
        try:
            async with asyncio.timeout(self._config.timeout):
                response = await create(**self._arguments(sent))
        except (TimeoutError, OversizedReplyError) as error:
            late = f"no whole answer within {self._config.timeout:g} s (teacher.timeout)"
            return Answer(request.id, error="failed", message=f"{self._url}: {str(error) or late}")
        except openai.APIStatusError as error:
            body, headers = error.response.text, error.response.headers
            if error.status_code in faults.REFUSED:
                refused = faults.find_refused(body, sent, self.parameters.taken)
                if self.parameters.leave_out(refused):
                    return await self._ask(request, entered)
            return self._read_fault(request, entered, error.status_code, body, headers)
        except openai.APIConnectionError as error:
            unavailable = type(error.__cause__).__name__ in _NOT_CONNECTED
            message = f"{self._url}: {error.message} {_first_cause(error)!r}"
            if unavailable and self._url in _answered:
                return self._postpone(request, entered, message)
            return Answer(request.id, error="unavailable" if unavailable else "failed", message=message)
        body = response.content.decode("utf-8", errors="replace")
        if (status := faults.read_error(body)) is not None:
            return self._read_fault(request, entered, status, body, response.headers)
        self._pace.widen()
        answer = read_completion(request.id, body)
        if answer.error is None:
            self._has_answered = True
            _answered.add(self._url)
            self.parameters.take(sent)
        return answer

    def _arguments(self, body: dict[str, Any]) -> dict[str, Any]:
        # The client knows some parameters by name; it takes all of them as extra_body.
        arguments: dict[str, Any] = {key: body[key] for key in ("model", "messages")}
        rest = {key: value for key, value in body.items() if key not in arguments}
        return arguments | {"extra_body": rest, "extra_headers": self._headers}

    def _postpone(
        self, request: Request, entered: float, message: str, retry_after: float | None = None
    ) -> Answer | None:
        """Have a request that nobody took sent later; TeacherError where that lasts too long.

        A request that was put off for as long, while others were taken time and again, is at fault itself.
        """
        self._postponed_for = self._scrub_message(message)
        known = self._postponed.setdefault(request.id, _Postponed(entered, self._pace.taken))
        if self._pace.taken > known.taken:
            known.taken, known.passed_over = self._pace.taken, known.passed_over + 1
        is_late = time.monotonic() > known.since + self._config.wait
        if known.passed_over >= _PASSED_OVER and is_late:
            return Answer(request.id, error="refused-request", message=message)
        if not self._pace.narrow(entered, retry_after):
            if retry_after is not None and retry_after > self._config.wait:
                raise self._give_up(f"wants no request for {retry_after:g} s") from None
            raise self._give_up(f"takes no request within {self._config.wait:g} s") from None
        return None

    def _give_up(self, why: str) -> TeacherError:
        where = f"teacher {self.model} at {self._url}"
        return TeacherError(f"{where}: {why} (teacher.wait): {self._postponed_for}")

    def _read_fault(
        self, request: Request, entered: float, status: int, body: str, headers: Mapping[str, str]
    ) -> Answer | None:
        """What became of a request that the server did not answer; None where it may come later."""
        body = self._scrub(body)  # before a cut leaves a part of the key
        reason = faults.read_reason(body, status)
        message = f"HTTP {status}: {reason}"
        fault = faults.judge(status, body)
        if fault == "denied" and status != 401:
            about_schema = request.schema is not None and faults.is_about_schema(reason)
            # 403 with a key that is good: this one text is not wanted there.
            fault = "refused" if about_schema or (status == 403 and self._has_answered) else fault
        if fault == "busy" or (fault == "gone" and self._url in _answered):
            return self._postpone(request, entered, message, parse_retry_after(headers.get("retry-after")))
        if fault == "gone":
            return Answer(request.id, error="unavailable", message=message)
        self._pace.widen()
        if fault == "refused":
            return Answer(request.id, error="refused-request", message=message)
        if fault in ("broke", "denied"):
            advice = "the account's credit" if fault == "broke" else _DENIED[status]
            shown = self._scrub_message(message)
            raise TeacherError(f"teacher {self.model} at {self._url}: {shown}; check {advice}") from None
        return Answer(request.id, error="failed", message=message)

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


def _first_cause(error: BaseException) -> BaseException:
    """What a chain of errors began with; of several addresses that were tried, the last one's."""
    if isinstance(error, BaseExceptionGroup):
        return _first_cause(error.exceptions[-1])
    cause = error.__cause__ or error.__context__
    return _first_cause(cause) if cause else error
