"""How an answer is understood: a proposal, or a status that says why it is none.

An answer comes in one of two forms: a JSON object, or text between tags. JSON that the data hold is no
answer. Whatever a teacher writes, parsing never raises, and never lets words of the prompt into a pair.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from reflectune.agents.teacher import forms
from reflectune.agents.teacher.answers import condense_marks, find_turns, is_about_turns, is_runaway
from reflectune.agents.teacher.declines import is_about_declining, is_placeholder, is_refusal
from reflectune.agents.teacher.forms import FIELDS, join_spaces
from reflectune.agents.teacher.prompts import FIELD, Prompts, fill, texts_of
from reflectune.agents.thoughts import drop_thoughts, has_mark, skip_thought
from reflectune.state.records import Pair, Phase
from reflectune.state.text import clean_text

__all__ = ["AnswerParser", "ParseFailure", "Proposal"]

ParseFailure = Literal[
    "unparsable", "unchanged", "echoed", "placeholder", "declined", "repetition", "cut", "thought"
]

_WORD = re.compile(r"\w\S*\w|\w")  # without the punctuation around it
# Shorter runs of the prompt may well occur in an honest answer.
_TELLTALE_WORDS = 8
_TELLTALE_LENGTH = 40  # characters, of a line with fewer words: some scripts do without spaces


@dataclass(frozen=True, slots=True)
class Proposal:
    """A parsed answer: the teacher's critique and the pair it would put in the given one's place."""

    critique: str  # may be empty
    pair: Pair


@dataclass(frozen=True, slots=True)
class AnswerParser:
    """Reads a teacher's answers to one prompt.

    The last complete answer between tags counts, or else the last in JSON; code fences, prose and
    earlier drafts around it do not, nor do thoughts, whose marks count outside of an answer's own texts
    only. Where a user's turn follows a complete answer, nothing from there on counts. Where tags were asked
    for, JSON counts only as the whole text, code fence aside. A JSON object is no answer where it shares the
    instruction or response with JSON written in the data, spacing aside: the teacher quotes it. The data are
    the given pair and its context; what stands in them already is no fault of the answer.
    """

    prompts: Prompts
    phase: Phase
    pair: Pair
    structured: bool  # whether JSON was asked for
    nonce: str

    def parse(self, text: str, finish_reason: str | None = None) -> Proposal | ParseFailure:
        """The proposal of an answer, or the first fault that is found.

        `finish_reason` is "length" where it hit the token limit, "refusal" or "content_filter" where the
        server says that it is no answer.
        """
        if finish_reason in ("refusal", "content_filter"):
            return "declined"
        fields = FIELDS[self.phase]
        written, is_cut = text, finish_reason == "length"
        if has_mark(text):
            text = drop_thoughts(text, forms.hide_answers(text, self.nonce, fields))
        if is_cut and _has_run_away(written, self.pair.response):
            return "repetition"
        if written.strip() and not text.strip():
            return "thought"
        if is_cut:
            return "cut"
        found = self._find_before_turns(text) or self._find(text)
        if found is None:
            return self._name_formless(text)
        proposed = self._strip_thoughts({key: found[key] for key in fields})
        if fault := self._find_fault(found["critique"], proposed):
            return fault
        # A new instruction takes the input in.
        texts = {"input": "" if self.phase == "instruction" else self.pair.input} | proposed
        instruction = texts.get("instruction", self.pair.instruction)
        pair = Pair(instruction, texts["input"], texts["response"], self.pair.context)
        return Proposal(found["critique"], pair)

    def _strip_thoughts(self, texts: Mapping[str, str]) -> dict[str, str]:
        """Proposed texts without thoughts that begin them, unless the pair or a new instruction has any."""
        known, stripped = "\n".join(texts_of(self.pair)), {}
        for key, text in texts.items():
            stripped[key] = text if has_mark(known) else skip_thought(text)
            known += stripped[key]
        return stripped

    def _find_before_turns(self, text: str) -> dict[str, str] | None:
        """The answer after which a text goes on with a turn of a user, outside of the answer's own texts."""
        if not find_turns(text):
            return None
        marks = self._new_turns(forms.hide_answers(text, self.nonce, FIELDS[self.phase]))
        return self._find(text[: min(marks.values())]) if marks else None

    def _new_turns(self, text: str, more: str = "") -> dict[str, int]:
        """Where turns of a user begin in a text, by marks that neither the data nor `more` have."""
        found = find_turns(text)
        known = condense_marks("\n".join([*texts_of(self.pair), more])) if found else ""
        return {mark: start for mark, start in found.items() if mark not in known}

    def _goes_on(self, proposed: Mapping[str, str]) -> bool:
        """Whether proposed texts hold turns of a user that nothing asks for."""
        new = proposed.get("instruction", "")
        marks = {
            mark
            for key, text in proposed.items()
            for mark in self._new_turns(text, new if key == "response" else "")
        }
        asked = "\n".join((self.pair.instruction, self.pair.input, new))
        return any(not mark.endswith(":") or not is_about_turns(asked) for mark in marks)

    def _find(self, text: str) -> dict[str, str] | None:
        """The texts of the answer that counts; None where a text holds none."""
        fields = FIELDS[self.phase]
        answers = forms.find_tags(text, self.nonce, fields)
        if not answers:
            find = forms.find_json if self.structured or not self.prompts.has_tags else forms.read_json
            quoted = self._quotable()
            answers = [
                answer
                for answer in find(text, fields)
                if not any((key, join_spaces(answer[key])) in quoted for key in fields)
            ]
        return answers[-1] if answers else None

    def _find_fault(self, critique: str, proposed: Mapping[str, str]) -> ParseFailure | None:
        """What keeps an answer's texts from being a proposal; None where nothing does."""
        if not all(proposed.values()):
            return "declined" if self._declines(critique) else "unparsable"
        given = {key: clean_text(getattr(self.pair, key)).strip() for key in proposed}
        if proposed == given:
            return "unchanged"
        texts = tuple(proposed.values())  # one that merely equals a text of an example may be honest
        has_nonce = any(self.nonce in text for text in (critique, *texts))
        if has_nonce or texts in self._examples() or self._hold_words(texts):
            return "echoed"
        if any(text != given[key] and self._is_turn(text) for key, text in proposed.items()):
            return "echoed"
        if self._goes_on(proposed):
            return "unparsable"
        if any(_stands_in(key, proposed, self.pair) for key in proposed):
            return "placeholder"
        asked = "\n".join((self.pair.instruction, self.pair.input, proposed.get("instruction", "")))
        if any(
            self._declines(text)
            and not self._may_decline(text, given[key], asked if key == "response" else "")
            for key, text in proposed.items()
        ):
            return "declined"
        if any(_has_run_away(text, given[key]) for key, text in proposed.items()):
            return "repetition"
        return "echoed" if self._is_instruction(proposed) else None

    def _declines(self, text: str) -> bool:
        """Whether a text is a refusal, by what the prompts file adds too."""
        return is_refusal(text, self.prompts.declines)

    def _may_decline(self, text: str, given: str, asked: str) -> bool:
        """Whether the given text in its place is a refusal too, or what is said before wants one."""
        turns = [turn.content for turn in self.pair.context]
        return (
            self._declines(given)
            or any(self._declines(turn) or text in turn for turn in turns)
            or is_about_declining(asked)
        )

    def _is_turn(self, text: str) -> bool:
        """Whether a text is a turn of the context again; what is short may well be said twice."""
        return _is_long(text) and any(
            _condense(text) == _condense(turn.content) for turn in self.pair.context
        )

    def _is_instruction(self, proposed: Mapping[str, str]) -> bool:
        """Whether a response is its instruction again; a short one that is given may be a greeting."""
        is_new, asked = "instruction" in proposed, proposed.get("instruction", self.pair.instruction)
        return (is_new or _is_long(asked)) and _condense(proposed["response"]) == _condense(asked)

    def _name_formless(self, text: str) -> ParseFailure:
        """What to call a text without an answer in it."""
        if self._declines(text):
            return "declined"
        if _has_run_away(text, self.pair.response):
            return "repetition"
        shown = "\n".join(_condense(self._prompt(self.pair, structured=form)) for form in (True, False))
        lines = {line.strip() for line in text.splitlines()}
        long = {_condense(line) for line in lines if len(line) >= _TELLTALE_LENGTH}
        if all(line in shown for line in long) and self._hold_words([text]):
            return "echoed"
        return "unparsable"

    def _examples(self) -> set[tuple[str, ...]]:
        """The proposed texts of every answer that stands in the words of a prompt, for a model to copy."""
        fields, texts = FIELDS[self.phase], self.prompts.texts
        sections = [section[self.phase] for name, section in texts.items() if name != "pair"]
        words = fill("\n".join([texts["pair"]["opening"], *sections]), nonce=self.nonce)
        # Wherever a mark ends, a model may stop copying.
        marks = (mark for mark in re.finditer(r"-([^-<>]*)>", words) if mark[1] == self.nonce)
        starts = (words[: mark.end()] for mark in marks)
        tagged = [answer for start in starts for answer in forms.find_tags(start, self.nonce, fields)]
        found = [*tagged, *forms.find_json(words, fields)]
        return {tuple(answer[key] for key in fields) for answer in found}

    def _hold_words(self, texts: Iterable[str]) -> bool:
        """Whether texts hold a run of the file's words that no honest answer would, and the data does not.

        A run is 8 words of the file in a row, or 40 characters of a line with fewer words, between fields;
        case, punctuation around words and line breaks do not matter.
        """
        sections = self.prompts.texts.values()
        shipped = _runs_of(tuple(text for section in sections for text in section.values()))
        own = texts_of(self.pair)
        for known, runs_in in zip(shipped, (_word_runs, _sign_runs), strict=True):
            held = known and known.intersection(run for text in texts for run in runs_in(text))
            if held and held.difference(run for text in own for run in runs_in(text)):
                return True
        return False

    def _quotable(self) -> set[tuple[str, str]]:
        """Keys and texts of the JSON that the prompt holds by its pair and context alone."""
        prompts = (self._prompt(pair, structured=self.structured) for pair in (self.pair, Pair("", "", "")))
        shown, empty = map(forms.find_members, prompts)
        return shown - empty

    def _prompt(self, pair: Pair, *, structured: bool) -> str:
        (message,) = self.prompts.messages(self.phase, pair, structured=structured, nonce=self.nonce)
        return message["content"]


