"""What is wrong with a text that a language model wrote: a loop, turns of others.

Knows texts only: not what was asked, nor what is done about a fault. Names of speakers are known in English
alone.
"""

import re

__all__ = ["condense_marks", "find_turns", "is_about_turns", "is_runaway"]

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
