"""What a reader takes along from a concept page: files, clipboard, notebook."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urljoin

import nbformat
import pytest
from bs4 import BeautifulSoup, Tag
from mkdocs.config import load_config
from playwright.sync_api import Browser, Page, expect

from hooks import LANGUAGES, ROOT, content, machines, take
from snippets._cli import library
from tests.reading import code_blocks
from tests.site.conftest import ADDRESSES, watch

CONCEPTS = {name: entry for name, entry in content.entries().items() if take.names(entry)}
PLACES = [(lang, name) for lang in LANGUAGES for name in CONCEPTS]
IN_TURNS = [(LANGUAGES[i % 2], name) for i, name in enumerate(CONCEPTS)]  # what takes a browser
NEEDS = {"concepts/pareto_front": ["concepts/distribution_shift"]}


@pytest.fixture(autouse=True)
def unknown_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the site is built."""
    monkeypatch.delenv("SITE_URL", raising=False)
    take.refresh()


def address(lang: str, name: str) -> str:
    return ("" if lang == "en" else f"{lang}/") + CONCEPTS[name].address


def soup_of(html: str) -> BeautifulSoup:
    return BeautifulSoup(html, "html.parser")


def panel(site: Path, lang: str, name: str) -> Tag:
    html = (site / address(lang, name) / "index.html").read_text("utf-8")
    found = soup_of(html).select("#code + section.take")
    assert len(found) == 1
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize(("lang", "name"), PLACES)
def test_each_concept_page_offers_all(site: Path, lang: str, name: str) -> None:
    here, words = panel(site, lang, name), take.WORDS[lang]
    groups = here.select("[role=group]")
    for group, snippet in zip(groups, take.names(CONCEPTS[name]), strict=True):
        file = f"{snippet.rpartition('/')[2]}.py"
        assert group["aria-label"] == file and group.select_one("p > code").text == file
        more = bool(library.needs(snippet))
        assert (words["alone"] in group.text) != more
        (button,) = group.select("button")
        assert button.text == words["copy_single" if more else "copy"]
        offered = [words["single"], words["file"]] if more else [words["file"]]
        assert [a.text for a in group.select(".md-button[download]")] == offered
        assert group.select_one("pre").text == f"runnable-dl add {snippet} --to ."
        assert group.select_one("[role=status]").text == ""
    for link in here.select("a"):
        assert link.has_attr("download")
        assert (site / urljoin(address(lang, name), str(link["href"]))).is_file()
    assert str(here.select("a")[-1]["href"]).endswith(".ipynb")


@pytest.mark.slow
@pytest.mark.parametrize(("lang", "name"), PLACES)
def test_where_addresses_are_known(published: Path, lang: str, name: str) -> None:
    colab = str(panel(published, lang, name).select("a")[-1]["href"])
    assert colab.startswith("https://colab.research.google.com/github/someone/something/")
    notebook = (published / colab.partition("/blob/gh-pages/")[2]).read_text("utf-8")
    root = ADDRESSES["SITE_URL"]
    assert f"]({root}{address(lang, name)})" in notebook
    for snippet in take.names(CONCEPTS[name]):
        copy = (published / address(lang, name) / take.file_name(snippet)).read_text("utf-8")
        assert f"# Page: {root}{library.library()[snippet].page}/\n" in copy


@pytest.mark.slow
@pytest.mark.parametrize("lang", ["", "zh/"])
def test_the_registry_leads_to_the_files(site: Path, lang: str) -> None:
    for name, facts in json.loads((site / lang / "snippets.json").read_text("utf-8")).items():
        copy = (site / lang / facts["copy"]).read_text("utf-8")
        assert copy == library.copy_of(name) and facts["version"] in copy
        assert (site / lang / facts["notebook"]).is_file()


# In the browser -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("lang", "name"), IN_TURNS)
def test_the_download_is_the_copy(page: Page, url: str, lang: str, name: str) -> None:
    page.goto(url + address(lang, name))
    page.keyboard.press("Shift")  # lays out the whole page: nothing moves under the mouse
    for snippet in take.names(CONCEPTS[name]):
        file = take.file_name(snippet)
        group = page.get_by_role("group", name=file, exact=True)
        with page.expect_download() as download:
            group.get_by_role("link", name=take.WORDS[lang]["file"]).click()
        assert download.value.suggested_filename == file
        assert Path(download.value.path()).read_text("utf-8") == library.copy_of(snippet)


@pytest.mark.slow
@pytest.mark.parametrize(("lang", "name"), IN_TURNS)
def test_the_button_copies_the_file(page: Page, url: str, lang: str, name: str) -> None:
    wrong = watch(page)
    page.goto(url + address(lang, name))
    for snippet in take.names(CONCEPTS[name]):
        group = page.get_by_role("group", name=take.file_name(snippet), exact=True)
        for key in ("Enter", "Space"):
            page.evaluate("navigator.clipboard.writeText('')")
            group.locator("a.md-button").first.focus()
            page.keyboard.press("Shift+Tab")  # by keyboard: the button stands before the link
            page.keyboard.press(key)
            expect(group.get_by_role("status")).to_have_text(take.WORDS[lang]["copied"])
            copied = page.evaluate("navigator.clipboard.readText()")
            single = bool(library.needs(snippet))
            assert copied == library.copy_of(snippet, single), "what is copied runs alone"
    assert not wrong


