"""A real server and a real browser, for whoever looks at pages as people do: tests, benchmarks, pictures.

python -m tests.browser tests/screenshots      # the README's pictures, of the demo in English
"""

import http.client
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from tests.real_models import MODELS
from tests.worlds import ROOT, child_environment, command

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Found = TypeVar("Found")

CHROMIUM = shutil.which("chromium")
PHONE, DESKTOP = 390, 1280  # widths in CSS pixels

# Nothing of the browser's own goes out, and a container without user namespaces can run it.
_ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--no-first-run",
)  # fmt: skip
# What a script of the data would leave behind, were it ever run.
_CANARY = """
    window.__ran = [];
    for (const name of ["alert", "confirm", "prompt", "open"]) {
        window[name] = (...given) => { window.__ran.push(name + "(" + given.join() + ")"); };
    }
"""


@contextmanager
def serve(runs: Path, name: str, patience: float = 300.0, *, wait: bool = True) -> Iterator[str]:
    """`reflectune serve` in a process of its own: its address, without a slash at the end.

    It has read the whole run by then, within `patience` seconds, unless it is not to be waited for. It must
    not end by itself, nor write anything but its address.
    """
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said"
        with said.open("w") as out:
            words = command("serve", name, "--port", 0, "--runs", runs)
            process = subprocess.Popen(words, cwd=ROOT, env=child_environment(), stdout=out, stderr=out)
        try:
            address = _wait_for(lambda: _find_address(process, said), patience)
            if wait:
                _wait_for(lambda: has_read(address), patience)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(timeout=300)
            finally:
                process.kill()
        lines = list(dict.fromkeys(said.read_text(encoding="utf-8").splitlines()))
        assert len(lines) == 1, lines[:10]


def fetch(address: str, path: str, timeout: float = 60.0) -> tuple[int, str]:
    """Status and text of one answer, without a browser."""
    with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=timeout)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def wait_for_comparison(address: str, path: str) -> None:
    """Until the page of two runs shows them."""
    _wait_for(lambda: "are being compared" not in fetch(address, path)[1], 300.0)


def has_read(address: str) -> bool:
    """Whether the server has read its run once: neither the overview nor the list of runs waits for it."""
    status, overview = fetch(address, "/")
    assert status == 200, overview
    return not re.search(r"being (indexed|drawn)", overview + fetch(address, "/runs")[1])


@contextmanager
def open_browser() -> Iterator["Browser"]:
    """Headless Chromium of the system, with a profile of its own."""
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as playwright,
        closing(playwright.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS))) as browser,
    ):
        yield browser


@dataclass
class Tab:
    """One page of a browser at a server or a file, and everything that went wrong in it."""

    page: "Page"
    origin: str
    faults: list[str] = field(default_factory=list)
    status: int = 200  # that the page is to have

    def go(self, path: str, status: int = 200) -> None:
        """Open a path of the server, whose answer must have this status."""
        self.status = status
        response = self.page.goto(f"{self.origin}{path}")
        assert response is not None, path
        assert response.status == status, (path, response.status)

    def look_for_scripts(self) -> None:
        """Note whatever a script from the data did, and whatever could still run one."""
        page = self.page
        self.faults += [f"{page.url}: ran {call}" for call in page.evaluate("window.__ran")]
        if page.evaluate("'canary' in window") or "OWNED" in page.title():
            self.faults.append(f"{page.url}: a script changed the page")
        self.faults += [f"{page.url}: {element}" for element in page.evaluate(_SCRIPTABLE)]


# Elements that no page of ours has, and attributes that run something.
_SCRIPTABLE = """() => [...document.querySelectorAll("*")].filter(element =>
    ["IFRAME", "OBJECT", "EMBED", "BASE", "FRAME", "APPLET"].includes(element.tagName)
    || (element.tagName === "SCRIPT" && !element.nonce && element.type !== "application/json")
    || [...element.attributes].some(attribute => attribute.name.startsWith("on")
        || /href|src|action/.test(attribute.name)
        && /^\\s*(javascript|vbscript|data:text)/i.test(attribute.value))
).map(element => element.outerHTML.slice(0, 200))"""


@contextmanager
def open_tab(
    browser: "Browser", origin: str, *, width: int = DESKTOP, dark: bool = False, **options: Any
) -> Iterator[Tab]:
    """A tab with a profile of its own. Nothing but `origin` can be reached from it.

    In the end nothing must have gone wrong that the page itself would not show: an error on the console or in
    a script, a request to elsewhere or in vain, a dialog, a script of the data.
    """
    shape = {"viewport": {"width": width, "height": 900 if width > 600 else 844}}
    with closing(
        browser.new_context(**shape, color_scheme="dark" if dark else "light", **options)
    ) as context:
        context.add_init_script(_CANARY)
        tab = Tab(context.new_page(), origin)
        note = tab.faults.append

        def route(route: Any) -> None:
            url = route.request.url
            if url.startswith((f"{origin}/", "data:")):
                route.continue_()
            else:
                note(f"request to {url}")
                route.abort()

        def note_failure(request: Any) -> None:
            if request.failure != "net::ERR_ABORTED":  # its page was left
                note(f"failed: {request.url}: {request.failure}")

        def note_message(message: Any) -> None:
            if message.type in ("error", "warning") and f"status of {tab.status} " not in message.text:
                note(f"console: {message.text}")

        context.route("**/*", route)
        context.on("requestfailed", note_failure)
        context.on("console", note_message)
        context.on("weberror", lambda error: note(f"error in a script: {error.error}"))
        yield tab
        tab.look_for_scripts()
    assert not tab.faults, "\n".join(tab.faults)


