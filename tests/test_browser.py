"""What people do with the pages, done by a real browser with the real server over real runs."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reflectune.loop.show.explanations import explain_reason
from reflectune.loop.show.numbers import name_version
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.index import SampleIndex, SampleQuery
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import Outcome
from tests.bench.browsing import kinds_of_pages
from tests.browser import (
    CHROMIUM,
    DESKTOP,
    PHONE,
    axe_findings,
    fetch,
    layout_faults,
    open_browser,
    open_details,
    open_tab,
    serve,
    wait_for_comparison,
)
from tests.test_pages import write_talk
from tests.worlds import make_recording, make_records, reflectune, write_world

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.no_cover,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: `make .venv/chromium` installs Debian's"),
]

# Each would run a script, leave the page's markup, or ask another server for something.
SCRIPTS = (
    '<script>alert(1); window.canary = 1; document.title = "OWNED"</script>',
    '<img src=x onerror="alert(2)"><svg onload="alert(2)"></svg>',
    "</p></pre></td></table></main></body></html><script>alert(3)</script>",
    "</ins></del></textarea></title></style></script><script>window.canary = 4</script>",
    "\" autofocus onfocus=\"alert(5)\" x=\" ' autofocus onfocus='alert(5)' x='",
    '<base href="http://evil.example/"><link rel="stylesheet" href="http://evil.example/a.css">',
    '<meta http-equiv="refresh" content="0; url=http://evil.example/"><iframe src="http://evil.example/">',
    '<a href="javascript:alert(8)">here</a> <form action="http://evil.example/"><button>Find</button></form>',
    "{{ 7 * 7 }} {% include 'layout.html' %} ${alert(9)} <!-- ]]> --> &lt;b&gt;&#60;b&#62;",
    "[red]markup[/red] \x1b[31mred\x1b]0;OWNED\x07 \u202ereversed\u2066 \u2028 \ud83d \x85",
)
# What a layout could break on.
SHAPES = (
    "x" * 5_000,
    "https://example.org/" + "a-path/" * 200,
    "漢字かな" * 300,
    "مرحبا بالعالم " * 40,
    "Z\u0351\u036b\u0343\u036a\u0302" * 200,
    "one\ttab\n\n\n    and lines\n" * 60,
    "word " * 5_000,
)
CALM, HOSTILE = 40, 20  # samples
PAGES = {
    "overview": "/",
    "rounds": "/rounds",
    "given": "/rounds/0",
    "round": "/rounds/1",
    "samples": "/samples",
    "search": "/samples?q=things&round=1&outcome=refused&sort=ifd_change&order=down",
    "nothing": "/samples?q=nosuchword",
    "sample": "/samples/{sample}",
    "side": "/samples/{sample}?view=side",
    "runs": "/runs",
    "compare": "/compare/{other}",
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, finished_world: Path) -> Path:
    """A runs folder with a run over harmless texts, "calm", and one over texts that mean harm, "hostile"."""
    folder = tmp_path_factory.mktemp("browsed")
    shutil.copytree(finished_world / "runs" / "tiny", folder / "runs" / "calm")
    _write_hostile_world(folder)
    words = ("run", "config.toml", "--name", "hostile", "--runs", folder / "runs", "--set", "rounds=1")
    result = reflectune(*words, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "runs"


def _write_hostile_world(folder: Path) -> None:
    write_world(folder, samples=HOSTILE, data={"holdout": 2})
    harms = cycle([*SCRIPTS, *SHAPES])
    records = [
        {"instruction": f"{record['instruction']} {harm[:6000]}", "input": record["input"] and harm[:6000],
         "output": f"{harm} {record['output']}"}
        for record, harm in zip(make_records(HOSTILE), harms, strict=False)
    ]  # fmt: skip
    (folder / "data.json").write_text(json.dumps(records))
    entries = make_recording(records, ("instruction", "response"))
    for entry in entries:
        # A question about a rewritten instruction must find it as it was rewritten.
        for key in ("instruction", "new_instruction"):
            if number := re.match(r"List (\d+)", str(entry.get(key, ""))):
                entry[key] = f"{entry[key]} {SCRIPTS[int(number[1]) % len(SCRIPTS)]}"
        harm = next(harms)
        entry |= {"new_response": f"{entry['new_response']} {harm}", "critique": f"Ambiguity: {harm[:3000]}"}
    (folder / "teacher.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


@pytest.fixture(scope="module")
def calm(runs: Path) -> Iterator[str]:
    with serve(runs, "calm") as address:
        yield address


@pytest.fixture(scope="module")
def hostile(runs: Path) -> Iterator[str]:
    with serve(runs, "hostile") as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with open_browser() as browser:
        yield browser


def query(runs: Path, name: str, query: SampleQuery) -> list[dict[str, Any]]:
    """What the index finds."""
    with SampleIndex.open(RunFolder(runs / name)) as index:
        index.update()
        return index.find(query)


def a_sample_with(runs: Path, name: str, outcome: Outcome) -> int:
    """The position of the first sample whose instruction came to something in round 1."""
    found = query(runs, name, SampleQuery(round=1, phase="instruction", outcome=outcome))
    return int(found[0]["position"])


def paths(runs: Path, name: str) -> dict[str, str]:
    """The address of every kind of page."""
    known = {"sample": a_sample_with(runs, name, "refused"), "other": {"calm": "hostile"}.get(name, "calm")}
    return {kind: path.format(**known) for kind, path in PAGES.items()}


# Looking for samples, and reading one


def test_browser_finds_filters_and_opens_samples(runs: Path, calm: str, browser: "Browser") -> None:
    def expect(found: SampleQuery) -> list[dict[str, Any]]:
        rows = query(runs, "calm", found)
        assert rows_of(tab.page) == [(row["position"], row["round"]) for row in rows]
        return rows

    def choose(**fields: str) -> None:
        for label, value in fields.items():
            tab.page.get_by_label(label.replace("_", " "), exact=True).select_option(value)
        tab.page.get_by_role("button", name="Apply").click()

    with open_tab(browser, calm) as tab:
        tab.go("/")
        tab.page.get_by_label("Find samples by words").fill("blue")
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_url(re.compile(r"/samples\?q=blue$"))
        assert len(expect(SampleQuery(text="blue", limit=1000))) > 5

        choose(Round="1", Phase="instruction", Outcome="refused")
        tab.page.wait_for_url(re.compile("q=blue.*outcome=refused"))
        expect(SampleQuery(text="blue", round=1, phase="instruction", outcome="refused"))

        tab.page.get_by_role("link", name="Clear").click()
        tab.page.wait_for_url(f"{calm}/samples")
        choose(Sort_by="ifd_change", Order="down")
        tab.page.wait_for_url(re.compile("sort=ifd_change"))
        first, *_ = expect(SampleQuery(sort="ifd_change", descending=True))
        tab.page.locator("tbody th a").first.click()
        tab.page.wait_for_url(re.compile(rf"/samples/{first['position']}\b"))
        assert tab.page.get_by_role("heading", level=1).inner_text() == f"Sample {first['position']}"


def rows_of(page: "Page") -> list[tuple[int, int]]:
    """Position and round of each row of the list."""
    cells = page.locator("table.list tbody tr").evaluate_all(
        "rows => rows.map(row => [row.cells[0].innerText, row.cells[1].innerText])"
    )
    return [(int(position), int(round)) for position, round in cells]


def test_browser_diffs_say_what_changed_from_the_parent(runs: Path, calm: str, browser: "Browser") -> None:
    position = a_sample_with(runs, "calm", "accepted")
    with LineageReader.open(runs / "calm" / "lineage.db") as history:
        versions = {version["id"]: version for version in history.trace(str(position))["versions"]}
    changed = [
        (version, name)
        for version in versions.values()
        for name in ("instruction", "input", "response")
        if version["parent"] and version[name] != versions[version["parent"]][name]
    ]
    assert len(changed) >= 3
    with open_tab(browser, calm) as tab:
        tab.go(f"/samples/{position}")
        for view, asked in {"side by side": "?view=side", "inline": ""}.items():
            tab.page.get_by_role("link", name=view).click()
            tab.page.wait_for_url(f"{calm}/samples/{position}{asked}")
            for version, name in changed:
                article = tab.page.locator(f"#v-{name_version(version['id'])}")
                heading = tab.page.get_by_role("heading", name=name.capitalize())
                data = article.locator(".text", has=heading).locator(".data")
                if view == "inline":
                    shown = [data.evaluate(_WITHOUT, "ins"), data.evaluate(_WITHOUT, "del")]
                else:
                    shown = data.all_text_contents()
                    assert data.nth(0).locator("ins").count() == data.nth(1).locator("del").count() == 0
                texts = [text.replace("(empty)", "") for text in shown]
                assert texts == [versions[version["parent"]][name], version[name]]


_WITHOUT = """(element, tag) => {
    const copy = element.cloneNode(true);
    copy.querySelectorAll(tag).forEach(marked => marked.remove());
    return copy.textContent;
}"""


# Every "why?" within two clicks


def test_browser_answers_why_for_every_proposal_within_two_clicks(
    runs: Path, calm: str, browser: "Browser"
) -> None:
    refused = list(_not_taken(runs / "calm" / "lineage.db"))
    assert {reason for *_, reason, _ in refused} >= {"refused", "no-candidate"}
    with open_tab(browser, calm) as tab:
        tab.go("/")
        reached: dict[str, set[str]] = {}  # list -> samples it leads to
        for link in sorted(link for link in links_of(tab.page) if link.startswith("/samples?")):
            tab.go(link)
            reached[link] = {found.split("#")[0] for found in links_of(tab.page)}
        told: dict[int, list[str]] = {}
        for round, phase, position, _, sentence in refused:
            asked = {f"round={round}", f"phase={phase}"}
            fitting = [link for link in reached if asked <= set(link.partition("?")[2].split("&"))]
            assert any(f"/samples/{position}" in reached[link] for link in fitting), (round, phase, position)
            if position not in told:
                tab.go(f"/samples/{position}")
                told[position] = tab.page.locator("section .decision").all_inner_texts()
            step = 2 * (round - 1) + (phase == "response")
            assert sentence in told[position][step], (round, phase, position)


def _not_taken(lineage: Path) -> Iterator[tuple[int, str, int, str, str]]:
    """Round, phase, position, reason and its sentence, of all that was not taken."""
    with LineageReader.open(lineage) as history:
        for position in range(sum(history.samples().values())):
            for made in history.trace(str(position))["decisions"]:
                if made["reason"] != "accepted":
                    yield made["round"], made["phase"], position, made["reason"], explain_reason(made)


def links_of(page: "Page") -> set[str]:
    """Where the content's links lead, on this server."""
    return set(page.locator("main a").evaluate_all("links => links.map(link => link.getAttribute('href'))"))


