"""Which machines a config names."""

from reflectune.agents.machines import say_one_of_each
from reflectune.state.config import ScaleConfig


def test_one_machine_has_one_of_each_and_says_so_where_more_are_asked_for() -> None:
    said: list[str] = []
    for scale in ({}, {"students": 4, "trainers": 2}, {"students": 4, "engine": "ray"}):
        say_one_of_each(ScaleConfig.model_validate(scale), said.append)
    assert said == [
        'scale.students = 4 and scale.trainers = 2: here is one of each; more need scale.engine = "ray"'
    ]
