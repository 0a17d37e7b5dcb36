"""The estimate on a tiny world whose pairs all have the same, known lengths."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from reflectune.agents.tokenizers import open_tokenizer
from reflectune.loop.estimate import estimate_run, render_estimate
from reflectune.state.config import load_config
from tests.test_cli import as_json, printed
from tests.worlds import write_world

PRICES = {"price_in": 2.0, "price_out": 10.0}
OPENAI = {"engine": "openai", "model": "m", "path": None, "base_url": "http://127.0.0.1:9/v1"}


def own_prompts(folder: Path) -> str:
    """Prompts that hold little but the pair."""
    marks = "\n".join(f'{name} = "{{text}}"' for name in ("instruction", "input", "response"))
    forms = 'instruction = "a"\nresponse = "a"'
    (folder / "prompts.toml").write_text(
        f'[task]\n{forms}\n[pair]\nopening = "a"\n{marks}\n[structured]\n{forms}\n'
    )
    return "prompts.toml"


def same_pairs(folder: Path, count: int) -> None:
    pairs = [{"instruction": f"Name {number:03d}.", "output": "Thing."} for number in range(count)]
    (folder / "data.json").write_text(json.dumps(pairs))


def test_estimate_adds_up(tmp_path: Path) -> None:
    teacher = {**OPENAI, **PRICES, "candidates": 2, "temperature": 1.0, "retries": 1}
    config_file = write_world(tmp_path, teacher={**teacher, "prompts": own_prompts(tmp_path)})
    same_pairs(tmp_path, 40)
    document = estimate_run(load_config(config_file))
    # 34 training pairs, 2 rounds, 2 candidates: 136 calls a phase; one retry doubles them at most.
    assert (document["samples"], document["calls"], document["most_calls"]) == (34, 272, 544)
    assert [phase["calls"] for phase in document["phases"].values()] == [136, 136]
    instruction, response = document["phases"].values()
    # Both phases show the same texts.
    assert instruction["prompt_tokens"] == response["prompt_tokens"] > 0
    assert instruction["completion_tokens"] > response["completion_tokens"] > 0
    assert response["completion_tokens"] % 2 == 0  # the response and a critique as long
    prompt = 272 * instruction["prompt_tokens"]
    completion = 136 * (instruction["completion_tokens"] + response["completion_tokens"])
    assert document["prompt_tokens"] == pytest.approx(prompt, abs=0.5)
    assert document["completion_tokens"] == pytest.approx(completion, abs=0.5)
    assert document["cost_usd"] == pytest.approx((2 * prompt + 10 * completion) / 1e6, abs=1e-5)


def test_estimate_counts_what_the_student_reads_and_the_disk(tmp_path: Path) -> None:
    config_file = write_world(tmp_path, teacher={**OPENAI, "prompts": own_prompts(tmp_path)})
    same_pairs(tmp_path, 40)
    config = load_config(config_file)
    document = estimate_run(config)
    tokenizer = open_tokenizer(config.student)
    asked, answer = (
        len(tokenizer(text, add_special_tokens=False).input_ids) for text in ("Name 007.", "Thing.")
    )
    epochs = config.refinetune.epochs or 0
    assert document["student_tokens"]["trained"] == pytest.approx(
        2 * epochs * 34 * (asked + answer), rel=0.01
    )
    # Incumbent and proposal: by IFD the response with and without the instruction, by r-IFD the instruction
    # with and without the response. What the training set's filter asks more.
    scored = 2 * (asked + 2 * answer) + 2 * (2 * asked + answer) + (asked + 2 * answer)
    assert document["student_tokens"]["scored"] == pytest.approx(2 * 34 * scored, rel=0.01)
    assert document["disk_gb"] == pytest.approx(
        (document["completion_tokens"] * 4.5 * 3 + document["calls"] * 2500) / 1e9
    )


def test_estimate_is_shown_in_units_that_people_read(tmp_path: Path) -> None:
    document = estimate_run(load_config(write_world(tmp_path)))
    part = {"teacher": None, "scoring": 1.6e-8, "training": 1.5}
    plan: dict[str, Any] = {
        "on": "H100", "gpu": {"memory_gb": 80}, "student_gb": 1.0, "teacher_gb": None, "scale": {},
        "hours_per_round": part, "hours": part, "samples_per_second": 672_912.3,
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=200)
    console.print(render_estimate(document | {"plan": plan, "disk_gb": 0.00055}))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "; disk: 550.0 kB and the adapters" in text
    times = "teacher by its server or recording, scoring under a second, training 1 h 30 min"
    assert f"time per round: {times}\n" in text
    assert "scored per second: 673,000 samples" in text


@pytest.mark.slow
def test_estimate_of_the_disk_is_near_what_a_run_takes(finished_world: Path) -> None:
    files = ("runs/tiny/lineage.db", "runs/tiny/index.db", "runs/cache.db")
    taken = sum((finished_world / name).stat().st_size for name in files if (finished_world / name).exists())
    estimated = estimate_run(load_config(finished_world / "config.toml"))["disk_gb"] * 1e9
    assert taken / 3 < estimated < 3 * taken


@pytest.mark.slow
def test_estimate_measures_at_most_200_pairs_and_counts_all(tmp_path: Path) -> None:
    document = estimate_run(load_config(write_world(tmp_path, samples=250, teacher={"max_tokens": 3})))
    assert (document["measured_pairs"], document["samples"]) == (200, 244)
    assert document["calls"] == document["most_calls"] == 244 * 2 * 2  # a recording is never asked again
    assert [phase["completion_tokens"] for phase in document["phases"].values()] == [3, 3]


@pytest.mark.slow
def test_estimate_says_what_it_takes_for_granted_of_the_cache(tmp_path: Path) -> None:
    found = {}
    for mode in ("on", "off", "only"):
        config_file = write_world(tmp_path / mode, teacher={**OPENAI, **PRICES, "cache": mode})
        shown = estimate_run(load_config(config_file))
        told = [line for line in shown["assumptions"] if "the cache" in line]
        found[mode] = (shown["cost_usd"] > 0, told)
    assert found == {
        "on": (True, ["the cache has none of the answers yet"]),
        "off": (True, []),
        "only": (False, ["the cache has every answer, and none of them costs anything"]),
    }


@pytest.mark.slow
def test_estimate_measures_the_prompts_that_the_engine_can_be_asked(tmp_path: Path) -> None:
    """Engine transformers takes no schema, whatever `structured` says, so it is asked for tagged text."""
    local = {"engine": "transformers", "model": "m", "path": None}
    tokens = {}
    for engine, settings in {"openai": OPENAI, "transformers": local}.items():
        for structured in (True, False):
            config_file = write_world(tmp_path, teacher={**settings, "structured": structured})
            tokens[engine, structured] = estimate_run(load_config(config_file))["prompt_tokens"]
    assert tokens["openai", True] != tokens["openai", False]
    assert tokens["transformers", True] == tokens["transformers", False] == tokens["openai", False]


def test_estimate_asks_no_teacher_and_makes_no_run(tmp_path: Path) -> None:
    write_world(tmp_path, teacher=OPENAI)  # nobody listens there
    before = sorted(tmp_path.rglob("*"))
    shown = as_json(tmp_path, "estimate", "config.toml", "--set", "rounds=5")
    assert (shown["rounds"], shown["calls"], shown["cost_usd"]) == (5, 34 * 2 * 5, None)
    assert shown["tokenizer"] == str(tmp_path / "student")
    told = " ".join(printed(tmp_path, "estimate", "config.toml").split())
    assert "cost: unknown; set the teacher's prices" in told
    (tmp_path / "prices.toml").write_text("[m]\nin = 1.5\nout = 3")
    priced = printed(tmp_path, "estimate", "config.toml", "--set", "teacher.prices=prices.toml")
    prices = f"USD per million tokens: 1.5 for prompts and 3 for answers, from {tmp_path}/prices.toml"
    assert "".join(prices.split()) in "".join(priced.split())  # a long path is broken
    (tmp_path / "prices.toml").unlink()
    assert "counted by the student's tokenizer, a stand-in for the teacher's" in told
    assert sorted(tmp_path.rglob("*")) == before
