"""The demo's world, its checker and its noise: exact answers, known rates."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflectune.loop.demo.noise import FAULTS, INPUT_RATE, LAZY, VAGUE, VAGUE_RATE, draw_pair, write_dataset
from reflectune.loop.demo.world import KINDS, OPPOSITES, check, draw_task, is_reserved, is_right, solve
from reflectune.state.records import Pair

# The words of the phrasings themselves, some of which the hash reserves.
PLAIN = {
    word
    for kind in KINDS.values()
    for text in (*kind.phrasings, *kind.input_phrasings, *VAGUE)
    for word in re.findall(r"[a-z]{3,9}", text)
}


@pytest.mark.parametrize(
    ("instruction", "input", "answer"),
    [
        ("Reverse planet.", "", "tenalp"),
        ("Write the input backwards.", "planet", "tenalp"),
        ("Shout planet.", "", "PLANET"),
        ("Say planet twice.", "", "planet planet"),
        ("Which two letters start planet?", "", "pl"),
        ("Which two letters close planet?", "", "et"),
        ("Spell planet with dashes.", "", "p-l-a-n-e-t"),
        ("How long is planet?", "", "6"),
        ("Drop the letter that planet begins with.", "", "lanet"),
        ("Take all vowels out of planet.", "", "plnt"),
        ("Keep the consonants of the input.", "bemadok", "bmdk"),
        ("Give the opposite of the input.", "cold", "hot"),
        ("Do something with planet.", "", None),
        ("Reverse planet. Then shout it.", "", None),
        ("Reverse .", "", None),
        ("Reverse planet.", "planet", None),  # two operands
        ("Write the input backwards.", "", None),
        ("Find an antonym of planet.", "", None),
        ("Shout Planet.", "", None),
        ("How long is pl?", "", None),
        ("Double плaнета.", "", None),
        ("", "", None),
    ],
)
def test_solve_gives_the_one_right_answer_and_none_to_what_is_no_clear_task(
    instruction: str, input: str, answer: str | None
) -> None:
    assert solve(instruction, input) == answer
    is_clear = answer is not None
    assert check(instruction, input, answer or "planet") is (True if is_clear else None)
    assert check(instruction, input, f"{answer} ") is (False if is_clear else None)
    assert is_right(Pair(instruction, input, answer or "planet")) is is_clear


@given(st.integers(), st.booleans())
def test_every_phrasing_of_a_drawn_task_has_its_answer_and_no_other(seed: int, reserved: bool) -> None:
    task = draw_task(random.Random(seed), reserved=reserved)
    for phrasing in task.kind.phrasings:
        assert solve(phrasing.format(task.operand), "") == task.answer
    for phrasing in task.kind.input_phrasings:
        assert solve(phrasing, task.operand) == task.answer
    assert task.operand in OPPOSITES or is_reserved(task.operand) is reserved


@pytest.mark.slow
def test_drawn_pairs_are_faulty_at_the_stated_rates() -> None:
    rng = random.Random(0)
    drawn = [draw_pair(rng, reserved=True) for _ in range(6000)]
    counts = Counter(fault for _, _, fault in drawn)
    for fault, share in FAULTS.items():
        assert counts[fault] / 6000 == pytest.approx(share, abs=0.02), fault
    vague = [pair for _, pair, _ in drawn if pair.instruction.startswith(tuple(v[:7] for v in VAGUE))]
    assert len(vague) / 6000 == pytest.approx(VAGUE_RATE, abs=0.02)
    with_input = sum(bool(pair.input) for _, pair, _ in drawn) / 6000
    assert with_input == pytest.approx(INPUT_RATE * (1 - VAGUE_RATE), abs=0.02)


def test_faulty_pairs_are_wrong_and_others_right() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        task, pair, fault = draw_pair(rng, reserved=False)
        clear = solve(pair.instruction, pair.input) is not None
        assert is_right(pair) == (clear and fault == "right")
        assert pair.response
        if fault == "lazy":
            assert pair.response in LAZY
        if fault == "truncated":
            assert task.answer.startswith(pair.response)


def test_reserved_are_made_up_words_with_their_reversals() -> None:
    words = [draw_task(random.Random(seed), reserved=seed % 2 == 0).operand for seed in range(400)]
    for word in words:
        assert is_reserved(word) == (word not in OPPOSITES and is_reserved(word[::-1]))
    drawn = [draw_task(random.Random(seed), reserved=False).operand for seed in range(400)]
    assert not any(map(is_reserved, drawn))


def test_write_dataset_has_no_made_up_operand_twice(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data.json", 800, 0)
    records = json.loads((tmp_path / "data.json").read_text())
    operands: Counter[str] = Counter()
    for record in records:
        text = record["input"] or record["instruction"]
        words = [word for word in re.findall(r"[a-z]{3,9}", text) if is_reserved(word)]
        operands.update(word for word in words if word not in PLAIN)
    assert len(operands) > 500
    assert operands.most_common(1)[0][1] == 1


def test_write_dataset_follows_from_its_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_dataset(tmp_path / name, 50, seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()
    assert len(json.loads((tmp_path / "a").read_text())) == 50
    write_dataset(tmp_path / "clean", 50, 0, clean=True)
    records = json.loads((tmp_path / "clean").read_text())
    assert all(check(r["instruction"], r["input"], r["output"]) for r in records)