@cache
def _runs_of(texts: tuple[str, ...]) -> tuple[frozenset[tuple[str, ...]], frozenset[str]]:
    """Runs of words in the texts of a prompts file, and runs of characters in lines with too few words."""
    parts = [part for text in texts for part in FIELD.split(text)]
    lines = [line for part in parts for line in part.splitlines()]
    words = frozenset(run for part in parts for run in _word_runs(part))
    return words, frozenset(run for line in lines if not any(_word_runs(line)) for run in _sign_runs(line))


def _condense(text: str) -> str:
    """A text without white space and case."""
    return "".join(text.split()).casefold()


def _word_runs(text: str) -> Iterator[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return zip(*(words[start:] for start in range(_TELLTALE_WORDS)), strict=False)


def _is_long(text: str) -> bool:
    """Whether a text is too long to be said twice by chance."""
    return any(_word_runs(text)) or any(_sign_runs(text))


def _sign_runs(text: str) -> Iterator[str]:
    signs = _condense(text)
    last = len(signs) - _TELLTALE_LENGTH
    return (signs[start : start + _TELLTALE_LENGTH] for start in range(last + 1))


def _stands_in(key: str, proposed: Mapping[str, str], pair: Pair) -> bool:
    """Whether a proposed text is a stand-in that stands neither in the pair nor in what now asks for it."""
    asked = proposed.get("instruction", "") if key == "response" else ""
    near = "\n".join([*texts_of(pair), asked]).casefold()
    return is_placeholder(proposed[key]) and proposed[key].casefold() not in near


def _has_run_away(text: str, given: str) -> bool:
    """Whether a text ends in a loop, which the given one in its place does not."""
    return is_runaway(text) and not is_runaway(given)
