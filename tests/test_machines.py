"""Which machines a config names."""

from pathlib import Path

from reflectune.agents.machines import Listener, LocalMachines, open_machines
from reflectune.state.config import load_config
from tests.worlds import write_world


def test_one_machine_has_one_of_each_and_says_so_where_more_are_asked_for(tmp_path: Path) -> None:
    said: list[str] = []
    for scale in ({}, {"students": 4, "trainers": 2}):
        config = load_config(write_world(tmp_path, scale=scale))
        assert isinstance(open_machines(config, Listener(said.append)), LocalMachines)
    assert said == [
        'scale.students = 4 and scale.trainers = 2: here is one of each; more need scale.engine = "ray"'
    ]