# Texts that mean harm


def test_browser_runs_no_script_of_the_data(runs: Path, hostile: str, browser: "Browser") -> None:
    wait_for_comparison(hostile, "/compare/calm")
    with open_tab(browser, hostile) as tab:
        for path in (
            *paths(runs, "hostile").values(),
            *(f"/samples/{position}" for position in range(HOSTILE)),
            *(f"/samples/{position}?view=side" for position in range(0, HOSTILE, 4)),
            "/samples?q=%3Cscript%3Ealert(1)%3C/script%3E",
            "/samples?round=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        ):
            tab.go(path, status=400 if "round=%22" in path else 200)
            open_details(tab.page)
            tab.look_for_scripts()
            text = tab.page.inner_text("body")
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text), path
            for width in (PHONE, DESKTOP):
                tab.page.set_viewport_size({"width": width, "height": 900})
                assert tab.page.evaluate("document.documentElement.scrollWidth") <= width, path


@pytest.mark.parametrize(
    ("harm", "sign"),
    [
        (SCRIPTS[0], "changed the page"),
        (SCRIPTS[1], "ran alert(2)"),
        (f'<input x="{SCRIPTS[4]}">', "ran alert(5)"),
        (SCRIPTS[5], "request to http://evil.example/a.css"),
        (SCRIPTS[7], "javascript:alert(8)"),
        ("<script>undefined.name</script>", "error in a script"),
        ("<script>console.error('broken')</script>", "console: broken"),
    ],
)
def test_tab_notices_what_nothing_prevents(browser: "Browser", harm: str, sign: str) -> None:
    def visit() -> None:
        with open_tab(browser, "http://127.0.0.1:1") as tab:
            tab.page.route(
                "http://127.0.0.1:1/",
                lambda route: route.fulfill(body=f"<!DOCTYPE html><body>{harm}", content_type="text/html"),
            )
            tab.go("/")

    with pytest.raises(AssertionError, match=re.escape(sign)):
        visit()


