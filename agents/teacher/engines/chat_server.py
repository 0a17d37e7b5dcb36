"""One OpenAI-compatible chat completions server: sends a request, and says what became of it.

Connections are the openai client's. What is done with a request that the server did not take is for others to
say, and so is when it is asked.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import openai

from reflectune.agents.teacher.engines import Request, faults
from reflectune.agents.teacher.engines.addresses import Address
from reflectune.agents.teacher.engines.connection import OversizedReplyError, open_client, request_headers
from reflectune.agents.teacher.engines.pacing import Pace, parse_retry_after
from reflectune.agents.teacher.engines.parameters import Parameters
from reflectune.agents.teacher.engines.replies import read_completion
from reflectune.state.config import EngineConfig
from reflectune.state.errors import TeacherError
from reflectune.state.records import Answer

__all__ = ["ChatServer", "Untaken"]

# What to check where a server denies all requests.
_DENIED = {
    401: "the key that {section}.api_key_env names",
    403: "the rights of the key that {section}.api_key_env names",
    404: "{section}.base_url and {section}.model",
}
# Causes that say nobody took the request, as httpx names them.
_NOT_CONNECTED = ("ConnectError", "ConnectTimeout", "ProxyError")
_MESSAGE_LENGTH = 500


@dataclass(frozen=True, slots=True)
class Untaken:
    """Why a request has no answer, and may be sent to another server."""

    why: Literal["busy", "gone", "failed"]  # gone: nobody is there
    message: str
    retry_after: float | None = None  # seconds that the server asks for


class ChatServer:
    """A server, what it takes and how fast, as its replies have shown so far."""

    def __init__(self, config: EngineConfig, address: Address) -> None:
        self.address = address
        self.client = open_client(config, address)
        self.parameters = Parameters(config, address.url)
        self.pace = Pace(config.capacity, give_up_after=config.wait)
        self.is_gone = False  # whether nobody was there the last time
        self._has_answered = False
        self._config = config
        self._headers = request_headers(config, address)

    @property
    def is_awaited(self) -> bool:
        """Whether it is there, and will take requests in a while that is worth waiting for."""
        return not (self.is_gone or self.pace.is_given_up)

    async def ask(self, request: Request) -> Answer | Untaken:
        """Send the request and understand the reply; TeacherError where no request can succeed."""
        outcome = await self._send(request)
        self.is_gone = isinstance(outcome, Untaken) and outcome.why == "gone"
        if isinstance(outcome, Untaken):
            return replace(outcome, message=self._shorten(outcome.message))
        return replace(
            outcome,
            text=self.address.scrub(outcome.text),
            finish_reason=outcome.finish_reason and self.address.scrub(outcome.finish_reason),
            message=outcome.message and self._shorten(outcome.message),
        )

    async def _send(self, request: Request) -> Answer | Untaken:
        # Not parsed by the client: what it makes of a server's odd JSON is not defined.
        create: Any = self.client.chat.completions.with_raw_response.create
        sent = self.parameters.build(request)
        try:
            async with asyncio.timeout(self._config.timeout):
                response = await create(**self._arguments(sent))
        except (TimeoutError, OversizedReplyError) as error:
            late = f"no whole answer within {self._config.timeout:g} s ({self._config.section}.timeout)"
            return Answer(request.id, error="failed", message=f"{self.address.url}: {str(error) or late}")
        except openai.APIStatusError as error:
            body, headers = error.response.text, error.response.headers
            if error.status_code in faults.REFUSED:
                refused = faults.find_refused(body, sent, self.parameters.taken)
                if self.parameters.leave_out(refused):
                    return await self._send(request)
            return self._read_fault(request, error.status_code, body, headers)
        except openai.APIConnectionError as error:
            message = f"{self.address.url}: {error.message} {_first_cause(error)!r}"
            if type(error.__cause__).__name__ in _NOT_CONNECTED:
                return Untaken("gone", message)
            if isinstance(error, openai.APITimeoutError):
                return Answer(request.id, error="failed", message=message)
            return Untaken("failed", message)
        body = response.content.decode("utf-8", errors="replace")
        if (status := faults.read_error(body)) is not None:
            return self._read_fault(request, status, body, response.headers)
        self.pace.widen()
        answer = read_completion(request.id, body)
        if answer.error is None:
            self._has_answered = True
            self.parameters.take(sent)
        return answer

    def _arguments(self, body: dict[str, Any]) -> dict[str, Any]:
        # The client knows some parameters by name; it takes all of them as extra_body.
        arguments: dict[str, Any] = {key: body[key] for key in ("model", "messages")}
        rest = {key: value for key, value in body.items() if key not in arguments}
        return arguments | {"extra_body": rest, "extra_headers": self._headers}

    def _read_fault(
        self, request: Request, status: int, body: str, headers: Mapping[str, str]
    ) -> Answer | Untaken:
        """What became of a request that the server did not answer."""
        body = self.address.scrub(body)  # before a cut leaves a part of the key
        reason = faults.read_reason(body, status)
        message = f"HTTP {status}: {reason}"
        fault = faults.judge(status, body)
        if fault == "denied" and status != 401:
            about_schema = request.schema is not None and faults.is_about_schema(reason)
            # 403 with a key that is good: this one text is not wanted there.
            fault = "refused" if about_schema or (status == 403 and self._has_answered) else fault
        if fault in ("busy", "gone"):
            return Untaken(fault, message, parse_retry_after(headers.get("retry-after")))
        self.pace.widen()
        if fault == "refused":
            return Answer(request.id, error="refused-request", message=message)
        if fault in ("broke", "denied"):
            section = self._config.section
            advice = "the account's credit" if fault == "broke" else _DENIED[status].format(section=section)
            where = f"{section} {self._config.model} at {self.address.url}"
            kept = f"{section}.model" if fault == "denied" and status == 404 else ""
            raise TeacherError(f"{where}: {self._shorten(message)}; check {advice}", kept=kept) from None
        if status == 504:  # somebody took it, and took too long, as will the next one
            return Answer(request.id, error="failed", message=message)
        return Untaken("failed", message)

    def _shorten(self, message: str) -> str:
        return " ".join(self.address.scrub(message).split())[:_MESSAGE_LENGTH]


def _first_cause(error: BaseException) -> BaseException:
    """What a chain of errors began with; of several addresses that were tried, the last one's."""
    if isinstance(error, BaseExceptionGroup):
        return _first_cause(error.exceptions[-1])
    cause = error.__cause__ or error.__context__
    return _first_cause(cause) if cause else error
