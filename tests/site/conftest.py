"""The built site, served by a plain file server, and a real browser to read it with."""

import functools
import gzip
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from filelock import FileLock
from playwright.sync_api import Browser, Page, sync_playwright

from hooks import ROOT

ADDRESSES = {
    "SITE_URL": "https://docs.example.org/dl/",
    "REPO_URL": "https://github.com/someone/something",
}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make site` builds it, addresses unknown."""
    return once("site", {}, tmp_path_factory)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site with both addresses known."""
    return once("published", ADDRESSES, tmp_path_factory)


def once(name: str, addresses: dict[str, str], factory: pytest.TempPathFactory) -> Path:
    """Built by the first process that needs it; the others wait."""
    top = factory.getbasetemp()
    folder = (top.parent if "PYTEST_XDIST_WORKER" in os.environ else top) / name
    with FileLock(folder.with_suffix(".lock")):
        return folder if folder.is_dir() else build(folder, addresses)


def build(folder: Path, addresses: dict[str, str]) -> Path:
    inherited = {name: value for name, value in os.environ.items() if name not in ADDRESSES}
    command = [sys.executable, "-m", "hooks", "build", str(folder)]
    try:
        subprocess.run(command, cwd=ROOT, env=inherited | addresses, check=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # the next one says why, too
        raise
    return folder


class Handler(http.server.SimpleHTTPRequestHandler):
    """A plain file server, silent, that answers what is missing with the site's 404 page."""

    def log_message(self, *args: object) -> None: ...

    def send_error(self, code: int, *args: object) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write((Path(self.directory) / "404.html").read_bytes())


def serve(
    folder: Path, handler: type[http.server.SimpleHTTPRequestHandler] = Handler
) -> Iterator[str]:
    serving = functools.partial(handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serving) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def url(site: Path) -> Iterator[str]:
    yield from serve(site)


@pytest.fixture(scope="session")
def published_url(published: Path) -> Iterator[str]:
    yield from serve(published)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    command = shutil.which(os.environ.get("BROWSER", "chromium"))
    assert command, "no Chromium; run tests/browser.sh, or say BROWSER=command"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=command, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(10_000)
    yield page
    context.close()


def addresses(site: Path) -> list[str]:
    """The address of each page, relative to the root."""
    found = (path.relative_to(site).as_posix() for path in site.rglob("index.html"))
    return sorted(path.removesuffix("index.html") for path in found)


def watch(page: Page) -> list[str]:
    """Collect what goes wrong on the page from here on."""
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "requestfailed",
        lambda request: (
            wrong.append(f"failed: {request.url}")
            if request.failure != "net::ERR_ABORTED"  # by leaving the page
            else None
        ),
    )
    page.on("response", lambda r: wrong.append(f"{r.status}: {r.url}") if r.status > 399 else None)
    page.on(
        "request",
        lambda r: (
            wrong.append(f"another host: {r.url}")
            if urlsplit(r.url).hostname not in ("127.0.0.1", None)
            else None
        ),
    )
    return wrong


def wire(file: Path) -> float:
    """KB over the wire; fonts and images are compressed already."""
    data = file.read_bytes()
    return len(data if file.suffix in (".woff2", ".png") else gzip.compress(data)) / 1000


# Measured figures -----------------------------------------------------------------

Note = Callable[[str, float, float, str], None]


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Note:
    """Note a measured figure for the end of the run, and fail where it exceeds its budget."""

    def note(name: str, value: float, budget: float, unit: str) -> None:
        record_property("measured", (name, value, budget, unit))
        assert value <= budget, line(name, value, budget, unit)

    return note


def line(name: str, value: float, budget: float, unit: str) -> str:
    return f"{name:<60}{value:>9.3g} of at most {budget:g} {unit}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for stat in ("passed", "failed") for r in terminalreporter.stats.get(stat, [])]
    lines = [line(*noted) for r in reports for k, noted in r.user_properties if k == "measured"]
    if lines:
        terminalreporter.section("measured")
        for text in lines:
            terminalreporter.write_line(text)
