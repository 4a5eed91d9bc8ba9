"""The site's own machinery, piece by piece; test_bad_input.py and test_site.py test it whole."""

import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import nbformat
import pytest
from markdown import Markdown
from mkdocs.exceptions import PluginError

from hooks import LANGUAGES, SNIPPETS, content, figures, formulas, glossary, labs
from hooks.svg import inline

# Reading order ------------------------------------------------------------------


def entry(name: str, *requires: str, **meta: object) -> content.Entry:
    path = Path(__file__)  # read for the line that an error names
    english = {"requires": list(requires), **meta}
    return content.Entry(name, {"en": path, "zh": path}, {"en": english})


def order(*entries: content.Entry, wish: tuple[str, ...] = ()) -> str:
    found = {e.name: e for e in [*entries, entry("s/index", order=list(wish))]}
    return "".join(e.name[2:] for e in content.reading_order(found, "s"))


def test_a_page_comes_after_what_it_requires_then_as_the_index_says_then_by_name() -> None:
    assert order(entry("s/a", "s/c"), entry("s/b"), entry("s/c")) == "bca"
    assert order(entry("s/a", "t/x"), entry("s/b", "s/a")) == "ab"  # t is another section
    assert order(entry("s/a", "s/c"), entry("s/b"), entry("s/c"), wish=("a", "c")) == "cab"


def test_pages_that_require_each_other_are_refused() -> None:
    # c only builds on the circle, and is not named.
    pages = [entry("s/a", "t/b"), entry("t/b", "s/a"), entry("s/c", "s/a"), entry("s/d")]
    with pytest.raises(PluginError, match="s/a, t/b: each requires the next in a circle"):
        content.check_cycles({page.name: page for page in pages})


def test_an_order_of_pages_that_do_not_exist_is_refused() -> None:
    with pytest.raises(PluginError, match="no page 's/bb' to order"):
        order(entry("s/a"), wish=("bb",))


# Glossary -----------------------------------------------------------------------


TERMS = """
- {id: iou, en: IoU, zh: 交并比, define_en: Overlap., define_zh: 重叠。, also: [Jaccard index]}
- {id: neck, en: neck, zh: 颈部网络, define_en: Middle., define_zh: 中间。}
- {id: key, en: lookup key, zh: 键, define_en: Key., define_zh: 键。}
"""


@pytest.fixture
def terms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "glossary.yml"
    file.write_text(TERMS, "utf-8")
    monkeypatch.setattr(glossary.load, "__defaults__", (file,))
    return file


def marked(text: str, lang: str) -> list[str]:
    page = Markdown(extensions=[glossary.Terms(lang)]).convert(text)
    return [part.split("</a>")[0].split(">")[1] for part in page.split('<a class="term"')[1:]]


@pytest.mark.usefixtures("terms")
def test_the_first_mention_of_a_term_is_marked() -> None:
    text = "The IoU, again IoU. Necks and the Jaccard index; *a neck*.\n\n> iou"
    assert marked(text, "en") == ["IoU", "Necks"]
    assert marked("交并比（IoU）与 neck，颈部网络；交并比", "zh") == ["交并比", "neck"]


@pytest.mark.usefixtures("terms")
def test_headings_code_links_and_parts_of_words_are_left_alone() -> None:
    text = "# IoU\n\n`IoU` [IoU](x.md) GIoU IoU-net bottleneck"
    assert marked(text, "en") == []
    assert marked("键盘按键", "zh") == [], "one sign is no term: it stands in too many words"


@pytest.mark.usefixtures("terms")
def test_the_page_holds_every_term() -> None:
    for lang in LANGUAGES:
        for word in ("IoU", "交并比", "颈部网络", "{ #neck }"):
            assert word in glossary.page(lang, {})


def test_one_name_for_two_terms_is_refused(terms: Path) -> None:
    terms.write_text(TERMS + TERMS.splitlines()[1].replace("id: iou", "id: overlap"), "utf-8")
    with pytest.raises(PluginError, match=r"glossary.yml:5: '.+' names both iou and overlap"):
        glossary.load(terms)


# Formulas and figures -------------------------------------------------------------


def test_a_formula_becomes_html_and_mathml(tmp_path: Path) -> None:
    page = '<p><span class="arithmatex">\\(x &lt; y\\)</span></p>'
    text, found = formulas.set_formulas(page, tmp_path)
    assert found and "<mo>&lt;</mo>" in text and 'class="katex-html"' in text
    assert formulas.set_formulas("<p>No formula.</p>", tmp_path) == ("<p>No formula.</p>", False)


def test_two_figures_on_a_page_do_not_share_ids() -> None:
    svg = (
        '<svg viewBox="0 0 1 1"><path id="p0123456789" d="M 0 {}"/><use href="#p0123456789"/></svg>'
    )
    one, two = (inline(svg.format(i), "a <line>", "It's") for i in (1, 2))
    ids = [text.split(' id="')[1].split('"')[0] for text in (one, two)]
    assert ids[0] != ids[1] and all(f'href="#{i}"' in t for i, t in zip(ids, (one, two)))
    assert 'aria-label="a &lt;line&gt;"' in one and "<figcaption>It&#x27;s</figcaption>" in one


def test_a_figure_takes_the_colour_of_the_text() -> None:
    with mpl.rc_context(figures.STYLE):
        figure, (ax,) = figures.new()
        ax.set_xlabel("分数 0.97512")
        svg = figures.to_svg(figure, "x")
    assert "currentColor" in svg and figures.INK not in svg and "分数 0.97512" in svg
    assert not re.search(r'd="[^"]*\.\d{2}', svg), "coordinates are rounded, text is not"
    assert "<style" not in svg and "#000000" not in svg and "#ffffff" not in svg


# Labs ---------------------------------------------------------------------------


def test_the_closure_follows_imports(tmp_path: Path) -> None:
    lab = tmp_path / "lab.py"
    lab.write_text("from snippets.concepts.pareto_front import pareto_front\nimport torch\n")
    assert labs.closure(lab) == [SNIPPETS / "concepts" / "pareto_front.py"]
    (tmp_path / "a.py").write_text("from .b import c\n")
    (tmp_path / "b.py").write_text("from .a import d\n")
    assert labs.closure(tmp_path / "a.py") == [tmp_path / "a.py", tmp_path / "b.py"]


@pytest.mark.slow
@pytest.mark.parametrize("path", labs.sources(), ids=lambda path: path.stem)
def test_the_downloaded_notebook_runs_where_the_project_is_not(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.reads(labs.download(path, "zh"), as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it comes without outputs"
    assert not any("lang" in cell.metadata for cell in notebook.cells)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    # -P leaves the project's folder out; IPython's backend is not there outside a notebook.
    (tmp_path / "lab.py").write_text("import matplotlib\nmatplotlib.use('agg')\n" + code, "utf-8")
    command = [sys.executable, "lab.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(labs.download(path, "en"))["nbformat"] == 4
