"""Groups computed while others are prepared and committed."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack

import pytest

from reflectune.agents.pool import LocalPool
from reflectune.loop.pipeline import completed, compute_groups

SECONDS = 10.0  # to wait at most for another thread


class Steps:
    """Groups that are numbers, and what became of them in order; whatever computes may be held up."""

    def __init__(self, number):
        self.groups, self.said, self.lock = range(number), [], threading.Lock()
        self.reached = {name: threading.Event() for name in ("began 1", "began 2", "committed 0")}
        self.held = {}  # group -> what has to be reached before it is computed

    def say(self, text):
        with self.lock:
            self.said.append(text)
        if text in self.reached:
            self.reached[text].set()

    def begin(self, group):
        assert threading.current_thread() is threading.main_thread()
        self.say(f"began {group}")
        return self.threads.submit(self.compute, group)

    def compute(self, group):
        for name in self.held.get(group, ()):
            assert self.reached[name].wait(SECONDS), f"{name} was not reached meanwhile"
        self.say(f"computed {group}")
        return group

    def commit(self, group):
        assert threading.current_thread() is threading.main_thread()
        self.say(f"committed {group}")

    def run(self, at_once=2, **options):
        with ThreadPoolExecutor(at_once) as self.threads:
            compute_groups(self.groups, self.begin, self.commit, at_once, **options)
        return self.said

    def committed(self):
        return [text for text in self.said if text.startswith("committed")]


def test_the_next_group_is_begun_and_the_last_committed_while_one_is_computed():
    steps = Steps(3)
    steps.held = {0: ["began 1"], 1: ["committed 0", "began 2"]}
    assert steps.run()[:2] == ["began 0", "began 1"]
    assert steps.committed() == ["committed 0", "committed 1", "committed 2"]


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_no_more_than_so_many_groups_are_under_way_and_all_are_committed_in_order(at_once):
    steps = Steps(50)
    said = steps.run(at_once)
    for group in range(at_once, 50):
        assert said.index(f"began {group}") > said.index(f"committed {group - at_once}")
    assert steps.committed() == [f"committed {group}" for group in range(50)]
    assert Steps(0).run() == []


def test_a_group_that_is_computed_before_others_waits_for_them():
    steps = Steps(3)
    steps.reached["computed 1"] = threading.Event()
    steps.held = {0: ["computed 1"]}
    steps.run(3)
    assert steps.committed() == ["committed 0", "committed 1", "committed 2"]


@pytest.mark.parametrize("step", ["begin", "compute", "commit"])
def test_what_a_step_raises_ends_it_with_the_groups_before_committed(step, monkeypatch):
    steps = Steps(9)
    whole = getattr(steps, step)

    def fail(group):
        if group == 3:
            raise OSError("no space is left")
        return whole(group)

    monkeypatch.setattr(steps, step, fail)
    with pytest.raises(OSError, match="no space is left"):
        steps.run()
    assert steps.committed() == [f"committed {group}" for group in range(3)]
    assert "began 6" not in steps.said


def test_asked_to_stop_it_commits_what_is_under_way_and_begins_nothing():
    steps = Steps(9)
    steps.run(is_stopping=lambda: "computed 3" in steps.said)
    assert steps.committed()[-1] in ("committed 3", "committed 4", "committed 5")
    computed = [text for text in steps.said if text.startswith("computed")]
    assert len(computed) == len(steps.committed())


def test_a_group_that_nobody_need_compute_is_committed_in_its_place():
    said = []
    compute_groups(range(3), completed, said.append, at_once=2)
    assert said == [0, 1, 2]


def test_a_pool_tells_what_its_student_does():
    begun, going_on = threading.Semaphore(0), threading.Event()

    def job(student):
        begun.release()
        assert going_on.wait(SECONDS)

    with LocalPool(ExitStack) as pool:
        assert pool.workers() == ()  # nobody is there before the first job
        jobs = [pool.submit(job) for _ in range(3)]
        assert begun.acquire(timeout=SECONDS)
        assert begun.acquire(timeout=SECONDS)
        (at_work,) = pool.workers()
        going_on.set()
        wait(jobs)
        (done,) = pool.workers()
    assert (at_work.under_way, at_work.queued, at_work.done) == (2, 1, 0)
    assert (done.under_way, done.queued, done.done) == (0, 0, 3)
    assert done.node == socket.gethostname()
    assert done.memory_bytes > 1e6
