"""The demo's corpora and the two models that were trained on them."""

import hashlib
import itertools
import random
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from reflectune.agents.teacher.parsing import AnswerParser, Proposal
from reflectune.agents.teacher.prompts import open_prompts
from reflectune.loop.demo.demo import FOLDER, demo_config
from reflectune.loop.demo.world import KINDS, is_reserved, is_right
from reflectune.state.config import RunConfig
from reflectune.state.records import PHASES, Pair, Phase
from tests.demo_models.corpus import MISTAKES, student_texts, teacher_texts
from tests.demo_models.measure import measure_student, measure_teacher

MODELS = FOLDER / "models"
# Where a student's texts name the operand: inputs, clear instructions of some kinds, facts of some kinds.
OPERANDS = [
    re.compile(pattern, flags=re.MULTILINE)
    for pattern in (
        r"^Input:\n(.+)$",
        r"^(?:Shout|Reverse|Double|Keep the consonants of) (\w+)\.$",
        r"^How long is (\w+)\?$",
        r"^(\w+) (?:two times|said twice|backwards|with dashes|in capitals|without vowels) is ",
    )
]
PROMPTS = open_prompts(FOLDER / "prompts.toml")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    # One thread: two on a core that others use as well take many times as long.
    monkeypatch.setattr("reflectune.agents.models.visible_cpus", lambda: 1)
    return demo_config("demo", tmp_path / "data.json", rounds=1, policy="ifd+r-ifd", seed=0)


def prompt_text(phase: Phase, pair: Pair) -> str:
    (message,) = PROMPTS.messages(phase, pair, structured=False, nonce="00000000")
    return message["content"]


def read_pair(prompt: str) -> Pair:
    found = re.search(r"Instruction:\n(.*?)(?:\nInput:\n(.*?))?\nResponse:\n(.*?)\nJSON:\n", prompt)
    assert found
    return Pair(found[1], found[2] or "", found[3])


@pytest.mark.slow
def test_the_teacher_learns_answers_that_the_parser_takes_and_mostly_the_checker_passes() -> None:
    verdicts = []
    for prompt, answer in itertools.islice(teacher_texts(random.Random(0), prompt_text), 2000):
        phase: Phase = "instruction" if "the pair" in prompt.partition("\n")[0] else "response"
        given = read_pair(prompt)
        parsed = AnswerParser(PROMPTS, phase, given, structured=True, nonce="00000000").parse(answer)
        if parsed == "unchanged":
            assert phase == "response"
            continue
        assert isinstance(parsed, Proposal)
        assert parsed.critique
        if phase == "instruction":  # in phase response some instructions are unclear
            verdicts.append(is_right(parsed.pair))
    assert len(verdicts) > 900
    assert 1 - sum(verdicts) / len(verdicts) == pytest.approx(MISTAKES, abs=0.03)


@pytest.mark.slow
def test_no_operand_of_the_demos_data_is_trained_on() -> None:
    read = [
        read_pair(prompt)
        for prompt, _ in itertools.islice(teacher_texts(random.Random(1), prompt_text), 2000)
    ]
    inputs = {pair.input for pair in read if pair.input}
    stated = {
        operand
        for text in itertools.islice(student_texts(random.Random(1)), 4000)
        for pattern in OPERANDS
        for operand in pattern.findall(text)
    }
    assert len(inputs) > 300
    assert len(stated) > 1000
    assert not [operand for operand in inputs | stated if is_reserved(operand)]


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_model_cards_name_the_files_they_lie_beside(name: str) -> None:
    card = (MODELS / name / "README.md").read_text(encoding="utf-8")
    hashes = dict(re.findall(r"^- `([\w.]+)` ([0-9a-f]{64})$", card, flags=re.MULTILINE))
    assert hashes.keys() == {"model.safetensors", "config.json", "tokenizer.json"}
    for file, digest in hashes.items():
        assert hashlib.sha256((MODELS / name / file).read_bytes()).hexdigest() == digest, file


def test_models_are_small_enough_to_travel() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.suffix != ".pyc") < 10_000_000


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_tokenizers_spell_operands_letter_by_letter(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("Write bemadok backwards.").input_ids)
    assert pieces == ["<s>", "Write", "Ġ", *"bemadok", "Ġbackwards", "."]


def card_figures(name: str) -> dict[str, list[float]]:
    """The shares in a model card's table, by phase or kind of task."""
    card = (MODELS / name / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (.*%.*) \|$", card, flags=re.MULTILINE)
    return {group: [float(share) / 100 for share in re.findall(r"([\d.]+)%", cells)] for group, cells in rows}


# The cards hold for the files that lie beside them; that those do the same here shows on fewer pairs.


@pytest.mark.slow
def test_the_teacher_is_good_but_fallible_on_words_it_never_saw(config: RunConfig) -> None:
    figures = card_figures("teacher")
    assert figures.keys() == {*PHASES, *KINDS}
    for group, (repaired, damaged, unusable) in figures.items():
        assert repaired == pytest.approx(1 - MISTAKES, abs=0.1 if group in PHASES else 0.25), group
        assert damaged == pytest.approx(MISTAKES, abs=0.1 if group in PHASES else 0.15), group
        assert repaired > damaged + 0.1, group
        assert unusable < 0.05, group
    measured = measure_teacher(config, 100)
    for phase in PHASES:
        assert measured[phase]["repaired"] == pytest.approx(figures[phase][0], abs=0.15)
        assert measured[phase]["damaged"] == pytest.approx(figures[phase][1], abs=0.15)
        assert measured[phase]["unusable"] < 0.05


@pytest.mark.slow
def test_the_base_student_follows_instructions_badly(config: RunConfig) -> None:
    figures = card_figures("student")
    assert figures.keys() == {"all", *KINDS}
    assert figures["all"][0] <= 0.35
    measured = measure_student(config, 100)["all"]
    assert measured.n == 100
    assert measured.value == pytest.approx(figures["all"][0], abs=0.1)
