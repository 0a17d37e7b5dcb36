"""The browser over real HTTP: what it answers, to whom, and what it keeps to itself."""

import html
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient

from reflectune.loop.show.html.app import open_app
from reflectune.loop.show.html.sample_search import SampleSearch, address
from reflectune.loop.show.html.site import Site
from reflectune.loop.show.html.texts import cut_texts
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.connection import open_database
from reflectune.state.lineage.index import SampleIndex
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import PHASES, Evaluation, Pair, PolicyName, StudentRecord, Version
from tests.browser import serve
from tests.lineages import call, decided, make_store, original, propose, scores_of
from tests.worlds import ROOT, child_environment, command

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)><style>*{display:none}</style>"
STEERING = "\x1b[2J\x07\u202e\u2066"
HOSTILE = f"{SCRIPT} {STEERING} ]]> {{{{ 1234 * 1234 }}}} &quot;'\""
LONG = "word " * 2_000_000  # 10 MB
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


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
        failed = [
            replace(call("c", attempt=attempt, status="unparsable"), text=HOSTILE, error=HOSTILE)
            for attempt in (1, 2)
        ]
        store.add_reflections(failed, [])
        store.add_decisions(
            {
                taken.id: scores_of(0.5, 0.2),
                refused.id: scores_of(0.6, 0.9),
                other.id: scores_of(0.6, 0.95),
                long.id: scores_of(0.5, 0.5),
                old["a"].id: scores_of(0.9, 0.8),
                old["b"].id: scores_of(0.7, 0.4),
                old["d"].id: scores_of(0.7, 0.6),
            },
            "s0",
            [
                decided(old["a"], taken, reason="accepted", values=(0.8, 0.2)),
                decided(old["b"], refused, reason="refused", values=(0.4, 0.9)),
                decided(old["c"]),
                decided(old["d"], long, reason="accepted", values=(0.6, 0.5)),
            ],
        )
        store.set_training_set(1, [taken.id])
        store.add_student(StudentRecord("s1", 1, "base", None, "adapters/round-01", "h", "s0"))
        store.add_evaluations(1, "s1", [Evaluation("nll", 2.5, 10, 2.25, 2.75)])
        store.finish_round(1, "rounds")


def add_proposal(store: LineageWriter, parent: Version, response: str, candidate: int = 0) -> Version:
    made = replace(
        call(parent.sample_id, candidate=candidate), text=f"raw {HOSTILE}", critique=f"because {HOSTILE}"
    )
    pair = Pair(f"ask {parent.sample_id} {HOSTILE}", HOSTILE, response)
    version = Version(parent.sample_id, parent.id, 1, "response", candidate, pair, made.id)
    store.add_reflections([made], [version])
    return version


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs "hostile" and "other", in a folder whose name means something in addresses."""
    runs = tmp_path_factory.mktemp("world") / "50% of #1?"
    for name in ("hostile", "other"):
        (runs / name).mkdir(parents=True)
    write_run(runs / "hostile" / "lineage.db")
    with make_store(runs / "other" / "lineage.db"):
        pass
    return runs


@pytest.fixture(scope="module")
def site(runs: Path) -> Iterator[str]:
    with serve(runs, "hostile") as address:
        yield address


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.body = response.read()
        self.text = self.body.decode("utf-8", errors="replace")
        self.headers = {name.lower(): value for name, value in response.getheaders()}


def ask(
    site: str, path: str, method: str = "GET", host: str | None = None, headers: Mapping[str, str] = {}
) -> Answer:
    """What the server answers to one request, its Host as given."""
    netloc = urlsplit(site).netloc
    connection = http.client.HTTPConnection(netloc, timeout=30)
    try:
        connection.putrequest(method, path, skip_host=True)
        if host != "":
            connection.putheader("Host", host or netloc)
        for name, text in headers.items():
            connection.putheader(name, text)
        connection.endheaders()
        return Answer(connection.getresponse())
    finally:
        connection.close()


class Links(HTMLParser):
    """Where the links of a page lead to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


