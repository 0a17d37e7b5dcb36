"""The browser over real HTTP: what it answers, to whom, and what it keeps to itself."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.browser import serve
from tests.test_pages import make_runs, write_run
from tests.test_security import ORDERS
from tests.worlds import ROOT, child_environment, command, reflectune

pytestmark = pytest.mark.slow

CLIENT = httpx2.Client(timeout=30)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def site(runs: Path) -> Iterator[str]:
    with serve(runs, "hostile") as address:
        yield address


def ask(
    site: str, path: str, method: str = "GET", host: str | None = None, headers: Mapping[str, str] = {}
) -> httpx2.Response:
    """What the server answers to one request, its Host as given."""
    said = {} if host is None else {"Host": host}
    return CLIENT.request(method, f"{site}{path}", headers={**said, **headers})


PAGES = [
    "/", "/rounds", "/rounds/0", "/rounds/1", "/samples", "/samples?q=better&outcome=accepted",
    "/samples?sort=r_ifd_change&order=down", "/runs", "/compare/other",
    *(f"/samples/{position}{view}" for position in range(5) for view in ("", "?view=side")),
]  # fmt: skip
MISSING = (
    "/samples/99", "/samples/9999999999", "/rounds/7", "/compare/hostile", "/compare/nobody",
    "/compare/..%2f..", "/charts/nothing.svg", "/static/nothing.css", "/samples/0/versions/0/response.txt",
    "/samples/0/calls/0.txt", "/samples/0/versions/0/secret.txt", "/rounds/%D9%A3", "/rounds/%2e%2e",
    "/static/..%2fapp.py", "/nothing", "/nothing/at/all", "/lineage", "/lineage.db", "//evil.example/",
)  # fmt: skip
SENSELESS = ("round=x", "min_ifd_change=nan", "outcome=%3Cscript%3E", "page=0")
STATUS = (
    dict.fromkeys(MISSING, 404)
    | {f"/samples?{query}": 400 for query in SENSELESS}
    | dict.fromkeys(("/static/icon.svg", "/static/base.css", "/static/browser.css", "/static/page.js"), 200)
)


def check_policy(site: str, path: str) -> httpx2.Response:
    """The answer to a request, which allows a page nothing but its own."""
    answer = ask(site, path)
    parts = answer.headers["content-security-policy"].split(";")
    policy = {name: rest for name, _, rest in (part.strip().partition(" ") for part in parts)}
    assert {policy[name] for name in ("default-src", "frame-ancestors", "base-uri")} == {"'none'"}
    assert "'unsafe-inline'" not in policy.get("script-src", "")
    if answer.headers["content-type"].startswith("text/html"):
        assert policy["form-action"] == "'self'"
        assert "'unsafe-inline'" not in policy["style-src"]
        (nonce,) = re.findall(r"^'nonce-([\w-]{20,})'$", policy["script-src"])
        assert re.findall(r"<(?:script|style)\b([^>]*)>([^<]*)", answer.text) == [
            (f' src="/static/page.js" nonce="{nonce}" defer', "")
        ]
        assert not re.findall(r"<[a-z][^>]* (?:style|on\w+)=", answer.text)
        assert f"'nonce-{nonce}'" not in ask(site, path).headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert not {"set-cookie", "access-control-allow-origin"} & set(answer.headers)
    return answer


@pytest.mark.parametrize("path", PAGES)
def test_serve_answers_every_page_with_texts_that_stay_texts(site: str, path: str) -> None:
    answer = check_policy(site, path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.text.count("<h1") == 1
    for harm in ("alert(1)</script>", "onerror=alert(2)>", "*{display:none}</style>", "1522756"):
        assert harm not in answer.text
    assert not ORDERS.search(answer.text)


@pytest.mark.parametrize(("path", "status"), STATUS.items())
def test_serve_has_files_and_says_in_a_sentence_what_it_has_not(site: str, path: str, status: int) -> None:
    answer = check_policy(site, path)
    assert (answer.status_code, "Traceback" in answer.text, len(answer.text) > 20) == (status, False, True)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((f"{name}:{{port}}", 200) for name in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]")),
        *((f"{name}:{{port}}", 400) for name in ("evil.example", "localhost.evil.example")),
        *((name, 400) for name in ("evil.example", "127.0.0.1", "127.0.0.1:1", "")),
    ],
)
def test_serve_answers_only_under_its_own_names(site: str, host: str, status: int) -> None:
    answer = ask(site, "/", host=host.format(port=urlsplit(site).port))
    assert (answer.status_code, "hostile" in answer.text) == (status, status == 200)


@pytest.mark.parametrize("path", ["/", "/samples/0"])
def test_serve_answers_no_page_of_another_site(site: str, path: str) -> None:
    asked = {
        ("no-cors", "empty"): 403, ("no-cors", "image"): 403, ("cors", "script"): 403,
        ("navigate", "iframe"): 403, ("navigate", "document"): 200,  # a link that somebody follows
    }  # fmt: skip
    for (mode, dest), status in asked.items():
        for origin in ("cross-site", "same-site", "none", "same-origin"):
            fetch = {"Sec-Fetch-Site": origin, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
            expected = status if origin in ("cross-site", "same-site") else 200
            assert ask(site, path, headers=fetch).status_code == expected, fetch


def test_serve_listens_on_loopback_only(site: str) -> None:
    with socket.socket() as other:
        other.settimeout(2)
        # All of 127.0.0.0/8 is loopback: whoever listens everywhere answers here too.
        assert other.connect_ex(("127.0.0.2", urlsplit(site).port or 0)) != 0


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/samples/0"])
def test_serve_takes_nothing(site: str, method: str, path: str) -> None:
    answer = ask(site, path, method)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/samples/0", "/static/base.css", "/nothing"])
def test_serve_answers_head_like_get_without_the_page(site: str, path: str) -> None:
    head, get = ask(site, path, "HEAD"), ask(site, path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_serve_says_where_it_is_and_ends_when_asked(runs: Path, number: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        command("serve", "other", "--port", 0, "--runs", runs), cwd=ROOT, env=child_environment(),
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr
    line = process.stderr.readline()
    found = re.fullmatch(r"serving other at (http://127\.0\.0\.1:\d+)/ \(Ctrl-C ends it\)\n", line)
    assert found, line
    assert ask(found[1], "/").status_code == 200
    process.send_signal(number)
    out, error = process.communicate(timeout=300)
    assert (process.returncode, out, error) == (code, "", "")


def test_serve_refuses_a_port_that_is_taken_and_a_run_that_is_not_there(runs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = reflectune("serve", "other", "--port", port, "--runs", runs, cwd=runs)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"reflectune: port {port} of 127.0.0.1 cannot be used")
    done = reflectune("serve", "nobody", "--runs", runs, cwd=runs)
    assert (done.returncode, "no run called nobody" in done.stderr) == (2, True)


def test_datasette_reads_a_lineage(tmp_path: Path) -> None:
    write_run(tmp_path / "lineage.db")

    def get(path: str) -> str:
        datasette = Path(sys.executable).with_name("datasette")
        words = [datasette, tmp_path / "lineage.db", "--get", path]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    for path in ("/lineage/versions", "/lineage/evolution", "/lineage/round_summary"):
        assert "<table" in get(path), path
    (row,) = json.loads(get("/lineage/decisions.json?_shape=array&reason=refused"))
    assert (row["round"], row["phase"], row["incumbent_value"]) == (1, "response", 0.4)
