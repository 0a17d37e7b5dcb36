"""Groups computed while others are prepared and committed."""

import threading

import pytest

from reflectune.loop.pipeline import compute_groups

SECONDS = 10.0  # to wait at most for another thread


class Steps:
    """Groups that are numbers, and what became of them in order; whatever computes may be held up."""

    def __init__(self, number):
        self.groups, self.said, self.lock = range(number), [], threading.Lock()
        self.reached = {name: threading.Event() for name in ("prepared 1", "committed 0")}
        self.held = {}  # group -> what has to be reached before it is computed

    def say(self, text):
        with self.lock:
            self.said.append(text)
        if text in self.reached:
            self.reached[text].set()

    def prepare(self, group):
        assert threading.current_thread() is threading.main_thread()
        self.say(f"prepared {group}")
        return group

    def compute(self, group):
        assert threading.current_thread() is not threading.main_thread()
        for name in self.held.get(group, ()):
            assert self.reached[name].wait(SECONDS), f"{name} was not reached meanwhile"
        self.say(f"computed {group}")
        return group

    def commit(self, group):
        assert threading.current_thread() is threading.main_thread()
        self.say(f"committed {group}")

    def run(self, **options):
        compute_groups(self.groups, self.prepare, self.compute, self.commit, **options)
        return self.said

    def committed(self):
        return [text for text in self.said if text.startswith("committed")]


def test_the_next_group_is_prepared_and_the_last_committed_while_one_is_computed():
    steps = Steps(2)
    steps.held = {0: ["prepared 1"], 1: ["committed 0"]}
    assert steps.run() == [
        "prepared 0",
        "prepared 1",
        "computed 0",
        "committed 0",
        "computed 1",
        "committed 1",
    ]


def test_at_most_one_group_is_ahead_and_all_are_committed_in_order():
    steps = Steps(50)
    said = steps.run()
    for group in range(2, 50):
        assert said.index(f"prepared {group}") > said.index(f"computed {group - 2}")
    assert steps.committed() == [f"committed {group}" for group in range(50)]
    assert Steps(0).run() == []


@pytest.mark.parametrize("step", ["prepare", "compute", "commit"])
def test_what_a_step_raises_ends_it_at_once_and_leaves_no_thread(step, monkeypatch):
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
    assert "prepared 6" not in steps.said
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("compute")] == []


def test_asked_to_stop_it_commits_what_is_in_flight_and_begins_nothing():
    steps = Steps(9)
    steps.run(is_stopping=lambda: "computed 3" in steps.said)
    assert steps.committed()[-1] in ("committed 3", "committed 4")
    computed = [text for text in steps.said if text.startswith("computed")]
    assert len(computed) == len(steps.committed())
