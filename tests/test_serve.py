"""The browser over real HTTP: what it answers, to whom, and what it keeps to itself."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.browser import serve
from tests.test_pages import make_runs, write_run
from tests.worlds import ROOT, child_environment, command

pytestmark = pytest.mark.slow

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("world"))


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
FILES = ["base.css", "browser.css", "page.js"]
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


def check_policy(site: str, path: str) -> Answer:
    """The answer to a request, which allows a page nothing but its own."""
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
        assert re.findall(r"<(?:script|style)\b([^>]*)>([^<]*)", answer.text) == [
            (f' src="/static/page.js" nonce="{nonce}" defer', "")
        ]
        assert not re.findall(r"<[a-z][^>]* (?:style|on\w+)=", answer.text)
        assert f"'nonce-{nonce}'" not in again.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert not {"set-cookie", "access-control-allow-origin"} & set(answer.headers)
    return answer


@pytest.mark.parametrize("path", PAGES)
def test_serve_answers_every_page_with_texts_that_stay_texts(site: str, path: str) -> None:
    answer = check_policy(site, path)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text.count("<h1") == 1
    for harm in ("alert(1)</script>", "onerror=alert(2)>", "*{display:none}</style>", "1522756"):
        assert harm not in answer.text
    assert not CONTROL.search(answer.text)


@pytest.mark.parametrize(("path", "status"), REFUSED.items())
def test_serve_says_in_a_sentence_what_it_has_not(site: str, path: str, status: int) -> None:
    answer = check_policy(site, path)
    assert answer.status == status
    assert "Traceback" not in answer.text
    assert len(answer.text) > 20


@pytest.mark.parametrize("path", ["/favicon.ico", *(f"/static/{name}" for name in FILES)])
def test_serve_has_files_beside_its_pages(site: str, path: str) -> None:
    assert check_policy(site, path).status == 200


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
    assert (answer.status, "hostile" in answer.text) == (status, status == 200)


@pytest.mark.parametrize("path", ["/", "/samples/0"])
@pytest.mark.parametrize(
    ("mode", "dest", "status"),
    [
        ("no-cors", "empty", 403),
        ("no-cors", "image", 403),
        ("cors", "script", 403),
        ("navigate", "iframe", 403),
        ("navigate", "document", 200),  # a link that somebody follows
    ],
)
def test_serve_answers_no_page_of_another_site(
    site: str, path: str, mode: str, dest: str, status: int
) -> None:
    for origin in ("cross-site", "same-site", "none", "same-origin"):
        fetch = {"Sec-Fetch-Site": origin, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
        expected = status if origin in ("cross-site", "same-site") else 200
        assert ask(site, path, headers=fetch).status == expected, origin


def test_serve_listens_on_loopback_only(site: str) -> None:
    with socket.socket() as other:
        other.settimeout(2)
        # All of 127.0.0.0/8 is loopback: whoever listens everywhere answers here too.
        assert other.connect_ex(("127.0.0.2", urlsplit(site).port or 0)) != 0


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/samples/0"])
def test_serve_takes_nothing(site: str, method: str, path: str) -> None:
    answer = ask(site, path, method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/samples/0", "/static/base.css", "/nothing"])
def test_serve_answers_head_like_get_without_the_page(site: str, path: str) -> None:
    head, get = ask(site, path, "HEAD"), ask(site, path)
    assert (head.status, head.body) == (get.status, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


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