@pytest.mark.slow
def test_a_copy_that_fails_is_not_called_one(page: Page, url: str) -> None:
    page.goto(url + address("zh", "concepts/sota"))
    page.route("**/*.py", lambda route: route.fulfill(status=404, body="no such file"))
    page.evaluate("navigator.clipboard.writeText('before')")
    page.locator(".take [data-copied]").click()
    expect(page.locator(".take [role=status]")).to_have_text(take.WORDS["zh"]["failed"])
    assert page.evaluate("navigator.clipboard.readText()") == "before"


@pytest.mark.slow
@pytest.mark.parametrize("script", [True, False])
def test_no_dead_button(browser: Browser, url: str, script: bool) -> None:
    """Without JavaScript; and where the browser keeps the clipboard from an insecure page."""
    context = browser.new_context(java_script_enabled=script)
    context.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page = context.new_page()
    for lang, name in PLACES:
        page.goto(url + address(lang, name), wait_until="networkidle")
        assert page.locator(".take [data-copied]").count()
        assert not page.locator(".take [data-copied]:visible").count()
        assert all(link.is_visible() for link in page.locator(".take a").all())
    context.close()


@pytest.mark.slow
def test_print_keeps_names_and_commands(page: Page, url: str) -> None:
    page.goto(url + address("en", "concepts/sota"))
    page.locator(".take [data-copied]").click()
    expect(page.locator(".take [role=status]")).to_have_text("Copied")
    page.emulate_media(media="print")
    words = take.WORDS["en"]
    kept = f"pareto_front.py {words['alone']} {words['command']} runnable-dl add"
    kept += " concepts/pareto_front --to ."
    assert " ".join(page.locator(".take").inner_text().split()) == kept


# The notebook ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("lang", "name"), PLACES)
def test_the_notebook_runs_where_the_project_is_not(
    site: Path, lang: str, name: str, tmp_path: Path
) -> None:
    entry = CONCEPTS[name]
    file = site / address(lang, name) / f"{Path(name).name}.ipynb"
    notebook = nbformat.reads(file.read_text("utf-8"), as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith(f"# {entry.meta[lang]['title']}\n")
    text = entry.files[lang].read_text("utf-8")
    headings = [c.source for c in notebook.cells[1:] if c.cell_type == "markdown"]
    assert headings and all(f"\n{heading} {{ #" in text for heading in headings)
    code = [c.source for c in notebook.cells if c.cell_type == "code"]
    if lang != "en":
        english = site / address("en", name) / file.name
        cells = nbformat.reads(english.read_text("utf-8"), as_version=4).cells
        run = [c.source for c in cells if c.cell_type == "code"]
        code[0], run[0] = (cell[0].partition("\n")[2] for cell in (code, run))  # a comment
        assert code == run
        return
    # Where the project's tests stand, torchvision would not load beside a torch for the CPU either.
    allowing = (ROOT / "benchmarks" / "libraries.py").read_text("utf-8")
    code = [allowing, "allow_torchvision()", *code]
    (tmp_path / "code.ipynb.py").write_text("\n".join(code), "utf-8")
    result = subprocess.run(
        [sys.executable, "code.ipynb.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    shown = [block.expected_output for block in code_blocks(entry.files[lang])]
    assert result.stdout.split() == "\n".join(filter(None, shown)).split(), "as on the page"


# A snippet that imports others --------------------------------------------------------


@pytest.fixture
def composite(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of ours does so far, so one is made up."""
    monkeypatch.setattr(library, "needs", lambda name: NEEDS.get(name, []))
    monkeypatch.setattr(library, "copy_of", lambda name, single=False: f"{name} {single}")


def composite_panel(lang: str) -> Tag:
    page: Any = SimpleNamespace(url="concepts/sota/", meta={"colab": "https://colab/x"})
    html = '<h2 id="code">x</h2>\n<p>'
    return soup_of(take.set_panel(html, CONCEPTS["concepts/sota"], page, lang, ""))


@pytest.mark.usefixtures("composite")
@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_composite_is_offered_as_a_single_file(lang: str) -> None:
    links = {a.text: str(a["href"]) for a in composite_panel(lang).select("a")}
    assert links == {
        "distribution_shift.py": "../distribution_shift/distribution_shift.py",
        take.WORDS[lang]["file"]: "pareto_front.py",
        take.WORDS[lang]["single"]: "pareto_front_single_file.py",
        take.labs.DOWNLOAD[lang]: "sota.ipynb",
        take.labs.COLAB[lang]: "https://colab/x",
    }


@pytest.mark.usefixtures("composite")
def test_a_composite_says_all_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(lang: str) -> str:
        return composite_panel(lang).select_one("[role=group] > p").text

    assert said("en") == "pareto_front.py needs torch and 1 more file: distribution_shift.py."
    below = ["attention/scaled_dot_product_attention"]
    monkeypatch.setitem(NEEDS, "concepts/distribution_shift", below)
    others = ["scaled_dot_product_attention.py", "distribution_shift.py"]
    assert said("en") == f"pareto_front.py needs torch and 2 more files: {', '.join(others)}."
    assert said("zh") == f"pareto_front.py 依赖 torch 和另外 2 个文件：{'、'.join(others)}。"


@pytest.mark.usefixtures("composite")
def test_the_files_of_a_composite() -> None:
    name, embeds = (
        "concepts/pareto_front",
        machines.embedding(load_config(str(ROOT / "mkdocs.yml"))),
    )
    files = take.files(CONCEPTS["concepts/sota"], "en", "", embeds)
    notebook = files.pop("concepts/sota/sota.ipynb")
    assert files == {
        "concepts/sota/pareto_front.py": f"{name} False",
        "concepts/sota/pareto_front_single_file.py": f"{name} True",
    }
    assert "snippets/concepts/distribution_shift.py" in notebook, "imported, hence written too"
    assert take.addresses(name)["single_file"] in files