# What is measured elsewhere


def test_pages_of_the_benchmark_are_all_answered(calm: str) -> None:
    kinds = kinds_of_pages(CALM, rounds=2)
    for paths in kinds.values():
        assert len(paths) == 21
        for path in paths[:3]:
            status, text = fetch(calm, path.replace("/compare/other", "/compare/hostile"))
            assert (status, "<main" in text) == (200, True), path


# Layout


def faults_at_widths(page: "Page", where: str, *widths: int) -> list[str]:
    """Faults of a page's layout with its details closed and open."""
    faults = []
    for state in ("closed", "open"):
        if state == "open":
            open_details(page)
        for width in widths:
            page.set_viewport_size({"width": width, "height": 900})
            faults += [f"{where}, {state}, {width}: {fault}" for fault in layout_faults(page)]
    return faults


@pytest.mark.parametrize(
    ("name", "dark", "widths"),
    [
        ("calm", False, (PHONE, 700, DESKTOP)),
        ("calm", True, ()),  # it is laid out as in light
        ("hostile", False, (PHONE, 700, DESKTOP)),
    ],
)
def test_browser_lays_out_pages_that_are_accessible(
    runs: Path, calm: str, hostile: str, browser: "Browser", name: str, dark: bool, widths: tuple[int, ...]
) -> None:
    wait_for_comparison(calm, "/compare/hostile")
    faults = []
    with open_tab(browser, {"calm": calm, "hostile": hostile}[name], dark=dark) as tab:
        for kind, path in paths(runs, name).items():
            tab.go(path)
            faults += faults_at_widths(tab.page, kind, *widths)
            if name == "calm":
                faults += [f"{kind}: {fault}" for fault in axe_findings(tab.page)]
    assert not faults, "\n".join(faults)