def open_details(page: "Page") -> None:
    """Unfold everything."""
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")


def layout_faults(page: "Page") -> list[str]:
    """Horizontal scrolling of the page, and texts or controls that lie on each other."""
    found: list[str] = page.evaluate(_LAYOUT)
    return found


_LAYOUT = """() => {
    const found = [], root = document.documentElement;
    if (root.scrollWidth > root.clientWidth) {
        const wide = [...document.querySelectorAll("body *")]
            .filter(one => one.getBoundingClientRect().right > root.clientWidth + 1)
            .filter(one => !one.closest(".scroll, pre"));
        found.push(`scrolls to ${root.scrollWidth} of ${root.clientWidth} px: `
            + wide.slice(0, 3).map(one => one.outerHTML.slice(0, 80)).join(" "));
    }
    const kinds = "a, button, input, select, summary, label, legend, h1, h2, h3, h4, h5, p, dt, dd, td, th, "
        + "pre, figcaption, caption, img, svg";
    const boxes = [];
    for (const element of document.querySelectorAll(kinds)) {
        if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
        if (element.closest("svg") && element.tagName !== "svg") continue;
        for (const rect of element.getClientRects()) {
            let [left, top, right, bottom] = [rect.left, rect.top, rect.right, rect.bottom];
            for (let outer = element.parentElement; outer; outer = outer.parentElement) {
                const isPage = outer === root || outer === document.body;
                if (!isPage && getComputedStyle(outer).overflow !== "visible") {
                    const edge = outer.getBoundingClientRect();
                    left = Math.max(left, edge.left); right = Math.min(right, edge.right);
                    top = Math.max(top, edge.top); bottom = Math.min(bottom, edge.bottom);
                }
            }
            if (right - left > 2 && bottom - top > 2 && bottom + scrollY > 0 && right > 0)
                boxes.push({ element, left, top, right, bottom });
        }
    }
    boxes.sort((one, other) => one.top - other.top);
    boxes.forEach((one, place) => {
        for (let next = place + 1; next < boxes.length && boxes[next].top < one.bottom - 2; next++) {
            const other = boxes[next];
            if (one.element.contains(other.element) || other.element.contains(one.element)) continue;
            const wide = Math.min(one.right, other.right) - Math.max(one.left, other.left);
            const high = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
            const [lower, upper] = [one, other].map(box => box.element.outerHTML.slice(0, 80));
            if (wide > 2 && high > 2 && found.length < 10) found.push(`${upper} lies on ${lower}`);
        }
    });
    return found;
}"""


def axe_findings(page: "Page") -> list[str]:
    """What axe-core holds against a page that is serious or critical."""
    from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]

    return [
        f"{fault['impact']}: {fault['id']}: {fault['help']}: {fault['nodes'][0]['html'][:200]} "
        f"({len(fault['nodes'])}; {fault['nodes'][0]['failureSummary'][:300]})"
        for fault in Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


def _find_address(process: subprocess.Popen[bytes], said: Path) -> str | None:
    text = said.read_text(encoding="utf-8")
    assert process.poll() is None, text
    found = re.search(r"http://\S+?(?=/?\s)", text)
    return found[0] if found else None


def _wait_for(look: Callable[[], Found | None], patience: float) -> Found:
    """What `look` finds in the end."""
    end = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < end, f"nothing after {patience:.0f} s"
        time.sleep(0.05)
    return found


def take_pictures(folder: Path) -> None:
    """The README's pictures: the demo in English is run, served and reported on."""
    model = MODELS / "smollm2"
    if not model.is_dir():
        raise SystemExit(f"no {model}: `python -m tests.real_models smollm2` makes it")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        runs = Path(name)
        told = json.loads(_run("demo-english", "--model", model, "--json", "--runs", runs))
        run, position = runs / told["name"], told["trace"]["position"]
        _run("report", run.name, "--runs", runs)
        address = stack.enter_context(serve(runs, run.name))
        browser = stack.enter_context(open_browser())
        with open_tab(browser, address) as tab:
            tab.go("/")
            tab.page.screenshot(path=folder / "overview.png")
            tab.go("/samples?outcome=refused&phase=response&sort=r_ifd_change&order=up")
            tab.page.screenshot(path=folder / "samples.png")
            tab.page.set_viewport_size({"width": DESKTOP, "height": 1_680})
            tab.go(f"/samples/{position}")
            tab.page.screenshot(path=folder / "sample.png")
        with open_tab(browser, address, width=PHONE, dark=True) as tab:
            tab.go(f"/samples/{position}")
            tab.page.screenshot(path=folder / "phone.png")
        with open_tab(browser, "file://") as tab:
            tab.page.goto(f"{(run / 'report.html').as_uri()}#charts")
            tab.page.screenshot(path=folder / "report.png")


def _run(*words: object) -> str:
    done = subprocess.run(
        command(*words), cwd=ROOT, env=child_environment(), stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]))
