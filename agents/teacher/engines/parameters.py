"""The parameters of a request to a server: what was asked for, in the names that the server takes.

Nothing is sent that the config does not set. What the server refuses by name is left out from then on.
"""

from typing import Any

from reflectune.agents.teacher.engines import Request
from reflectune.state.config import TeacherConfig

__all__ = ["Parameters"]

_KEPT = ("model", "messages", "response_format")  # nothing is asked without them


class Parameters:
    """Builds the bodies of requests, and learns from what the server refuses."""

    def __init__(self, config: TeacherConfig) -> None:
        self._config = config
        # OpenAI's newer models refuse the old name, many other servers do not know the new one.
        names = ["max_completion_tokens", "max_tokens"]
        self._limits = names[::-1] if config.base_url else names
        self._refused: set[str] = set()

    def build(self, request: Request) -> dict[str, Any]:
        """The body of a request, as the server is known to take it."""
        config = self._config
        body: dict[str, Any] = {"model": config.model, "messages": list(request.messages)}
        wanted = {
            "temperature": config.temperature,
            "top_p": config.top_p,
            "seed": request.seed if config.send_seed else None,
        }
        limit = next((name for name in self._limits if name not in self._refused), None)
        wanted |= {limit: config.max_tokens} if limit else {}
        body |= {key: value for key, value in wanted.items() if value is not None}
        if request.schema is not None:
            schema = {"name": "reflection", "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        body |= config.extra_body
        return {key: value for key, value in body.items() if key not in self._refused}

    def may_leave_out(self, name: str) -> bool:
        """Whether anything can be asked without a parameter."""
        return name not in _KEPT

    def leave_out(self, name: str, value: object) -> str | None:
        """Leave out what the server refused, from now on.

        Returns what to warn of: None where another request showed it before, or where the other name of the
        same parameter is left to try.
        """
        is_known = name in self._refused
        self._refused.add(name)
        if is_known or (name in self._limits and not self._refused.issuperset(self._limits)):
            return None
        return f"the server does not take {name}, which was {value!r}: it is left out from now on"
