"""What a server says where it gives no answer: its reason, and whose fault it is.

Servers agree on no shape of an error's body. Knows bodies only, not how they came or what is done about them.
"""

import json
import re
from collections.abc import Collection, Iterator
from http import HTTPStatus
from typing import Any, Literal

from reflectune.state.text import clean_text

__all__ = ["REFUSED", "Fault", "find_refused", "is_about_schema", "judge", "read_error", "read_reason"]

# What a request met that was not answered: a server that takes it later, an account without credit, a refusal
# of this request, a wrong key, model or address, a gateway with nobody behind it, or some other failure.
Fault = Literal["busy", "broke", "refused", "denied", "gone", "failed"]

REFUSED = (400, 413, 422)

_REASON_LENGTH = 400
_MAX_DEPTH = 8
# Where a reason stands, the most telling first. OpenRouter hands its provider's on as metadata.raw.
_REASON_KEYS = (
    "message",
    "error",
    "detail",
    "msg",
    "errors",
    "error_message",
    "reason",
    "title",
    "base_resp",
    "status_msg",
)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)

_DENIED = (401, 403, 404)
# With a 504 somebody behind the gateway may have taken the request, and took too long, as will the next time.
_GONE = 502
_BUSY_STATUSES = (408, 425, 429, 503, 529)
_BUSY = re.compile(
    r"overloaded|(over|at( maximum)?|no) capacity|rate.?limit|too many requests|server is busy|too busy"
    r"|loading (the )?model|model\b.{0,80}\b(loading|not ready)|still loading|warming up",
    re.IGNORECASE,
)
# OpenAI and Moonshot name it in a field of its own, Anthropic (400), xAI (403) and others in words.
_BROKE = re.compile(
    r"insufficient_quota|exceeded_current_quota|billing_not_active|credit balance is too low"
    r"|used all available credits|insufficient balance",
    re.IGNORECASE,
)
_SCHEMA = re.compile(
    r"response_format|json.?schema|structured.outputs?|guided.(json|decoding)|grammar|requested parameters",
    re.IGNORECASE,
)
# A name that the server does not take, or takes with its own default only.
_UNSUPPORTED = re.compile(
    r"unsupported|n[o']t support|un(recogni[sz]ed|known|expected)|extra_forbidden|not (permitted|allowed)"
    r"|deprecated|cannot both",
    re.IGNORECASE,
)
# A value out of range is the config's fault: without it the server would do something else than was asked.
_RANGE = re.compile(
    r"too (large|long|high)|exceed|context (length|window)|at (most|least) |(less|more) than |must be ",
    re.IGNORECASE,
)


def read_reason(body: str, status: int) -> str:
    """The server's own words, in one line; the status's name where it says nothing."""
    parsed = _parse(body)
    reason = _join(_walk(_open_choice(parsed))) if isinstance(parsed, dict | list | str) else ""
    if not reason and not isinstance(parsed, dict | list):
        titles = _TITLE.findall(body)
        reason = _join(titles or [_TAG.sub(" ", body)])
    if not reason:
        phrase = next((known.phrase for known in HTTPStatus if known == status), "no reason given")
        reason = _join([body] if isinstance(parsed, dict | list) and parsed else [phrase])
    return reason


def read_error(body: str) -> int | None:
    """The status that a reply means which is an error inside a success; None for any other reply."""
    parsed = _parse(body)
    if not isinstance(parsed, dict):
        return None
    error = _open_choice(parsed)
    if error is parsed:
        error = parsed.get("error") or ({} if parsed.get("choices") else parsed)
        if not error or (error is parsed and not _join(_walk(error))):
            return None
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.isascii() and code.isdecimal():
        code = int(code[:4])
    return code if type(code) is int and 400 <= code < 600 else 500


def judge(status: int, body: str) -> Fault:
    """What a reply without an answer means, by its status and the server's words."""
    reason = read_reason(body, status)
    if status == 402 or (status in (400, 403, 429) and _BROKE.search(body)):
        return "broke"
    if "request too large" in reason.lower():  # than all that a minute allows: no waiting makes it fit
        return "refused"
    if status in _BUSY_STATUSES or _BUSY.search(reason):
        return "busy"
    if status in REFUSED:
        return "refused"
    if status in _DENIED:
        return "denied"
    return "gone" if status == _GONE else "failed"


def is_about_schema(reason: str) -> bool:
    """Whether it is the JSON schema that the server does not take."""
    return _SCHEMA.search(reason) is not None


def find_refused(body: str, sent: Collection[str], taken: Collection[str] = ()) -> str | None:
    """Which of the parameters sent the server refuses by name; None where it minds something else.

    What it has `taken` before is not found by words alone, which may be quoted from the request.
    """
    parsed = _parse(body)
    named = {name for name, unsupported in _named(parsed) if unsupported}
    if found := next((name for name in sent if name in named), None):
        return found
    if not _UNSUPPORTED.search(body) or _RANGE.search(body):
        return None
    named = {name for name, _ in _named(parsed)}
    places = {
        name: match.start()
        for name in sent
        if name not in taken
        and name != "model"  # "this model does not support seed": a word of the sentence
        and (match := re.search(rf"\b{re.escape(name)}\b", body))
    }
    if "cannot both" in body and "top_p" in places:
        return "top_p"  # Anthropic's newer models take one of the two; temperature is what says more
    return next((name for name in places if name in named), None) or min(
        places, key=lambda name: places[name], default=None
    )


def _open_choice(parsed: Any) -> Any:
    """The error in a completion's choice, as where OpenRouter's provider failed; else the whole body."""
    match parsed:
        case {"choices": [{"error": error}, *_]} if error:
            return error
    return parsed


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _walk(value: Any, depth: int = 0) -> Iterator[str]:
    """The reasons within an error's body."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, str):
        inner = _parse(value) if value.lstrip().startswith(("{", "[")) else None
        yield from [value] if inner is None else list(_walk(inner, depth + 1)) or [value]
    elif isinstance(value, list):
        for part in value[:8]:
            yield from _walk(part, depth + 1)
    elif isinstance(value, dict):
        key = next((key for key in _REASON_KEYS if value.get(key)), None)
        if key is None:
            return
        place = ".".join(map(str, value["loc"])) + ": " if isinstance(value.get("loc"), list) else ""
        yield from (place + reason for reason in _walk(value[key], depth + 1))
        metadata = value.get("metadata")
        if isinstance(metadata, dict) and isinstance(metadata.get("raw"), str):
            yield from _walk(metadata["raw"], depth + 1)


def _named(value: Any, depth: int = 0) -> Iterator[tuple[str, bool]]:
    """Parameters named in fields of their own, as OpenAI and pydantic do, and whether as not supported."""
    if depth > _MAX_DEPTH:
        return
    for part in value[:8] if isinstance(value, list) else ():
        yield from _named(part, depth + 1)
    if isinstance(value, dict):
        kind = str(value.get("code") or value.get("type"))
        unsupported = kind in (
            "unsupported_parameter",
            "unsupported_value",
            "unknown_parameter",
            "extra_forbidden",
        )
        loc = value.get("loc")
        for name in (value.get("param"), loc[-1] if isinstance(loc, list) and loc else None):
            if isinstance(name, str):
                yield name, unsupported
        for part in value.values():
            yield from _named(part, depth + 1)


def _join(reasons: Any) -> str:
    lines = (" ".join(clean_text(reason).split()) for reason in reasons)
    return "; ".join(dict.fromkeys(filter(None, lines)))[:_REASON_LENGTH]
