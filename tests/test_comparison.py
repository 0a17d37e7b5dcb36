"""Two runs beside each other, on lineages small enough to work out by hand."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from reflectune.loop.show.terminal.compare import render_rounds_compared, render_runs_compared
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.run_comparison import compare_runs
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import Evaluation, Reason, Sample, StudentRecord, content_part
from tests.lineages import decided, given, make_store, original, propose, scores_of


def write_run(
    path: Path, *, accepts: str, proposes: str = "better", nll: float = 2.0, ids: Sequence[str] = "abcd"
) -> Path:
    """A run of one round: proposals for the responses of "a" and "b", of which it takes some.

    Ids end with the letters of the samples; the last one is held out.
    """
    old = {content_part(id): original(id) for id in ids[:3]}
    with make_store(path, ids=ids) as store:
        store.start_round(1)
        store.add_decisions({}, "s0", [decided(version, phase="instruction") for version in old.values()])
        new = {
            sample: propose(store, old[sample], f"{proposes} {sample}", round=1, phase="response")
            for sample in "ab"
        }
        scores = {version.id: scores_of(0.5, 0.5) for version in (*old.values(), *new.values())}
        reasons: dict[str, Reason] = dict.fromkeys("ab", "refused") | dict.fromkeys(accepts, "accepted")
        decisions = [
            decided(version, new.get(sample), reason=reasons.get(sample, "no-candidate"))
            for sample, version in old.items()
        ]
        store.add_decisions(scores, "s0", decisions)
        store.set_training_set(1, [new[sample].id for sample in accepts])
        store.add_student(StudentRecord("s1", 1, "base", None, "adapters/round-01", "h", "s0"))
        store.add_evaluations(1, "s1", [Evaluation("nll", nll, 10, nll - 0.5, nll + 0.5)])
        store.add_seconds(1, "reflect", 1.5)
        store.finish_round(1, "rounds")
    return path


def compared(one: Path, other: Path) -> dict[str, Any]:
    with LineageReader.open(one) as first, LineageReader.open(other) as second:
        return compare_runs(first, second)


def test_runs_that_decide_differently_share_what_they_decided_about(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one.db", accepts="a")
    other = write_run(tmp_path / "other.db", accepts="ab", nll=1.5)
    document = compared(one, other)
    assert document["same"] == {"data": True, "held_out": True, "base_model": True}
    # "a" ends with the same new pair, "b" with a new one in the second run only, "c" as it was given.
    assert document["samples"] == {
        "rounds": [1, 1], "shared": 3, "same": 2, "both_given": 1, "only_first": 0, "only_second": 1,
        "differently": 0,
    }  # fmt: skip
    assert document["decisions"] == [
        {"round": 1, "phase": "instruction", "both": 0, "alike": 0, "agree": 0},
        {"round": 1, "phase": "response", "both": 2, "alike": 2, "agree": 1},
    ]
    first, second = document["rounds"][1]["runs"]
    assert (first["training"], second["training"]) == (1, 2)
    assert first["response"] == {"decided": 2, "accepted": 1}
    assert first["held_out"] == {"nll": {"value": 2.0, "n": 10, "low": 1.5, "high": 2.5}}
    assert (first["teacher"]["calls"], first["teacher"]["cost_usd"], first["seconds"]) == (2, 0.5, 1.5)


def test_runs_over_data_in_another_order_share_its_samples_and_proposals(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one.db", accepts="a", ids=("0-a", "1-b", "2-c", "3-d"))
    other = write_run(tmp_path / "other.db", accepts="ab", ids=("0-c", "1-a", "2-b", "3-d"))
    earlier = write_run(
        tmp_path / "earlier.db", accepts="ab"
    )  # by a version that made ids without a position
    document = compared(one, other)
    assert document["same"] == {"data": True, "held_out": True, "base_model": True}
    assert (document["samples"]["shared"], document["samples"]["same"]) == (3, 2)
    assert document["decisions"][1] == {"round": 1, "phase": "response", "both": 2, "alike": 2, "agree": 1}
    assert compared(one, earlier) == document
    moved = write_run(tmp_path / "moved.db", accepts="ab", ids=("0-d", "1-a", "2-b", "3-c"))
    assert compared(one, moved)["same"]["held_out"] is False


def test_runs_with_other_proposals_have_no_decisions_alike(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one.db", accepts="a")
    document = compared(one, write_run(tmp_path / "other.db", accepts="a", proposes="something else for"))
    assert document["decisions"][1] == {"round": 1, "phase": "response", "both": 2, "alike": 0, "agree": 0}
    assert (document["samples"]["same"], document["samples"]["differently"]) == (2, 1)


def test_runs_over_other_data_compare_what_both_have(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one.db", accepts="a")
    other = tmp_path / "other.db"
    with LineageWriter.create(other) as store:
        store.add_run({"name": "other", "rounds": 3, "seed": 0}, data_hash="e", versions={})
        store.add_samples([Sample("a", 0, "train", given("a")), Sample("z", 1, "holdout", given("z"))])
        store.start_round(0)
        store.add_student(StudentRecord("s0", 0, "another base", None, None, None, None))
        store.finish_round(0, None)
    document = compared(one, other)
    assert document["same"] == {"data": False, "held_out": False, "base_model": False}
    assert document["config"] == [{"key": "rounds", "values": [2, 3]}]
    assert document["samples"] == {
        "rounds": [1, 0], "shared": 1, "same": 0, "both_given": 0, "only_first": 1, "only_second": 0,
        "differently": 0,
    }  # fmt: skip
    assert document["decisions"] == []
    assert [run is None for run in document["rounds"][1]["runs"]] == [False, True]
    text = shown(document | {"names": ["one", "other"], "status": ["finished", "running"]})
    assert "other data: 1 training samples in common" in text
    assert "other held-out pairs: their measures cannot be compared" in text
    told = "other base models (base and another base): IFD, r-IFD and held-out nll cannot be compared"
    assert told in " ".join(text.split())


def test_runs_differ_in_nested_keys_but_not_by_name(tmp_path: Path) -> None:
    paths = []
    for which, extra in (("one", {"candidates": 1}), ("two", {"candidates": 4, "model": "m"})):
        with LineageWriter.create(tmp_path / which) as store:
            config = {"name": which, "seed": 0, "teacher": extra}
            store.add_run(config, data_hash="d", versions={})
        paths.append(tmp_path / which)
    assert compared(*paths)["config"] == [
        {"key": "teacher.candidates", "values": [1, 4]},
        {"key": "teacher.model", "values": [None, "m"]},
    ]


def shown(document: Any, width: int = 80, *, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    if "names" in document:
        rendered = render_runs_compared(document)
    else:
        rendered = render_rounds_compared(document, RunFolder(Path("runs", document["name"])))
    console.print(rendered, markup=False, highlight=False, crop=False)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def hostile(text: str) -> dict[str, Any]:
    pair = {"version": "v", "instruction": text, "input": "", "response": text}
    unknown = {"mean": None, "median": None}
    return {
        "name": "run", "before": 0, "after": 1,
        "pairs": {"total": 1, "instruction": 0, "response": 0, "both": 1, "unchanged": 0},
        "decisions": [], "acceptance": {"before": {}, "after": {}},
        "response_characters": {"before": unknown, "after": unknown}, "scores": [], "held_out": [],
        "training": {"before": 0, "after": 0, "both": 0},
        "samples": [
            {
                "sample": "a", "position": 7, "accepted": [{"round": 1, "phase": "response"}], "r_ifd": None,
                "characters": {"before": 1, "after": 2}, "before": pair,
                "after": pair | {"response": text + " more", "instruction": "more " + text},
            }
        ],
    }  # fmt: skip


def test_rounds_compared_only_show_what_texts_hold() -> None:
    text = shown(hostile("[red]a[/red] \x1b[2J\u202e \ud800"))
    assert "[red]a[/red] \ufffd[2J\ufffd \ufffd{+ more+}" in text
    assert not {"\x1b", "\u202e", "\ud800"} & set(text)


def test_rounds_compared_show_a_long_text_around_its_change_only() -> None:
    text = shown(hostile("word " * 1000), width=10_000)
    instruction, response = [line.strip() for line in text.splitlines() if "word" in line]
    assert "more+}" in response
    assert "{+more +}word" in instruction
    assert "… 4,800 characters as before …" in instruction
    assert all(100 < len(line) < 400 for line in (instruction, response))


def big_rounds() -> dict[str, Any]:
    """Two rounds of a million samples."""
    means = {"mean": 1234567.891, "median": 1e-7}
    scores = {"known": 1_000_000, "changed": 900_000, "before": means, "after": means}
    side = {"student": "s10", "value": 1234.5, "n": 100_000, "low": 1200.25, "high": 1300.75}
    return hostile("a") | {
        "before": 9, "after": 10,
        "pairs": dict.fromkeys(("total", "instruction", "response", "both", "unchanged"), 1_000_000),
        "response_characters": {"before": means, "after": means},
        "scores": [{"student": "s10", "ifd": scores, "r_ifd": scores}],
        "held_out": [
            {"name": "response_tokens", "before": side, "after": side, "difference": -1234.5,
             "difference_low": -1300.75, "difference_high": -1200.25}
        ],
        "decisions": [{"round": 10, "phase": "instruction", "decided": 1_000_000, "accepted": 999_999}],
    }  # fmt: skip


def test_rounds_compared_fit_80_columns_with_every_digit() -> None:
    for terminal in (True, False):
        text = shown(big_rounds(), terminal=terminal)
        assert not terminal or max(map(len, text.splitlines())) <= 80
        wanted = (
            "1000000 pairs",
            "900000",
            "1.23e+06",
            "1.00e-07",
            "1301",
            "-1234",
            "999999",
            "-1301",
            "-1200",
        )
        for told in wanted:
            assert told in text, told


def test_runs_compared_fit_80_columns_and_stand_side_by_side_in_200(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one.db", accepts="a")
    other = write_run(tmp_path / "other.db", accepts="ab")
    names = ["a-run-with-a-rather-long-name-indeed", "another-run-with-a-rather-long-name"]
    document = compared(one, other) | {"names": names, "status": ["finished", "finished"]}
    narrow = shown(document, terminal=True)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "1 of 2  50%" in narrow
    wide = shown(document, 200, terminal=True).splitlines()
    assert any("Accepted of the proposals" in line and "Held-out measures" in line for line in wide)


def test_runs_compare_decisions_about_proposals_that_were_not_looked_at(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one.db", accepts="a")
    other = write_run(tmp_path / "other.db", accepts="ab")
    with LineageWriter.open(other) as store, store.transaction() as database:
        # As a policy does that draws lots: the proposal is there, and no challenger is known.
        database.execute(
            "UPDATE decisions SET challenger_id = NULL, winner_id = incumbent_id, reason = 'policy' "
            "WHERE sample_id = 'a' AND phase = 'response'"
        )
    response = compared(one, other)["decisions"][1]
    assert (response["both"], response["alike"], response["agree"]) == (2, 2, 0)