PAGES = [
    "/",
    "/rounds",
    "/rounds/0",
    "/rounds/1",
    "/samples",
    "/samples?q=better&outcome=accepted",
    "/samples?sort=r_ifd_change&order=down",
    *(f"/samples/{position}" for position in range(5)),
    *(f"/samples/{position}?view=side" for position in range(5)),
    "/runs",
    "/compare/other",
]
REFUSED = {
    "/samples/99": 404,
    "/samples/9999999999": 404,
    "/rounds/7": 404,
    "/compare/hostile": 404,
    "/compare/nobody": 404,
    "/compare/..%2f..": 404,
    "/charts/nothing.svg": 404,
    "/static/nothing.css": 404,
    "/samples/0/versions/0/response.txt": 404,
    "/samples/0/calls/0.txt": 404,
    "/samples/0/versions/0/secret.txt": 404,
    "/rounds/%D9%A3": 404,
    "/rounds/%2e%2e": 404,
    "/static/..%2fapp.py": 404,
    "/nothing": 404,
    "/nothing/at/all": 404,
    "/lineage": 404,
    "/lineage.db": 404,
    "//evil.example/": 404,
    "/samples?round=x": 400,
    "/samples?min_ifd_change=nan": 400,
    "/samples?outcome=%3Cscript%3E": 400,
    "/samples?page=0": 400,
}


@pytest.mark.parametrize("path", PAGES)
def test_serve_answers_every_page_with_texts_that_stay_texts(site: str, path: str) -> None:
    answer = ask(site, path)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text.count("<h1") == 1
    assert "alert(1)</script>" not in answer.text
    assert "onerror=alert(2)>" not in answer.text
    assert "*{display:none}</style>" not in answer.text
    assert "1522756" not in answer.text
    assert not CONTROL.search(answer.text)


def test_serve_shows_hostile_texts_as_they_are_written(site: str) -> None:
    for path in ("/samples/0", "/samples/1"):
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in ask(site, path).text, path
    assert "{{ 1234 * 1234 }}" in ask(site, "/samples/1").text


@pytest.mark.parametrize(("path", "status"), REFUSED.items())
def test_serve_says_in_a_sentence_what_it_has_not(site: str, path: str, status: int) -> None:
    answer = ask(site, path)
    assert answer.status == status
    assert "Traceback" not in answer.text
    assert "<script>" not in answer.text
    assert len(answer.text) > 20


@pytest.mark.parametrize(
    "path",
    [*PAGES, *REFUSED, "/static/style.css", "/static/page.js", "/favicon.ico"],
)
def test_serve_allows_a_page_nothing_but_its_own(site: str, path: str) -> None:
    answer, again = ask(site, path), ask(site, path)
    policy = dict(
        part.strip().split(" ", 1)
        for part in answer.headers["content-security-policy"].split(";")
        if " " in part.strip()
    )
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "'unsafe-inline'" not in policy.get("script-src", "")
    if answer.headers["content-type"].startswith("text/html"):
        assert policy["form-action"] == "'self'"
        assert "'unsafe-inline'" not in policy["style-src"]
        (nonce,) = re.findall(r"^'nonce-([\w-]{20,})'$", policy["script-src"])
        marked = re.findall(r"<(?:script|style)\b([^>]*)", answer.text)
        assert all(f'nonce="{nonce}"' in attributes for attributes in marked)
        assert f"'nonce-{nonce}'" not in again.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "set-cookie" not in answer.headers
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", PAGES)
def test_serve_has_no_page_of_its_own_with_styles_or_scripts_in_it(site: str, path: str) -> None:
    page = ask(site, path).text
    assert not re.findall(r"<[a-z][^>]* (?:style|on\w+)=", page)
    assert "<style" not in page
    assert re.findall(r"<script([^>]*)>([^<]*)", page) == [
        (f' src="/static/page.js" nonce="{nonce}" defer', "")
        for nonce in re.findall(r'<script src="/static/page\.js" nonce="(\S+)" defer', page)
    ]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{port}", ""],
)
def test_serve_refuses_foreign_hosts(site: str, host: str) -> None:
    answer = ask(site, "/", host=host.format(port=urlsplit(site).port))
    assert answer.status == 400
    assert "hostile" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
def test_serve_answers_under_its_own_names(site: str, host: str) -> None:
    assert ask(site, "/", host=host.format(port=urlsplit(site).port)).status == 200


