"""A run's samples, indexed for search: found by words, outcome and change, whatever the run's size.

The index is a file of its own beside the lineage, derived from it and brought up to date by whoever asks;
delete it at will. The lineage itself is only read.
"""

import hashlib
import json
import os
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

from sqlite_utils.db import Database

from reflectune.state.folder import RunFolder
from reflectune.state.lineage.connection import open_database
from reflectune.state.lineage.documents import FoundPhase, FoundSample, RoundDocument
from reflectune.state.lineage.indexing import SHIFT, prepare_index, update_index
from reflectune.state.records import PHASES, Outcome, Phase
from reflectune.state.storage import OpenDatabase, explain_storage_errors

__all__ = ["SORTS", "SampleIndex", "SampleQuery", "SortKey"]

SortKey = Literal["position", "ifd_change", "r_ifd_change", "length_growth"]
SORTS: tuple[SortKey, ...] = get_args(SortKey)

# From so many letters on a word is also found by its beginning.
_BEGINNING_OF_WORD = 3
# Characters of an instruction that a row shows.
_BEGINNING = 200


@dataclass(frozen=True, slots=True)
class SampleQuery:
    """Which samples, in which rounds. Every condition that is set must hold.

    A change is the proposal's value minus the incumbent's, under the student that decided; length growth is
    the response's characters after the round per character of the given response.
    """

    # Words that one version of the sample holds, the given one with its context and its record's ids; from
    # three letters on, that begin words.
    text: str = ""
    most_matches: int | None = None  # look at the first so many samples that hold the text; None: at all
    position: int | None = None
    round: int | None = None
    phase: Phase | None = None  # where the outcome was; None: in either
    outcome: Outcome | None = None
    min_ifd_change: float | None = None
    max_ifd_change: float | None = None
    min_r_ifd_change: float | None = None
    max_r_ifd_change: float | None = None
    min_length_growth: float | None = None
    max_length_growth: float | None = None
    trained: bool | None = None  # whether a version of it was in the round's training set
    sort: SortKey = "position"  # what has no such value is left out
    descending: bool = False
    limit: int = 50
    offset: int = 0