def test_faults_of_layout_and_access_are_noticed(browser: "Browser") -> None:
    with open_tab(browser, "about:blank") as tab:
        tab.page.set_content(
            "<p>one</p><p>other</p><div style='overflow: hidden; width: 50px'><pre>" + "x" * 200
        )
        assert layout_faults(tab.page) == []
        tab.page.set_content("<p>one</p><p style='margin-top: -25px'>other</p>")
        assert len(layout_faults(tab.page)) == 1
        tab.page.set_content(f"<p>{'x' * 500}</p>")
        assert "scrolls to" in layout_faults(tab.page)[0]
        tab.page.set_content("<html lang=en><title>t</title><main><h1>t</h1><img src='data:,'><input></main>")
        assert [finding.split(":")[1] for finding in axe_findings(tab.page)] == [" image-alt", " label"]
        tab.faults.clear()


def test_browser_lays_out_contexts_and_left_out_rows_and_runs_none_of_them(
    browser: "Browser", tmp_path: Path
) -> None:
    (tmp_path / "talk").mkdir()
    write_talk(tmp_path / "talk" / "lineage.db")
    faults = []
    with serve(tmp_path, "talk") as address, open_tab(browser, address) as tab:
        for path in ("/", "/rounds", "/rounds/1", "/samples/0", "/samples/1"):
            tab.go(path)
            faults += faults_at_widths(tab.page, path, PHONE, 700, DESKTOP)
            faults += [f"{path}: {fault}" for fault in axe_findings(tab.page)]
            tab.look_for_scripts()
    assert not faults, "\n".join(faults)


