"""What a server's reply says: the text of a chat completion, why it ended, what it took.

Knows bodies of replies only, not how they came.
"""

import json

from reflectune.agents.teacher.forms import clean_text
from reflectune.state.records import Answer

__all__ = ["read_completion"]

_REASON_LENGTH = 100


def read_completion(request_id: str, body: str) -> Answer:
    """Understand the body of a successful reply; one without a text is an answer too, and paid for."""
    try:
        completion = json.loads(body)
        choice = completion["choices"][0]
        message, finish_reason = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
        usage = completion.get("usage") or {}
        counts = [_read_count(usage.get(key)) for key in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Answer(request_id, error="failed", message=f"not a chat completion: {body!r}")
    text = _read_text(text)
    reason = clean_text(finish_reason[:_REASON_LENGTH]) if isinstance(finish_reason, str) else None
    if not text and isinstance(refusal, str) and refusal:
        text, reason = refusal, "refusal"
    return Answer(request_id, text, reason, prompt_tokens=counts[0], completion_tokens=counts[1])


def _read_count(value: object) -> int | None:
    """A number of tokens; None for what can be none."""
    return value if type(value) is int and 0 <= value < 2**31 else None


def _read_text(content: object) -> str:
    """The text of a message's content. Where it comes in parts, thoughts are parts of other types."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    return "".join(text for text in texts if isinstance(text, str))
