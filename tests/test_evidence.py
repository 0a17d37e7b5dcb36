"""What a student's scores tell about pairs: by hand, and by a real student."""

import json
import math
import random
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from reflectune.loop.evidence import measure_evidence
from reflectune.loop.matching import _auc, rank_correlation
from reflectune.loop.measuring import _draw
from reflectune.state.config import DataConfig
from reflectune.state.data.labels import read_preferences
from reflectune.state.intervals import wilson
from reflectune.state.records import Pair, Score, Term
from tests.lineages import scores_of
from tests.worlds import copy_world, reflectune


def test_auc_counts_ties_half_and_has_the_interval_of_hanley_and_mcneil() -> None:
    # 1 is below 2 and 3, 2 ties with 2 and is below 3: 3.5 of 4
    share = _auc([1.0, 2.0], [2.0, 3.0])
    # Hanley and McNeil's is narrower for so few: A = 7/8, Q1 = 7/9, Q2 = 49/60.
    deviation = math.sqrt((7 / 64 + 7 / 9 + 49 / 60 - 2 * 49 / 64) / 4)
    assert 0.875 - 1.96 * deviation > wilson(0.875, 2)[0]
    assert share == {"value": 0.875, "low": wilson(0.875, 2)[0], "high": 1.0, "n": 2}
    assert _auc([1.0] * 3, [2.0] * 3)["low"] == wilson(1.0, 3)[0] < 0.5  # three pairs prove nothing
    many = _auc([1.0, 3.0] * 50, [2.0, 4.0] * 50)
    # A = 3/4, Q1 = 3/5, Q2 = 9/14
    wide = math.sqrt((3 / 16 + 99 * (3 / 5 - 9 / 16) + 99 * (9 / 14 - 9 / 16)) / 10_000)
    assert many["low"] == pytest.approx(min(0.75 - 1.96 * wide, wilson(0.75, 100)[0]))
    assert _auc([], [1.0])["value"] is None


def test_auc_of_many_is_that_of_all_their_pairs_without_comparing_each() -> None:
    lower, higher = ([random.Random(seed).randrange(50) for _ in range(200)] for seed in (1, 2))
    told = sum((a < b) + (a == b) / 2 for a in lower for b in higher) / 200**2
    assert _auc(lower, higher)["value"] == told
    many = [float(number) for number in range(20_000)]
    begun = time.process_time()
    assert _auc(many, many)["value"] == 0.5
    assert time.process_time() - begun < 5  # four hundred million comparisons take a minute


def test_what_is_drawn_is_all_that_is_held() -> None:
    class Item:
        pass

    alive = weakref.WeakSet[Item]()
    most = 0

    def items() -> Iterator[Item]:
        nonlocal most
        for _ in range(1000):
            item = Item()
            alive.add(item)
            most = max(most, len(alive))
            yield item

    assert len(_draw(items(), 5, 0)) == 5
    assert most < 10
    assert _draw(iter(range(1000)), 5, 0) == _draw(range(1000), 5, 0) != _draw(range(1000), 5, 1)
    assert sorted(_draw(range(3), 5, 0)) == [0, 1, 2]
    counts = Counter(it for seed in range(1000) for it in _draw(range(10), 5, seed))
    assert all(430 < counts[it] < 570 for it in range(10))  # each 500 times, standard deviation 16


def test_rank_correlation_is_of_ranks_and_shares_those_of_equals() -> None:
    assert rank_correlation([1, 10, 100], [3, 4, 9]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3], [9, 4, 1]) == pytest.approx(-1.0)
    # ranks 0.5, 0.5, 2 against 0, 1, 2: covariance 1.5 over sqrt(1.5 * 2)
    assert rank_correlation([5, 5, 7], [1, 2, 3]) == pytest.approx(1.5 / math.sqrt(3))
    assert rank_correlation([1, 1], [1, 2]) is None


NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PAIRS = [Pair(f"Say {number}.", "", number) for number in NUMBERS]


def fits(pair: Pair) -> bool:
    return pair.response.split()[0] in pair.instruction


def tell(targets: Sequence[tuple[Pair, Term]]) -> list[Score]:
    """A student that knows whether a response fits; it likes shouting, and longer texts have more tokens."""
    scores = []
    for pair, term in targets:
        ifd = (0.5 if fits(pair) else 2.0) + 0.1 * pair.response.endswith("!")
        scores.append(scores_of(ifd, 0.5 if fits(pair) else 2.0, tokens=len(pair.response))[term])
    return scores


def blind(targets: Sequence[tuple[Pair, Term]]) -> list[Score]:
    return [scores_of(0.9, 0.9, tokens=len(pair.response))[term] for pair, term in targets]