@pytest.mark.parametrize("origin", ["cross-site", "same-site"])
@pytest.mark.parametrize("path", ["/", "/samples/0"])
def test_serve_answers_no_page_of_another_site(site: str, path: str, origin: str) -> None:
    def status(mode: str, dest: str) -> int:
        fetch = {"Sec-Fetch-Site": origin, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
        return ask(site, path, headers=fetch).status

    assert {status("no-cors", "empty"), status("no-cors", "image"), status("cors", "script")} == {403}
    assert status("navigate", "iframe") == 403
    assert status("navigate", "document") == 200  # a link that somebody follows


@pytest.mark.parametrize("origin", ["none", "same-origin"])
def test_serve_answers_its_own_pages_and_who_types_an_address(site: str, origin: str) -> None:
    for mode, dest in (("navigate", "document"), ("no-cors", "image"), ("cors", "empty")):
        fetch = {"Sec-Fetch-Site": origin, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
        assert ask(site, "/samples/0", headers=fetch).status == 200


def test_serve_listens_on_loopback_only(site: str) -> None:
    with socket.socket() as other:
        other.settimeout(2)
        # All of 127.0.0.0/8 is loopback: whoever listens everywhere answers here too.
        assert other.connect_ex(("127.0.0.2", urlsplit(site).port or 0)) != 0


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/samples/0"])
def test_serve_takes_nothing(site: str, method: str, path: str) -> None:
    answer = ask(site, path, method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/samples/0", "/static/style.css", "/nothing"])
def test_serve_answers_head_like_get_without_the_page(site: str, path: str) -> None:
    head, get = ask(site, path, "HEAD"), ask(site, path)
    assert (head.status, head.body) == (get.status, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_serve_tells_the_whole_story_of_a_sample(site: str) -> None:
    page = ask(site, "/samples/1").text
    text = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert "Sample 1" in text
    assert "Not trained on in any round." in text
    assert "r-IFD 0.9000 against the incumbent's 0.4000 under s0" in text
    assert "because <script>" in text
    assert "Not compared: proposal 1 was as good or better under s0" in text
    assert "policy ifd+r-ifd, margin 0.0" in text
    # All nlls alone are 1 nat per token: nll(x|y) of the incumbent is 1 + ln 0.4 = 0.0837.
    assert "0.0837" in text
    assert "raw <script>" in text
    assert re.search(r"10 \+ 5\s*asked \+ answered", text)
    parent = re.search(r'from its parent <a href="#(v-[0-9a-f]{12})"', page)
    assert parent
    assert f'id="{parent[1]}"' in page


def test_serve_shows_both_kinds_of_diff(site: str) -> None:
    inline, side = ask(site, "/samples/1").text, ask(site, "/samples/1?view=side").text
    assert re.search(r"<del>answer</del>|<del>answer b</del>", inline)
    assert '<div class="sides">' not in inline
    assert '<div class="sides">' in side
    assert '<a href="/samples/1?view=side" aria-current="true">side by side</a>' in side
    assert 'href="/samples/2?view=side"' in side


def test_serve_says_why_to_every_refusal_within_two_clicks(site: str) -> None:
    overview = Links(ask(site, "/").text).found
    lists = [
        link
        for link in overview
        if "outcome=refused" in link and "phase=response" in link and "round=1" in link
    ]
    samples = [link for link in Links(ask(site, lists[0]).text).found if re.match(r"/samples/\d+#", link)]
    assert set(samples) == {"/samples/1#round-1-response"}
    assert "against the incumbent's 0.4000 under s0" in html.unescape(
        ask(site, samples[0].partition("#")[0]).text
    )


def test_serve_says_what_decides(site: str) -> None:
    assert re.findall('<p class="explained">(The pair .*?)</p>', ask(site, "/rounds/1").text) == [
        "The pair with the highest IFD stays.",
        "The pair with the lowest r-IFD stays.",
    ]


def test_serve_counts_what_its_lists_hold(site: str) -> None:
    links = re.findall(r'<a href="(/samples\?[^"]+)" aria-label="(\d+)', ask(site, "/rounds/1").text)
    assert {label for _, label in links} == {
        "1",
        "2",
        "4",
    }  # of four samples: 2 accepted, 1 refused, 1 failed
    for link, count in links:
        assert f"<strong>{count}</strong> row" in ask(site, html.unescape(link)).text


def test_serve_finds_by_words_and_change(site: str) -> None:
    def found(query: str) -> set[str]:
        page = ask(site, f"/samples?round=1&{query}").text
        return set(re.findall(r'href="/samples/(\d+)#round-1(?:-response)?"', page))

    assert found("q=BETTER") == {"0"}
    assert found("q=wors") == {"1"}
    assert found("q=nowhere") == set()
    assert found("max_r_ifd_change=-0.5") == {"0"}  # 0.8 to 0.2
    assert found("min_r_ifd_change=-0.5") == {"1", "3"}  # 0.4 to 0.9, and 0.6 to 0.5
    assert found("trained=yes") == {"0"}
    assert found("outcome=failed&phase=response") == {"2"}


def test_serve_keeps_the_question_where_a_value_makes_no_sense(site: str) -> None:
    page = ask(site, "/samples?q=better&min_ifd_change=much").text
    assert 'value="much" aria-invalid="true"' in page
    assert 'value="better"' in page
    assert "“much” is no number" in page


def test_serve_cuts_long_texts_and_has_them_whole(site: str) -> None:
    page = ask(site, "/samples/3").text
    assert len(page) < 200_000
    (link,) = re.findall(r'href="(/samples/3/versions/\w+/response\.txt)"', page)
    whole = ask(site, link)
    assert whole.text == LONG
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"


def test_serve_has_raw_texts_as_they_are(site: str) -> None:
    (link, *_) = re.findall(r'href="(/samples/0/calls/\w+\.txt)"', ask(site, "/samples/0").text)
    answer = ask(site, link)
    assert answer.text == f"raw {HOSTILE}"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    (version,) = re.findall(r'href="/samples/3/versions/(\w+)/response', ask(site, "/samples/3").text)
    assert ask(site, f"/samples/3/versions/{version}/criticism.txt").text == f"because {HOSTILE}"


def test_serve_draws_charts_that_can_do_nothing(site: str) -> None:
    charts = re.findall(r'<img src="(/charts/[\w-]+\.svg)" alt="([^"]{20,})"', ask(site, "/").text)
    assert charts
    for path, _ in charts:
        answer = ask(site, path)
        assert answer.headers["content-type"].startswith("image/svg+xml")
        assert "sandbox" in answer.headers["content-security-policy"]
        assert "<script" not in answer.text


def test_serve_compares_runs(site: str) -> None:
    assert "/compare/other" in Links(ask(site, "/runs").text).found
    page = wait_for(site, "/compare/other", "Settings that differ")
    assert "hostile and other" in page


def wait_for(site: str, path: str, text: str, patience: float = 20.0) -> str:
    """A page as soon as it has a text."""
    end = time.monotonic() + patience
    while text not in (page := ask(site, path).text):
        assert time.monotonic() < end, f"{path} never had {text}"
        time.sleep(0.1)
    return page


def test_serve_works_while_a_run_writes(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    lineage = tmp_path / "live" / "lineage.db"
    with make_store(lineage) as store:
        store.start_round(1)
        store.add_decisions({}, "s0", [decided(original("a"), phase="instruction")])
        with serve(tmp_path, "live") as site:
            with store.transaction():
                new = propose(store, original("a"), "quite new", round=1, phase="response")
                for path in ("/", "/samples", "/samples/0"):
                    answer = ask(site, path)
                    assert answer.status == 200
                    assert "quite new" not in answer.text
            assert "quite new" in html.unescape(re.sub("<[^>]+>", "", ask(site, "/samples/0").text))
            store.add_decisions(
                {new.id: scores_of(0.5, 0.2), original("a").id: scores_of(0.5, 0.8)},
                "s0",
                [decided(original("a"), new, reason="accepted", values=(0.8, 0.2))],
            )
            wait_for(site, "/rounds/1", "phase=response&amp;outcome=accepted")
            assert 'href="/samples/0#round-1"' in wait_for(site, "/samples?q=quite", "#round-1")


@pytest.mark.parametrize("damage", ["gone", "overwritten"])
def test_serve_says_that_a_lineage_cannot_be_read_any_more(tmp_path: Path, damage: str) -> None:
    (tmp_path / "run").mkdir()
    lineage = tmp_path / "run" / "lineage.db"
    with make_store(lineage):
        pass
    with serve(tmp_path, "run") as site:
        assert ask(site, "/samples/0").status == 200
        if damage == "gone":
            shutil.rmtree(tmp_path / "run")
        else:
            for path in lineage.parent.glob("lineage.db*"):
                path.unlink()
            lineage.write_bytes(b"no lineage at all" * 1000)
        for path in ("/samples/0", "/samples/0?view=side"):
            answer = ask(site, path)
            assert answer.status == 503
            assert "The lineage cannot be read" in answer.text
            assert "Traceback" not in answer.text
        assert "Not up to date" in wait_for(site, "/", "Not up to date")


def test_serve_reads_a_lineage_that_is_put_back(tmp_path: Path) -> None:
    lineage, older = tmp_path / "run" / "lineage.db", tmp_path / "older.db"
    lineage.parent.mkdir()
    for path, samples in ((lineage, 3), (older, 2)):
        with make_store(path, train=samples):
            pass
    with serve(tmp_path, "run") as site:
        assert ask(site, "/samples/3").status == 200
        for suffix in ("-wal", "-shm"):
            lineage.with_name(f"lineage.db{suffix}").unlink(missing_ok=True)
        older.replace(lineage)
        assert ask(site, "/samples/3").status == 404


@pytest.mark.slow
def test_datasette_reads_a_lineage(tmp_path: Path) -> None:
    lineage = tmp_path / "lineage.db"
    write_run(lineage)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    datasette = Path(sys.executable).with_name("datasette")
    process = subprocess.Popen(
        [datasette, lineage, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        site = f"http://127.0.0.1:{port}"
        for path in ("/lineage/versions", "/lineage/evolution", "/lineage/round_summary"):
            answer = ask(site, path)
            assert (answer.status, "<table" in answer.text) == (200, True), path
        rows = json.loads(ask(site, "/lineage/decisions.json?_shape=array&reason=refused").text)
        assert [(row["round"], row["phase"], row["incumbent_value"]) for row in rows] == [
            (1, "response", 0.4)
        ]
    finally:
        process.terminate()
        process.wait(timeout=20)


def write_policy(path: Path, policy: PolicyName, values: tuple[float, float] | None = None) -> None:
    """A round that refused one proposal in each phase, by a policy."""
    path.parent.mkdir()
    with make_store(path) as store:
        store.start_round(1)
        for phase in PHASES:
            new = propose(store, original("a"), f"new {phase}", round=1, phase=phase)
            decision = decided(
                original("a"), new, reason="refused", phase=phase, values=values or (None, None)
            )
            store.add_decisions({new.id: scores_of(0.5, 0.5)}, "s0", [replace(decision, policy=policy)])
    database = open_database(path)
    config = {"rounds": 2, "selection": {"policy": policy, "ifd_cap": 0.9 if values else None}}
    database.execute("UPDATE runs SET config = ?", [json.dumps(config)])
    database.conn.commit()
    database.close()


@pytest.mark.parametrize("samples", [10_000, 10_001])
def test_serve_says_where_it_counts_no_further(tmp_path: Path, samples: int) -> None:
    (tmp_path / "run").mkdir()
    with make_store(tmp_path / "run" / "lineage.db", train=samples, holdout=0):
        pass

    def found(path: str) -> str:
        (line,) = re.findall('<p class="found" role="status">(.*?)</p>', ask(site, path).text)
        return re.sub("<[^>]+>", "", line)

    narrow = ". Narrow the question to see those beyond"
    with serve(tmp_path, "run") as site:
        assert found("/samples?page=200") == (
            f"{'more than ' if samples > 10_000 else ''}10,000 rows, each one sample in one round; "
            f"showing 9,951 to 10,000{narrow if samples > 10_000 else ''}."
        )
        # All of them hold the word.
        among = ", among the first 10,000 samples that hold these words; more words narrow it"
        assert found("/samples?q=ask") == (
            f"10,000 rows, each one sample in one round{among if samples > 10_000 else ''}; showing 1 to 50."
        )


def test_samples_are_not_counted_where_the_page_tells_their_number(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(runs, RunFolder(runs / "hostile"))
    site.watcher.start()
    end = time.monotonic() + 60
    while site.watcher.snapshot is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    site.watcher.stop()
    asked: list[int] = []
    monkeypatch.setattr(SampleIndex, "count", lambda *_: asked.append(1) or 4)
    client = TestClient(open_app(site, 80), base_url="http://127.0.0.1")
    for page, counts in (("1", 0), ("2", 1)):
        answer = client.get("/samples", params={"round": "1", "page": page})
        assert "<strong>4</strong> rows" in answer.text
        assert len(asked) == counts


def test_serve_says_that_changes_of_rounds_do_not_compare(site: str) -> None:
    note = "Changes of different rounds are under different students, and do not compare"
    assert note in ask(site, "/samples?sort=r_ifd_change").text
    for path in ("/samples?sort=r_ifd_change&round=1", "/samples", "/samples?sort=length_growth"):
        assert note not in ask(site, path).text


def test_serve_leads_to_no_list_without_rows(tmp_path: Path) -> None:
    write_policy(tmp_path / "run" / "lineage.db", "reject-all")
    with serve(tmp_path, "run") as site:
        overview = ask(site, "/").text
        assert "Policy reject-all compares no IFD in phase instruction." in overview
        assert "Policy reject-all compares no r-IFD in phase response." in overview
        assert "Narrow refusals" not in overview
        lists = [html.unescape(link) for link in Links(overview).found if link.startswith("/samples?")]
        assert "/samples?sort=length_growth&order=down" in lists
        for link in lists:
            assert "No sample is like this" not in ask(site, link).text, link
        empty = ask(site, "/samples?sort=ifd_change").text
        assert "No sample is like this: policy reject-all compares no IFD in phase instruction." in empty


def test_serve_says_what_a_cap_does(tmp_path: Path) -> None:
    # The proposal's IFD is higher, but not below the cap: a refusal, and no narrow one.
    write_policy(tmp_path / "run" / "lineage.db", "ifd+r-ifd", (0.5, 0.95))
    with serve(tmp_path, "run") as site:
        page = ask(site, "/rounds/1").text
        assert re.findall('<p class="explained">(The pair .*?)</p>', page) == [
            "The pair with the highest IFD below 0.9 stays (selection.ifd_cap); where none is below, the "
            "pair with the highest.",
            "The pair with the lowest r-IFD stays.",
        ]
        overview = Links(ask(site, "/").text).found
        narrow, other = [link for link in overview if "refused" in link and "sort" in link]
        assert "No sample is like this" in ask(site, narrow).text
        assert 'href="/samples/0#round-1-response"' in ask(site, other).text


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("serve", *arguments),
        cwd=ROOT,
        env=child_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_serve_says_where_it_is_and_ends_when_asked(runs: Path, number: signal.Signals, code: int) -> None:
    process = start("other", "--port", 0, "--runs", runs)
    assert process.stderr
    line = process.stderr.readline()
    found = re.fullmatch(r"serving other at (http://127\.0\.0\.1:\d+)/ \(Ctrl-C ends it\)\n", line)
    assert found, line
    assert ask(found[1], "/").status == 200
    process.send_signal(number)
    out, error = process.communicate(timeout=20)
    assert (process.returncode, out, error) == (code, "", "")


def test_serve_refuses_a_port_that_is_taken_and_a_run_that_is_not_there(runs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("other", "--port", port, "--runs", runs)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error.startswith(f"reflectune: port {port} of 127.0.0.1 cannot be used")
    assert error.count("\n") == 1
    process = start("nobody", "--runs", runs)
    assert "no run called nobody" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


def test_sample_search_reads_an_address_and_writes_others() -> None:
    search = SampleSearch(
        {"q": " two words ", "round": "2", "trained": "no", "max_ifd_change": "−0.5", "page": "3", "x": "y"}
    )
    assert not search.problems
    query = search.query
    assert (query.text, query.round, query.trained, query.max_ifd_change) == ("two words", 2, False, -0.5)
    assert (query.limit, query.offset) == (50, 100)
    assert (
        search.address(page=4) == "/samples?q=two+words&round=2&trained=no&max_ifd_change=%E2%88%920.5&page=4"
    )
    assert search.address(q=None) == "/samples?round=2&trained=no&max_ifd_change=%E2%88%920.5"
    assert address() == "/samples"


@pytest.mark.parametrize(
    "args",
    [
        {"round": "-1"},
        {"round": "1.5"},
        {"round": "٣"},
        {"page": "201"},
        {"min_length_growth": "inf"},
        {"sort": "id; drop"},
        {"q": "x" * 501},
    ],
)
def test_sample_search_names_what_makes_no_sense(args: dict[str, str]) -> None:
    assert set(SampleSearch(args).problems) == set(args)


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
    assert (text.runs, text.length, text.cut) == (
        [("same", "i" * 20_000), ("left out", "1 more characters")],
        20_001,
        1,
    )
