"""What the pages of the browser show, asked for in this process; `test_serve` asks the real server."""

import html
import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from reflectune.loop.show.html.sample_search import SampleSearch, address
from reflectune.loop.show.html.server import open_app
from reflectune.loop.show.html.site import Site
from reflectune.loop.show.html.texts import cut_texts
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.index import SampleQuery
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import (
    PHASES,
    Conversation,
    Evaluation,
    Pair,
    PolicyName,
    Reason,
    SkippedRows,
    StudentRecord,
    Turn,
    Version,
)
from tests.lineages import call, decided, exchange, make_store, original, propose, scores_of

pytestmark = pytest.mark.slow

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)><style>*{display:none}</style>"
STEERING = "\x1b[2J\x07\u202e\u2066"
HOSTILE = f"{SCRIPT} {STEERING} ]]> {{{{ 1234 * 1234 }}}} &quot;'\""
LONG = "word " * 2_000_000  # 10 MB


def write_run(path: Path) -> None:
    """Two rounds over five samples; "a" is improved, "b" refused, "c" failed; "d" is 10 MB, "e" held out.

    Of "b" there were two proposals. All texts are hostile, and so are criticism, errors and what the teacher
    wrote.
    """
    with make_store(path, train=4, holdout=1) as store:
        store.start_round(1)
        old = {sample: original(sample) for sample in "abcd"}
        store.add_decisions({}, "s0", [decided(old[sample], phase="instruction") for sample in "abcd"])
        taken = add_proposal(store, old["a"], f"better {HOSTILE}")
        refused = add_proposal(store, old["b"], f"worse {HOSTILE}")
        other = add_proposal(store, old["b"], f"worst {HOSTILE}", candidate=1)
        long = add_proposal(store, old["d"], LONG)
        failed = (call("c", attempt=attempt, status="unparsable") for attempt in (1, 2))
        store.add_reflections([replace(one, text=HOSTILE, error=HOSTILE) for one in failed], [])
        measures = {
            old["a"]: (0.9, 0.8), old["b"]: (0.7, 0.4), old["d"]: (0.7, 0.6), taken: (0.5, 0.2),
            refused: (0.6, 0.9), other: (0.6, 0.95), long: (0.5, 0.5),
        }  # fmt: skip
        decisions = [
            decided(old["a"], taken, reason="accepted", values=(0.8, 0.2)),
            decided(old["b"], refused, reason="refused", values=(0.4, 0.9)),
            decided(old["c"]),
            decided(old["d"], long, reason="accepted", values=(0.6, 0.5)),
        ]
        scores = {version.id: scores_of(*values) for version, values in measures.items()}
        store.add_decisions(scores, "s0", decisions)
        store.set_training_set(1, [taken.id])
        store.add_student(StudentRecord("s1", 1, "base", None, "adapters/round-01", "h", "s0"))
        store.add_evaluations(1, "s1", [Evaluation("nll", 2.5, 10, 2.25, 2.75)])
        store.finish_round(1, "rounds")


def add_proposal(store: LineageWriter, parent: Version, response: str, candidate: int = 0) -> Version:
    made = call(parent.sample_id, candidate=candidate)
    made = replace(made, text=f"raw {HOSTILE}", critique=f"because {HOSTILE}")
    pair = Pair(f"ask {parent.sample_id} {HOSTILE}", HOSTILE, response)
    version = Version(parent.sample_id, parent.id, 1, "response", candidate, pair, made.id)
    store.add_reflections([made], [version])
    return version


def make_runs(folder: Path) -> Path:
    """Runs "hostile" and "other", in a folder whose name means something in addresses."""
    runs = folder / "50% of #1?"
    (runs / "hostile").mkdir(parents=True)
    write_run(runs / "hostile" / "lineage.db")
    make_run(runs / "other")
    return runs


def make_run(path: Path, train: int = 3, holdout: int = 1) -> None:
    """A run that has not begun."""
    path.mkdir()
    with make_store(path / "lineage.db", train=train, holdout=holdout):
        pass


class Pages(TestClient):
    """The pages of a run, which has been looked at."""

    def __init__(self, runs: Path, name: str) -> None:
        self.site = Site(runs, RunFolder(runs / name))
        self.site.watcher.look()
        super().__init__(open_app(self.site, 80), base_url="http://127.0.0.1")

    def read(self, path: str) -> str:
        """The text of a page, without its tags."""
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return html.unescape(re.sub("<[^>]+>", "", answer.text))

    def links(self, path: str) -> list[str]:
        """Where the links of a page lead to."""
        return [html.unescape(link) for link in re.findall(r'<a [^>]*?href="([^"]+)"', self.get(path).text)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    return Pages(make_runs(tmp_path_factory.mktemp("world")), "hostile")


def make_pages(folder: Path, train: int = 3) -> Pages:
    """The pages of a run that has not begun."""
    make_run(folder / "run", train, holdout=0)
    return Pages(folder, "run")


def test_sample_page_tells_the_whole_journey(pages: Pages) -> None:
    text = pages.read("/samples/1")
    for told in (
        "Sample 1",
        "Not trained on in any round.",
        "r-IFD 0.9000 against the incumbent's 0.4000 under s0",
        "because <script>",
        "Not compared: proposal 1 was as good or better under s0",
        "policy ifd+r-ifd, margin 0.0",
        "0.0837",  # all nlls alone are 1 nat per token: nll(x|y) of the incumbent is 1 + ln 0.4
        "raw <script>",
        "{{ 1234 * 1234 }}",
    ):
        assert told in text, told
    assert re.search(r"10 \+ 5\s*asked \+ answered", text)
    assert "attempt 2 failed, unparsable" in pages.read("/samples/2")
    assert all("1response2unparsable<script>" in pages.read(page) for page in ("/", "/rounds/1"))
    page = pages.get("/samples/1").text
    parent = re.search(r'from its parent <a href="#(v-[0-9a-f]{12})"', page)
    assert parent
    assert f'id="{parent[1]}"' in page


def test_sample_page_shows_both_kinds_of_diff(pages: Pages) -> None:
    inline, side = pages.get("/samples/1").text, pages.get("/samples/1?view=side").text
    assert "<del>answer" in inline
    assert ('<div class="sides">' in inline, '<div class="sides">' in side) == (False, True)
    assert 'href="/samples/2?view=side"' in side


def test_round_page_counts_what_its_lists_hold(pages: Pages) -> None:
    page = pages.get("/rounds/1").text
    assert re.findall('<p class="explained">(The pair .*?)</p>', page) == [
        "The pair with the highest IFD stays.",
        "The pair with the lowest r-IFD stays.",
    ]
    links = re.findall(r'<a href="(/samples\?[^"]+)" aria-label="(\d+)', page)
    assert {label for _, label in links} == {"1", "2", "4"}  # of 4 samples: 2 accepted, 1 refused, 1 failed
    for link, count in links:
        assert f"<strong>{count}</strong> row" in pages.get(html.unescape(link)).text


def test_rounds_page_tells_what_rounds_took(pages: Pages) -> None:
    rows = re.findall("<tr>.*</tr>", pages.get("/rounds").text)
    cells = [re.findall("<t[hd][^>]*>([^<]*)", row) for row in rows]
    # Six calls of 10 and 5 tokens and 0.25 USD; two proposals were accepted.
    assert ["1", "6", "0", "60", "30", "1.5000", "45.0", "0.7500"] in cells
    assert ["1", *["0.0 s"] * 4] in cells


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("q=BETTER", {"0"}),
        ("q=wors", {"1"}),
        ("q=nowhere", set()),
        ("max_r_ifd_change=-0.5", {"0"}),  # 0.8 to 0.2
        ("min_r_ifd_change=-0.5", {"1", "3"}),  # 0.4 to 0.9, and 0.6 to 0.5
        ("trained=yes", {"0"}),
        ("outcome=failed&phase=response", {"2"}),
    ],
)
def test_samples_are_found_by_words_and_change(pages: Pages, query: str, found: set[str]) -> None:
    page = pages.get(f"/samples?round=1&{query}").text
    assert set(re.findall(r'href="/samples/(\d+)#round-1(?:-response)?"', page)) == found


def test_samples_page_keeps_the_search_where_a_value_makes_no_sense(pages: Pages) -> None:
    page = pages.get("/samples?q=better&min_ifd_change=much").text
    for told in ('value="much" aria-invalid="true"', 'value="better"', "“much” is no number"):
        assert told in page


def test_samples_page_says_that_changes_of_rounds_do_not_compare(pages: Pages) -> None:
    note = "Changes of different rounds are under different students, and do not compare"
    assert note in pages.read("/samples?sort=r_ifd_change")
    assert note not in pages.read("/samples?sort=r_ifd_change&round=1")


