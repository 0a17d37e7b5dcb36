from itertools import count

import pytest

from reflectune.state.groups import in_groups


@pytest.mark.parametrize(
    ("number", "groups"),
    [(0, []), (1, [[0]]), (2, [[0, 1]]), (3, [[0, 1], [2]]), (4, [[0, 1], [2, 3]])],
)
def test_in_groups_keeps_the_order_and_has_no_empty_group(number: int, groups: list[list[int]]) -> None:
    assert list(in_groups(range(number), 2)) == groups


def test_in_groups_reads_no_further_than_the_group_asked_for() -> None:
    numbers = count()
    groups = in_groups(numbers, 3)
    assert next(groups) == [0, 1, 2]
    assert next(numbers) == 3
    assert next(groups) == [4, 5, 6]
