"""The files that one name stands for: a file, a folder of shards, or a pattern."""

import glob
import os
import re
from pathlib import Path

from reflectune.state.errors import DatasetError
from reflectune.state.text import shorten

__all__ = ["find_files"]

# What lies beside data: notes, licences, descriptions, scripts, checksums; hidden files and Spark's marks.
# A file called like notes is data if its name ends as data does: license-qa.jsonl.
_BESIDE = re.compile(
    r"[._].*"
    r"|(readme|licen[cs]e|notice|changelog|citation|contributing)\b(?!.*\.(jsonl?|csv|tsv|parquet|arrow)(\.\w+)?$).*"
    r"|(dataset_infos?|dataset_dict|state|metadata|config|schema)\.json"
    r"|.*\.(md|rst|cff|bib|ya?ml|toml|py|ipynb|sh|html?|pdf|png|jpe?g|lock|log|crc|md5|sha\d+|sum|tmp|bak)",
    re.IGNORECASE,
)
_SPLIT = re.compile(r"(?:^|[-_.])(train|test|valid|val|dev|eval)(?:idation)?(?=[-_.\d]|$)", re.IGNORECASE)


def find_files(path: Path) -> dict[Path, str]:
    """The files behind a path, in the order of their names, with what messages say before a row's place.

    Of a folder these are the files directly in it, without what lies beside data (hidden files, README,
    licence, dataset_infos.json and the like); of a pattern all files that it matches.

    Raises:
        DatasetError: a folder or pattern without data files, or a folder of several splits.
        OSError: the folder cannot be read.
    """
    if path.is_dir():
        found = sorted(path.iterdir())
        files = [each for each in found if not each.is_dir() and not _BESIDE.fullmatch(each.name)]
    elif not path.exists() and glob.has_magic(str(path)):
        found = sorted(map(Path, glob.glob(str(path), recursive=True)))
        files = [each for each in found if not each.is_dir()]
    else:
        return {path: ""}
    if not files:
        raise DatasetError(f"{path}: {_nothing(path, found)}")
    splits = sorted({match[1].lower() for file in files if (match := _SPLIT.search(file.name))})
    if path.is_dir() and len(splits) > 1:
        one = "train" if "train" in splits else splits[-1]
        raise DatasetError(
            f"{path}: its files are of several splits ({', '.join(splits)}); "
            f'give the files of one, as "{path}/*{one}*" or another pattern'
        )
    root = os.path.commonpath([file.parent for file in files])
    return {file: f"{os.path.relpath(file, root)}, " for file in files}


def _nothing(path: Path, found: list[Path]) -> str:
    if not path.is_dir():
        return "no file of data matches this pattern"
    folders = [each.name for each in found if each.is_dir() and not each.name.startswith(".")]
    if folders:
        names = shorten(", ".join(folders))
        return f"a folder without files of data, but with folders ({names}); give one of them, or a pattern"
    others = shorten(", ".join(each.name for each in found))
    return f"a folder without files of data (it holds: {others or 'nothing'})"
