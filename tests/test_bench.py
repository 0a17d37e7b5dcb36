"""The benchmarks' parts do what the figures say they do, on tiny models."""

import math
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from reflectune.agents.student.rows import build_row
from reflectune.agents.student.scoring import choose_packing, score_sequences
from reflectune.agents.student.targets import Encoded
from reflectune.agents.student.templates import open_template
from reflectune.state.config import RunConfig
from reflectune.state.records import PHASES, Pair, Term
from tests.bench import gpu, memory, refinetune
from tests.bench.meter import Meter, matmul_rate
from tests.bench.one_at_a_time import OneAtATime, Perplexity, measure_loss
from tests.bench.peer_ways import TARGETS, Taken, measure, open_one_at_a_time, open_reflectune
from tests.bench.peers import compare_taken, make_task
from tests.bench.reference import compare_figures
from tests.bench.results import SHARED, describe_machine, replace_section, table
from tests.bench.scoring import compare_choices, compare_losses, read_pairs, run_config
from tests.bench.selection_round import Round, choose_one_at_a_time, select_round
from tests.bench.time_shares import stopwatch
from tests.tiny_models import build_model, save_tiny_llama

pytestmark = pytest.mark.slow

RECORDS = [Pair(f"Name {n} colours.", "Bright ones." * (n % 2), f"Red, {n} blues, green.") for n in range(12)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")
    return run_config(folder, "plain", "float32", threads=1)


@pytest.fixture(scope="module")
def baseline(config: RunConfig) -> OneAtATime:
    folder = config.student.model
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    # What transformers puts in front of a text comes from the tokenizer's post-processor.
    tokenizer.add_bos_token = True
    tokenizer.update_post_processor()
    return OneAtATime(
        LlamaForCausalLM.from_pretrained(folder).eval(),
        tokenizer,
        open_template(config.student, tokenizer),
        256,
    )


def test_both_ways_choose_the_same_pairs_in_a_round(
    config: RunConfig, baseline: OneAtATime, tmp_path: Path
) -> None:
    ours = select_round(config, RECORDS, tmp_path)
    theirs = choose_one_at_a_time(baseline, RECORDS, 4)
    assert ours.choices.keys() == {(phase, position) for phase in PHASES for position in range(4)}
    assert compare_choices(ours, theirs) == (8, 0)
    first, second = ours.choices["instruction", 0], ours.choices["response", 0]
    assert first.incumbent == RECORDS[0]
    assert first.winner in (RECORDS[0], RECORDS[4])
    assert second.winner.response in (first.winner.response, RECORDS[8].response)
    shared, other, worst = compare_losses(theirs, ours)
    assert shared == len(ours.scores)
    assert other < shared / 2
    assert 0 < worst < 1e-5
    assert 7 * 4 <= ours.texts <= 9 * 4
    assert ours.seconds > 0


def test_compare_losses_counts_what_the_baseline_took_over_other_tokens() -> None:
    one, other = Round(), Round()
    for pair, theirs, ours, tokens in (
        (RECORDS[0], 2.0, 2.0, 5),
        (RECORDS[1], 2.2, 2.0, 5),
        (RECORDS[2], 9.9, 2.0, 4),
        (RECORDS[3], math.nan, 2.0, 5),
    ):
        one.scores[pair, "response_alone"] = Perplexity(theirs, tokens)
        other.scores[pair, "response_alone"] = Perplexity(ours, 5)
    shared, unequal, worst = compare_losses(one, other)
    assert (shared, unequal) == (4, 2)
    assert worst == pytest.approx(0.1)


def test_peers_score_the_same_tokens_one_at_a_time_and_with_reflectune(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "tiny")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_bos_token = True  # as the baseline's, whose passes begin with what the tokenizer puts there
    tokenizer.update_post_processor()
    tokenizer.save_pretrained(folder)
    arguments = SimpleNamespace(pairs=3, repeats=2, threads=1)
    task = make_task(folder, "plain", RECORDS, arguments)
    assert task.pairs == [(pair.instruction, pair.input, pair.response) for pair in RECORDS[:3]]
    assert [bool(prefix) for prefix, _ in task.texts[:4]] == [not name.endswith("alone") for name in TARGETS]
    singly, ours = measure(open_one_at_a_time(task), 2), measure(open_reflectune(task), 2)
    assert len(singly["seconds"]) == len(ours["seconds"]) == 2
    assert singly["passes"] == 3 * 4
    assert 1 <= ours["passes"] < 3 * 4
    assert 0 < ours["before"] <= ours["peak"]
    assert [item.ids for item in ours["taken"]] == task.ids
    alike, other, worst = compare_taken(ours["taken"], singly["taken"])
    assert (alike, other.total()) == (3 * 4, 0)
    assert 0 < worst < 1e-4


def test_compare_taken_tells_how_other_tokens_differ() -> None:
    ours = [Taken([0, 5, 6, 7], 2, -10.0)] * 6
    theirs = [
        Taken([0, 5, 6, 7], 2, -10.25),
        Taken([0, 5, 6, 7], 2, -9.5),  # 0.5 nats, the largest
        Taken([0, 5, 6, 7], 3, -1.0),
        Taken([5, 6, 7], 1, -1.0),  # without BOS
        Taken([0, 5, 8, 7], 2, -1.0),
        None,
    ]
    compared = compare_taken(ours, theirs)
    assert (compared.alike, compared.worst) == (2, 0.5)
    assert compared.other == {"boundary": 1, "beginning": 1, "target": 1}


def test_meter_counts_tokens_rows_and_flop() -> None:
    model = build_model(vocabulary=400)
    meter = Meter()
    meter.attach(model)
    with torch.no_grad():
        model(torch.zeros(2, 5, dtype=torch.long), logits_to_keep=torch.tensor([3, 4]))
        meter.listening = False
        model(torch.zeros(1, 3, dtype=torch.long))
    # A layer of width 32: q and o 32 x 32, k and v 32 x 16, gate, up and down 32 x 64; two layers.
    layers = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    assert (meter.passes, meter.tokens, meter.logit_rows) == (1, 10, 4)
    assert meter.matmul_flop == 2 * layers * 10 + 2 * 32 * 400 * 4
    assert meter.attention_flop == 4 * 2 * 32 * 2 * 5**2
    assert meter.most_logit_bytes == 4 * 400 * 4


def test_stopwatch_counts_the_innermost_part_and_puts_everything_back() -> None:
    def inner() -> None:
        time.sleep(0.02)

    def outer() -> None:
        time.sleep(0.01)
        box.inner()

    box = SimpleNamespace(inner=inner, outer=outer)
    parts = [(box, "outer", "outer"), (box, "inner", "inner")]
    began = time.perf_counter()
    with stopwatch(parts, "rest") as seconds:
        box.outer()
    assert seconds.keys() == {"rest", "outer", "inner"}
    assert seconds["inner"] >= 0.02
    assert seconds["outer"] >= 0.01
    assert seconds["outer"] + seconds["inner"] <= time.perf_counter() - began
    assert box.inner is inner
    assert box.outer is outer


def test_sections_are_markdown_and_replace_one_another_only() -> None:
    assert table("a | b", ["1 | 2"]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |", ""]
    text = "# Benchmarks\n\nWords.\n\n## One\n\n1\n\n### Part\n\na\n\n## Two\n\n2\n"
    changed = replace_section(text, "One", "uno")
    assert changed == "# Benchmarks\n\nWords.\n\n## One\n\nuno\n\n## Two\n\n2\n"
    assert replace_section(changed, "One", "uno") == changed
    assert replace_section(text, "Three", "3") == text + "\n## Three\n\n3\n"


def test_machine_figures_are_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.meter._SIZES", {"cpu": (128,)})
    assert "torch threads" in describe_machine()
    for dtype in (torch.float32, torch.bfloat16):
        assert 1e8 < matmul_rate(dtype, seconds=0.01) < 1e15


def test_compare_figures_pairs_terms_up() -> None:
    ours: dict[Term, float | None] = {
        "response_given_instruction": None,
        "response_alone": 2.0,
        "instruction_given_response": 4.04,
        "instruction_alone": 1.0,
    }
    found = {item.term: item.relative for item in compare_figures([[1.0, 2.0, 4.0, 3.0]], [ours])}
    assert found == pytest.approx(
        {
            "instruction_alone": 0,
            "response_alone": 0,
            "instruction_given_response": 0.01,
            "response_given_instruction": math.inf,
        }
    )


def test_padded_batch_has_labels_on_targets_only() -> None:
    batch = refinetune.pad_batch([Encoded([1, 5, 6, 7], 2), Encoded([1, 8], 1)], pad=0)
    assert batch["input_ids"].tolist() == [[1, 5, 6, 7], [1, 8, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 6, 7], [-100, 8, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_padded_training_takes_the_steps_it_is_told(config: RunConfig, tmp_path: Path) -> None:
    training = refinetune.train_padded(config, RECORDS, tmp_path, steps=3)
    assert training.samples == 12
    assert len(training.ends) == len(training.losses) == 3
    assert all(math.isfinite(loss) for loss in training.losses)
    assert (tmp_path / "adapter_model.safetensors").is_file()


def test_training_rate_leaves_the_first_step_out() -> None:
    # 12 samples in 3 steps are 4 a step; two steps in 4 seconds.
    assert refinetune.Training(12, ends=[10.0, 12.0, 14.0]).samples_per_second == 2.0


@pytest.mark.alone
def test_memory_is_sampled_while_it_is_held() -> None:
    with memory.watch_memory() as samples:
        held = bytearray(b"x" * 200 * 2**20)
        seen = len(samples)
        while len(samples) < seen + 2:  # the first may have been taken before
            time.sleep(0.01)
        del held
    assert max(samples) - samples[0] > 150 * 2**20


def test_gpu_sequences_hold_four_terms_of_a_pair_and_are_scored_as_one_by_one() -> None:
    sequences = gpu.make_sequences(3, vocabulary=400)
    given, alone, reverse, instruction = sequences[:4]
    assert given.ids[given.first_target :] == alone.ids[alone.first_target :]
    assert reverse.ids[reverse.first_target :] == instruction.ids[instruction.first_target :]
    assert all(sequence.ids[0] == 1 for sequence in sequences)
    model = build_model(vocabulary=400)
    scores = score_sequences(model, sequences, choose_packing(model, 512, share_prefixes=True))
    for sequence, score in zip(sequences, scores, strict=True):
        loss = measure_loss(model, build_row([sequence]).ids[None], sequence.first_target)
        assert score.sum_logprob == pytest.approx(-loss * (score.num_tokens or 0), rel=1e-4)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the shared data in {SHARED}")
def test_real_pairs_are_read() -> None:
    pairs = read_pairs(10)
    assert len(set(pairs)) == 10
    assert all(pair.instruction.strip() and pair.response.strip() for pair in pairs)
