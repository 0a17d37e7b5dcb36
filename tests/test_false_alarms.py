"""How many honest answers of real models would count as none."""

import json
from pathlib import Path

import pytest

from reflectune.agents.teacher.answers import is_placeholder, is_refusal

JUDGED = Path(__file__).parents[1] / ".." / "shared" / "data" / "judged.jsonl"
_DECLINES = 9  # of the flagged: all were looked at, and each begins by declining what is asked


@pytest.mark.skipif(not JUDGED.exists(), reason="needs ../shared/data/judged.jsonl")
def test_at_most_one_honest_answer_in_a_thousand_counts_as_none() -> None:
    rows = map(json.loads, JUDGED.read_text(encoding="utf-8").splitlines())
    answers = [answer["response"] for row in rows for answer in row["answers"]]
    flagged = [text for text in answers if is_refusal(text) or is_placeholder(text)]
    assert len(answers) > 6000
    assert len(flagged) >= _DECLINES  # the test sees refusals at all
    assert len(flagged) - _DECLINES <= len(answers) / 1000