def test_whole_texts_are_served_as_they_are(pages: Pages) -> None:
    page = pages.get("/samples/3").text
    assert len(page) < 200_000
    (version,) = re.findall(r'href="/samples/3/versions/(\w+)/response\.txt"', page)
    (call, *_) = re.findall(r'href="(/samples/0/calls/\w+\.txt)"', pages.get("/samples/0").text)
    texts = {
        f"/samples/3/versions/{version}/response.txt": LONG,
        f"/samples/3/versions/{version}/criticism.txt": f"because {HOSTILE}",
        call: f"raw {HOSTILE}",
    }
    for path, text in texts.items():
        answer = pages.get(path)
        assert (answer.headers["content-type"], answer.text == text) == ("text/plain; charset=utf-8", True)


def write_talk(path: Path) -> None:
    """Two exchanges of a conversation of 119 turns, some hostile, the first followed; rows were left out."""
    calls = json.dumps({"tool_calls": [{"id": "c", "function": {"name": HOSTILE, "arguments": HOSTILE}}]})
    turns = [
        Turn("system", f"be brief {HOSTILE}"),
        Turn("user", LONG),
        Turn("assistant", "", calls),
        Turn(HOSTILE, f"found {HOSTILE}", json.dumps({"tool_call_id": "c"})),
        Turn("assistant", f"said {HOSTILE}"),
        *(Turn(role, f"{role} {number}") for number in range(57) for role in ("user", "assistant")),
    ]
    talk = Conversation(tuple(turns))
    with make_store(path, train=0, holdout=0) as store:
        samples = [
            exchange("e", 0, talk, 5, **{HOSTILE: HOSTILE}),
            exchange("f", 1, talk, 117),
        ]
        store.add_samples(samples)
        store.add_skipped([SkippedRows(HOSTILE, 1200, (HOSTILE, LONG))])
        store.start_round(1)
        given = [Version(sample.id, None, 0, "original", 0, sample.pair) for sample in samples]
        reasons: tuple[Reason, ...] = ("frozen", "no-candidate")
        for version, reason in zip(given, reasons, strict=True):
            store.add_decisions({}, "s0", [decided(version, reason=reason, phase="instruction")])
        store.add_decisions({}, "s0", [decided(version, reason="frozen") for version in given])


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    folder = tmp_path_factory.mktemp("talk")
    (folder / "run").mkdir()
    write_talk(folder / "run" / "lineage.db")
    return Pages(folder, "run")


def test_sample_page_has_the_context_folded_and_escaped(talk: Pages) -> None:
    page, text = talk.get("/samples/0").text, " ".join(talk.read("/samples/0").split())
    for told in (
        "An exchange of a conversation, with 5 turns before it and 112 turns after it.",
        "Context: 5 turns before it",
        "be brief <script>",
        "9,998,400 more characters",
        "calls <script>",
        "found <script>",
        "its instruction stays: 112 later turns depend on it",
        "left alone after repeated refusals",
        "Other fields of its record",
    ):
        assert told in text, told
    assert "<script>alert" not in page
    assert not set("\x1b\x07\u202e\u2066") & set(page)
    assert len(page) < 100_000
    assert (
        page.index("<details><summary>Context") < page.index("be brief") < page.index('aria-label="The given')
    )
    assert "1522756" not in page


def test_sample_page_shows_so_many_turns_and_has_all_as_text(talk: Pages) -> None:
    text = talk.read("/samples/1")
    assert "Context: 117 turns before it" in text
    assert "17 turns more" in text
    shown = [number for number in range(56) if f"user {number}\n" in text]
    assert shown == list(range(7, 56))  # of turns 0 to 116 the first two, and from turn 19 on
    answer = talk.get("/samples/1/context.txt")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    messages = json.loads(answer.text)
    assert (len(messages), messages[1]["content"]) == (117, LONG)


def test_overview_tells_conversations_and_left_out_rows(talk: Pages) -> None:
    page, text = talk.get("/").text, " ".join(talk.read("/").split())
    assert "2 exchanges of 1 conversation; later turns depend on 1 instruction, left as given" in text
    assert "Left out of the data: 1,200 rows (<script>" in text
    assert "<script>alert" not in page
    assert len(page) < 100_000