def test_evidence_tells_pairs_from_shuffled_ones_and_what_policies_keep() -> None:
    shouted = [(Pair(p.instruction, "", f"{p.response}!"), p) for p in PAIRS]
    counted = []
    evidence = measure_evidence(
        "made up", "tell", PAIRS, shouted, tell, labelled=True, band=1.5, on_scored=counted.append
    )
    assert sum(counted) == 40
    assert (evidence["pairs"], evidence["choices"]) == (10, 10)
    assert [evidence["matched"][name]["value"] for name in ("ifd", "r_ifd")] == [1.0, 1.0]
    assert evidence["below_one"] == {"ifd": 1.0, "r_ifd": 1.0}
    assert evidence["below_one_shuffled"] == {"ifd": 0.0, "r_ifd": 0.0}
    found = {item["policy"]: item for item in evidence["policies"]}
    assert found["ifd"]["right"]["value"] == found["ifd"]["right_at_like_length"]["value"] == 1.0  # type: ignore[index]
    assert found["longest"]["longer"]["value"] == 1.0
    assert evidence["agreement"]["ifd"]["longest"] == evidence["agreement"]["longest"]["ifd"] == 1.0
    assert evidence["agreement"]["ifd"]["perplexity"] == 0.0
    assert evidence["conclusion"].startswith(
        "This student tells pairs from pairs with another's response by IFD"
    )
    assert "of like length ifd keeps the preferred one in 100%" in evidence["conclusion"]


def test_evidence_of_a_student_that_tells_nothing_says_so() -> None:
    evidence = measure_evidence("made up", "blind", PAIRS, [], blind, labelled=True, band=1.5)
    assert evidence["conclusion"].endswith("its choices mean nothing.")
    assert evidence["matched"]["ifd"]["value"] == 0.5
    assert not evidence["labelled"]


def test_evidence_finds_no_policy_right_where_all_follow_length() -> None:
    longer = [(Pair(p.instruction, "", f"{p.response} {p.response}"), p) for p in PAIRS]
    evidence = measure_evidence("made up", "tell", PAIRS, longer, tell, labelled=True, band=1.5)
    assert "no policy keeps the preferred one more often than chance" in evidence["conclusion"]
    evidence = measure_evidence("made up", "tell", PAIRS, longer, tell, labelled=False, band=1.5)
    assert evidence["policies"][0]["right"] is None


def write(path: Path, rows: Sequence[object]) -> DataConfig:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DataConfig(path=str(path))


def talk(*texts: str) -> list[dict[str, str]]:
    """Messages that begin with an exchange and end with another."""
    begin = [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": "Yes."}]
    return [*begin, {"role": "user", "content": texts[1]}, {"role": "assistant", "content": texts[2]}]


def test_preferences_come_from_chosen_and_rejected_and_from_wins(tmp_path: Path) -> None:
    data = write(
        tmp_path / "data.jsonl",
        [
            {"prompt": "Say a.", "chosen": "a", "rejected": "b"},
            {"prompt": "Say b.", "chosen": "b", "rejected": "b"},  # no choice
            {"instruction": "Say c.", "answers": [
                {"model": "m", "response": "c", "win": 0.9}, {"response": "d", "win": 0.2}, {"response": "e"},
            ]},
            {"instruction": "Say f.", "output": "g", "win": 0.01},
            {"instruction": "Say f.", "output": "f", "win": 0.5},
            {"instruction": "Say h.", "output": "h", "win": 0.5},  # log-odds 0 and 0.41: no clear verdict
            {"instruction": "Say h.", "output": "i", "win": 0.6},
            {"instruction": "Say j.", "output": "j", "win": True},
            {"messages": talk("A", "Go on.", "k"), "win": 0.9},  # two conversations that go on alike
            {"messages": talk("B", "Go on.", "l"), "win": 0.1},
            {"chosen": talk("A", "Go on.", "m"), "rejected": talk("B", "Go on.", "n")},
        ],
    )  # fmt: skip
    found = [(each.better.response, each.worse.response) for each in read_preferences(data, 0)]
    assert found == [("a", "b"), ("c", "d"), ("f", "g")]


@pytest.mark.slow
def test_signal_measures_data_and_runs(finished_world: Path, tmp_path: Path) -> None:
    world = copy_world(finished_world, tmp_path)
    rows = [{"prompt": f"Say {n}.", "chosen": n, "rejected": f"{n} {n}"} for n in NUMBERS]
    again = [row | {"chosen": f"{row['rejected']}!", "rejected": row["chosen"]} for row in rows]
    write(world / "choices.jsonl", rows + again)  # one choice of each instruction counts
    options = ("--student", "student", "--template", "plain", "--json")
    found = json.loads(reflectune("signal", "choices.jsonl", *options, cwd=world).stdout)
    assert (found["pairs"], found["choices"], found["labelled"]) == (10, 10, True)
    longest = next(item for item in found["policies"] if item["policy"] == "longest")
    assert longest["right"]["value"] == 0.0
    shown = reflectune("signal", "tiny", cwd=world).stdout
    assert "tiny, round 1: " in shown
    assert "an incumbent and its proposal" in shown
    assert "Round 2: pairs that s1 was trained on beside others" in shown
    refused = reflectune("signal", "choices.jsonl", cwd=world)
    assert refused.returncode == 2
    assert "say with --student MODEL who scores it" in refused.stderr
