"""The parameters of a request to a server: what was asked for, in the names that the server takes.

Nothing is sent that the config does not set. What the server refuses by name is left out from then on. A
server may take what it does not heed.
"""

import functools
import logging
from typing import Any

from reflectune.agents.teacher.engines import Request
from reflectune.agents.teacher.engines.addresses import OPENAI_URL
from reflectune.state.config import EngineConfig
from reflectune.state.records import content_hash

__all__ = ["Parameters"]

_logger = logging.getLogger(__name__)

_KEPT = ("model", "messages", "response_format")  # nothing is asked without them


class Parameters:
    """Builds the bodies of requests to the server at an address, and learns from what it refuses."""

    def __init__(self, config: EngineConfig, url: str) -> None:
        self._config, self._url = config, url
        # OpenAI's newer models refuse the old name, many other servers do not know the new one.
        names = ["max_completion_tokens", "max_tokens"]
        self._limits = names if url == OPENAI_URL else names[::-1]
        # Whole sets take each other's place: other threads read them.
        self.taken: frozenset[str] = frozenset()  # what was sent with a request that was answered
        self.refused: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """Hash of all that a refusal may depend on: another value of a parameter may be taken."""
        config = self._config
        server = self._url, config.api_version, config.extra_headers, config.model
        sampling = config.temperature, config.top_p, config.send_seed, config.max_tokens
        return content_hash("parameters", *server, *sampling, config.extra_body)

    def build(self, request: Request) -> dict[str, Any]:
        """The body of a request, as the server is known to take it."""
        config = self._config
        body: dict[str, Any] = {"model": config.model, "messages": list(request.messages)}
        limit = next((name for name in self._limits if name not in self.refused), self._limits[-1])
        wanted = {
            "temperature": config.temperature,
            "top_p": config.top_p,
            "seed": request.seed if config.send_seed else None,
            limit: config.max_tokens,
        }
        body |= {key: value for key, value in wanted.items() if value is not None}
        if request.schema is not None:
            schema = {"name": "reflection", "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        body |= config.extra_body
        for name in body.keys() & self.refused:
            value = body.pop(name)
            told = name if name == "seed" else f"{name} = {value!r}"
            who = f"{config.section} {config.model}"
            _warn(f"{who} at {self._url}: the server does not take {told}; it is left out")
        return body

    def take(self, sent: dict[str, Any]) -> None:
        """Note that the server answered a request with this body."""
        self.taken |= sent.keys() - {"model", "messages"}

    def leave_out(self, name: str | None) -> bool:
        """Leave out what the server refused, from now on; False where nothing can be asked without it."""
        if name is None or name in _KEPT:
            return False
        self.refused |= {name}
        return True


@functools.cache
def _warn(message: str) -> None:
    """Log a warning, once in a process."""
    _logger.warning("%s", message)
