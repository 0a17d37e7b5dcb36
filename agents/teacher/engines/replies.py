"""What a server's reply says: the text of a chat completion, why it ended, what it took.

Knows bodies of replies only, not how they came.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from reflectune.agents.teacher.engines.faults import read_reason
from reflectune.agents.thoughts import mark_thought
from reflectune.state.records import Answer
from reflectune.state.text import clean_text

__all__ = ["read_completion"]

_REASON_LENGTH = 100
# Fields of a message that hold thoughts; some servers fill two with the same.
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
_WORDS = ("thinking", "reasoning", "text", "summary", "content")  # of a part of a thought
# Our name of a finish reason -> what servers call it, in lower case.
_REASONS = {
    "stop": ("completed", "end_turn", "eos", "eos_token", "stop_sequence", "stop_token"),
    "length": ("max_length", "max_output_tokens", "max_tokens", "model_length"),
    "content_filter": (
        "blocklist", "content_filtered", "image_safety", "prohibited_content", "recitation", "safety",
        "sensitive", "spii",
    ),
    "refusal": ("refused",),
}  # fmt: skip
_BROKEN_OFF = ("abort", "error")  # by the server itself, as vLLM, SGLang and OpenRouter say
_OURS = {theirs: ours for ours, names in _REASONS.items() for theirs in (ours, *names)}


def read_completion(request_id: str, body: str) -> Answer:
    """Understand the body of a successful reply; one without a text is an answer too, and paid for.

    Thoughts that come apart from the text are left out. Where there is nothing else they are the text, behind
    the mark that begins a thought and without one that ends it.
    """
    try:
        completion = json.loads(body)
        choice = completion["choices"][0]
        message = choice["message"] if "message" in choice else {"content": choice["text"]}
        content, refusal = message.get("content"), message.get("refusal")
        usage = completion.get("usage") or {}
        counts = [_read_count(usage.get(key)) for key in ("prompt_tokens", "completion_tokens")]
        reason = _read_reason(choice)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Answer(request_id, error="failed", message=f"not a chat completion: {read_reason(body, 200)}")
    text, declined = _read_text(content)
    refusal = declined or (refusal if isinstance(refusal, str) else "")
    if not text.strip():
        if refusal:
            text, reason = refusal, "refusal"
        elif thought := _read_thought(message):
            text = mark_thought(thought)
    answer = Answer(request_id, text, reason, prompt_tokens=counts[0], completion_tokens=counts[1])
    if reason in _BROKEN_OFF:
        return replace(answer, error="failed", message=f"broken off by the server, finish reason {reason}")
    return answer


def _read_count(value: object) -> int | None:
    """A number of tokens; None for what can be none."""
    return value if type(value) is int and 0 <= value < 2**31 else None


def _read_reason(choice: Mapping[str, Any]) -> str | None:
    """Why an answer ended, in our words where there are any; a router's word hides the server's own."""
    reason, native = (
        _OURS.get(word.lower(), word) if isinstance(word, str) else None
        for word in (choice.get("finish_reason"), choice.get("native_finish_reason"))
    )
    if reason in (None, "stop") and native in _REASONS:
        reason = native
    return None if reason is None else clean_text(reason[:_REASON_LENGTH])


def _read_text(content: object) -> tuple[str, str]:
    """Text and refusal in a message's content. Where it comes in parts, thoughts are parts of other types."""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, dict):  # JSON that was asked for, already read
        return json.dumps(content, ensure_ascii=False), ""
    if isinstance(content, list) and all(isinstance(part, str) for part in content):
        return "".join(content), ""
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    text = (part.get("text") for part in parts if part.get("type", "text") in ("text", "output_text"))
    refusal = (part.get("refusal") for part in parts if part.get("type") == "refusal")
    return _join(text), _join(refusal)


def _read_thought(message: Mapping[str, Any]) -> str:
    """The thought that comes apart from a message's text; empty where there is none."""
    fields = (_read_words(message.get(name)) for name in _THOUGHTS)
    content = message.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return next(filter(str.strip, fields), "") or _read_words(parts)


def _read_words(value: object) -> str:
    """All words of a thought: a text, or parts that hold texts or parts again, in one of these fields."""
    match value:
        case str():
            return value
        case list():
            return "".join(map(_read_words, value))
        case dict():
            return next(filter(None, (_read_words(value.get(key)) for key in _WORDS)), "")
    return ""


def _join(texts: Iterable[object]) -> str:
    return "".join(text for text in texts if isinstance(text, str))
