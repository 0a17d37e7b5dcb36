import random
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflectune.loop.show.diffs import Change, diff_words
from reflectune.loop.show.terminal.layout import Difference
from reflectune.state.text import inert

SENTENCES = " ".join(f"Sentence {index} says {index * 7}." for index in range(3000))


def differences(changes: Sequence[tuple[Change, str]]) -> list[str]:
    return [text for change, text in changes if change != "same"]


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("the red cat", "the big cat",
         [("same", "the "), ("removed", "red"), ("added", "big"), ("same", " cat")]),
        # Changes with only a space between them are joined.
        ("a red cat sat", "a big dog sat",
         [("same", "a "), ("removed", "red cat"), ("added", "big dog"), ("same", " sat")]),
        ("same", "same", [("same", "same")]),
        ("", "new", [("added", "new")]),
        ("", "", []),
    ],
)  # fmt: skip
def test_diff_words_keeps_what_both_share(old: str, new: str, changes: list[tuple[Change, str]]) -> None:
    assert diff_words(old, new) == changes


@given(old=st.text(), new=st.text())
def test_diff_words_gives_both_texts_back(old: str, new: str) -> None:
    changes = diff_words(old, new)
    assert "".join(text for change, text in changes if change != "added") == old
    assert "".join(text for change, text in changes if change != "removed") == new


def test_difference_marks_changes_with_and_without_colour() -> None:
    assert Difference("a b", "a c").render(colour=False).plain == "a [-b-]{+c+}"
    coloured = Difference("a b", "a c").render(colour=True)
    assert coloured.plain == "a bc"
    assert [str(span.style) for span in coloured.spans] == ["red strike", "green underline"]


def test_inert_text_cannot_steer_a_terminal() -> None:
    assert inert("red \x1b[31m\rover\u202e\x9b2J") == "red \ufffd[31m\ufffdover\ufffd\ufffd2J"
    assert inert("tab\tand\nline") == "tab\tand\nline"
    assert Difference("a", "\x1b]0;title\x07").render(colour=True).plain.count("\x1b") == 0


def test_diff_words_of_long_texts_goes_by_words_where_there_is_one_change() -> None:
    changes = diff_words(SENTENCES, SENTENCES.replace("17 says 119.", "17 says nothing!"))
    assert differences(changes) == ["119.", "nothing!"]


def test_diff_words_of_long_texts_with_more_changes_goes_by_sentences_and_is_quick() -> None:
    new = SENTENCES.replace("Sentence 17 says 119.", "Sentence 17 says nothing!")
    new = new.replace("Sentence 2990 says", "Sentence 2990 denies")
    began = time.process_time()
    changes = diff_words(SENTENCES, new)
    assert time.process_time() - began < 5
    assert differences(changes) == [
        "Sentence 17 says 119. ", "Sentence 17 says nothing! ", "Sentence 2990 says 20930. ",
        "Sentence 2990 denies 20930. ",
    ]  # fmt: skip


@pytest.mark.parametrize("pieces", ["ab", "abcdefghijklmnop"])
@pytest.mark.parametrize("end", [" ", ". "])
def test_diff_words_of_long_texts_that_differ_everywhere_is_quick(pieces: str, end: str) -> None:
    old, new = (end.join(random.Random(seed).choices(pieces, k=20_000)) for seed in (1, 2))
    began = time.process_time()
    changes = diff_words(old, new)
    assert time.process_time() - began < 10
    assert "".join(text for change, text in changes if change != "added") == old
