"""What all tests share: one thread for each worker, and worlds with runs that have been made once."""

import atexit
import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported: tests run one beside the other, and tiny models gain nothing from more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# In GiB: vLLM fills all that it is given with zeros, which takes longer than tiny models need to answer.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


def pytest_configure() -> None:
    """Workers beside one another keep to their shares of the processors, with all that they start.

    More threads than processors make tiny models many times slower. How long one example of a test takes says
    nothing on a busy machine.
    """
    settings.register_profile("busy", deadline=None)
    settings.load_profile("busy")
    if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
        number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
        count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        visible = sorted(os.sched_getaffinity(0))
        share = visible[number * len(visible) // count : (number + 1) * len(visible) // count]
        os.sched_setaffinity(0, share or visible)


@pytest.hookimpl(trylast=True)  # once those are gone that are not to be run
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """vLLM, whose tests take longest, goes first: in the end no worker waits for the other.

    Tests on clusters, which wait most of their time, begin the part of the second of three workers.
    """
    items.sort(key=lambda item: "test_vllm" not in item.nodeid)
    apart = [item for item in items if "test_cluster" in item.nodeid]
    rest = [item for item in items if item not in apart]
    items[:] = [*rest[: len(items) // 3], *apart, *rest[len(items) // 3 :]]


def pytest_collection_finish() -> None:
    """No garbage collection need walk the modules and tests again, which stay to the end."""
    gc.freeze()
    atexit.register(gc.unfreeze)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Compute with one thread, whatever the test before has set."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def finished_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of 40 samples, 6 of them held out, with a finished run "tiny" of two rounds. Only to be read:
    whoever changes anything takes a `copy_world`."""
    from tests.worlds import reflectune, write_world

    folder = tmp_path_factory.mktemp("finished")
    write_world(folder)
    result = reflectune("run", "config.toml", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder
