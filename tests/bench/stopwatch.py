"""Where the time of a run goes, by part: every instant counts for the innermost part under way.

Functions are timed from outside, for the length of a block; what it times knows nothing of it.
"""

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["Part", "stopwatch"]

Part = tuple[Any, str, str]  # owner, name of its function, what to call the part


@contextmanager
def stopwatch(parts: Sequence[Part], rest: str) -> Iterator[dict[str, float]]:
    """Seconds by part while the block runs; `rest` is what no part claims.

    Parts whose owner has no such function are left out. Only the thread of the block counts: what others
    do meanwhile shows as the time it is waited for.
    """
    seconds: dict[str, float] = {}
    under_way = [rest]
    thread = threading.get_ident()
    mark = time.perf_counter()

    def switch() -> None:
        nonlocal mark
        now = time.perf_counter()
        seconds[under_way[-1]] = seconds.get(under_way[-1], 0.0) + now - mark
        mark = now

    def timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return function(*args, **kwargs)
            switch()
            under_way.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                switch()
                under_way.pop()

        return run

    present = [(owner, name, part) for owner, name, part in parts if hasattr(owner, name)]
    own = [vars(owner).get(name) for owner, name, _ in present]  # None: inherited, or an instance's class's
    for owner, name, part in present:
        setattr(owner, name, timed(getattr(owner, name), part))
    try:
        yield seconds
    finally:
        switch()
        for (owner, name, _), function in zip(present, own, strict=True):
            if function is None:
                delattr(owner, name)
            else:
                setattr(owner, name, function)
