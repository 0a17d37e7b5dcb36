"""What is wrong with a text that a language model wrote: a stand-in, a refusal, a loop, turns of others.

Each test is meant to let honest texts pass: it looks at a whole text, its beginning or its end, never for a
word somewhere in it alone. Knows texts only: not what was asked, nor what is done about a fault. Refusals,
stand-ins and names of speakers are known in English alone.
"""

import re

__all__ = ["condense_marks", "find_turns", "is_about_turns", "is_placeholder", "is_refusal", "is_runaway"]

_AROUND = " \t\r\n\"'`*“”‘’"  # white space, quotation marks and emphasis say nothing of a text
# What people and schemas write where a text is still to come; in other cases they are words ("todo").
_STAND_INS = frozenset({"string", "TODO", "[TODO]", "TBD", "[TBD]", "N/A", "n/a", "[N/A]"})
_ELLIPSIS = re.compile(r"[\[<({]?\s*(?:\.{3,}|…)\s*[\])>}]?")
_BRACKETED = re.compile(r"\[[^\[\]]+\]|<[^<>]+>|\{[^{}]+\}")
# Names of a text to come, and all that may stand beside them: a hint says nothing else.
_TO_COME = "(?:instruction|response|answer|critique)"
_BESIDE = (
    r"a|actual|add|an|better|enter|final|for|goes|here|improved|insert|new|of|place|put|revised|rewritten|the"
    r"|to|type|updated|write|your"
)
_HINT = re.compile(rf"(?=.*\b{_TO_COME}\b)(?:(?:{_BESIDE}|{_TO_COME})(?:[\s-]+|$))+", re.IGNORECASE)
_HINT_HERE = re.compile(r"(?:add|enter|insert|place|put|type|write|your)\b.*\bhere", re.IGNORECASE)
_LONGEST_HINT = 60  # characters; "[response to the new instruction]" has 33

_LONGEST_REFUSAL = 500  # characters, some four sentences; what is longer answers something as well
_SORRY = (
    r"(?:(?:I'm |I am )?(?:very |so |truly |really )?sorry|I apologi[sz]e|(?:my )?apologies|unfortunately"
    r"|I'm afraid|I regret that)(?: for [^.,]{1,60})?[,.;:!]?\s(?:but )?"
)
_AS_AN_AI = r"as an (?:AI|artificial intelligence)(?: language)?(?: model| assistant)?,? "
_CANNOT = r"I (?:can't|cannot|can not|won't|will not|am unable to|am not able to)|I'm (?:unable|not able) to"
# "this request", or "this" at the end of a clause: "this Saturday" is what a person cannot help with.
_REQUEST = (
    r"(?:(?:(?:that|this|these|those|such|any|your|the)(?: an?| kinds? of| types? of)? )?"
    r"(?:content|instructions?|materials?|prompts?|query|questions?|requests?|tasks?|topics?)\b"
    r"|(?:that|this|it)(?=[.,;!?]|$))"
)
_TASK = (
    rf"(?:assist|help)(?: you)? (?:with|in) (?:{_REQUEST}|(?:answering|bypassing|creating|developing"
    r"|generating|hacking|improving|obtaining|producing|providing|rewriting|writing)\b)"
    rf"|(?:accommodate|answer|comply with|engage (?:in|with)|fulfill?|improve|respond to|rewrite) {_REQUEST}"
    r"|(?:create|generate|produce|provide|write) (?:you with )?(?:\w+ ){0,2}"
    r"(?:(?:content|material)\b|(?:advice|assistance|guidance|information|instructions)(?: (?:and|or) \w+)?"
    r" (?:about|for|on|that|to|with)\b)"  # who "cannot provide real-time information." may go on to help
)
_REFUSAL = re.compile(
    rf"(?:{_SORRY})?(?:(?:{_AS_AN_AI})?(?:{_CANNOT}) (?:{_TASK})"
    rf"|{_AS_AN_AI}(?:{_CANNOT}) (?!.*\b(?:but|however)\b)[^.!?]*[.!?]?$"  # one sentence that offers nothing
    rf"|I (?:must|have to) (?:respectfully )?decline (?:to (?:{_TASK})|{_REQUEST}))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?][^\w\s]*\s+")
