"""The built site in a real browser: every page, both languages, both colour schemes."""

import re
import shutil
from pathlib import Path
from urllib.parse import urldefrag, urljoin, urlsplit

import pytest
from bs4 import BeautifulSoup
from mkdocs.config import load_config
from playwright.sync_api import Browser, Page

from hooks import ROOT
from tests.site.conftest import ADDRESSES, Note, addresses, serve, watch

pytestmark = pytest.mark.slow

# Every page ---------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1350, 412])
def test_every_page_renders(
    site: Path, url: str, browser: Browser, scheme: str, width: int, figure: Note
) -> None:
    context = browser.new_context(
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": width, "height": 900},
    )
    page = context.new_page()
    wrong = watch(page)
    for address in addresses(site):
        page.goto(url + address)
        text = page.locator("article").inner_text()
        raw = re.search(r"\$\S|\\\(|\\\[|\\frac", re.sub(r"^\s*\$ \w+", "", text))
        code = "".join(page.locator("article code").all_inner_texts())
        assert not raw or raw[0] in code, f"{address}: raw formula at {raw[0]!r}"
        assert page.locator(".katex-error, .arithmatex").count() == 0, address
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) <= 0, f"{address} scrolls sideways at {width} px"
        shade = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
        assert (sum(shade[:3]) > 600) == (scheme == "light"), f"{address} is not {scheme}: {shade}"
        lang = "zh" if address.startswith("zh/") else "en"
        assert page.locator("html").get_attribute("lang") == lang
        assert page.title() and page.locator("h1").count() == 1, address
    elsewhere = sum(line.startswith("another host") for line in wrong)
    figure(f"requests to other hosts, {len(addresses(site))} pages", elsewhere, 0, "")
    assert not wrong
    context.close()


def test_every_internal_link_and_anchor_resolves(site: Path) -> None:
    pages = {
        address: BeautifulSoup((site / address / "index.html").read_text("utf-8"), "html.parser")
        for address in addresses(site)
    }
    ids = {address: {tag["id"] for tag in soup.select("[id]")} for address, soup in pages.items()}
    broken = []
    for address, soup in pages.items():
        double = [i for i in ids[address] if len(soup.select(f'[id="{i}"]')) > 1]
        assert not double, f"{address}: ids used twice: {double}"
        for tag in soup.select("[href], [src]"):
            link = str(tag.get("href") or tag.get("src"))
            target, anchor = urldefrag(urljoin(f"http://site/{address}", link))
            if urlsplit(target).hostname != "site":
                continue
            path = urlsplit(target).path.removeprefix("/")
            is_page = not path or path.endswith("/")
            exists = (site / path / "index.html" if is_page else site / path).is_file()
            if not exists or (anchor and path in ids and anchor not in ids[path]):
                broken.append(f"{address}: {link}")
    assert not broken


def test_languages_have_the_same_addresses(site: Path) -> None:
    found = addresses(site)
    chinese = {a.removeprefix("zh/") for a in found if a.startswith("zh/")}
    assert {a for a in found if not a.startswith("zh/")} == chinese


# What a reader does ---------------------------------------------------------------


@pytest.mark.parametrize("lang", ["", "zh/"])
def test_the_switch_leads_to_the_twin(page: Page, url: str, site: Path, lang: str) -> None:
    for address in addresses(site):
        if address.startswith("zh/") != bool(lang):
            continue
        page.goto(url + address)
        page.locator("[data-language-switch]").click()
        twin = address.removeprefix("zh/") if lang else f"zh/{address}"
        assert page.url == url + twin


@pytest.mark.parametrize("lang", ["", "zh/"])
def test_the_copy_button_copies_what_is_shown(page: Page, url: str, lang: str) -> None:
    page.goto(f"{url}{lang}attention/scaled_dot_product_attention/")
    blocks = page.locator(".language-python")
    assert blocks.count() > 1
    for block in blocks.all():
        block.hover()
        block.locator("button").first.click()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied.strip() == block.locator("code").inner_text().strip()


@pytest.mark.parametrize("lang", ["", "zh/"])
def test_the_lab_shows_its_plots_and_can_be_downloaded(page: Page, url: str, lang: str) -> None:
    page.goto(f"{url}{lang}labs/distribution_shift/")
    plots = page.locator("article figure svg[role=img]")
    assert plots.count() >= 3
    for plot in plots.all():
        box = plot.bounding_box()
        assert box and box["width"] > 200 and box["height"] > 100
        assert len(plot.get_attribute("aria-label") or "") > 20
    with page.expect_download() as download:
        page.locator("a[download]").click()
    assert download.value.suggested_filename == "distribution_shift.ipynb"


