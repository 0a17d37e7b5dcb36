"""Asks a hosted model through OpenAI's Batch API: requests in a file, answers within a day, half the price.

What is submitted is gathered. Once an answer is waited for and none is there, it is sent, and waited for.
Which requests are in which batch is noted before anybody is paid, so that a run killed at any instant finds
its batches again, and their answers as often as it wants them.
"""

import io
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar

import openai
from openai.types import Batch

from reflectune.agents.teacher.engines import Batches, Request, faults
from reflectune.agents.teacher.engines.addresses import read_addresses
from reflectune.agents.teacher.engines.connection import open_file_client, request_headers
from reflectune.agents.teacher.engines.parameters import Parameters
from reflectune.agents.teacher.engines.replies import read_completion
from reflectune.state.config import EngineConfig
from reflectune.state.errors import TeacherError
from reflectune.state.live import Worker
from reflectune.state.records import Answer, AnswerError, content_hash

__all__ = ["BatchEngine"]

_logger = logging.getLogger(__name__)

_ENDPOINT: Final = "/v1/chat/completions"
_TAG = "reflectune"  # in a batch's metadata, by which it is found where its id is not known
# Of one file.
_MAX_REQUESTS = 50_000
_MAX_BYTES = 200_000_000
_MAX_LISTED = 1000  # batches of the account that are looked through for a tag
_ENDED = ("completed", "expired", "cancelled", "failed")
# What the server says of a request that it did not come to.
_NOT_REACHED = ("batch_expired", "batch_cancelled")
_LONGEST_PAUSE = 60.0  # seconds
_MESSAGE_LENGTH = 500
_SLICE = 0.2  # seconds within which a wish to stop is noticed

_Made = TypeVar("_Made")
_Sent = tuple[Request, dict[str, Any]]  # a request, and its body