# What else one says who declines: why, what else one may ask, what one would do instead.
_DECLINING_ON = re.compile(
    r"(?:(?:instead, |perhaps |however, )?I(?:'d|'ll|'m| am| can| can't| cannot| could| encourage| hope| must"
    r"| recommend| suggest| was| will| would)|feel free|if (?:you|there)|is there|let me"
    r"|my (?:goal|guidelines|purpose|role)|please)\b"
    r"|.*\b(?:dangerous|ethical|guidelines|harm|harmful|illegal|inappropriate|offensive|polic(?:y|ies)|unethical"
    r"|unsafe)\b",
    re.IGNORECASE,
)
_OTHER_SENTENCES = 1  # that a refusal may go on with; what says more may well answer

_LONGEST_UNIT = 250  # characters: models loop on a few words or sentences, and this bounds the work
_FEWEST_REPEATS = 12  # a poem's refrain, an empty table or grid of ten rows has fewer
_SHORTEST_LOOP = 300  # characters: rules across a page and laughter are shorter

# What begins a user's turn: a mark of a chat template, or a heading behind other text.
_SPEAKER = "(?:user|human)"
_TURN = re.compile(
    rf"(?i:<[|｜][^<>|｜\n]{{1,20}}[|｜]>\s{{0,2}}{_SPEAKER}\b|<[|｜](?:{_SPEAKER}|prompter)[|｜]>"
    rf"|<(?:start_of_turn>|\|turn>)\s?{_SPEAKER}\b|\[INST\]|(?<=\n)\#\#\# ?(?:{_SPEAKER}|instruction) ?:)"
    r"|(?<=\n)\*{0,2}(?:User|USER|Human|HUMAN) ?\*{0,2}:"
)
_ABOUT_TURNS = re.compile(
    r"\b(?:users?\b|humans?\b|dialog|conversation|chat|transcript|role.?play|scripts?\b|prompts?\b)",
    re.IGNORECASE,
)


def is_placeholder(text: str) -> bool:
    """Whether a whole text stands in for one that is still to be written: "...", "<your answer here>"."""
    text = text.strip(_AROUND)
    if len(text) > _LONGEST_HINT:
        return False
    if text in _STAND_INS or _ELLIPSIS.fullmatch(text):
        return True
    if _BRACKETED.fullmatch(text):  # {new_response} too
        inside = text[1:-1].strip().replace("_", " ")
        return (_HINT.fullmatch(inside) or _HINT_HERE.fullmatch(inside)) is not None
    return text.lower().endswith(" here") and _HINT.fullmatch(text) is not None


def is_refusal(text: str) -> bool:
    """Whether a short text begins as language models do when they decline a task.

    "I'm sorry, but I can't assist with that" is one; a person who cannot come to a party writes none. Nor is
    it one where two further sentences or more are about the matter: they neither speak of the writer, of
    harm or of rules, nor ask for something else.
    """
    text = text.strip(_AROUND)
    if len(text) > _LONGEST_REFUSAL:
        return False
    plain = " ".join(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())
    match = _REFUSAL.match(plain)
    if match is None:
        return False
    further = _SENTENCE_END.split(plain[match.end() :])[1:]
    others = [sentence for sentence in further if sentence and not _DECLINING_ON.match(sentence)]
    return len(others) <= _OTHER_SENTENCES


def is_runaway(text: str) -> bool:
    """Whether a text ends in one unit said over and over, be it a digit, white space or sentences.

    The unit may be cut off at the end. Looks at the last 3000 characters only, so its time is bounded.
    """
    longest = min(len(text) // _FEWEST_REPEATS, _LONGEST_UNIT) if len(text) >= _SHORTEST_LOOP else 0
    for period in range(1, longest + 1):
        tail = text[-max(_SHORTEST_LOOP, _FEWEST_REPEATS * period) :]
        if tail[period:] == tail[:-period]:
            return True
    return False


def find_turns(text: str) -> dict[str, int]:
    """Where in a text the turns of a user begin: mark, condensed -> where it first stands.

    Marks of chat templates count anywhere (<|im_start|>user, [INST]), headings, which end in a colon, where a
    line begins that is not the first ("User:", "### Human:").
    """
    found: dict[str, int] = {}
    for match in _TURN.finditer(text):
        found.setdefault(condense_marks(match[0]), match.start())
    return found


def condense_marks(text: str) -> str:
    """A text without case, white space and emphasis, in which a mark of `find_turns` is to be found."""
    return re.sub(r"[\s*#]", "", text).casefold()


def is_about_turns(text: str) -> bool:
    """Whether what is asked, headings aside, speaks of users or dialogues: headings may then answer it."""
    return _ABOUT_TURNS.search(_TURN.sub("", text)) is not None