def test_the_colour_scheme_can_be_chosen(page: Page, url: str) -> None:
    page.goto(url)
    seen = []
    for _ in range(3):
        page.locator("[data-md-component=palette] label:visible").click()
        seen.append(page.locator("body").get_attribute("data-md-color-media"))
    assert len(set(seen)) == 3, seen


@pytest.mark.parametrize(
    ("lang", "speaks", "hint"), [("", "zh-CN", True), ("", "en-GB", False), ("zh/", "en-US", True)]
)
def test_the_hint_in_the_other_language(
    browser: Browser, url: str, lang: str, speaks: str, hint: bool
) -> None:
    context = browser.new_context(locale=speaks)
    page = context.new_page()
    page.goto(f"{url}{lang}concepts/sota/")
    note = page.locator(".language-hint")
    assert note.count() == hint
    if hint:
        note.locator("button").click()
        page.reload()
        assert note.count() == 0, "it comes back after it was dismissed"
    context.close()


def test_the_404_page_speaks_both_languages(page: Page, url: str) -> None:
    page.goto(f"{url}no/such/page/")
    assert page.locator("section[lang=en] a").get_attribute("href") == "/"
    assert page.locator("section[lang=zh] a").get_attribute("href") == "/zh/"
    page.locator("section[lang=zh] a").click()
    assert page.url == f"{url}zh/"
    # The style sheet must load from any depth.
    page.goto(f"{url}no/such/page/")
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.md-header')).position") == "sticky"
    )


def test_the_site_reads_offline_below_any_path(
    browser: Browser, site: Path, tmp_path: Path
) -> None:
    """Zipped, unpacked somewhere below the root of a plain file server."""
    shutil.unpack_archive(
        shutil.make_archive(str(tmp_path / "site"), "zip", site), tmp_path / "a/b"
    )
    for url in serve(tmp_path):
        page = browser.new_page()
        wrong = watch(page)
        page.goto(f"{url}a/b/attention/scaled_dot_product_attention/")
        page.locator(".md-search__input").click()
        page.locator(".md-search__input").fill("covarite shift")
        page.locator(".md-search-result__item a").first.click()
        page.wait_for_url("**/a/b/*/distribution_shift/**")
        page.locator("[data-language-switch]").click()
        page.wait_for_url("**/a/b/zh/*/distribution_shift/**")
        page.wait_for_load_state("networkidle")
        assert not wrong
        page.close()


# Addresses ------------------------------------------------------------------------


def head(site: Path, address: str) -> BeautifulSoup:
    return BeautifulSoup((site / address / "index.html").read_text("utf-8"), "html.parser")


def test_unknown_addresses_leave_their_links_out(site: Path) -> None:
    for address in addresses(site):
        soup = head(site, address)
        assert not soup.select("link[rel=canonical], link[hreflang], a[rel=edit], .md-source")
        assert "colab" not in str(soup)
    assert not list(site.rglob("sitemap*"))


def test_known_addresses_appear(published: Path) -> None:
    root = ADDRESSES["SITE_URL"]
    for address in addresses(published):
        soup = head(published, address)
        english = address.removeprefix("zh/")
        assert soup.select_one("link[rel=canonical]")["href"] == root + address  # type: ignore[index]
        links = {tag["hreflang"]: tag["href"] for tag in soup.select("link[hreflang]")}
        assert links == {
            "en": root + english,
            "zh": f"{root}zh/{english}",
            "x-default": root + english,
        }
        for tag in soup.select("a[rel=edit]"):
            prefix = f"{ADDRESSES['REPO_URL']}/edit/main/"
            assert str(tag["href"]).startswith(prefix)
            assert (ROOT / str(tag["href"]).removeprefix(prefix)).is_file()
    listed = re.findall("<loc>(.*?)</loc>", (published / "sitemap.xml").read_text("utf-8"))
    assert sorted(listed) == sorted(root + address for address in addresses(published))
    assert not (published / "zh/sitemap.xml").exists()
    lab = head(published, "zh/labs/distribution_shift")
    colab = str(lab.select_one('a[href*="colab.research.google.com"]')["href"])  # type: ignore[index]
    assert (published / colab.partition("/blob/gh-pages/")[2]).is_file()
    zh = load_config(str(ROOT / "mkdocs.zh.yml"))
    assert zh.remote_branch == "gh-pages"


def test_known_addresses_cause_no_request_to_them(
    browser: Browser, published: Path, published_url: str
) -> None:
    page = browser.new_page()
    wrong = watch(page)
    for address in ("", "zh/", "attention/scaled_dot_product_attention/"):
        page.goto(published_url + address)
        page.wait_for_load_state("networkidle")
    assert not wrong
    page.close()
