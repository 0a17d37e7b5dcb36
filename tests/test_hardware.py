import os
import time

import pytest
import torch

from reflectune.agents import hardware
from reflectune.agents.hardware import (
    fastest_count,
    measure_threads,
    prefers_bfloat16,
    visible_cpus,
    visible_gpus,
)
from reflectune.loop.cli import main

pytestmark = pytest.mark.alone


@pytest.mark.parametrize(
    ("seconds", "threads"),
    [
        ({1: 0.9}, 1),
        ({1: 1.0, 2: 0.5, 4: 0.3}, 4),
        ({1: 1.0, 2: 0.5, 4: 0.46}, 2),  # 0.5 <= 1.1 * 0.46: not worth two threads more
        ({1: 1.0, 2: 0.5, 4: 0.45}, 4),  # 0.5 > 1.1 * 0.45
        ({1: 1.0, 2: 0.5, 4: 15.0}, 2),
    ],
)
def test_fastest_count_takes_no_threads_that_gain_nothing(seconds, threads):
    assert fastest_count(seconds) == threads


@pytest.mark.parametrize(("visible", "tried"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_measure_threads_tries_doubling_counts_up_to_all_visible(monkeypatch, visible, tried):
    asked = []

    def seconds(dtype, threads):
        asked.append(threads)
        return 1.0 / threads

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(visible)), raising=False)
    monkeypatch.setattr(hardware, "_matmul_seconds", seconds)
    assert measure_threads.__wrapped__() == visible
    assert asked == tried


@pytest.mark.parametrize(("bfloat16", "preferred"), [(0.7, True), (0.8, False), (2.0, False)])
def test_bfloat16_is_preferred_where_it_is_faster_by_a_third(monkeypatch, bfloat16, preferred):
    # 1 / 0.7 = 1.43 and 1 / 0.8 = 1.25, either side of 1.3
    seconds = {torch.float32: 1.0, torch.bfloat16: bfloat16}
    monkeypatch.setattr(hardware, "_matmul_seconds", lambda dtype, threads: seconds[dtype])
    assert prefers_bfloat16.__wrapped__() is preferred


def test_measuring_is_short_and_leaves_torch_as_it_was():
    torch.set_num_threads(2)
    start = time.process_time()
    assert 1 <= measure_threads.__wrapped__() <= visible_cpus()
    assert time.process_time() - start < 0.5 * visible_cpus()
    assert prefers_bfloat16.__wrapped__() in (True, False)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("given", "taken"), [(None, "2500"), ("7", "7")])
def test_command_has_threads_spin_briefly_unless_told_otherwise(monkeypatch, given, taken):
    monkeypatch.setenv("GOMP_SPINCOUNT", given or "")
    if given is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setattr("sys.argv", ["reflectune", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert os.environ["GOMP_SPINCOUNT"] == taken


def test_visible_gpus_are_those_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for named, found in {"0,3": ["0", "3"], "": [], "GPU-5c": ["GPU-5c"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert visible_gpus() == found
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert visible_gpus() == ["0", "1"]