def test_counts_of_samples_left_alone_are_what_their_lists_hold(talk: Pages) -> None:
    links = {link for link in talk.links("/rounds") if "frozen" in link}
    assert links == {f"/samples?round=1&phase={phase}&outcome=frozen" for phase in PHASES}
    rows = [re.findall(r"<strong>(\d+)</strong> row", talk.get(link).text) for link in sorted(links)]
    assert rows == [["1"], ["2"]]


def test_charts_are_served_and_can_do_nothing(pages: Pages) -> None:
    charts = re.findall(r'<img src="(/charts/[\w-]+\.svg)" alt="([^"]{20,})"', pages.get("/").text)
    assert charts
    for path, _ in charts:
        answer = pages.get(path)
        assert answer.headers["content-type"].startswith("image/svg+xml")
        assert "sandbox" in answer.headers["content-security-policy"]
        assert "<script" not in answer.text


def test_runs_are_compared(pages: Pages) -> None:
    assert "/compare/other" in pages.links("/runs")
    while "are being compared" in (text := pages.read("/compare/other")):
        time.sleep(0.1)
    for told in ("hostile and other", "What the teacher took", "their measures cannot be compared."):
        assert told in text, told


def test_pages_follow_a_run_that_writes(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    with make_store(tmp_path / "live" / "lineage.db") as store:
        store.start_round(1)
        store.add_decisions({}, "s0", [decided(original("a"), phase="instruction")])
        pages = Pages(tmp_path, "live")
        with store.transaction():
            new = propose(store, original("a"), "quite new", round=1, phase="response")
            for path in ("/", "/samples", "/samples/0"):
                assert "quite new" not in pages.read(path)
        assert "quite new" in pages.read("/samples/0")
        store.add_decisions(
            {new.id: scores_of(0.5, 0.2), original("a").id: scores_of(0.5, 0.8)},
            "s0",
            [decided(original("a"), new, reason="accepted", values=(0.8, 0.2))],
        )
        pages.site.watcher.look()
        assert "/samples?round=1&phase=response&outcome=accepted" in pages.links("/rounds/1")
        assert "/samples/0#round-1" in pages.links("/samples?q=quite")


@pytest.mark.parametrize("damage", ["gone", "overwritten"])
def test_pages_say_that_a_lineage_cannot_be_read_until_one_is_put_back(tmp_path: Path, damage: str) -> None:
    pages = make_pages(tmp_path)
    assert pages.get("/samples/2").status_code == 200
    run = tmp_path / "run"
    shutil.rmtree(run)
    if damage == "overwritten":
        run.mkdir()
        (run / "lineage.db").write_bytes(b"no lineage at all" * 1000)
    answer = pages.get("/samples/0")
    assert (answer.status_code, "The lineage cannot be read" in answer.text) == (503, True)
    pages.site.watcher.look()
    assert "Not up to date" in pages.read("/")
    shutil.rmtree(run, ignore_errors=True)
    make_run(run, train=2, holdout=0)
    assert [pages.get(f"/samples/{position}").status_code for position in (1, 2)] == [200, 404]


def test_page_that_fails_says_so_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = make_pages(tmp_path)
    make_run(tmp_path / "other")
    monkeypatch.setattr(pages.site, "compare", None)
    answer = pages.get("/compare/other")
    assert (answer.status_code, "This page could not be made" in answer.text) == (500, True)
    said = capsys.readouterr().err
    assert said == "reflectune: /compare/other: TypeError: 'NoneType' object is not callable\n"


def write_policy(path: Path, policy: PolicyName, values: tuple[float, float] | None = None) -> None:
    """A round that refused one proposal in each phase, by a policy, or by values and a cap of IFD."""
    path.parent.mkdir()
    reason: Reason = "refused" if values else "policy"
    with make_store(path) as store:
        store.start_round(1)
        for phase in PHASES:
            new = propose(store, original("a"), f"new {phase}", round=1, phase=phase)
            made = decided(original("a"), new, reason=reason, phase=phase, values=values or (None, None))
            store.add_decisions({new.id: scores_of(0.5, 0.5)}, "s0", [replace(made, policy=policy)])
        config = {"rounds": 2, "selection": {"policy": policy, "ifd_cap": 0.9 if values else None}}
        with store.transaction() as database:
            database.execute("UPDATE runs SET config = ?", [json.dumps(config)])


@pytest.mark.parametrize(
    ("samples", "counted"),
    [
        (10_000, ("10,000 rows", "; showing 9,951 to 10,000.", "; showing 1 to 50.")),
        (10_001, (
            "more than 10,000 rows", "; showing 9,951 to 10,000. Narrow the question to see those beyond.",
            ", among the first 10,000 samples that hold these words; more words narrow it; showing 1 to 50.",
        )),
    ],
)  # fmt: skip
def test_samples_page_says_where_it_counts_no_further(
    tmp_path: Path, samples: int, counted: tuple[str, str, str]
) -> None:
    pages = make_pages(tmp_path, train=samples)
    many, last, word = counted
    assert f"{many}, each one sample in one round{last}" in pages.read("/samples?page=200")
    assert f"10,000 rows, each one sample in one round{word}" in pages.read("/samples?q=ask")  # as all have


def test_overview_leads_to_no_list_without_rows(tmp_path: Path) -> None:
    write_policy(tmp_path / "run" / "lineage.db", "reject-all")
    pages = Pages(tmp_path, "run")
    overview = pages.read("/")
    for measure in ("IFD", "r-IFD"):
        assert f"Policy reject-all compares no {measure}." in overview
    assert "Narrow refusals" not in overview
    lists = [link for link in pages.links("/") if link.startswith("/samples?")]
    assert "/samples?sort=length_growth&order=down" in lists
    for link in lists:
        assert "No sample is like this" not in pages.read(link), link
    told = pages.read("/samples?sort=ifd_change")
    assert "No sample is like this: policy reject-all compares no IFD." in told


def test_round_page_says_what_a_cap_does(tmp_path: Path) -> None:
    # The proposal's IFD is higher, but not below the cap: a refusal, and no narrow one.
    write_policy(tmp_path / "run" / "lineage.db", "ifd+r-ifd", (0.5, 0.95))
    pages = Pages(tmp_path, "run")
    assert re.findall('<p class="explained">(The pair .*?)</p>', pages.get("/rounds/1").text) == [
        "The pair with the highest IFD below 0.9 stays (selection.ifd_cap); where none is below, the pair "
        "with the highest.",
        "The pair with the lowest r-IFD stays.",
    ]
    narrow, other = [link for link in pages.links("/") if "refused" in link and "sort" in link]
    assert "No sample is like this" in pages.read(narrow)
    assert "/samples/0#round-1-response" in pages.links(other)


def test_sample_search_reads_an_address_and_writes_others() -> None:
    search = SampleSearch(
        {"q": " two words ", "round": "2", "trained": "no", "max_ifd_change": "−0.5", "page": "3", "x": "y"}
    )
    assert not search.problems
    assert search.query == SampleQuery(
        text="two words", most_matches=10_000, round=2, trained=False, max_ifd_change=-0.5, offset=100
    )
    others = "round=2&trained=no&max_ifd_change=%E2%88%920.5"
    assert search.address(page=4) == f"/samples?q=two+words&{others}&page=4"
    assert search.address(q=None) == f"/samples?{others}"
    assert address() == "/samples"


@pytest.mark.parametrize(
    ("name", "text"),
    [("round", "-1"), ("round", "1.5"), ("round", "٣"), ("page", "201"), ("min_length_growth", "inf"),
     ("sort", "id; drop"), ("q", "x" * 501)],
)  # fmt: skip
def test_sample_search_names_what_makes_no_sense(name: str, text: str) -> None:
    assert set(SampleSearch({name: text}).problems) == {name}


@pytest.mark.parametrize(("old", "new"), [("one two three.\nfour", "one 2 three!\nfour five"), ("", "new")])
def test_texts_have_both_whole(old: str, new: str) -> None:
    pair = {"instruction": "i", "input": ""}
    same, changed = cut_texts(pair | {"response": new}, pair | {"response": old})
    assert (same.name, same.is_changed, same.runs) == ("instruction", False, [("same", "i")])
    assert (changed.name, changed.is_changed, changed.cut) == ("response", True, 0)
    assert "".join(text for change, text in changed.runs if change != "added") == old
    assert "".join(text for change, text in changed.runs if change != "removed") == new


def test_texts_are_cut_where_they_are_long() -> None:
    pair = {"instruction": "i" * 20_001, "input": "", "response": ""}
    (text,) = cut_texts(pair)
    assert (text.runs, text.length, text.cut) == ([("same", "i" * 20_000)], 20_001, 1)
