"""The way to a Ray cluster: connecting, hearing of its loss, and whether its software is this machine's."""

import importlib.metadata
import logging
import os
import platform
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from reflectune.agents.cluster.room import Asked, Waiting
from reflectune.agents.listener import Listener
from reflectune.state.config import ScaleConfig
from reflectune.state.errors import ConfigError

# Before ray is imported: what runs where is nobody else's business.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Ray would end this process by itself a minute after its head is gone; we do, and say so.
os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(24 * 3600))
try:
    import ray
    from ray._private import worker as _ray_worker
except ImportError as error:
    raise ConfigError('scale.engine = "ray" needs Ray; `pip install "reflectune[ray]"`') from error

# Of a worker's death Ray tells on stdout, where our documents go. Pools tell it by themselves.
_ray_worker.print_to_stdstream = lambda data, ignore_prefix=False: None

__all__ = ["Connection", "connect", "last_line", "own_versions", "refuse_other_versions"]

_KNOCK_SECONDS = 10.0
_LOOK = 1.0  # seconds
_LIBRARIES = ("reflectune", "torch", "transformers", "peft")  # which scores and training depend on


class Connection:
    """A driver's hold on a cluster."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def wait_for(self, asked: Asked) -> Waiting:
        """Begin to wait for workers."""
        return Waiting(asked, self._listener)

    def get(self, reference: Any, look: Callable[[], None] = lambda: None) -> Any:
        """What a reference comes to. Signals are heard meanwhile, which they are not in Ray's own waiting.

        `look` is called every second.
        """
        future = reference.future()
        while not wait([future], _LOOK).done:
            look()
        return future.result()


@contextmanager
def connect(scale: ScaleConfig, listener: Listener = Listener()) -> Iterator[Connection]:  # noqa: B008
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
    own = ray.get_runtime_context().get_node_id()
    (node,) = (node for node in ray.nodes() if node["NodeID"] == own)
    place = node["NodeManagerAddress"], node["NodeManagerPort"]
    ended = threading.Event()

    def watch() -> None:
        _wait_for_end(place, ended)
        if not ended.is_set():
            why = "its head is gone or was started anew, or Ray has ended on this node"
            listener.leave(f"the Ray cluster {where} is lost: {why}; start the cluster again")

    threading.Thread(target=watch, name="cluster", daemon=True).start()
    try:
        yield Connection(listener)
    finally:
        ended.set()
        ray.shutdown()


def _wait_for_end(place: tuple[str, int], ended: threading.Event) -> None:
    """Return when Ray ends on this node: within a minute of its head's end, or when that was started anew."""
    with suppress(OSError):  # it takes no connection any more
        while not ended.is_set():
            with socket.create_connection(place, _KNOCK_SECONDS) as held:
                held.settimeout(None)
                while held.recv(4096):  # it also ends a connection that is idle for minutes
                    pass


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
