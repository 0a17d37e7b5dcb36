"""Asks OpenAI-compatible chat completions servers: hosted ones, or vLLM, llama.cpp and the like.

Whoever asked decides what is asked again; which server is asked, and when a busy or stumbling one may be, is
decided here, and pacing.py knows how each has fared.
"""

import asyncio
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue

from reflectune.agents.teacher.engines import Request
from reflectune.agents.teacher.engines.addresses import read_addresses
from reflectune.agents.teacher.engines.chat_server import ChatServer, Untaken
from reflectune.state.config import EngineConfig
from reflectune.state.errors import TeacherError
from reflectune.state.live import Worker
from reflectune.state.records import Answer

__all__ = ["OpenAIEngine"]

_SHOWN_LENGTH = 100  # of what a server says, while it is waited for
_SHOWN_AFTER = 1.0  # seconds; a server that lets something pass now and then is not waited for
_SLICE = 0.2  # seconds within which a wish to stop is noticed
_PASSED_OVER = 3  # times that a request was put off while others were taken


@dataclass(slots=True)
class _Postponed:
    """A request that a server put off."""

    since: float  # time.monotonic()
    taken: int  # requests that the server had taken by the last time
    passed_over: int = 0  # how often it had taken others meanwhile


# Addresses that have answered in this process: one that is gone may be starting again.
_answered: set[str] = set()


