"""Places on a cluster for workers of several kinds that are at work at once.

Ray places workers one by one, wherever there is room. So one that fits anywhere may take the only place that
fits another, which then waits for ever. Places that are taken together keep them apart.
"""

from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from reflectune.agents.cluster.room import Asked

__all__ = ["Places"]


class Places:
    """Places for all workers that are asked for, taken at once and held until they are given back."""

    def __init__(self, *asked: Asked) -> None:
        self._asked = asked
        self._group: PlacementGroup | None = None

    def take(self) -> None:
        """Have Ray hold the places once it has them all; those of a node that is lost it finds elsewhere."""
        if self._group is None and self._asked:
            self._group = ray.util.placement_group([dict(kind.each) for kind in self._kinds()])

    def find(self, key: str, number: int) -> Any:
        """Where Ray shall start a worker, by its kind and its number from 1; anywhere if no place is held."""
        if self._group is None:
            return "DEFAULT"
        before = [kind.key for kind in self._kinds()].index(key) - 1
        return PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=before + number)

    def give_back(self) -> None:
        """Hold the places no longer; only call with no worker in them."""
        if self._group is not None:
            ray.util.remove_placement_group(self._group)
            self._group = None

    def _kinds(self) -> list[Asked]:
        """What each place is for."""
        return [kind for kind in self._asked for _ in range(kind.number)]
