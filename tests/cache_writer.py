"""One of many processes that make and fill a cache of answers at once. Imports no more than that needs."""

from pathlib import Path
from typing import Any

from reflectune.state.cache import AnswerCache
from reflectune.state.records import Answer


def write_many(runs: str, own: int, barrier: Any) -> None:
    barrier.wait()
    with AnswerCache.open(Path(runs)) as cache:
        for number in range(100):
            cache.put(f"shared {number}", "m", Answer("0", text=str(own)))
            cache.put(f"{own} {number}", "m", Answer("0", text="own"))
