"""Items a group at a time: what is read, computed or written together."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

__all__ = ["in_groups"]

Item = TypeVar("Item")


def in_groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in their order, in lists of at most `size`; one list is read at a time."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
