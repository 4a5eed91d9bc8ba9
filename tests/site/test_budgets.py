"""What a page may weigh and ask for, who can read it, and what programs find."""

import filecmp
import json
import re
import shutil
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page

from hooks import ROOT, SNIPPETS
from tests.site.conftest import Note, addresses, build, serve, wire

pytestmark = pytest.mark.slow

KINDS = {  # (KB over the wire, requests), cold cache
    "about/": (90, 12),
    "attention/scaled_dot_product_attention/": (140, 17),
    "concepts/distribution_shift/": (140, 17),
    "labs/distribution_shift/": (190, 17),
    "status/": (90, 12),
}
AXE = (ROOT / "node_modules/axe-core/axe.min.js").read_text("utf-8")


def loaded(page: Page, site: Path, url: str, address: str) -> list[Path]:
    """The files that a page asks for, until the network is idle."""
    found: list[str] = []
    page.on("request", lambda request: found.append(request.url))
    page.goto(url + address)
    page.wait_for_load_state("networkidle")
    names = (re.sub(r"[?#].*", "", link).removeprefix(url) for link in found)
    return [site / name / "index.html" if name[-1:] in ("", "/") else site / name for name in names]


@pytest.mark.parametrize("lang", ["", "zh/"])
@pytest.mark.parametrize("address", KINDS)
def test_weight(page: Page, site: Path, url: str, lang: str, address: str, figure: Note) -> None:
    weight, requests = KINDS[address]
    files = loaded(page, site, url, lang + address)
    assert not any("search_index" in file.name for file in files), "before the search is used"
    figure(f"weight of {lang}{address}", sum(map(wire, files)), weight, "KB")
    figure(f"requests of {lang}{address}", len(files), requests, "")


@pytest.mark.parametrize("width", [1350, 412])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(
    browser: Browser, url: str, scheme: str, width: int, figure: Note
) -> None:
    context = browser.new_context(
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": width, "height": 900},
        reduced_motion="reduce",
        bypass_csp=True,  # to run axe
    )
    page = context.new_page()
    found: list[str] = []
    kinds = ("", "concepts/", "concepts/sota/", "labs/distribution_shift/", "glossary/", "tags/")
    for address in [*kinds, "zh/", "zh/concepts/sota/", "zh/labs/distribution_shift/", "404.html"]:
        page.goto(url + address)
        page.keyboard.press("Shift")  # lays out what is far below, too
        page.evaluate(AXE)
        for search in (False, True):
            if search:
                page.locator("[for=__search].md-header__button, .md-search__input").locator(
                    "visible=true"
                ).first.click()
                page.locator(".md-search__input").fill("attention")
                page.locator(".md-search__input").press("End")
                page.locator(".md-search-result__item").first.wait_for()
                page.wait_for_timeout(400)  # until the dialog has faded in
            for rule in page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]:
                found += [f"{address} {rule['id']}: {node['html'][:99]}" for node in rule["nodes"]]
    context.close()
    assert not found, "\n".join(found)
    figure(f"axe violations, {scheme}, {width} px, search closed and open", len(found), 0, "")


@pytest.mark.parametrize("width", [1350, 412])
def test_layout_does_not_shift(browser: Browser, url: str, width: int, figure: Note) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    shift = """new Promise(resolve => new PerformanceObserver(list => resolve(
        list.getEntries().reduce((sum, entry) => sum + entry.value, 0)
    )).observe({type: "layout-shift", buffered: true}) || setTimeout(() => resolve(0), 500))"""
    for address in KINDS:
        page.goto(url + address)
        page.wait_for_load_state("networkidle")
        figure(f"layout shift of {address}, {width} px", page.evaluate(shift), 0.03, "")
    page.close()


def test_two_builds_are_identical(site: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    again = build(tmp_path_factory.mktemp("again"), {})
    files = sorted(p.relative_to(site).as_posix() for p in site.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again).as_posix() for p in again.rglob("*") if p.is_file())
    _, different, errors = filecmp.cmpfiles(site, again, files, shallow=False)
    assert not different and not errors


def test_a_page_reads_without_scripts(browser: Browser, url: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{url}zh/attention/scaled_dot_product_attention/")
    text = page.locator("article").inner_text()
    assert "缩放点积注意力" in text and "def scaled_dot_product_attention" in text
    assert page.locator(".katex-html").first.is_visible()
    assert page.locator("figure svg").first.is_visible()
    context.close()


def test_the_page_forbids_what_is_not_of_the_site(
    browser: Browser, site: Path, url: str, tmp_path: Path
) -> None:
    """Were a page to carry foreign code, the browser would not run it."""
    shutil.copytree(site, tmp_path, dirs_exist_ok=True)
    page_file = tmp_path / "about/index.html"
    foreign = (
        "<script>document.title = 'inline'</script>"
        "<script src='{url}assets/javascripts/site.js?foreign'></script>"
        "<img src='{url}x.png'>"
        "<a href='javascript:document.title=1' onclick='document.title=2'>x</a>"
    )
    text = page_file.read_text("utf-8")
    title = BeautifulSoup(text, "html.parser").title
    page_file.write_text(
        text.replace("</article>", foreign.format(url=url) + "</article>"), "utf-8"
    )
    page = browser.new_page()
    finished: list[str] = []
    page.on("requestfinished", lambda request: finished.append(request.url))
    for other in serve(tmp_path):  # another port is another origin
        page.goto(f"{other}about/")
        page.get_by_role("link", name="x", exact=True).click()
        page.wait_for_load_state("networkidle")
        assert title and page.title() == title.text
        assert finished and all(link.startswith(other) for link in finished), finished
    page.close()


# For programs -----------------------------------------------------------------------


def test_every_page_is_there_as_markdown(site: Path) -> None:
    for address in addresses(site):
        if re.search(r"(glossary|tags)/$", address):
            continue
        beside = site / f"{address.rstrip('/')}.md"
        text = (beside if beside.is_file() else site / address / "index.md").read_text("utf-8")
        assert text.startswith("# ") and "--8<--" not in text and "pytest-codeblocks" not in text


@pytest.mark.parametrize("lang", ["", "zh/"])
def test_llms_txt_and_registry(site: Path, lang: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (site / lang / "llms.txt").read_text("utf-8"))
    assert len(links) >= 4 and all((site / lang / link).is_file() for link in links)
    registry = json.loads((site / lang / "snippets.json").read_text("utf-8"))
    files = {p.relative_to(ROOT).as_posix() for p in SNIPPETS.glob("[!_]*/*.py")}
    assert {entry["file"] for entry in registry.values()} == files
