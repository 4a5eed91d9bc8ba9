"""What the reader changes shows what the snippets compute."""

import random
import re
import runpy
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Locator, Page, expect

from hooks import DOCS, ROOT, content, svg
from snippets.attention.scaled_dot_product_attention import (
    causal_mask,
    padding_mask,
    scaled_dot_product_attention,
)
from snippets.concepts.resampling import resize, source_positions
from snippets.convolution.convolution_arithmetic import im2col, output_size
from snippets.convolution.receptive_field import (
    Layer,
    input_positions,
    receptive_fields,
    trace_back,
)
from snippets.detection.iou import box_iou, box_xywh_to_xyxy, paired_iou
from snippets.detection.nms import diou_nms, nms, soft_nms
from tests.site.conftest import Note, watch, wire

PLACES = {
    name: entry.address
    for entry in content.entries().values()
    for name in re.findall(r"\{ widget=(\w+) \}$", entry.files["en"].read_text("utf-8"), re.M)
}
AXE = ROOT / "node_modules/axe-core/axe.min.js"


def near(page: Page, address: str, name: str) -> Locator:
    """The widget, once it has taken the place of its figure."""
    page.goto(address)
    widget = page.locator(f"x-widget[name={name}]")
    widget.scroll_into_view_if_needed()
    widget.locator("form").wait_for()
    page.keyboard.press("Shift")  # lays out the whole page: nothing moves while the test is at it
    expect(widget.locator("figure")).to_be_hidden()
    return widget


@pytest.fixture
def widget(page: Page, url: str, request: pytest.FixtureRequest) -> Iterator[Locator]:
    """The one that a test names, on the Chinese page."""
    name = request.param
    wrong = watch(page)
    yield near(page, f"{url}zh/{PLACES[name]}", name)
    assert not wrong


def on(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("widget", [name], indirect=True)


def slide(control: Locator, value: int) -> None:
    """By keyboard, from where it stands."""
    control.focus()
    steps = value - int(control.input_value())
    for _ in range(abs(steps)):
        control.press("ArrowRight" if steps > 0 else "ArrowLeft")
    assert control.input_value() == str(value)


def numbers(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"-?\d+", text.replace("−", "-"))]


def pairs(cells: Locator, attribute: str) -> set[tuple[int, ...]]:
    found = cells.evaluate_all("(cells, name) => cells.map((e) => e.dataset[name])", attribute)
    assert len(set(found)) == len(found)
    return {tuple(map(int, at.split(","))) for at in found}


# What shows less than it holds.
CUT = """(form) => [...form.querySelectorAll("*")].filter((e) => !e.closest("svg, .masked")
  && e.clientWidth && e.scrollWidth > e.clientWidth + 1).map((e) => e.outerHTML.slice(0, 99))"""

# Every widget ---------------------------------------------------------------------


def test_every_widget_has_its_place_and_nothing_else_has() -> None:
    assert sorted(PLACES) == svg.widgets()


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_without_scripts_the_figure_is_there(browser: Browser, url: str, name: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(url + PLACES[name])
    expect(page.locator(f"x-widget[name={name}] figure svg")).to_be_visible()
    expect(page.locator("x-widget form")).to_have_count(0)
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_on_paper_the_figure_is_there(page: Page, url: str, name: str) -> None:
    widget = near(page, url + PLACES[name], name)
    page.emulate_media(media="print")
    expect(widget.locator("figure svg")).to_be_visible()
    expect(widget.locator("form")).to_be_hidden()


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["widgets.css", "NAME.js", "base.js"])
@pytest.mark.parametrize("name", PLACES)
def test_where_something_does_not_load_the_figure_stays(
    page: Page, url: str, name: str, missing: str
) -> None:
    page.route(f"**/{missing.replace('NAME', name)}", lambda route: route.abort())
    page.goto(url + PLACES[name])
    page.locator(f"x-widget[name={name}]").scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")
    expect(page.locator(f"x-widget[name={name}] figure svg")).to_be_visible()
    expect(page.locator("x-widget form")).to_have_count(0)


@pytest.mark.slow
def test_it_waits_until_it_is_near_or_a_key_is_pressed(page: Page, url: str) -> None:
    wrong = watch(page)
    page.goto(url + PLACES["scaled_dot_product_attention"])
    page.wait_for_load_state("networkidle")
    form = page.locator("x-widget > form")
    expect(form).to_have_count(0)
    page.keyboard.press("Tab")
    expect(form).to_have_count(1)
    page.keyboard.press("Tab")
    page.locator("x-widget").scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    expect(form).to_have_count(1)
    assert not wrong