# Keyboard only


def test_browser_needs_no_pointer(calm: str, browser: "Browser") -> None:
    with open_tab(browser, calm) as tab:
        page = tab.page
        tab.go("/")
        page.keyboard.press("Tab")
        assert focused(page)["text"] == "Skip to the content"
        assert page.get_by_role("link", name="Skip to the content").bounding_box()["y"] >= 0  # type: ignore[index]
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.querySelector('main').contains(document.activeElement)")

        tab.go("/")
        tab_to(page, lambda at: at["name"] == "q")
        page.keyboard.type("things")
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(r"/samples\?q=things"))
        tab_to(page, lambda at: re.match(r"/samples/\d+", at["href"] or ""))
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(r"/samples/\d+"))
        assert page.get_by_role("heading", level=1).inner_text().startswith("Sample ")

        tab_to(page, lambda at: at["text"].startswith("side by side"))
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile("view=side"))
        tab_to(page, lambda at: at["text"].startswith("Attempt 1"), most=200)
        page.keyboard.press("Enter")
        assert page.locator("details.call[open] pre").first.is_visible()


def tab_to(page: "Page", is_there: Callable[[dict[str, Any]], object], most: int = 80) -> None:
    """Press Tab until the focus is where it should be; wherever it goes it must be seen."""
    for _ in range(most):
        page.keyboard.press("Tab")
        at = focused(page)
        assert at["is_marked"], at
        if is_there(at):
            return
    raise AssertionError(f"not reached by {most} times Tab; now at {focused(page)}")


def focused(page: "Page") -> dict[str, Any]:
    """The element that has the focus."""
    found: dict[str, Any] = page.evaluate("""() => {
        const at = document.activeElement, style = getComputedStyle(at);
        return {
            text: at.innerText || "", name: at.getAttribute("name"), href: at.getAttribute("href"),
            html: at.outerHTML.slice(0, 120),
            is_marked: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0,
        };
    }""")
    return found


# The report


@pytest.mark.parametrize("name", ["calm", "hostile"])
def test_report_is_one_file_that_reads_well_and_prints_everything(
    runs: Path, browser: "Browser", tmp_path: Path, name: str
) -> None:
    alone = tmp_path / "report.html"
    result = reflectune("report", name, "--runs", runs, "-o", alone, cwd=runs)
    assert result.returncode == 0, result.stderr
    asked: list[str] = []
    with open_tab(browser, "file://") as tab:
        tab.page.on("request", lambda request: asked.append(request.url))
        tab.page.goto(alone.as_uri(), wait_until="networkidle")
        faults = faults_at_widths(tab.page, name, PHONE, DESKTOP)
        for colours in ("light", "dark") if name == "calm" else ():
            tab.page.emulate_media(color_scheme=colours)
            faults += axe_findings(tab.page)
        assert [url for url in asked if not url.startswith("data:")] == [alone.as_uri()]
        assert not faults, "\n".join(faults)
        tab.page.emulate_media(media="print")
        pictures = tab.page.locator("main svg, main img").all()
        assert len(pictures) > 3
        assert all((box := picture.bounding_box()) and box["width"] > 100 for picture in pictures)
        assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
