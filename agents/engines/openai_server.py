"""Asks an OpenAI-compatible chat completions server: a hosted one, or vLLM, llama.cpp and the like.

Retries with back-off, connections and time limits are the openai client's. The key comes from the
environment, goes into the request's header and nowhere else.
"""

import json
import os
import threading
import time
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import openai

from agents.engines import Answer, AnswerError, Request
from state.config import TeacherConfig
from state.errors import ConfigError, TeacherError

__all__ = ["OpenAIEngine", "read_api_key"]

# A config without base_url must not be redirected by OPENAI_BASE_URL, which the client would read.
_OPENAI_URL = "https://api.openai.com/v1"
# Faults of key, credit, address or model: no request of this run can succeed.
_FATAL = (401, 402, 403, 404)
_REFUSED = (400, 413, 422)
_BUSY = (429, 502, 503, 504)  # nobody behind the address could take the request
# Causes that say nobody took the request, as httpx names them.
_NOT_CONNECTED = ("ConnectError", "ConnectTimeout", "ProxyError")
_MESSAGE_LENGTH = 500


class OpenAIEngine:
    """Keeps `teacher.concurrency` requests under way, each on a thread of its own.

    The threads are daemons, not a ThreadPoolExecutor's: that would be waited for when Python exits.
    """

    name = "openai"
    structured = True

    def __init__(self, config: TeacherConfig) -> None:
        """Start the threads; nothing is sent yet.

        Raises:
            ConfigError: no usable key or address.
        """
        assert config.model is not None
        self.model = config.model
        self.capacity = config.concurrency
        self._config = config
        self._url = config.base_url or _OPENAI_URL
        self._key = read_api_key(config)
        self._client = openai.OpenAI(
            api_key=self._key or "none",  # without any it would not start; see _arguments
            base_url=self._url,
            max_retries=config.retries,
        )
        self._has_answered = False
        self._requests: SimpleQueue[Request | None] = SimpleQueue()
        self._answers: SimpleQueue[Answer | Exception] = SimpleQueue()
        for number in range(config.concurrency):
            threading.Thread(target=self._work, name=f"teacher-{number}", daemon=True).start()

    def submit(self, request: Request) -> None:
        """Hand the request to the next free thread."""
        self._requests.put(request)

    def next_answer(self) -> Answer:
        """The next answer that arrives.

        Raises:
            TeacherError: the server knows neither key nor model, or is no such server.
        """
        answer = self._answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Send nothing more and forget what is under way."""
        self._client.close()  # what still waits or is retried fails at once
        for _ in range(self.capacity):
            self._requests.put(None)

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            began = time.monotonic()
            try:
                answer = self._ask(request)
            except Exception as error:  # noqa: BLE001 - next_answer raises it where it can be seen
                self._answers.put(error)
            else:
                self._answers.put(replace(answer, seconds=time.monotonic() - began))

    def _ask(self, request: Request) -> Answer:
        # Not parsed by the client: what it makes of a server's odd JSON is not defined.
        create: Any = self._client.chat.completions.with_raw_response.create
        try:
            body: str = create(**self._arguments(request)).text
        except openai.APIStatusError as error:
            return self._failed_status(request, error)
        except openai.APIConnectionError as error:
            unavailable = type(error.__cause__).__name__ in _NOT_CONNECTED
            message = f"{self._url}: {error.message} {error.__cause__ or ''}"
            return self._failed(request, "unavailable" if unavailable else "failed", message)
        answer = _read_completion(request.id, body)
        if answer.error is None:
            self._has_answered = True
            return answer
        return replace(answer, message=self._scrub(answer.message or ""))

    def _arguments(self, request: Request) -> dict[str, Any]:
        config = self._config
        arguments: dict[str, Any] = {
            "model": self.model,
            "messages": list(request.messages),
            "temperature": config.temperature,
            "top_p": config.top_p,
            "seed": request.seed,
            # OpenAI's newer models refuse the old name, many other servers do not know the new one.
            "max_tokens" if config.base_url else "max_completion_tokens": config.max_tokens,
        }
        if request.schema is not None:
            schema = {"name": "reflection", "schema": dict(request.schema), "strict": True}
            arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
        if not self._key:
            arguments["extra_headers"] = {"Authorization": openai.Omit()}
        return arguments

    def _failed_status(self, request: Request, error: openai.APIStatusError) -> Answer:
        status = error.status_code
        if status in _REFUSED:
            return self._failed(request, "refused-request", error.message)
        if status in _BUSY:
            return self._failed(request, "unavailable", error.message)
        if status not in _FATAL:
            return self._failed(request, "failed", error.message)
        if status == 403 and self._has_answered:  # the key is good: this one text is not wanted there
            return self._failed(request, "refused-request", error.message)
        advice = {
            401: "check the key that teacher.api_key_env names",
            402: "check the account's credit",
            403: "check the rights of the key that teacher.api_key_env names",
            404: "check teacher.base_url and teacher.model",
        }
        raise TeacherError(
            f"teacher {self.model} at {self._url}: {self._scrub(error.message)}; {advice[status]}"
        ) from None

    def _failed(self, request: Request, error: AnswerError, message: str) -> Answer:
        return Answer(request.id, error=error, message=self._scrub(message))

    def _scrub(self, message: str) -> str:
        """One line without the key, which servers and libraries may quote."""
        if self._key:
            message = message.replace(self._key, "[key]")
        return " ".join(message.split())[:_MESSAGE_LENGTH]


def read_api_key(config: TeacherConfig) -> str:
    """The server's key from the environment; empty where the config names no variable.

    Raises:
        ConfigError: the variable is unset or its value cannot be sent, or the address is no web address.
    """
    if config.base_url is not None and not config.base_url.startswith(("http://", "https://")):
        raise ConfigError(f"teacher.base_url = {config.base_url!r}: want http://... or https://...")
    if config.api_key_env is None:
        return ""
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"teacher.api_key_env: the environment variable {config.api_key_env} is not set; export it"
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"teacher.api_key_env: {config.api_key_env} holds characters no key can have")
    return key


def _read_completion(request_id: str, body: str) -> Answer:
    """Understand the body of a successful reply; whatever it is, it becomes an answer."""
    try:
        completion = json.loads(body)
        choice = completion["choices"][0]
        message = choice["message"]
        text = message.get("content")
        finish_reason = choice.get("finish_reason")
        usage = completion.get("usage") or {}
        prompt_tokens, completion_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Answer(request_id, error="failed", message=f"not a chat completion: {body!r}")
    answer = Answer(
        request_id,
        text=text if isinstance(text, str) else "",
        finish_reason=finish_reason if isinstance(finish_reason, str) else None,
        prompt_tokens=prompt_tokens if isinstance(prompt_tokens, int) else None,
        completion_tokens=completion_tokens if isinstance(completion_tokens, int) else None,
    )
    if isinstance(text, str):
        return answer
    reason = f"no text in the answer, finish reason {finish_reason}"
    if refusal := message.get("refusal"):
        reason = f"the model declined: {refusal}"
    return replace(answer, error="failed", message=reason)