class BatchEngine:
    """Sends what is under way as batches of up to 50,000 requests and 200 MB.

    A request that a batch did not come to goes into another one. The run ends where one that was sent now
    brings nothing at all; what is at the server when it is stopped stays there.
    """

    name = "batch"
    structured = True

    def __init__(
        self,
        config: EngineConfig,
        batches: Batches,
        stopping: Callable[[], bool],
        first_pause: float = 0.25,
    ) -> None:
        assert config.model is not None
        self.model = config.model
        self.capacity = config.capacity
        self.waiting = ""  # for what, in words
        self._config, self._batches, self._stopping = config, batches, stopping
        self._first_pause = first_pause  # seconds; each is twice the one before
        (self._address,) = read_addresses(config)
        self._client = open_file_client(config, self._address)
        self._headers = request_headers(config, self._address)
        self._parameters = Parameters(config, self._address.url)
        self.parameters = (self._parameters,)
        # By what these build requests are known, whatever is left out.
        self._whole = Parameters(config, self._address.url)
        self._gathered: list[Request] = []
        self._sent: set[str] = set()  # ids of batches, by this engine
        self._missed: set[str] = set()  # custom ids that their batch did not come to
        self._open: dict[str, dict[str, _Sent]] = {}  # batch id -> custom id -> what it is to answer
        self._ready: deque[Answer] = deque()
        self._done = 0  # answers handed over

    def workers(self) -> Sequence[Worker]:
        """The server; what is at it may be asked and not answered."""
        under_way = sum(map(len, [*self._open.values()]))
        return (Worker("teacher", self._address.name, under_way, self._done, len(self._gathered)),)

    def submit(self, request: Request) -> None:
        """Have the request sent with all others, once an answer is waited for."""
        self._gathered.append(request)

    def next_answer(self) -> Answer:
        """The next answer of a batch that has ended; where there is none, wait for one to end."""
        while not self._ready:
            self._place()
            self._take_in(self._wait())
        self._done += 1
        return self._ready.popleft()

    def has_answer(self) -> bool:
        """Whether an ended batch has another answer."""
        return bool(self._ready)

    def close(self) -> None:
        """Leave the batches to the server."""
        self._client.close()

    def _place(self) -> None:
        """Find the batches that have the gathered requests already, and send the others in new ones."""
        unsent: dict[str, _Sent] = {}
        lost: set[str] = set()  # tags that the server has never seen
        for request in self._gathered:
            body = self._parameters.build(request)
            key = content_hash("batch", self._address.url, self._whole.build(request), request.seed)
            tag, batch = self._batches.find_batch(key) or (None, None)
            if tag is not None and batch is None and tag not in lost:  # killed before the id was noted
                batch = self._insist(partial(self._find, tag))
                lost |= {tag} if batch is None else set()
            at = unsent if batch is None or key in self._missed else self._open.setdefault(batch, {})
            at[key] = request, body
        for lines in _split(unsent):
            self._leave_if_asked()
            id = self._send(lines)
            self._open[id] = {key: unsent[key] for key in lines}
            self._missed.difference_update(lines)
        self._gathered = []

    def _send(self, lines: Mapping[str, bytes]) -> str:
        """Send requests as one batch; returns its id."""
        tag = secrets.token_hex(16)
        self._batches.begin_batch(tag, lines)
        file = ("reflectune.jsonl", b"".join(lines.values()))
        upload = partial(self._client.files.create, extra_headers=self._headers)
        input_file = self._insist(lambda: upload(file=file, purpose="batch"))

        def create() -> str:
            # A server that could not say so may have taken it the last time.
            return self._find(tag) or self._create(tag, input_file.id)

        id = self._insist(create)
        self._sent.add(id)
        return id

    def _create(self, tag: str, input_file: str) -> str:
        batch = self._client.batches.create(
            input_file_id=input_file,
            endpoint=_ENDPOINT,
            completion_window="24h",
            metadata={_TAG: tag},
            extra_headers=self._headers,
        )
        self._batches.set_batch(tag, batch.id)
        return batch.id

    def _find(self, tag: str) -> str | None:
        """The id of the batch with a tag."""
        newest = self._client.batches.list(limit=100, extra_headers=self._headers)
        for batch in islice(newest, _MAX_LISTED):
            if (batch.metadata or {}).get(_TAG) == tag:
                self._batches.set_batch(tag, batch.id)
                return batch.id
        return None

    def _wait(self) -> Batch:
        """The first batch to end."""
        pause = self._first_pause
        while True:
            told = []
            for id in self._open:
                batch = self._look_up(id, self._client.batches.retrieve, id)
                if batch is None:
                    return Batch.construct(id=id, status="expired")  # what it would answer is asked anew
                if batch.status in _ENDED:
                    return batch
                counts = batch.request_counts
                done = f", {counts.completed} of {counts.total}" if counts else ""
                told.append(f"batch {id}: {batch.status}{done}")
            self.waiting = "; ".join(told)
            self._pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _look_up(self, batch: str, ask: Callable[..., _Made], id: str) -> _Made | None:
        """Something of a batch; None where the server keeps no more of one that an earlier engine sent."""

        def look() -> _Made | None:
            try:
                return ask(id, extra_headers=self._headers)
            except openai.NotFoundError:
                if batch in self._sent:
                    raise
                return None

        return self._insist(look)

    def _take_in(self, batch: Batch) -> None:
        """Take in what an ended batch brought; what it did not come to is gathered again."""
        wanted = self._open.pop(batch.id)
        self.waiting = ""
        for line in self._read_lines(batch):
            key = str(line.get("custom_id"))
            if key in wanted and (answer := self._read(line, *wanted[key])):
                message = answer.message and answer.message[:_MESSAGE_LENGTH]
                self._ready.append(replace(answer, message=message, server=self._address.name))
                del wanted[key]
        may_help = any(self._parameters.build(request) != body for request, body in wanted.values())
        if batch.id in self._sent and not (self._ready or may_help):
            errors = batch.to_dict().get("errors")
            errors = errors.get("data") if isinstance(errors, dict) else errors
            reason = faults.read_reason(json.dumps({"errors": errors or batch.status}), 500)
            if "token_limit_exceeded" in json.dumps(errors):
                reason += f"; lower {self._config.section}.concurrency"
            raise self._error(f"batch {batch.id} brought no answer: {self._address.scrub(reason)}")
        self._missed |= wanted.keys()
        self._gathered += [request for request, _ in wanted.values()]

    def _read_lines(self, batch: Batch) -> Iterator[Mapping[str, Any]]:
        """What a batch says of each of its requests."""
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            content = self._look_up(batch.id, self._client.files.content, file)
            for text in io.BytesIO(content.content if content else b""):
                with suppress(ValueError):
                    line = json.loads(text)
                    if isinstance(line, dict):
                        yield line

    def _read(self, line: Mapping[str, Any], request: Request, body: dict[str, Any]) -> Answer | None:
        """The answer that a line holds; None where the request shall be sent again."""
        response, error = line.get("response"), line.get("error")
        if not isinstance(response, dict):
            if isinstance(error, dict) and error.get("code") in _NOT_REACHED:
                return None
            response = {"status_code": 500, "body": {"error": error}}
        text, status = self._address.scrub(json.dumps(response.get("body"))), response.get("status_code")
        if status == 200:
            status = faults.read_error(text) or status
        if status == 200:
            self._parameters.take(body)
            return read_completion(request.id, text)
        status = status if isinstance(status, int) else 500
        refused = faults.find_refused(text, body) if status in faults.REFUSED else None
        if self._parameters.leave_out(refused):
            return None
        reason = faults.read_reason(text, status)
        is_final = 400 <= status < 500 and faults.judge(status, text) != "busy"
        what: AnswerError = "refused-request" if is_final else "failed"
        return Answer(request.id, error=what, message=f"HTTP {status}: {reason}")

    def _insist(self, ask: Callable[[], _Made]) -> _Made:
        """Ask the server, and again as long as `teacher.wait` says where it is busy or away."""
        began, pause = time.monotonic(), self._first_pause
        while True:
            try:
                return ask()
            except openai.APIStatusError as error:
                body = self._address.scrub(error.response.text)
                reason = faults.read_reason(body, error.status_code)
                is_passing = error.status_code >= 500 or faults.judge(error.status_code, body) == "busy"
                needs = f"; engine {self.name} needs /files and /batches there" * (error.status_code == 404)
                message = f"HTTP {error.status_code}: {reason}{needs}"
            except openai.APIConnectionError as error:
                is_passing, message = True, f"{error.message} {error.__cause__!r}"
            if not is_passing or time.monotonic() + pause > began + self._config.wait:
                raise self._error(message)
            self.waiting = message
            self._pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _pause(self, seconds: float) -> None:
        """Sleep, unless somebody asks to stop."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._leave_if_asked()
            time.sleep(min(left, _SLICE))

    def _leave_if_asked(self) -> None:
        if self._stopping():
            ids = ", ".join(self._open) or "none"
            left = f"batches that go on at {self._address.url}: {ids}; a resumed run takes their answers in"
            _logger.warning("%s", left)
            raise TeacherError(left)

    def _error(self, message: str) -> TeacherError:
        return TeacherError(f"{self._config.section} {self.model} at {self._address.url}: {message}")


def _split(requests: Mapping[str, _Sent]) -> Iterator[dict[str, bytes]]:
    """Lines of the files that requests are sent in, by custom id."""
    lines: dict[str, bytes] = {}
    size = 0
    for key, (_, body) in requests.items():
        line = (
            json.dumps({"custom_id": key, "method": "POST", "url": _ENDPOINT, "body": body}).encode() + b"\n"
        )
        if lines and (len(lines) == _MAX_REQUESTS or size + len(line) > _MAX_BYTES):
            yield lines
            lines, size = {}, 0
        lines[key] = line
        size += len(line)
    if lines:
        yield lines
