"""Two ranks that train one adapter, against one that does it alone. Ranks are plain processes over gloo."""

import multiprocessing
import shutil
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from reflectune.agents.listener import StoppedError
from reflectune.agents.student import ranks
from reflectune.agents.student.passes import Passes
from reflectune.agents.student.refinetune import train_adapter
from reflectune.agents.student.targets import Encoded
from tests.test_memory import adapted_model, limit_memory
from tests.test_refinetune import PAIRS, configure, folder, weights  # noqa: F401 - a fixture

TEXTS = [Encoded([0, *range(3, 3 + length)], 1) for length in (40, 5, 9, 30, 12)]


def _run(place: Path, rank: int, work, *arguments) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=2)
    torch.save(work(rank, *arguments), place / str(rank))
    dist.destroy_process_group()


def on_two_ranks(place, work, *arguments):
    """What a function returns on each of two ranks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_ranks"])  # torch is imported once for all ranks
    started = [context.Process(target=_run, args=(place, rank, work, *arguments)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    assert [process.exitcode for process in started] == [0, 0]
    return [torch.load(place / str(rank), weights_only=False) for rank in range(2)]


def _share_and_pass(rank):
    """The shares of a step; loss and gradients of one of many texts, of one, and with little memory."""
    lengths, found = [len(text.ids) for text in ranks.share(TEXTS)], []
    for texts in (TEXTS, TEXTS[:1]):
        found.append(_pass(texts))
    with pytest.MonkeyPatch.context() as patch:
        passed = limit_memory(patch, 41 if rank == 0 else 1000)
        found.append(_pass(TEXTS))
    return lengths, found, passed


def _pass(texts):
    model = adapted_model()
    loss = Passes(model, 60).add_gradients(texts)
    return float(loss), {name: value.grad for name, value in model.named_parameters() if value.requires_grad}


def test_ranks_share_a_step_and_add_up_its_gradients(tmp_path):
    (first, found, passed), (second, same, other) = on_two_ranks(tmp_path, _share_and_pass)
    # Longest first, to the one with fewer tokens: 41 | 31, 13 | 10 -> 41, 10 and 31, 13; then 6.
    assert (first, second) == ([41, 10], [6, 31, 13])
    alone = [_pass(TEXTS), _pass(TEXTS[:1]), _pass(TEXTS)]
    for (loss, gradients), (loss_there, gradients_there), (wanted, all_gradients) in zip(
        found, same, alone, strict=True
    ):
        assert loss == loss_there == pytest.approx(wanted, rel=1e-5)
        for name, values in gradients.items():
            assert torch.equal(values, gradients_there[name])
            assert torch.allclose(values, all_gradients[name], atol=1e-6), name
    # Memory ran out on the first rank alone; both cut their rows to the longest text's 41 tokens.
    assert passed[-2:] == [41, 10]
    assert other[-3:] == [50, 37, 13]


def _stop(rank, config, place):
    """Whether the first rank had handed its checkpoint over when this one heard that it was stopped."""
    own, handed, stops = place / f"rank-{rank}", place / "handed", iter([False, True])
    own.mkdir()

    def hand_over(checkpoint):
        time.sleep(0.3)
        handed.write_text(checkpoint.name)

    with pytest.raises(StoppedError, match="after step 1 of"):
        train_adapter(
            config,
            PAIRS,
            own,
            previous=None,
            round=1,
            on_step=lambda *step: None,
            is_stopping=lambda: next(stops),
            on_checkpoint=hand_over,
        )
    return handed.read_text() if handed.exists() else None


def test_no_rank_ends_before_the_checkpoint_of_a_stop_is_handed_over(folder, tmp_path):  # noqa: F811
    assert on_two_ranks(tmp_path, _stop, configure(folder, epochs=2), tmp_path) == ["checkpoint-1"] * 2


def _train(rank, config, place):
    steps, own = [], place / f"rank-{rank}"
    own.mkdir(exist_ok=True)
    metrics = train_adapter(
        config,
        PAIRS,
        own,
        previous=None,
        round=1,
        on_step=lambda *step: steps.append(step),
        is_stopping=lambda: False,
    )
    return metrics, steps, [path.name for path in own.glob("checkpoint-*")], weights(own / "adapter")


def _break_off(rank, config, place):
    """What a training comes to here, undisturbed and from the first rank's checkpoint after a stop."""
    whole = _train(rank, config, place / "whole")[-1]
    own, stops = place / f"rank-{rank}", iter([False, True])
    own.mkdir()
    call = {"previous": None, "round": 1, "on_step": lambda *step: None}
    with pytest.raises(StoppedError):
        train_adapter(config, PAIRS, own, **call, is_stopping=lambda: next(stops))
    dist.barrier()
    if rank == 1:
        shutil.copytree(place / "rank-0", own, dirs_exist_ok=True)
    return whole, _train(rank, config, place)[-1]


@pytest.mark.slow
def test_two_ranks_that_are_broken_off_give_the_same_bits(folder, tmp_path):  # noqa: F811
    (tmp_path / "whole").mkdir()
    for whole, resumed in on_two_ranks(
        tmp_path, _break_off, configure(folder, epochs=2, dropout=0.1), tmp_path
    ):
        for name, values in whole.items():
            assert torch.equal(values, resumed[name]), name


@pytest.mark.slow
def test_two_ranks_train_as_one(folder, tmp_path):  # noqa: F811
    config = configure(folder, epochs=2)
    (metrics, steps, saved, trained), (_, others, unsaved, same) = on_two_ranks(
        tmp_path, _train, config, tmp_path
    )
    alone, wanted, _, adapter = _train(2, config, tmp_path)
    assert metrics["tokens"] == alone["tokens"]
    assert steps == others
    assert [step[2] for step in steps] == pytest.approx([step[2] for step in wanted], rel=1e-5)
    assert len(saved) == 2
    assert unsaved == []
    for name, values in trained.items():
        assert torch.equal(values, same[name])
        assert torch.allclose(values, adapter[name], atol=1e-5), name
