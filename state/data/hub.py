"""Rows of datasets of the Hugging Face hub, and of folders that are laid out like one."""

import os
from collections.abc import Iterator
from typing import Any

from reflectune.state.config import DataConfig
from reflectune.state.errors import DatasetError
from reflectune.state.text import shorten

__all__ = ["Hub"]


class Hub:
    """A split of a dataset; calling it gives its rows, from the first.

    A dataset is downloaded once, for it is read several times, and read from the disk. It is streamed
    instead where that takes less: a folder is there already, and `data.limit` wants a beginning only.
    """

    def __init__(self, data: DataConfig) -> None:
        import datasets

        subset = f", subset {data.subset}" if data.subset else ""
        self.name = f"data.hf = {data.hf}{subset}, split {data.split}"
        is_near = os.path.isdir(data.hf or "") or (data.limit and not datasets.config.HF_HUB_OFFLINE)
        is_whole = not set("[+") & set(data.split)  # a stream knows no "train[:10%]"
        try:
            self._rows: Any = datasets.load_dataset(
                data.hf, data.subset, split=data.split, streaming=bool(is_near and is_whole)
            )
        except Exception as error:
            raise self._unreadable(error) from error

    def __call__(self) -> Iterator[tuple[str, object]]:
        """The rows, with where they stand."""
        try:
            for index, row in enumerate(self._rows):
                yield f"index {index}", row
        except Exception as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DatasetError:
        why = shorten(f"{error}: {error.__cause__}" if error.__cause__ else error)
        match str(error):
            case text if "Config name is missing" in text:
                why += "; set data.subset to one of these"
            case text if "save_to_disk" in text:
                why = "was written by save_to_disk; set data.path to the folder with its .arrow files instead"
        return DatasetError(f"{self.name}: cannot be loaded: {why}")
