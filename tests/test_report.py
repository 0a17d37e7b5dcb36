import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from reflectune.loop.show.explanations import explain_reason
from reflectune.loop.show.html.texts import fold_texts
from reflectune.loop.show.report import describe_evolution, write_report
from reflectune.state.errors import DatasetError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import (
    Conversation,
    Evaluation,
    Pair,
    Sample,
    SkippedRows,
    StudentRecord,
    Turn,
    Version,
)
from tests.lineages import call, decided, make_store, original, propose, scores_of
from tests.worlds import reflectune

pytestmark = pytest.mark.slow

EVIL = "</style><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>\u202e\x1b[31m&amp;"


class Page(HTMLParser):
    """A page's elements, with their attributes, and its text outside of <style>."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)
        self.tags = Counter(tag for tag, _ in self.elements)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += "" if self.elements and self.elements[-1][0] == "style" else f"{data} "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of one round, only to be read: "a" is improved, "b" is refused, reflection on "c" fails."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    folder.path.mkdir()
    with make_store(folder.lineage) as store:
        write_round(store)
    return folder


@pytest.fixture(scope="module")
def report(folder: RunFolder) -> str:
    return report_of(folder)


def write_round(store: LineageWriter) -> None:
    config = {
        "rounds": 1,
        "data": {"path": "/home/me/secret/pairs.json"},
        "teacher": {"engine": "openai", "model": "org/teacher", "base_url": "https://me:pass@host:8000/v1"},
        "student": {"model": "/models/small"},
        "selection": {"policy": "ifd+r-ifd"},
    }
    store.db.execute("UPDATE runs SET config = ?", [json.dumps(config)])
    store.db.conn.commit()
    store.start_round(1)
    old = {sample: original(sample) for sample in "abc"}
    store.add_decisions({}, "s0", [decided(old[sample], phase="instruction") for sample in "abc"])
    good = propose(store, old["a"], "better a", round=1, phase="response")
    bad = propose(store, old["b"], "worse b", round=1, phase="response")
    store.add_reflections([call("c", attempt=attempt, status="cut") for attempt in (1, 2)], [])
    decisions = [
        decided(old["a"], good, reason="accepted", values=(0.8, 0.2)),
        decided(old["b"], bad, reason="refused", values=(0.4, 0.9)),
        decided(old["c"]),
    ]
    store.add_decisions({version.id: scores_of(0.5, 0.2) for version in (good, bad)}, "s0", decisions)
    store.set_training_set(1, [good.id])
    store.add_student(
        StudentRecord("s1", 1, "base", None, "adapters/round-01", "h", "s0", {"truncated": 1.0})
    )
    store.add_evaluations(0, "s0", [Evaluation("nll", 3.0, 4, 2.5, 3.5)])
    store.add_evaluations(1, "s1", [Evaluation("nll", 2.0, 4, 1.5, 2.5)])
    store.finish_round(1, "rounds")
    store.set_run_status("finished")


def report_of(folder: RunFolder) -> str:
    out = folder.path / "report.html"
    write_report(folder, out)
    return out.read_text(encoding="utf-8")


def text_of(html: str) -> str:
    return " ".join(Page(html).text.split())


def test_report_holds_everything_it_shows(report: str) -> None:
    page = Page(report)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "svg"} & set(page.tags)
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "data", "poster", "background"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:image/svg+xml;base64,")), (tag, address)
    (policy,) = (a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    (style,) = re.findall(r"<style>(.*?)</style>", report, re.DOTALL)
    assert not re.search(r"url\(|@import", style)


def test_report_says_what_the_run_was_and_why_it_decided(folder: RunFolder, report: str) -> None:
    text = text_of(report)
    with LineageReader.open(folder.lineage) as history:
        decisions = [decision for sample in "abc" for decision in history.trace(sample)["decisions"]]
    for told in (
        "Finished after 1 of 1 rounds over 3 samples: all its rounds are done.",
        "The student took 1 of 2 proposals (50%).",
        "Held-out nll went from 3.000 (2.500 to 3.500) to 2.000 (1.500 to 2.500)",
        "pairs.json 3 samples in the pool, 1 held out",
        "refused r-IFD 0.9000 against the incumbent's 0.4000 under s0",
        "r-IFD from 0.8000 to 0.2000 in round 1, phase response",
        "r-IFD 0.9000 against the incumbent's 0.4000 in round 1, phase response",
        "no proposal, cut, in round 1, phase response",
        "attempt 2 failed, cut: broken",
        "1 1 cut",  # training set
        "Cut: pairs that lost the end of their response, or turns of their context, to student.max_length.",
        "The teacher's criticism too short",
        "Trained on in round 1.",
        *map(explain_reason, decisions),
    ):
        assert told in text, told
    assert "<del>answer</del><ins>better</ins> a" in report


def test_report_has_headings_in_order_and_described_charts(report: str) -> None:
    page = Page(report)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after <= before + 1 for before, after in pairwise(levels))
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert images
    assert all(len(attributes["alt"]) > 40 for attributes in images)
    assert all(attributes.get("scope") for tag, attributes in page.elements if tag == "th")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_report_gives_no_credentials_away(folder: RunFolder, report: str) -> None:
    assert describe_evolution(folder)["settings"]["config"]["teacher"]["base_url"] == "https://host:8000/v1"
    assert "pass@" not in report


def report_evil(folder: RunFolder, response: str) -> str:
    """The report on one sample that is refused; every text of it, and of the teacher, is hostile."""
    named = json.dumps({"name": EVIL, "tool_calls": [{"name": EVIL, "arguments": EVIL}]})
    turns = [Turn("system", EVIL, named), *[Turn(EVIL, response)] * 20]
    pair = Pair(EVIL, EVIL, response, tuple(turns))
    with make_store(folder.lineage, train=0, holdout=0) as store:
        talk = Conversation((*turns, Turn("user", EVIL), Turn("assistant", response), Turn("user", EVIL)))
        store.add_samples([Sample("s", 0, "train", pair, {EVIL: EVIL}, talk, 21)])
        store.add_skipped([SkippedRows(EVIL, 3, (EVIL, response))])
        store.start_round(1)
        old = Version("s", None, 0, "original", 0, pair)
        made = replace(call("s", 1, "instruction"), critique=EVIL)
        new = Version("s", old.id, 1, "instruction", 0, Pair(EVIL, "", f"{response} {EVIL}"), made.id)
        store.add_reflections([made, replace(call("s", 1, "response", status="error"), error=EVIL)], [new])
        refused = decided(old, new, reason="refused", phase="instruction", values=(0.9, 0.2))
        store.add_decisions({}, "s0", [refused, decided(old)])
    return report_of(folder)


def test_report_takes_hostile_texts_for_text(tmp_path: Path) -> None:
    html = report_evil(RunFolder(tmp_path), EVIL)
    page = Page(html)
    assert (page.tags["script"], page.tags["style"]) == (0, 1)
    assert all(attributes["src"].startswith("data:") for tag, attributes in page.elements if tag == "img")
    assert page.text.count("<script>alert(1)</script>") >= 20
    for told in ("Context: 21 turns before it", "13 turns more", "1 exchange of 1 conversation", "3 rows"):
        assert told in page.text, told
    assert not {"\x1b", "\u202e"} & set(html)


@pytest.mark.no_cover
def test_report_is_small_where_a_text_is_large(tmp_path: Path) -> None:
    html = report_evil(RunFolder(tmp_path), "word " * 2_000_000)
    assert len(html) < 600_000
    # Of 10,000,000 characters, 1,600 are shown.
    assert "9,998,400 more characters" in html


@pytest.mark.parametrize(
    ("old", "new", "shown", "cut"),
    [
        ("a b", "a c", [("same", "a "), ("removed", "b"), ("added", "c")], 0),
        # 500 letters and a space stay, of which 100 at both ends are shown.
        (
            "x" * 500 + " b",
            "x" * 500 + " c",
            [
                ("same", "x" * 100), ("left out", "301 characters as before"), ("same", "x" * 99 + " "),
                ("removed", "b"), ("added", "c"),
            ],
            0,
        ),
        ("", "y" * 2000, [("added", "y" * 1600), ("left out", "400 more characters added")], 0),
        # A text that is written anew: the beginnings of both, of 6,000 characters that are compared.
        (
            "x" * 1000,
            "y" * 7000,
            [
                ("removed", "x" * 400), ("left out", "600 more characters removed"),
                ("added", "y" * 1600), ("left out", "4,400 more characters added"),
            ],
            1000,
        ),
        # What a short text was given at its end came, however long it is.
        (
            "It is 42.",
            "It is 42." + " So" * 3_000,
            [
                ("same", "It is 42."), ("added", (" So" * 600)[:1600]),
                ("left out", "4,391 more characters added"),
            ],
            3_009,
        ),
        # That texts which are cut there end differently is no change.
        ("b and " + "z" * 9_000, "c and d " + "z" * 9_000,
         [("removed", "b"), ("added", "c"), ("same", " and ")], 9_002),
    ],
)  # fmt: skip
def test_report_cuts_long_texts_and_says_so(old: str, new: str, shown: Any, cut: int) -> None:
    texts: Any = [{"instruction": "same", "input": "", "response": text} for text in (new, old)]
    (text,) = fold_texts(*texts)
    assert (text.name, text.runs, text.cut) == ("response", shown, cut)


def test_report_of_a_run_that_has_not_begun(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with make_store(folder.lineage) as store:
        store.start_round(1)
    text = text_of(report_of(folder))
    for told in (
        "Interrupted after 0 of 2 rounds over 3 samples.", "No proposal has been decided about yet.",
        "so no sample has a story", "Not drawn: No round is complete",
    ):  # fmt: skip
        assert told in text, told


def test_report_that_cannot_be_written_leaves_the_old_one(folder: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    with pytest.raises(Exception, match="no lineage database"):
        write_report(RunFolder(tmp_path / "gone"), out)
    assert out.read_text() == "old"
    with pytest.raises(DatasetError, match="there is no folder"):
        write_report(folder, tmp_path / "missing" / "report.html")
    assert not list(tmp_path.glob(".*.part"))


def test_report_changes_nothing_in_the_lineage_and_is_the_same_again(folder: RunFolder, report: str) -> None:
    before = folder.lineage.read_bytes()
    assert report_of(folder) == report
    assert folder.lineage.read_bytes() == before


def test_report_command_writes_into_the_run(folder: RunFolder, report: str, tmp_path: Path) -> None:
    def run(*words: object) -> Any:
        return reflectune("report", "run", "--runs", folder.path.parent, *words, cwd=tmp_path)

    result = run()
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"wrote {folder.path / 'report.html'} (")
    assert (folder.path / "report.html").read_text(encoding="utf-8") == report
    document = json.loads(run("--json").stdout)
    assert (document["name"], document["status"], document["complete"]) == ("run", "finished", 1)
    chosen = {item["kind"]: item["position"] for item in document["telling"]}
    assert chosen == {"gain": 0, "narrow": 1, "failure": 2}
    for target, said in ((tmp_path, "is not a regular file"), (folder.lineage, "name another file\n")):
        result = run("-o", target)
        assert (result.returncode, result.stdout, said in result.stderr) == (2, "", True)
    assert describe_evolution(folder)["complete"] == 1
