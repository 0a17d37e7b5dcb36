"""Folders of trained adapters: their hash, their check, and how a finished one gets into its place.

A finished adapter holds a note of the training that it is of, and appears whole or not at all.
"""

import json
import os
import shutil
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from reflectune.state.errors import AdapterError
from reflectune.state.records import content_hash

__all__ = ["check_adapter", "claim", "finished_metrics", "hash_adapter", "publish"]

_FILES = ("adapter_model.safetensors", "adapter_config.json")
_METRICS = "metrics.json"
_ORIGIN = "origin.json"  # of which training a finished adapter is, and with which bytes
_FINGERPRINT = "fingerprint"
_REPLACED = "replaced"


def hash_adapter(folder: Path) -> str:
    """Hash of an adapter's weights and configuration, 32 hex digits; AdapterError where there are none."""
    try:
        return content_hash(*(sha256((folder / name).read_bytes()).hexdigest() for name in _FILES))
    except OSError as error:
        raise AdapterError(f"{folder}: not an adapter folder: {error}") from error


def check_adapter(folder: Path, trained: str, student: str) -> None:
    """Raise an AdapterError for a student's adapter whose hash is not the one it had when it was trained."""
    advice = "put it back from a copy, or start another run: scores under another student would not compare"
    try:
        found = hash_adapter(folder)
    except AdapterError as error:
        raise AdapterError(f"student {student}: {error}; {advice}") from error
    if found != trained:
        raise AdapterError(
            f"student {student}: {folder} is not the adapter that was trained, "
            f"its hash is {found} and was {trained}; {advice}"
        )


def finished_metrics(out: Path, fingerprint: str) -> dict[str, float] | None:
    """The metrics of a folder that is, byte for byte, what the training with this fingerprint ended with."""
    with suppress(OSError, AdapterError):  # something is missing, or cannot be read
        if (out / _ORIGIN).read_bytes() == _origin(out, fingerprint):
            return dict(json.loads((out / _METRICS).read_bytes()))
    return None


def claim(out: Path, partial: Path, fingerprint: str) -> None:
    """Make the folder of the work under way, or keep one that belongs to the same training.

    What stands where the adapter will goes: no student's yet, or the lineage would have it checked.
    """
    note = partial / _FINGERPRINT
    if not note.is_file() or note.read_bytes() != fingerprint.encode():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        note.write_bytes(fingerprint.encode())
    for name in ("adapter", _REPLACED):
        shutil.rmtree(partial / name, ignore_errors=True)
    if out.exists():
        out.rename(partial / _REPLACED)
        shutil.rmtree(partial / _REPLACED, ignore_errors=True)


def publish(adapter: Path, metrics: dict[str, float], fingerprint: str, out: Path) -> None:
    """Put the finished adapter in its place: all of it, on disk, or nothing."""
    (adapter / _METRICS).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    (adapter / _ORIGIN).write_bytes(_origin(adapter, fingerprint))
    for path in [*adapter.iterdir(), adapter]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    adapter.rename(out)


def _origin(adapter: Path, fingerprint: str) -> bytes:
    """The training that an adapter is of, with hashes of what it ended with, as JSON."""
    origin = {
        "fingerprint": fingerprint,
        "adapter_hash": hash_adapter(adapter),
        "metrics_hash": sha256((adapter / _METRICS).read_bytes()).hexdigest(),
    }
    return (json.dumps(origin, indent=1) + "\n").encode()