@pytest.mark.slow
def test_only_pages_with_widgets_load_them(site: Path) -> None:
    for lang, entry in product(("", "zh/"), content.entries().values()):
        text = (site / lang / entry.address / "index.html").read_text("utf-8")
        assert ("widgets/base.js" in text) == (entry.address in PLACES.values()), entry.name


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_weight_of_a_widget(site: Path, name: str, figure: Note) -> None:
    for lang in ("", "zh/"):
        folder = site / lang / "assets/javascripts/widgets"
        figure(f"weight of widget {lang}{name}", wire(folder / f"{name}.js"), 4, "KB")
        figure(f"weight of what widgets share {lang}", wire(folder / "base.js"), 4, "KB")


@pytest.mark.slow
@pytest.mark.parametrize(("lang", "width"), [("", 1350), ("zh/", 412), ("", 320)])
@pytest.mark.parametrize("name", PLACES)
def test_access(browser: Browser, url: str, name: str, lang: str, width: int) -> None:
    """axe finds nothing, nothing is cut off, all has a name, a finger can hit it."""
    phone = width < 1000
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        locale="zh-CN" if lang else "en-GB",
        reduced_motion="reduce",
        has_touch=phone,
        is_mobile=phone,
        bypass_csp=True,  # to run axe
    )
    page = context.new_page()
    widget = near(page, f"{url}{lang}{PLACES[name]}", name)
    form = widget.locator("form")
    page.evaluate(AXE.read_text("utf-8"))
    for key in ("End", None):  # as it begins, then as far as the sliders go
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            found = page.evaluate("axe.run('x-widget', {resultTypes: ['violations']})")
            assert not found["violations"], found["violations"]
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) <= 0
        assert not form.evaluate(CUT), f"cut off at {width} px"
        for control in form.locator("input[type=range]:enabled").all() if key else ():
            control.press(key)
    for control in form.locator("input, select, button").filter(visible=True).all():
        named = control.get_attribute("aria-label") or control.evaluate(
            "(e) => e.labels[0]?.textContent ?? e.textContent"
        )
        if named != "align_corners":  # which has that name in every language
            assert bool(re.search(r"[\u4e00-\u9fff]", named)) == bool(lang), named
        expect(control).to_have_accessible_name(named)
        target = control.locator("xpath=ancestor-or-self::*[self::label[@class]][1]")
        box = (target if target.count() else control).bounding_box()
        assert box and (not phone or (box["height"] >= 44 and box["width"] >= 44)), (named, box)
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1350, 412])
@pytest.mark.parametrize("name", PLACES)
def test_nothing_shifts(
    browser: Browser, site: Path, url: str, name: str, width: int, figure: Note
) -> None:
    """Not while one reads on, nor where a link leads to the section of the widget.

    There what is laid out late shifts, widget or not, hence without that.
    """
    shift = """new Promise(resolve => new PerformanceObserver(list => resolve(
        list.getEntries().reduce((sum, entry) => sum + entry.value, 0)
    )).observe({type: "layout-shift", buffered: true}) || setTimeout(() => resolve(0), 500))"""
    page = browser.new_page(viewport={"width": width, "height": 900})
    address = url + PLACES[name]
    page.goto(address)
    widget = f"x-widget[name={name}]"
    anchor = page.locator(widget).evaluate("""(e) => {
      while (!e.id) e = e.previousElementSibling;
      return e.id;
    }""")
    page.mouse.move(width / 2, 450)
    for _ in range(60):
        page.mouse.wheel(0, 300)
        page.wait_for_timeout(20)
    page.locator(f"{widget} > form").wait_for(state="attached")
    figure(f"layout shift of {name}, {width} px, scrolled", page.evaluate(shift), 0.03, "")
    page.goto("about:blank")
    early = (site / "assets/stylesheets/site.css").read_text("utf-8")
    early = early.replace("content-visibility: auto;", "")
    page.route("**/site.css", lambda route: route.fulfill(body=early, content_type="text/css"))
    page.goto(f"{address}#{anchor}")
    page.locator(f"{widget} > form").wait_for(state="attached")
    page.wait_for_load_state("networkidle")
    figure(f"layout shift of {name}, {width} px, by its anchor", page.evaluate(shift), 0.03, "")
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_reset(page: Page, url: str, name: str) -> None:
    widget = near(page, f"{url}zh/{PLACES[name]}", name)
    form = widget.locator("form")
    state = """(form) => [form.innerText, ...[...form.querySelectorAll("input, select")]
      .map((e) => e.type === "checkbox" ? e.checked : e.value)]"""
    before, drawn = form.evaluate(state), form.locator("svg, table").first.inner_html()
    for key in ("End", "Home"):
        for control in form.locator("input[type=range]:enabled").all():
            control.press(key)
        assert form.evaluate(state) != before
        form.get_by_role("button").press("Enter")
        assert form.evaluate(state) == before
        assert form.locator("svg, table").first.inner_html() == drawn
    assert page.url.endswith(PLACES[name]), "nothing is submitted"


def refused(said: str, error: ValueError) -> None:
    """The widget says no to the same settings as the snippet, with the same numbers."""
    assert "不可行" in said and numbers(said) == numbers(str(error))


