"""The way to a Ray cluster: connecting, what it has room for, and whether its software is this machine's."""

import importlib.metadata
import logging
import math
import os
import platform
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from uuid import uuid4

from reflectune.state.config import ScaleConfig
from reflectune.state.errors import ConfigError

# Before ray is imported: what runs where is nobody else's business.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
try:
    import ray
    from ray._private import worker as _ray_worker
except ImportError as error:
    raise ConfigError('scale.engine = "ray" needs Ray; `pip install "reflectune[ray]"`') from error

# Of a worker's death Ray tells on stdout, where our documents go. Pools tell it by themselves.
_ray_worker.print_to_stdstream = lambda data, ignore_prefix=False: None

__all__ = ["connect", "gpus_each", "last_line", "own_versions", "refuse_lack", "refuse_other_versions"]

_KNOCK_SECONDS = 10.0
_LIBRARIES = ("reflectune", "torch", "transformers", "peft")  # which scores and training depend on


@contextmanager
def connect(scale: ScaleConfig) -> Iterator[None]:
    """Be a driver of a cluster while the block runs; what it has left there is gone afterwards.

    Takes the cluster at `scale.address`, else at RAY_ADDRESS, else one that runs on this machine, else it
    starts one on this machine alone, without a dashboard.

    Raises:
        ConfigError: the cluster cannot be reached, or runs other versions of Ray or Python.
    """
    address = scale.address or os.environ.get("RAY_ADDRESS")
    where = address or "on this machine"
    if address and address.startswith("ray://"):
        raise ConfigError(
            f"scale.address = {address}: a run cannot be a client of Ray; start it on a node of the "
            "cluster, or by `ray job submit`, with an address such as HOST:6379"
        )
    logging.getLogger("ray").setLevel(logging.ERROR)  # its lines would break into our own display
    try:
        _knock(address)
        with _own_signals():
            ray.init(
                address=address,
                namespace=f"reflectune-{uuid4().hex}",
                include_dashboard=False,
                configure_logging=False,
                log_to_driver=False,
            )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        ray.shutdown()
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"the Ray cluster {where} cannot be used: {reason}; see scale.address, and `ray status` there"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise an OSError where nobody listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), _KNOCK_SECONDS).close()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def gpus_each(asked: float | None, unset: float = 1) -> float:
    """GPUs that a worker asks for: as many as the config says, else `unset` where the cluster has any."""
    return asked if asked is not None else unset if ray.cluster_resources().get("GPU") else 0


def refuse_lack(key: str, number: int, *, gpus: float, cpus: float) -> None:
    """Raise a ConfigError where the cluster has no room for so many workers, even with nobody else there."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needed = {name: share for name, share in (("GPU", gpus), ("CPU", cpus)) if share}
    # In floating point 1 / 0.1 is a little less than 10.
    rooms = (
        min(math.floor(node.get(name, 0) / share + 1e-9) for name, share in needed.items()) for node in nodes
    )
    room = sum(rooms) if needed else number
    if room >= number:
        return
    each = " and ".join(f"{share:g} {name}" for name, share in needed.items())
    there = " and ".join(f"{sum(node.get(name, 0) for node in nodes):g} {name}" for name in needed)
    raise ConfigError(
        f"scale.{key} = {number} with {each} each: the cluster has {there} on {len(nodes)} nodes, room for "
        f"{room:g}; lower scale.{key} or what each asks for, or add nodes"
    )


def last_line(error: BaseException) -> str:
    """What an error of Ray's comes to: the end of a text that may be a whole traceback."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()


def own_versions() -> dict[str, str]:
    """Versions of what scores and training depend on, by its name; builds for a device count as one."""
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in _LIBRARIES}
    return {"python": platform.python_version().rpartition(".")[0]} | versions


def refuse_other_versions(drivers: Mapping[str, str]) -> None:
    """Raise a ConfigError on a node whose versions are not those of the driver."""
    for name, found in own_versions().items():
        if found != drivers[name]:
            raise ConfigError(
                f"{platform.node()} has {name} {found}, and the run was started with {drivers[name]}; "
                "install the same on every node"
            )
