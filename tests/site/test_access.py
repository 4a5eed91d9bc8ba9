"""Reading without a mouse, without eyes, without motion, in few colours, and on paper."""

import io
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.site.conftest import addresses, watch

pytestmark = pytest.mark.slow

CONCEPT = "attention/scaled_dot_product_attention/"
HAN = re.compile(r"[\u4e00-\u9fff]")


def settle(page: Page) -> None:
    """Wait until the page is there; at the first key site.js lays out all of it."""
    page.wait_for_load_state("networkidle")
    page.keyboard.press("Shift")
    parts = page.locator(".md-content__inner > *")
    for part in (parts.first, parts.nth(parts.count() // 2)):
        expect(part).to_have_css("content-visibility", "visible")


@pytest.fixture(params=[("", 1350), ("zh/", 412)], ids=["en-1350", "zh-412"])
def reader(browser: Browser, url: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page on a concept, in English on a desktop, in Chinese on a phone; no mouse."""
    lang, width = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        locale="zh-CN" if lang else "en-GB",
        permissions=["clipboard-read", "clipboard-write"],
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(5_000)
    wrong = watch(page)
    page.goto(f"{url}{lang}{CONCEPT}")
    settle(page)
    yield page
    assert not [line for line in wrong if not line.startswith("failed")]  # left while loading
    context.close()


def focused(page: Page, selector: str) -> bool:
    return page.evaluate("(s) => document.activeElement.matches(s)", selector)


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until there."""
    for _ in range(150):
        page.keyboard.press("Tab")
        if focused(page, selector):
            return
    pytest.fail(f"Tab never gets to {selector}")


# Keyboard -------------------------------------------------------------------------

REGIONS = ["skip", "header", "sidebar--primary", "sidebar--secondary", "content", "footer"]
# Where the focus is: in which region, and whether the reader sees it there.
STOP = """(regions) => {
  const at = document.activeElement;
  if (at === document.body) return null;
  at.dataset.reached = "";
  const shown = at.matches(".md-option") ? at.nextElementSibling : at;
  const { x, y, width, height, right } = shown.getClientRects()[0];
  const top = document.elementFromPoint(x + width / 2, Math.min(y + height / 2, innerHeight - 1));
  return {
    what: at.outerHTML.slice(0, 120),
    region: regions.findIndex((region) => at.closest(`.md-${region}`)),
    seen: width > 8 && height > 8 && x >= 0 && right <= innerWidth && shown.contains(top)
      && shown.checkVisibility({ opacityProperty: true, visibilityProperty: true }),
  };
}"""
# What a mouse can use and Tab has not reached; ¶ and the names of open lists are spared.
MISSED = """() => [...document.querySelectorAll("[href], button, summary, input, [tabindex]")]
  .filter((e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true })
    && !e.matches("[data-reached], .headerlink, .md-option, .md-search *"))
  .map((e) => e.outerHTML.slice(0, 120))"""


def test_tab_goes_everywhere_in_order_and_is_seen(reader: Page) -> None:
    stops = []
    for _ in range(200):
        reader.keyboard.press("Tab")
        stop = reader.evaluate(STOP, REGIONS)
        if stop is None:
            break
        stops.append(stop)
    assert not [stop["what"] for stop in stops if not stop["seen"]]
    regions = [stop["region"] for stop in stops]
    assert regions[0] == 0 and regions == sorted(regions), regions
    assert {1, 4, 5} <= set(regions) and len(stops) > 50
    assert not reader.evaluate(MISSED)
    # On a phone the search fills the window: it waits for its button.
    opens = any("md-search__input" in stop["what"] for stop in stops)
    assert opens == (reader.viewport_size["width"] > 960)  # type: ignore[index]
    for formula in reader.locator("x-math.display").all():
        scrolls = formula.evaluate("(e) => e.scrollWidth > e.clientWidth")
        assert (formula.get_attribute("tabindex") == "0") == scrolls
    # And back, where the header waits above.
    for _ in stops[:-3]:
        reader.keyboard.press("Shift+Tab")
        stop = reader.evaluate(STOP, REGIONS)
        assert stop["seen"], stop["what"]
    assert not reader.evaluate(
        "[...document.querySelectorAll('[tabindex]')].some((e) => e.tabIndex > 0)"
    )


def luminance(picture: bytes) -> np.ndarray:
    colours = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722] + 0.05


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_frame_of_the_focus_stands_out(browser: Browser, url: str, scheme: str) -> None:
    """One stop of each kind: where the frame is, the contrast with and without it is 3 or more."""
    page = browser.new_page(
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": 1350, "height": 900},
        reduced_motion="reduce",
    )
    page.goto(url + CONCEPT)
    settle(page)
    unframed = "html :focus-visible, .md-option:focus-visible + label { outline: none !important }"
    for selector in (
        *(".md-skip", ".md-logo", ".md-option", ".language", ".md-nav__link"),
        *(".term", ".md-code__button", "summary", "article li a", ".md-tag", ".md-footer__link"),
        *(".md-copyright a", ".md-search__input"),  # the latter opens, hence last
    ):
        page.locator(selector).first.focus()
        shown = "+ label" if selector == ".md-option" else ""
        box = page.locator(f"{selector}:focus-visible {shown}").bounding_box()
        assert box, f"{selector} does not take the focus"
        x, y = max(box["x"] - 4, 0), max(box["y"] - 4, 0)
        clip = {"x": x, "y": y, "width": box["width"] + 8, "height": box["height"] + 8}
        framed = luminance(page.screenshot(clip=clip))  # type: ignore[arg-type]
        style = page.add_style_tag(content=unframed)
        plain = luminance(page.screenshot(clip=clip))  # type: ignore[arg-type]
        style.evaluate("(style) => style.remove()")
        contrast = np.maximum(framed, plain) / np.minimum(framed, plain)
        assert (contrast >= 3).sum() > 2 * (box["width"] + box["height"]), f"{selector}, {scheme}"
    page.close()


def test_the_skip_link_leads_to_the_text(reader: Page, url: str) -> None:
    for address in (reader.url, f"{url}404.html"):
        reader.goto(address)
        reader.keyboard.press("Tab")
        expect(reader.locator(".md-skip")).to_have_css("opacity", "1")
        reader.keyboard.press("Enter")
        reader.keyboard.press("Tab")
        assert focused(reader, "article *")


def test_search_by_keyboard(reader: Page) -> None:
    language = reader.locator(".language")
    language.focus()
    query, is_open = reader.locator(".md-search__input"), reader.locator("#__search")
    for key in ("/", "s", "f"):
        reader.keyboard.press(key)
        expect(query).to_be_focused()
        expect(is_open).to_be_checked()
        reader.keyboard.press("Escape")
        expect(language).to_be_focused()
        expect(is_open).not_to_be_checked()
        reader.wait_for_timeout(100)  # the theme looks at the focus a moment later
    reader.keyboard.press("Tab")  # to the box, or on a phone to the button that opens it
    if not focused(reader, "input"):
        reader.keyboard.press("Enter")
    expect(query).to_be_focused()
    query.fill("softmax")
    reader.locator(".md-search-result__link").first.wait_for()
    assert re.search(r"\d", reader.get_by_role("status").filter(visible=True).first.inner_text())
    reader.keyboard.press("ArrowDown")
    assert focused(reader, ".md-search-result__link")
    link = reader.evaluate("document.activeElement.href")
    reader.keyboard.press("Escape")
    assert not focused(reader, ".md-search *, body")
    reader.wait_for_timeout(100)
    reader.keyboard.press("/")
    expect(is_open).to_be_checked()
    reader.keyboard.press("ArrowDown")
    reader.keyboard.press("Enter")
    reader.wait_for_url(link)


def test_the_colour_scheme_by_keyboard(reader: Page) -> None:
    tab_to(reader, ".md-option")
    before = reader.locator("body").get_attribute("data-md-color-media")
    seen = {before}
    for key in ("Enter", "ArrowRight"):
        reader.keyboard.press(key)
        assert focused(reader, ".md-option:checked")
        seen.add(reader.locator("body").get_attribute("data-md-color-media"))
    assert len(seen) == 3
    reader.keyboard.press("ArrowRight")
    assert reader.locator("body").get_attribute("data-md-color-media") == before


def test_the_drawer_by_keyboard(browser: Browser, url: str) -> None:
    page = browser.new_page(
        viewport={"width": 412, "height": 900}, locale="en", reduced_motion="reduce"
    )
    wrong = watch(page)
    page.goto(url + CONCEPT)
    settle(page)
    tab_to(page, "[for=__drawer].md-header__button > button")
    page.keyboard.press("Space")
    assert focused(page, ".md-sidebar--primary *"), "focus goes into the drawer"
    # Round and round: it stays there, and is seen.
    for _ in range(12):
        page.keyboard.press("Tab")
        if not focused(page, "body"):  # the browser's own controls
            assert focused(page, ".md-overlay *, .md-sidebar--primary *")
            stop = page.evaluate(STOP, REGIONS)
            assert stop["seen"] or focused(page, ".md-overlay *"), stop["what"]
    # Out of the section, and into another one.
    tab_to(page, "li .md-nav__title > button")
    page.keyboard.press("Enter")
    here = page.locator(".md-nav__item--nested.md-nav__item--active > input").get_attribute("id")
    assert focused(page, f"[for={here}].md-nav__link > [aria-expanded=false]")
    page.keyboard.press("Escape")
    expect(page.locator("[for=__drawer].md-header__button > button")).to_be_focused()
    page.keyboard.press("Tab")
    assert focused(page, ".md-header *"), "the page behind is awake again"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    tab_to(page, ".md-sidebar--primary [href$='concepts/']")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{url}concepts/")
    assert not wrong
    page.close()


def test_answers_and_copy_buttons_by_keyboard(reader: Page) -> None:
    tab_to(reader, ".md-code__button")
    copy = reader.locator(".md-code__button").first
    expect(reader.get_by_role("tooltip")).to_have_count(1)
    expect(copy).to_have_accessible_name(
        re.compile("Copy|复制")
    )  # even while it shows as a tooltip
    reader.keyboard.press("Enter")
    said = reader.get_by_role("status").filter(has_text=re.compile("Copied|复制"))
    expect(said).to_have_count(1)
    assert "import" in reader.evaluate("navigator.clipboard.readText()")
    tab_to(reader, "summary")
    for is_open in (True, False):
        reader.keyboard.press("Space")
        assert focused(reader, "[open] > *") == is_open


def test_back_to_top_by_keyboard(reader: Page) -> None:
    reader.keyboard.press("End")
    expect(reader.locator(".md-copyright")).to_be_in_viewport()
    reader.wait_for_timeout(300)  # the theme looks at the way the page goes a moment later
    reader.keyboard.press("PageUp")
    top = reader.locator(".md-top")
    expect(top).to_be_visible()
    top.focus()
    expect(top).to_be_focused()
    reader.keyboard.press("Enter")
    expect(reader.locator("h1")).to_be_in_viewport()
    assert focused(reader, ".md-skip")


def test_a_term_is_explained_on_focus(reader: Page) -> None:
    term = reader.locator("a.term").first
    meaning = str(term.get_attribute("title"))
    expect(term).to_have_accessible_description(meaning)
    tab_to(reader, "a.term")
    tip = reader.get_by_role("tooltip").filter(has_text=meaning)
    expect(tip).to_have_count(1)
    expect(tip).to_have_css("opacity", "1")
    expect(term).to_have_accessible_description(meaning)
    reader.keyboard.press("Escape")
    expect(tip).to_have_css("opacity", "0")


# Screen reader --------------------------------------------------------------------


def said(page: Page) -> list[dict[str, Any]]:
    """What a screen reader is given: role, name and properties of each node."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    return [
        {
            "role": node["role"]["value"],
            "name": node.get("name", {}).get("value", ""),
            **{p["name"]: p["value"].get("value") for p in node.get("properties", [])},
        }
        for node in nodes
        if not node["ignored"]
    ]


NAMED = ("button", "radio", "textbox", "dialog", "navigation", "image")


def test_what_is_said_on_a_page(reader: Page) -> None:
    nodes = said(reader)
    nameless = [n for n in nodes if n.get("focusable") and not n["name"]]
    # A formula that scrolls has a formula in it, code its text.
    assert {n["role"] for n in nameless} <= {"generic", "code"}, nameless
    chinese = "/zh/" in reader.url
    for node in nodes:
        if node["role"] in NAMED:
            assert bool(HAN.search(node["name"])) == chinese, f"the wrong language: {node}"
    radios = [(node["name"], node["checked"]) for node in nodes if node["role"] == "radio"]
    system, light, dark = ("系统", "浅", "深") if chinese else ("system", "light", "dark")
    for (name, checked), word in zip(radios, (system, light, dark), strict=True):
        assert word in name and checked == str(word == system).lower(), radios
    summaries = [n for n in nodes if "expanded" in n and n["role"] != "button"]
    folded = {node["name"]: node["expanded"] for node in summaries}
    assert len(folded) >= 3 and not any(folded.values()), folded
    current = reader.locator("[aria-current=page]")
    expect(current).to_have_count(1)
    assert str(current.get_attribute("href")) == "./"


def test_the_page_is_built_for_the_ear(site: Path) -> None:
    """Headings, landmarks, tables, figures, formulas and languages, on every page."""
    for address in [*addresses(site), "404.html", "zh/404.html"]:
        file = site / address
        soup = BeautifulSoup(
            (file / "index.html" if file.is_dir() else file).read_text(), "html.parser"
        )
        chinese = address.startswith("zh/")
        levels = [int(tag.name[1]) for tag in soup.select("h1, h2, h3, h4, h5, h6")]
        assert levels.count(1) == 1 and levels[0] == 1, address
        assert all(b - a <= 1 for a, b in pairwise(levels)), address
        assert soup.select_one("a.md-skip"), address
        for cell in soup.select("article th"):
            assert cell["scope"] in ("col", "row"), f"{address}: {cell}"
        for table in soup.select("article table"):
            assert table.select("th"), address
        for figure in soup.select("article figure svg, article img"):
            text = str(figure.get("aria-label") or figure.get("alt"))
            assert figure.get("role") == "img" or figure.name == "img", address
            assert len(text) > 15 and bool(HAN.search(text)) == chinese, f"{address}: {text}"
        for formula in soup.select("x-math"):
            assert formula.select_one("math") and not formula.select_one(
                ".katex-html:not([aria-hidden=true])"
            ), address
        for link in soup.select(".headerlink"):
            assert link["aria-hidden"] == "true" and link["tabindex"] == "-1", address
        if not chinese:
            for text in soup.find("article").find_all(string=HAN):  # type: ignore[union-attr]
                assert text.find_parent(lang="zh"), f"{address}: Chinese that is not marked: {text}"


# Preferences ----------------------------------------------------------------------


def test_less_motion(reader: Page) -> None:
    """(The fixture asks for it.)"""
    moving = """() => [...document.querySelectorAll("*")].filter((e) =>
      ["", "::before", "::after"].some((part) => {
        const style = getComputedStyle(e, part);
        const times = [style.transitionDuration, style.transitionDelay, style.animationDuration];
        return style.scrollBehavior === "smooth"
          || times.join().split(",").some((time) => parseFloat(time) > 0.01);
      })
    ).map((e) => e.outerHTML.slice(0, 99))"""
    assert not reader.evaluate(moving)


def test_few_colours(browser: Browser, url: str) -> None:
    """In forced colours: lines round what was told by its ground, icons, figures, the focus."""
    page = browser.new_page(forced_colors="active", color_scheme="dark", reduced_motion="reduce")
    page.goto(url + CONCEPT)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.body).color")
    colour = "(e, [part, name]) => getComputedStyle(e, part)[name]"
    for selector, part, name in (
        ("pre > code", None, "borderTopColor"),
        (".language-text code", None, "borderLeftColor"),
        (".md-button, .md-search__form", None, "borderTopColor"),
        ("summary", "::before", "backgroundColor"),
        ("summary", "::after", "backgroundColor"),
        ("figure svg text", None, "fill"),
    ):
        assert page.locator(selector).first.evaluate(colour, [part, name]) != ground, selector
    copy = page.locator(".md-code__button").first
    assert copy.evaluate(colour, ["::after", "backgroundColor"]) == ink
    border = page.locator("pre > code").first.evaluate(colour, [None, "borderTopWidth"])
    assert border == "1px"
    tab_to(page, ".term")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineColor") != ground
    page.close()


def test_more_contrast(page: Page, url: str) -> None:
    session = page.context.new_cdp_session(page)
    more = {"name": "prefers-contrast", "value": "more"}
    session.send("Emulation.setEmulatedMedia", {"features": [more]})
    page.goto(url + CONCEPT)
    ink = page.evaluate("getComputedStyle(document.body).color")
    for selector, name in (
        ("figcaption", "color"),
        ("pre > code", "borderTopColor"),
        ("td", "borderTopColor"),
        (".md-header", "borderBottomColor"),
    ):
        value = page.locator(selector).first.evaluate("(e, n) => getComputedStyle(e)[n]", name)
        assert value == ink, f"{selector}: {value}"


# Paper ----------------------------------------------------------------------------


def test_print(browser: Browser, url: str) -> None:
    """From a dark screen with the search open, on a page as wide as A4 less its margins."""
    page = browser.new_page(
        color_scheme="dark",
        viewport={"width": 680, "height": 960},
        locale="en",
        reduced_motion="reduce",
    )
    wrong = watch(page)
    page.goto(f"{url}zh/{CONCEPT}")
    settle(page)
    fonts = "[...document.fonts].filter((f) => f.status === 'loaded').map((f) => f.family)"
    before = page.evaluate(fonts)
    page.keyboard.press("/")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")  # as a printer does
    page.emulate_media(media="print")
    for selector in (
        *(".md-header", ".md-sidebar", ".md-footer", ".md-top", ".md-skip", ".md-overlay"),
        *(".language-hint", ".md-code__button", ".md-tags", ".headerlink", ".md-search__inner"),
    ):
        assert page.locator(selector).count(), selector
        assert not page.locator(selector).filter(visible=True).count(), f"{selector} is printed"
    style = "(e, [part, name]) => getComputedStyle(e, part)[name]"
    body = page.locator("body")
    assert body.evaluate(style, [None, "color"]) == "rgb(0, 0, 0)"
    assert body.evaluate(style, [None, "backgroundColor"]) == "rgb(255, 255, 255)"
    assert page.locator("details p").first.is_visible(), "answers stay folded"
    for selector, printed in (("article a[href*='arxiv.org']", True), ("a.term", False)):
        link = page.locator(selector).first
        content = link.evaluate(style, ["::after", "content"])
        assert (content != "none") == printed, f"{selector}: {content}"
    cut = """() => [...document.querySelectorAll("article :is(code, table, .katex-html, figure)")]
      .filter((e) => e.getBoundingClientRect().right > innerWidth
        || (e.clientWidth && e.scrollWidth > e.clientWidth + 1))
      .map((e) => e.outerHTML.slice(0, 99))"""
    assert not page.evaluate(cut)
    for selector in ("figure", "tr"):
        assert page.locator(selector).first.evaluate(style, [None, "breakInside"]) == "avoid"
    assert page.locator("article h2").first.evaluate(style, [None, "breakAfter"]) == "avoid"
    page.pdf()
    assert page.evaluate(fonts) == before, "a font came too late for the print"
    assert not wrong
    page.close()