# Convolution ----------------------------------------------------------------------


def windows(n: int, k: int, s: int, p: int, d: int) -> torch.Tensor:
    """The cells of the padded input, numbered in rows, that each output reads: (k², outputs)."""
    padded = n + 2 * p
    x = torch.arange(padded**2, dtype=torch.float64).reshape(1, 1, padded, padded)
    return im2col(x, k, s, 0, d)[0].long()


def settings() -> list[tuple[int, int, int, int, int]]:
    rng = random.Random(0)
    limits = ((3, 10), (1, 5), (1, 4), (0, 3), (1, 3))
    return [tuple(rng.randint(*limit) for limit in limits) for _ in range(24)]  # type: ignore[misc]


@pytest.mark.slow
@on("convolution_arithmetic")
def test_convolution_arithmetic(widget: Locator) -> None:
    sliders = widget.locator("input[type=range]")
    rng = random.Random(1)
    seen: set[str] = set()
    for n, k, s, p, d in [(6, 3, 2, 1, 1), *settings()]:
        for control, value in zip(sliders.all()[:5], (n, k, s, p, d)):
            slide(control, value)
        row, column = sliders.nth(5), sliders.nth(6)
        said = widget.locator("output > span").all_inner_texts()
        try:
            count = output_size(n, k, s, p, d)
        except ValueError as error:
            (message,) = said
            refused(message, error)
            assert row.is_disabled() and column.is_disabled()
            assert widget.locator(".chosen, .output rect").count() == 0
            seen.add("impossible")
            continue
        padded = n + 2 * p
        room = padded - d * (k - 1) - 1
        assert numbers(said[0]) == [n, 2, p, d, k, 1, 1, s, 1, room, s, 1, count], said[0]
        everywhere = set(range(padded**2))
        read = windows(n, k, s, p, d)
        assert read.shape[1] == count**2
        i, j = rng.randrange(count), rng.randrange(count)
        slide(row, i)
        slide(column, j)
        window = {(at // padded - p, at % padded - p) for at in read[:, i * count + j].tolist()}
        cells = widget.locator(".input rect[data-read]")
        assert pairs(cells, "read") == window
        frame = widget.locator(".input .frame")
        corner = [int(frame.get_attribute(name) or "") for name in ("y", "x", "width")]
        assert corner == [*min(window), d * (k - 1) + 1]
        said = widget.locator("output > span").all_inner_texts()
        rows, columns = (sorted({at[axis] for at in window}) for axis in (0, 1))
        blank = sum(not (0 <= y < n and 0 <= x < n) for y, x in window)
        assert numbers(said[1]) == [i, j, *rows, *columns, k * k, blank]
        assert pairs(widget.locator(".output rect[data-at]"), "at") == set(
            product(range(count), repeat=2)
        )
        # Crossed: what no window reads. Beyond the last window: the remainder.
        crossed = widget.locator(".input path").count()
        assert crossed == len(everywhere - set(read.flatten().tolist()))
        last = int(read.max()) % padded
        rest = padded - 1 - last
        lost = max(0, n + p - 1 - last)
        assert numbers(said[2]) == ([rest, padded, rest, lost] if rest else [0])
        seen.add(f"lost {min(lost, 1)}, rest {min(rest, 1)}, holes {d > 1}")
    assert len(seen) >= 6, f"the settings leave something out: {seen}"


@pytest.mark.slow
@on("convolution_arithmetic")
def test_an_output_cell_is_chosen_by_mouse_and_finger(widget: Locator) -> None:
    cells = widget.locator(".output rect[data-at]")
    row, column = (widget.locator("input[type=range]").nth(at) for at in (5, 6))
    for number, act in ((8, "hover"), (4, "click")):
        getattr(cells.nth(number), act)(force=True)
        assert (row.input_value(), column.input_value()) == (str(number // 3), str(number % 3))
        window = windows(6, 3, 2, 1, 1)[:, number].tolist()
        assert pairs(widget.locator(".input rect[data-read]"), "read") == {
            (at // 8 - 1, at % 8 - 1) for at in window
        }


# Receptive field ------------------------------------------------------------------


def choose(control: Locator, value: int, least: int) -> None:
    """By keyboard: to the first choice, then down."""
    control.focus()
    control.press("Home")
    for _ in range(value - least):
        control.press("ArrowDown")
    assert control.input_value() == str(value)


@pytest.mark.slow
@on("receptive_field")
def test_receptive_field(widget: Locator) -> None:
    length, count, output = widget.locator("input[type=range]").all()
    rng = random.Random(0)
    seen: set[str] = set()
    first = [Layer(3, 1, 1), Layer(3, 2, 1), Layer(3, 1, 2, 2)]
    stacks = [(first, 15)]
    for _ in range(12):
        limits = ((1, 5), (1, 3), (0, 3), (1, 3))
        layers = [
            Layer(*(rng.randint(*limit) for limit in limits)) for _ in range(rng.randint(1, 5))
        ]
        stacks.append((layers, rng.randint(5, 32)))
    for layers, n in stacks:
        slide(length, n)
        slide(count, len(layers))
        for level, layer in enumerate(layers, 1):
            selects = widget.locator(".layers tr").nth(level).locator("select")
            for select, value, least in zip(selects.all(), layer, (1, 1, 0, 1)):
                choose(select, value, least)
        expect(widget.locator(".layers tr").filter(visible=True)).to_have_count(len(layers) + 1)
        rows = widget.locator(".facts tr").all()[1:]
        shown = [[cell.inner_text() for cell in row.locator("td").all()] for row in rows]
        fields = receptive_fields(layers)
        assert [numbers(" ".join(row[1:])) for row in shown] == [list(field) for field in fields]
        said = widget.locator("output > span").all_inner_texts()
        try:
            input_positions(layers, n, 0)
        except ValueError as error:
            (message,) = said
            refused(message, error)
            assert output.is_disabled() and widget.locator(".chosen, polygon").count() == 0
            seen.add("impossible")
            continue
        last = int(shown[-1][0]) - 1  # of the output; the snippet knows no position after it
        input_positions(layers, n, last)
        with pytest.raises(ValueError, match=f"has {last + 1} positions"):
            input_positions(layers, n, last + 1)
        index = rng.randint(0, last) if seen else 1
        slide(output, index)
        assert output.get_attribute("max") == str(last)
        # Every map on the way down is the input of the layers above it.
        lengths = [int(row[0]) for row in shown]
        expected = {
            (level, at)
            for level in range(len(layers) + 1)
            for at in input_positions(layers[level:], lengths[level], index).tolist()
        }
        marked = pairs(widget.locator(".chosen"), "at")
        assert marked <= expected
        # What reaches far beyond the input is not drawn.
        assert {at for at in expected if at[0] == 0} <= marked
        if layers == first:
            assert marked == expected
        said = widget.locator("output > span").all_inner_texts()
        low, high = trace_back(layers, index, index)[0]
        size = fields[-1].size
        assert (low, high) == fields[-1].span(index)
        assert numbers(said[0]) == [index, low, high, size]
        read = input_positions(layers, n, index).tolist()
        if not read:
            assert "一个像素也没有" in said[1]
            seen.add("nothing")
            continue
        _, _, runs = said[1].partition("：")
        assert numbers(said[1].partition("：")[0]) == [n, len(read)]
        parts = [list(map(int, run.split("–"))) for run in runs.rstrip("。").split("、")]
        assert [at for part in parts for at in range(part[0], part[-1] + 1)] == read
        seen.add("padding" if len(read) < size else "whole")
        if len(parts) > 1:
            seen.add("holes")
    assert {"impossible", "padding", "whole", "holes"} <= seen, seen


@pytest.mark.slow
@on("receptive_field")
def test_an_output_of_the_stack_is_chosen_by_mouse_and_finger(widget: Locator) -> None:
    output = widget.locator("input[type=range]").nth(2)
    for index, act in ((5, "hover"), (2, "click")):
        getattr(widget.locator(f'[data-at="3,{index}"]'), act)()
        assert output.input_value() == str(index)
    widget.locator('[data-at="1,7"]').click()
    assert output.input_value() == "2", "the maps between cannot be chosen"


# Attention ------------------------------------------------------------------------


@pytest.mark.slow
@on("scaled_dot_product_attention")
def test_scaled_dot_product_attention(page: Page, widget: Locator) -> None:
    module = "document.querySelector('[src$=\"widgets/base.js\"]').src.replace('base.js', NAME)"
    module = module.replace("NAME", "'scaled_dot_product_attention.js'")
    q, k = (
        torch.tensor(values, dtype=torch.float64)
        for values in page.evaluate(f"import({module}).then(({{ Q, K }}) => [Q, K])")
    )
    degree, queries, keys = widget.locator("input[type=range]").all()
    causal = widget.get_by_role("checkbox")
    default = widget.locator(".weights").inner_text()
    shown_before = set()
    plans = [(5, 5, 5, False), (5, 5, 3, False), (5, 5, 5, True), (0, 5, 4, True)]
    plans += [(10, 2, 5, True), (3, 3, 2, True), (7, 1, 5, True), (2, 4, 0, False), (8, 5, 1, True)]
    for at, n, length, is_causal in plans:
        for control, value in ((degree, at), (queries, n), (keys, length)):
            slide(control, value)
        if causal.is_checked() != is_causal:
            causal.press("Space")
        tau = float(degree.get_attribute("aria-valuetext") or "")
        mask = padding_mask(torch.tensor(length), 5)
        if is_causal:
            mask = mask & causal_mask(n, 5)
        mask = mask.expand(n, 5)
        weights = scaled_dot_product_attention(q[5 - n :] / tau, k, k, mask)[1]
        rows = widget.locator(".weights tr").all()[1:]
        assert len(rows) == n
        traces = []
        for i, row in enumerate(rows):
            assert numbers(row.locator("th").inner_text()) == [5 - n + i + 1]
            *cells, trace = row.locator("td").all_inner_texts()
            for j, cell in enumerate(cells):
                if mask[i, j]:
                    assert float(cell) == pytest.approx(100 * float(weights[i, j]), abs=0.0501)
                else:
                    assert cell == "被遮住"
            traces.append(1 - float(weights[i].square().sum()))
            assert (
                (trace == "–")
                if not length
                else float(trace) == pytest.approx(traces[-1], abs=0.000501)
            )
        said = widget.locator("output > span").all_inner_texts()
        assert f"τ = {tau:g}, D = 4" in said[0]
        if not length:
            assert len(said) == 2 and "零" in said[1]
            continue
        largest, mean = re.findall(r"\d+\.\d+", said[1])
        assert float(largest) == pytest.approx(100 * float(weights.max()), abs=0.0501)
        assert float(mean) == pytest.approx(sum(traces) / n, abs=0.000501)
        assert (len(said) == 3) == (tau * 2 == 1)
        shown_before.add(widget.locator(".weights").inner_text())
    assert len(shown_before) == len(plans) - 1 and default in shown_before


@pytest.mark.slow
@on("scaled_dot_product_attention")
def test_the_widget_has_the_vectors_of_the_figure(widget: Locator) -> None:
    """The percentages of the figure's first matrix are those of the widget as it begins."""
    file = svg.OUTPUT / "attention/attention_masks.zh.svg"
    percent = re.findall(r">(\d+)</text>", file.read_text("utf-8"))
    shown = widget.locator(".weights td:not(.trace):not(:first-child)").all_inner_texts()
    drawn = list(map(int, percent[10:35]))  # after the numbers of the axes
    assert [float(cell) for cell in shown] == pytest.approx(drawn, abs=0.55)


# Resampling -----------------------------------------------------------------------


@pytest.mark.slow
@on("resampling")
def test_resampling(widget: Locator) -> None:
    size, out, position = widget.locator("input[type=range]").all()
    mode, align = widget.locator("select"), widget.get_by_role("checkbox")
    values = torch.tensor([0.15, 0.7, 0.35, 0.9, 0.5, 0.25, 0.8, 0.05], dtype=torch.float64)
    plans = [(5, 8, 2, False), (5, 8, 2, True), (5, 8, 0, False), (5, 8, 1, False)]
    plans += [(8, 3, 3, False), (8, 3, 2, True), (7, 16, 1, False), (6, 4, 0, False)]
    plans += [(1, 5, 2, True), (4, 1, 2, True), (4, 1, 3, False), (3, 6, 2, False)]
    plans += [(8, 5, 1, False), (3, 11, 3, False)]
    for n, o, kind, aligned in plans:
        slide(size, n)
        slide(out, o)
        choose(mode, kind, 0)
        if align.is_enabled() and align.is_checked() != aligned:
            align.press("Space")
        assert align.is_enabled() == (kind == 2)
        name = ("nearest", "nearest-exact", "bilinear", "bilinear")[kind]
        # Row j: what pixel j alone gives.
        eye = torch.eye(n, dtype=torch.float64)[:, None]
        weights = resize(eye, (1, o), name, aligned, antialias=kind == 3)[:, 0]
        places = source_positions(n, o, aligned)
        read = {(i, j) for j, i in weights.nonzero().tolist()}
        assert pairs(widget.locator("[data-read]"), "read") == read
        for i in sorted({0, o // 2, o - 1}):
            slide(position, i)
            said = widget.locator("output > span").all_inner_texts()
            found = [float(x) for x in re.findall(r"-?\d+(?:\.\d+)?", said[0].replace("−", "-"))]
            if kind < 2:
                assert found[-1] == int(weights[:, i].argmax())
            else:
                inside = float(places[i].clamp(0, n - 1))
                assert found[:2] == pytest.approx([i, float(places[i])], abs=0.000051)
                if kind == 2 and inside != float(places[i]):
                    assert found[2:] == [inside]
            found = [float(x) for x in re.findall(r"\d+(?:\.\d+)?", said[1])]
            taps = weights[:, i].nonzero()[:, 0].tolist()
            terms = [x for j in taps for x in (float(weights[j, i]), float(values[j]))]
            total = float(weights[:, i] @ values[:n])
            assert found == pytest.approx([*taps, *terms, total], abs=0.000051)
        assert widget.locator(".mark").count() == (0 if kind < 2 else o)


@pytest.mark.slow
@on("resampling")
def test_an_output_pixel_is_chosen_by_mouse_and_finger(widget: Locator) -> None:
    position = widget.locator("input[type=range]").nth(2)
    for index, act in ((6, "hover"), (3, "click")):
        getattr(widget.locator(f'rect[data-at="{index}"]'), act)()
        assert position.input_value() == str(index)


# Boxes ----------------------------------------------------------------------------


def decimals(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"-?\d+(?:\.\d+)?", text.replace("−", "-"))]


def set_at_once(widget: Locator, values: list[int]) -> None:
    """All sliders, as dragging does: the limits are free until the form hears of it."""
    widget.locator("input[type=range]").evaluate_all(
        """(sliders, values) => sliders.forEach((e, i) => {
          e.max = 60;
          e.value = values[i];
          if (i + 1 === sliders.length) e.dispatchEvent(new Event("input", { bubbles: true }));
        })""",
        values,
    )


def shown_boxes(widget: Locator) -> torch.Tensor:
    """Truth and prediction as the sliders have them: (2, 4) of left, top, width, height."""
    values = [int(e.input_value()) for e in widget.locator("input[type=range]").all()]
    drawn = widget.locator("rect[data-box]").evaluate_all(
        """(boxes) => boxes.flatMap((e) => ["x", "y", "width", "height"].map(
          (name) => Number(e.getAttribute(name))))"""
    )
    assert drawn == values
    return torch.tensor(values, dtype=torch.float64).reshape(2, 4)


def check_iou(widget: Locator) -> str:
    """Every number of the sentences; returns the verdict."""
    truth, box = box_xywh_to_xyxy(shown_boxes(widget))
    *lines, verdict = widget.locator("output > span").all_inner_texts()
    value = {k: float(paired_iou(box, truth, k)) for k in ("iou", "giou", "diou", "ciou")}
    assert [line.split(" ")[0].lower() for line in lines] == list(value)
    for line, wanted in zip(lines, value.values(), strict=True):
        assert decimals(line)[-1] == pytest.approx(wanted, abs=0.000501), line
    x, y = (
        torch.arange(60)[:, None].ge(edge[:2]) & torch.arange(60)[:, None].lt(edge[2:])
        for edge in (truth, box)
    )  # cells that the boxes cover, axis by axis
    a, b = (cover[:, 0, None] & cover[:, 1] for cover in (x, y))
    shared, union = int((a & b).sum()), int((a | b).sum())
    assert decimals(lines[0])[:2] == [shared, union]
    low, high = torch.minimum(truth, box)[:2], torch.maximum(truth, box)[2:]
    w, h = (high - low).tolist()
    assert decimals(lines[1])[1:4] == [w * h, union, w * h]
    rho = float((truth[:2] + truth[2:] - box[:2] - box[2:]).square().sum() / 4)
    assert decimals(lines[2])[1:3] == [rho, w * w + h * h]
    alpha, v = decimals(lines[3])[1:3]
    assert alpha * v == pytest.approx(value["diou"] - value["ciou"], abs=0.002)
    hull = widget.locator("rect.hull").evaluate(
        """(e) => ["x", "y", "width", "height"].map((name) => Number(e.getAttribute(name)))"""
    )
    assert hull == [*low.tolist(), w, h]
    ends = [(edge[:2] + edge[2:]) / 2 for edge in (truth, box)]
    line = widget.locator("path.centres").get_attribute("d") or ""
    assert decimals(line) == torch.cat(ends).tolist()
    return verdict


@pytest.mark.slow
@on("iou")
def test_iou(widget: Locator) -> None:
    rng = random.Random(0)
    plans = [
        ([20, 10, 20, 10], [20, 10, 20, 10], "重合"),
        ([20, 10, 20, 10], [40, 10, 5, 10], "相接"),
        ([20, 10, 20, 10], [40, 20, 5, 5], "相接"),
        ([20, 10, 20, 10], [25, 12, 6, 6], "填满"),
        ([20, 10, 20, 10], [30, 10, 20, 10], "填满"),
        ([20, 10, 30, 10], [25, 5, 10, 30], "两框相交"),
        ([0, 0, 2, 2], [58, 34, 2, 2], "不相交"),
        ([0, 0, 60, 36], [0, 0, 2, 36], "填满"),
    ]
    for truth, box, word in plans:
        set_at_once(widget, truth + box)
        assert word in check_iou(widget)
    seen = set()
    for _ in range(60):
        values = []
        for _ in range(2):
            w, h = rng.randint(2, 40), rng.randint(2, 30)
            values += [rng.randint(0, 60 - w), rng.randint(0, 36 - h), w, h]
        set_at_once(widget, values)
        assert shown_boxes(widget).flatten().tolist() == values
        seen.add(check_iou(widget)[:3])
    assert len(seen) >= 2


@pytest.mark.slow
@on("iou")
def test_boxes_by_keyboard(widget: Locator) -> None:
    """No box leaves the drawing, however far a slider is sent."""
    x, y, w, h = widget.locator("input[type=range]").all()[4:]
    slide(x, 25)
    slide(h, 17)
    check_iou(widget)
    plan = (x, "End", 50), (w, "End", 10), (x, "ArrowLeft", 49), (w, "End", 11), (y, "End", 19)
    plan = *plan, (h, "End", 17), (w, "Home", 2), (x, "End", 58), (y, "Home", 0), (h, "End", 36)
    for control, key, wanted in plan:
        before = [e.input_value() for e in (x, y, w, h) if e is not control]
        control.press(key)
        assert control.input_value() == str(wanted)
        assert [e.input_value() for e in (x, y, w, h) if e is not control] == before
        check_iou(widget)


@pytest.mark.slow
@on("iou")
def test_boxes_begin_as_in_the_figure(widget: Locator) -> None:
    """Five times as large, moved to the middle."""
    drawn = runpy.run_path(str(DOCS / "figures/detection/iou.py"))["APART"]
    boxes = torch.tensor(drawn, dtype=torch.float64)
    assert (5 * boxes + torch.tensor([5, -2, 5, -2])).equal(box_xywh_to_xyxy(shown_boxes(widget)))
    assert "不相交" in check_iou(widget)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mouse", "touch"])
def test_boxes_are_dragged(browser: Browser, url: str, kind: str) -> None:
    """A box by its inside, a side by its corners; a finger beside them scrolls the page."""
    context = browser.new_context(has_touch=True, viewport={"width": 412, "height": 900})
    page = context.new_page()
    wrong = watch(page)
    widget = near(page, url + PLACES["iou"], "iou")
    drawing = widget.locator("form svg")
    drawing.evaluate("(e) => e.scrollIntoView({ block: 'center' })")
    frame = drawing.bounding_box()
    assert frame
    unit = frame["width"] / 60
    session = context.new_cdp_session(page)

    def drag(start: tuple[float, float], way: tuple[float, float]) -> None:
        at = [(frame["x"] + (start[0] + k / 4 * way[0]) * unit, k) for k in range(5)]
        path = [(x, frame["y"] + (start[1] + k / 4 * way[1]) * unit) for x, k in at]
        if kind == "mouse":
            page.mouse.move(*path[0])
            page.mouse.down()
            for point in path[1:]:
                page.mouse.move(*point)
            page.mouse.up()
            return
        for step, (x, y) in enumerate(path):
            event = "touchMove" if step else "touchStart"
            points = [{"x": x, "y": y}]
            session.send("Input.dispatchTouchEvent", {"type": event, "touchPoints": points})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def boxes() -> list[list[float]]:
        return shown_boxes(widget).tolist()

    truth, box = [30.0, 3, 20, 15], [10.0, 13, 10, 20]
    assert boxes() == [truth, box]
    before = page.evaluate("scrollY")
    for start, way, wanted in (
        ((13, 26), (20, -8), [30.0, 5, 10, 20]),  # moved, onto the truth
        ((33, 22), (99, 99), [50.0, 16, 10, 20]),  # no farther than the edge
        ((53, 33), (-99, -99), [0.0, 0, 10, 20]),
        ((10, 20), (6, -5), [0.0, 0, 16, 15]),  # right and bottom
        ((16, 0), (-4, 3), [0.0, 3, 12, 12]),  # right and top
        ((0, 15), (3, 5), [3.0, 3, 9, 17]),  # left and bottom
        ((3, 3), (50, 50), [10.0, 18, 2, 2]),  # left and top, no farther than a side of two
    ):
        drag(start, way)
        assert boxes() == [truth, wanted], (start, way)
    drag((38, 14), (-5, 7))
    truth = [25.0, 10, 20, 15]
    assert boxes() == [truth, wanted]
    assert page.evaluate("scrollY") == before, "what holds a box does not scroll the page"
    drag((55, 32), (0, -25))
    assert boxes() == [truth, wanted]
    if kind == "touch":
        page.wait_for_function("before => scrollY > before", arg=before)
        drawing.evaluate("(e) => e.scrollIntoView({ block: 'center' })")
        still = """(e) => new Promise((done) => { // the page may still be rolling
          let last;
          const look = () => {
            const { y } = e.getBoundingClientRect();
            if (y === last) return done();
            last = y;
            setTimeout(look, 200);
          };
          look();
        })"""
        drawing.evaluate(still)
        frame = drawing.bounding_box()
        assert frame
        fingers = ([(30, 15)], [(30, 15), (5, 5)], [(30, 15), (9, 9)], [(32, 15), (15, 15)], [])
        for count, points in enumerate(fingers):  # a second one changes nothing
            kinds = "touchStart", "touchStart", "touchMove", "touchMove", "touchEnd"
            spots = [(frame["x"] + a * unit, frame["y"] + b * unit) for a, b in points]
            places = [{"x": a, "y": b, "id": i} for i, (a, b) in enumerate(spots)]
            event = {"type": kinds[count], "touchPoints": places}
            session.send("Input.dispatchTouchEvent", event)
        assert boxes() == [[27.0, *truth[1:]], wanted]
    assert not wrong
    context.close()


# Suppression ----------------------------------------------------------------------


@pytest.mark.slow
@on("nms")
def test_nms(page: Page, widget: Locator) -> None:
    module = "document.querySelector('[src$=\"widgets/base.js\"]').src.replace('base.js', 'nms.js')"
    names = "({ OBJECTS, BOXES, SCORES }) => [OBJECTS, BOXES, SCORES]"
    objects, boxes, scores = (
        torch.tensor(values, dtype=torch.float64)
        for values in page.evaluate(f"import({module}).then({names})")
    )
    scene = runpy.run_path(str(DOCS / "figures/detection/nms.py"))["crowd"]()
    for ours, drawn in zip((objects, boxes, scores), scene, strict=True):
        assert ours.float().equal(drawn)
    threshold, least = widget.locator("input[type=range]").all()
    method = widget.locator("select")
    iou, diou = box_iou(boxes, boxes), box_iou(boxes, boxes, "diou")
    overlap = box_iou(objects, boxes)
    plans = [(0, 8, 0), *((0, at, 0) for at in range(0, 21, 2)), (0, 14, 13), (0, 10, 19)]
    plans += [(0, 14, 20), (1, 3, 0), (1, 5, 0), (1, 11, 9), (2, 6, 0), (2, 10, 5), (2, 0, 9)]
    plans += [(3, 8, 0), (3, 8, 5), (3, 8, 10), (3, 8, 16)]
    shown = set()
    for kind, t, s in plans:
        choose(method, kind, 0)
        assert threshold.is_enabled() == (kind != 3)
        if kind != 3:
            slide(threshold, t)
        slide(least, s)
        t, s = t / 20, s / 20
        enough = (scores >= s).nonzero()[:, 0]
        new = scores.clone()
        if kind < 2:
            kept = enough[(nms, diou_nms)[kind](boxes[enough], scores[enough], t)]
        else:
            decay = ("linear", "gaussian")[kind - 2]
            kept, final = soft_nms(boxes, scores, decay, iou_threshold=t, min_score=s)
            new[kept] = final
        kept = [int(i) for i in kept]
        rows = widget.locator(".fates tr").all()[1:]
        assert len(rows) == len(boxes)
        drawn = widget.locator(".scene rect:not(.truth)").evaluate_all(
            "(boxes) => boxes.map((e) => e.className.baseVal).toReversed()"
        )
        for i, row in enumerate(rows):
            assert row.locator("th").inner_text() == "ABCDEFGH"[i]
            score, result = row.locator("td").all_inner_texts()
            before, *after = decimals(score)
            assert before == float(scores[i])
            stays = i in kept
            assert (drawn[i] == "kept") == stays == (result == "保留"), (kind, t, s, i)
            if stays:
                wanted = pytest.approx(float(new[i]), abs=0.00501)
                assert (after or [before])[0] == wanted
            elif kind > 1 or scores[i] < s:
                assert result == "分数太低"
                assert (after or [before])[0] < s + 0.00501
            else:
                of = (iou, diou)[kind][i]
                by = next(j for j in kept if of[j] > t)  # the best that would do it
                assert result.startswith(f"被 {'ABCDEFGH'[by]} 去掉")
                assert decimals(result) == pytest.approx([float(of[by])], abs=0.00501)
        left, hits = set(range(len(objects))), 0
        for i in kept:
            best = max(left, key=lambda o: float(overlap[o, i]), default=None)
            if best is not None and overlap[best, i] >= 0.5:
                left.remove(best)
                hits += 1
        said = widget.locator("output > span").all_inner_texts()
        assert numbers(said[0]) == [8, len(kept)]
        assert re.findall("[A-H]", said[0]) == ["ABCDEFGH"[i] for i in sorted(kept)]
        assert numbers(said[1]) == [3, hits, len(kept) - hits]
        assert (len(said) == 3) == (kind == 3)
        shown.add((len(kept), hits))
    assert {(2, 2), (3, 3), (7, 3), (8, 3), (0, 0)} <= shown, shown


def test_what_the_page_says_of_the_threshold() -> None:
    """0.29 of overlap; 0.1 loses one of the two, 0.4 is right, 0.7 leaves four too many."""
    objects, boxes, scores = runpy.run_path(str(DOCS / "figures/detection/nms.py"))["crowd"]()
    assert float(box_iou(objects, objects)[0, 1]) == pytest.approx(0.29, abs=0.005)
    assert [nms(boxes, scores, t).tolist() for t in (0.1, 0.4)] == [[0, 2], [0, 1, 2]]
    assert len(nms(boxes, scores, 0.7)) == 3 + 4