class SampleIndex(OpenDatabase):
    """Finds samples of one run; use it in one thread.

    `before` and `after` are the incumbent's and the proposal's IFD (instruction) or r-IFD (response).
    Round 0 is the given data, held-out samples too.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._matched: tuple[str, int | None] | None = None  # whose samples temp.matches holds
        self._is_cut = False  # whether more than those hold the text

    @classmethod
    def open(cls, folder: RunFolder) -> Self:
        """Open a run's index, and make an empty one where there is none."""
        database = open_database(folder.lineage, read_only=True)
        database.conn.isolation_level = None  # transactions begin and end where it says so here
        try:
            with explain_storage_errors(folder.index, "try again", "delete it: it is made anew"):
                path = _find_place(folder)
                database.execute("ATTACH ? AS found", [f"{path.as_uri()}?mode=rwc"])
                database.execute("PRAGMA found.journal_mode = WAL")
                database.execute("PRAGMA found.synchronous = NORMAL")
                database.execute("PRAGMA busy_timeout = 60000")
                prepare_index(database)
        except BaseException:
            database.close()
            raise
        return cls(database)

    def update(self) -> None:
        """Take in what the lineage has gained. Commits as it goes."""
        self._matched = None
        update_index(self.db)

    def find(self, query: SampleQuery) -> list[FoundSample]:
        """The rows that a query asks for, in its order; equal ones by position and round."""
        source, params = self._select(query)
        order = "DESC" if query.descending else "ASC"
        keys = dict.fromkeys((query.sort, "position", "round"))
        sort = ", ".join(f"steps.{key} {order}" for key in keys)
        rows = self.db.query(
            f"""
            -- Found in an index alone, and only then read.
            WITH page AS MATERIALIZED (
                SELECT steps.position, steps.round FROM {source} ORDER BY {sort} LIMIT :limit OFFSET :offset)
            SELECT steps.*, samples.id AS sample, substr(versions.instruction, 1, {_BEGINNING}) AS text
            FROM page CROSS JOIN found.steps AS steps USING (position, round)
            JOIN samples ON samples.position = steps.position
            JOIN versions ON versions.rowid = steps.version
            ORDER BY {sort}
            """,
            params,
        )
        return [_found(row) for row in rows]

    def count(self, query: SampleQuery, at_most: int = 10_000) -> int:
        """How many rows a query has, counted no further than `at_most`."""
        source, params = self._select(query, sorts=False)
        row = self.db.execute(
            f"SELECT COUNT(*) FROM (SELECT 1 FROM {source} LIMIT :at_most)", {**params, "at_most": at_most}
        ).fetchone()
        return int(row[0])

    def is_cut(self, query: SampleQuery) -> bool:
        """Whether more samples than `most_matches` hold the text, so that the others were not looked at."""
        if not query.text:
            return False
        self._match(query.text, query.most_matches)
        return self._is_cut

    def known(self) -> frozenset[str]:
        """The changes that any row has: a policy that compares something else leaves some unknown."""
        query = "SELECT 1 FROM found.steps WHERE {} IS NOT NULL LIMIT 1"
        return frozenset(name for name in SORTS[1:] if self.db.execute(query.format(name)).fetchone())

    def outcomes(self) -> dict[tuple[int, str], dict[str, int]]:
        """`LineageReader.count_outcomes` of each round and phase, as of the last update."""
        rows = self.db.execute("SELECT round, outcomes FROM found.rounds").fetchall()
        return {(round, phase): counts for round, text in rows for phase, counts in json.loads(text).items()}

    def rounds(self) -> list[RoundDocument]:
        """The documents of `LineageReader.rounds`, as of the last update."""
        rows = self.db.execute("SELECT document FROM found.rounds ORDER BY round").fetchall()
        return [json.loads(row[0]) for row in rows]

    def _select(self, query: SampleQuery, *, sorts: bool = True) -> tuple[str, dict[str, Any]]:
        """FROM and WHERE of a query, with their parameters; rows come in its order if that is asked for."""
        if query.text:
            self._match(query.text, query.most_matches)
            source = f"temp.matches CROSS JOIN {_steps('position')} ON steps.position = matches.position"
        elif query.position is None and query.round is not None and not (sorts and query.sort != "position"):
            source = _steps("round")
        else:
            source = _steps("position" if query.position is not None else query.sort)
        params = asdict(query)
        conditions = ["1"]
        conditions += [
            f"steps.{name} = :{name}" for name in ("position", "round", "trained") if params[name] is not None
        ]
        conditions += [
            f"steps.{name} {sign} :{bound}_{name}"
            for name in ("ifd_change", "r_ifd_change", "length_growth")
            for bound, sign in (("min", ">="), ("max", "<="))
            if params[f"{bound}_{name}"] is not None
        ]
        if query.sort != "position":
            conditions.append(f"steps.{query.sort} IS NOT NULL")
        if query.outcome:
            phases = [query.phase] if query.phase else PHASES
            conditions.append(f":outcome IN ({', '.join(f'steps.{phase}_outcome' for phase in phases)})")
        elif query.phase:
            conditions.append(f"steps.{query.phase}_outcome IS NOT NULL")
        return f"{source} WHERE {' AND '.join(conditions)}", params

    def _match(self, text: str, most: int | None) -> None:
        """Put the positions of samples that hold a text into temp.matches, where they are not yet."""
        if self._matched == (text, most):
            return
        self.db.execute("CREATE TEMP TABLE IF NOT EXISTS matches (position INTEGER PRIMARY KEY)")
        words = _words(text)
        whole = [f'"{word}"' for word in words]
        beginnings = [f'"{word}"' + "*" * (len(word) >= _BEGINNING_OF_WORD) for word in words]
        # A beginning takes long where it has many matches: words themselves do not.
        self._is_cut = most is not None and self._fill_matches(whole, most)
        if not self._is_cut:
            self._is_cut = self._fill_matches(beginnings, most)
        self._matched = (text, most)

    def _fill_matches(self, terms: list[str], most: int | None) -> bool:
        """Put samples that hold all terms into temp.matches; True where there are more than `most`."""
        self.db.execute("DELETE FROM temp.matches")
        if not terms:
            return False
        found = self.db.execute(
            f"INSERT INTO temp.matches SELECT DISTINCT rowid >> {SHIFT} FROM found.texts "
            "WHERE texts MATCH ? LIMIT ?",
            [" ".join(terms), -1 if most is None else most + 1],
        ).rowcount
        if most is None or found <= most:
            return False
        self.db.execute("DELETE FROM temp.matches WHERE position = (SELECT MAX(position) FROM matches)")
        return True


def _find_place(folder: RunFolder) -> Path:
    """Where a run's index lies: in its folder, or in the user's cache where that cannot be written."""
    if os.access(folder.path, os.W_OK):
        return folder.index.absolute()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reflectune"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = hashlib.sha256(os.fsencode(folder.path.resolve())).hexdigest()[:32]
    return (cache / f"{name}.db").absolute()


def _steps(index: str) -> str:
    """Rows in the order of an index, which has every column that conditions are about.

    Left to itself SQLite takes the index of some condition, and sorts what may be all rows.
    """
    return f"found.steps AS steps INDEXED BY steps_{index}"


def _words(text: str) -> list[str]:
    """The words of a text as the full-text index takes them apart."""
    text = unicodedata.normalize("NFC", text)
    letters = (char if unicodedata.category(char)[0] in "LN" else " " for char in text)
    return "".join(letters).split()


def _found(row: Mapping[str, Any]) -> FoundSample:
    return {
        "sample": row["sample"],
        "position": row["position"],
        "split": row["split"],
        "round": row["round"],
        "instruction": _found_phase(row, "instruction", "ifd"),
        "response": _found_phase(row, "response", "r_ifd"),
        "length_growth": row["length_growth"],
        "trained": None if row["trained"] is None else bool(row["trained"]),
        "text": row["text"],
    }


def _found_phase(row: Mapping[str, Any], phase: Phase, measure: str) -> FoundPhase | None:
    decided = {key: row[f"{phase}_{key}"] for key in ("outcome", "reason")}
    values = {key: row[f"{measure}_{key}"] for key in ("before", "after", "change")}
    return cast(FoundPhase, decided | values) if decided["outcome"] else None