class OpenAIEngine:
    """Keeps up to `teacher.concurrency` requests under way, on an event loop in a thread of its own.

    Of several servers the one with the fewest requests under way gets the next. One that is too busy, or
    takes no connection, gets fewer at once, after a pause. What a server did not take goes to any other, what
    it failed at to one that has not; that has failed once every server did that is worth waiting for.
    After a failure its place at the server stays taken for a pause; one that is handed over is so after it,
    so that it is not asked for again at once. After a fault that no request can get round, nothing more is
    sent, and what is under way is still handed over; that no server took anything for `teacher.wait`, or
    while somebody is `stopping`, is one. Servers of which none has ever answered are not waited for.
    """

    name = "openai"
    structured = True

    def __init__(self, config: EngineConfig, stopping: Callable[[], bool] = lambda: False) -> None:
        assert config.model is not None
        self.model = config.model
        self.capacity = config.capacity
        self._config, self._stopping = config, stopping
        self._servers = [ChatServer(config, address) for address in read_addresses(config)]
        self.parameters = [server.parameters for server in self._servers]
        self._where = ", ".join(server.address.url for server in self._servers)
        self._untaken_for = ""  # the last reason
        self._postponed: dict[str, dict[ChatServer, _Postponed]] = defaultdict(dict)  # by request id
        self._failed: dict[str, set[ChatServer]] = defaultdict(set)  # request id -> who failed at it
        self._unsent: deque[Request] = deque()
        self._waited_for: Sequence[ChatServer] = ()  # too busy, and nobody else is there
        self._answers: SimpleQueue[Answer | Exception] = SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._has_changed = asyncio.Event()  # there is another request, or room for one
        self._fault: asyncio.Future[Exception] = self._loop.create_future()  # no request can succeed
        self._serving = self._loop.create_task(self._serve())
        # A daemon: Python does not wait for it when it exits.
        threading.Thread(target=self._work, name="teacher", daemon=True).start()

    def submit(self, request: Request) -> None:
        """Have the request sent as soon as a server bears another one."""
        self._loop.call_soon_threadsafe(self._put, request)

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
        """The servers; what is queued is queued for all of them, and told where there is one."""
        queued = len(self._unsent) if len(self._servers) == 1 else 0
        return tuple(
            Worker("teacher", each.address.name, each.pace.under_way, each.pace.taken, queued)
            for each in self._servers
        )

    @property
    def waiting(self) -> str:
        """What a server says while none takes a request, and for how long none has taken any."""
        since = [server.pace.busy_since for server in self._waited_for]
        if not since or None in since:
            return ""
        if (seconds := time.monotonic() - max(filter(None, since))) < _SHOWN_AFTER:
            return ""
        whom = "the server" if len(self._servers) == 1 else f"{len(since)} of {len(self._servers)} servers"
        return f"waiting for {whom}: {seconds:.0f} s ({self._untaken_for[:_SHOWN_LENGTH]})"

    def close(self) -> None:
        """Send nothing more and forget what is under way."""
        with suppress(RuntimeError):  # closed before
            self._loop.call_soon_threadsafe(self._serving.cancel)

    def _work(self) -> None:
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._serving)
        self._loop.close()

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack:
            for server in self._servers:
                await stack.enter_async_context(server.client)
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(self._send(tasks))
                self._fault.add_done_callback(lambda fault: sending.cancel())
            self._answers.put(self._fault.result())
            await self._loop.create_future()  # requests may still be submitted, until close()

    def _put(self, request: Request) -> None:
        self._unsent.append(request)
        self._has_changed.set()

    async def _send(self, tasks: asyncio.TaskGroup) -> None:
        while not self._fault.done():  # the reply that says so may have let a request pass
            self._has_changed.clear()
            if (found := self._find_next()) is not None:
                request, server = found
                self._unsent.remove(request)
                tasks.create_task(self._answer(request, server, server.pace.enter()))
                continue
            self._waited_for = self._find_busy()
            if self._waited_for and self._stopping():
                self._fault.set_result(self._give_up("takes no request"))
                return
            pauses = [pause for server in self._servers if (pause := server.pace.pause) > 0]
            with suppress(TimeoutError):
                async with asyncio.timeout(min([_SLICE, *pauses]) if self._unsent else None):
                    await self._has_changed.wait()

    def _find_next(self) -> tuple[Request, ChatServer] | None:
        """The first request that a server takes now, and the one of these that has least to do."""
        if all(server.pace.pause > 0 for server in self._servers):
            return None
        for request in self._unsent:
            if ready := [server for server in self._may_ask(request) if server.pace.pause == 0]:
                return request, min(ready, key=lambda server: server.pace.under_way)
        return None

    def _find_busy(self) -> Sequence[ChatServer]:
        """The servers that all requests wait for; empty where one need not."""
        asked = {server for request in self._unsent for server in self._may_ask(request)}
        asked |= {server for server in self._servers if server.pace.under_way}
        return () if any(server.pace.busy_since is None for server in asked) else [*asked]

    def _may_ask(self, request: Request) -> Sequence[ChatServer]:
        return self._untried(request) or self._servers

    def _untried(self, request: Request) -> Sequence[ChatServer]:
        """The servers that have not failed at a request; empty where none of them is worth waiting for."""
        failed = self._failed.get(request.id, ())
        others = [server for server in self._servers if server not in failed]
        return others if any(server.is_awaited for server in others) else ()

    async def _answer(self, request: Request, server: ChatServer, entered: float) -> None:
        try:
            outcome: Answer | Untaken | None = await server.ask(request)
            if isinstance(outcome, Untaken):
                outcome = self._judge(request, server, entered, outcome)
            if outcome is None:
                self._put(request)
                if server in self._failed.get(request.id, ()):
                    await self._pause(request, server, entered)
                return
            self._postponed.pop(request.id, None)
            self._failed.pop(request.id, None)
            seconds = time.monotonic() - entered
            answer = replace(outcome, seconds=seconds, server=server.address.name)
            if answer.error is None:
                _answered.add(server.address.url)
            if answer.error not in ("failed", "unavailable"):
                server.pace.recover()
            elif self._config.retries:
                await self._pause(request, server, entered)
            self._answers.put(answer)
        except Exception as error:  # noqa: BLE001 - next_answer raises it where it can be seen
            if not self._fault.done():
                self._fault.set_result(error)
        finally:
            server.pace.leave()
            self._has_changed.set()

    async def _pause(self, request: Request, server: ChatServer, entered: float) -> None:
        """Keep a place at a server that failed for a while, unless nothing more is sent anyway."""
        pause = server.pace.stumble(entered, request.reflection.attempts + 1)
        await asyncio.wait([self._fault], timeout=pause)

    def _judge(self, request: Request, server: ChatServer, entered: float, untaken: Untaken) -> Answer | None:
        """What becomes of a request that a server did not take; None where it is to be sent again."""
        message = untaken.message
        if untaken.why == "failed":
            self._failed[request.id].add(server)
            return None if self._untried(request) else Answer(request.id, error="failed", message=message)
        may_start_again = any(each.address.url in _answered for each in self._servers)
        if not may_start_again and all(each.is_gone for each in self._servers):
            return Answer(request.id, error="unavailable", message=message)
        return self._postpone(request, server, entered, untaken)

    def _postpone(
        self, request: Request, server: ChatServer, entered: float, untaken: Untaken
    ) -> Answer | None:
        """Have a request that nobody took sent later; TeacherError where that lasts too long.

        A request that a server put off for as long, while it took others time and again, is at fault itself.
        """
        self._untaken_for, pace = untaken.message, server.pace
        known = self._postponed[request.id].setdefault(server, _Postponed(entered, pace.taken))
        if pace.taken > known.taken:
            known.taken, known.passed_over = pace.taken, known.passed_over + 1
        is_late = time.monotonic() > known.since + self._config.wait
        if known.passed_over >= _PASSED_OVER and is_late:
            return Answer(request.id, error="refused-request", message=untaken.message)
        pace.narrow(entered, untaken.retry_after)
        if all(each.pace.is_given_up for each in self._servers):
            if untaken.retry_after is not None and untaken.retry_after > self._config.wait:
                raise self._give_up(f"wants no request for {untaken.retry_after:g} s")
            raise self._give_up(f"takes no request within {self._config.wait:g} s")
        return None

    def _give_up(self, why: str) -> TeacherError:
        section = self._config.section
        return TeacherError(
            f"{section} {self.model} at {self._where}: {why} ({section}.wait): {self._untaken_for}"
        )
