"""The rules of the house, for every page, snippet and figure there is, without a list of them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hooks import DOCS, LANGUAGES, ROOT, SNIPPETS, content, figures, formulas, glossary, labs, svg
from snippets._cli import library
from tests.reading import PAGES, code_blocks, name, sections

ENTRIES = content.entries()
CONCEPTS = [
    entry
    for entry in ENTRIES.values()
    if "/" in entry.name and not entry.name.endswith("/index") and entry.files["en"].suffix == ".md"
]
SNIPPET_FILES = sorted(SNIPPETS.glob("[!_]*/[!_]*.py"))
SNIPPET_TESTS = sorted((ROOT / "tests" / "snippets").rglob("test_*.py"))
# The parts of a concept page, in this order; others may stand between.
PARTS = (
    *("idea", "why", "definition", "code", "usage"),
    *("pitfalls", "variants", "questions", "references"),
)


def entry_id(entry: content.Entry) -> str:
    return entry.name


def snippet_id(path: Path) -> str:
    return path.relative_to(SNIPPETS).as_posix()


# Pages --------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=entry_id)
def test_both_languages_agree_section_by_section(entry: content.Entry) -> None:
    if entry.files["en"] == entry.files["zh"]:
        return  # a lab: one file, whose reader holds text cells to pairs
    english, chinese = (sections(entry.files[lang]) for lang in LANGUAGES)
    assert list(english) == list(chinese), "the ## headings differ"
    for anchor, section in english.items():
        for field, value in vars(section).items():
            other = getattr(chinese[anchor], field)
            assert value == other, f"{entry.name}#{anchor}: {field} differ: {value} and {other}"


@pytest.mark.parametrize("entry", CONCEPTS, ids=entry_id)
def test_a_concept_page_has_its_parts_in_order(entry: content.Entry) -> None:
    if entry.name.startswith("benchmarks/"):
        return  # reports of measurements, each in the order that its results ask for
    found = [anchor for anchor in sections(entry.files["en"]) if anchor in PARTS]
    assert found == list(PARTS)
    assert entry.meta["en"].get("tags"), "tags: the words by which a reader would search"
    assert entry.meta["zh"].get("tags")


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_headings(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^(#+) (.*)$", text, re.MULTILINE)
    assert [len(marks) for marks, _ in headings].count(1) == 1, "one # title a page"
    level = 1
    for marks, heading in headings:
        assert len(marks) <= level + 1, f"'{heading}' skips a level"
        assert "$" not in heading, f"'{heading}': no formulas in headings, they break the contents"
        level = len(marks)
        if level > 1:
            assert re.search(r" \{ #[a-z0-9-]+ \}$", heading), f"'{heading}' needs {{ #anchor }}"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_embeds_links_and_figures_exist(path: Path) -> None:
    lang = path.relative_to(DOCS).parts[0]
    known = {entry.source: entry.files[lang] for entry in ENTRIES.values()}
    content.check(path, known | {"glossary.md": glossary.FILE})
    svg.check(path)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_formulas_parse(path: Path) -> None:
    found = [formula for s in sections(path).values() for formula in s.formulas]
    results = formulas.render([(formula, False) for formula in found])
    for formula, result in zip(found, results, strict=True):
        assert "html" in result, f"{formula}: {result['error']}"


@pytest.mark.parametrize("path", [p for p in PAGES if name(p).startswith("zh/")], ids=name)
def test_chinese_typography(path: Path) -> None:
    """A space between Chinese and Latin, full-width punctuation beside Chinese."""
    aside = re.compile(r"^```.*?^```|\A---\n.*?\n---\n", re.MULTILINE | re.DOTALL)
    text = aside.sub(lambda match: "\n" * match[0].count("\n"), path.read_text("utf-8"))
    for number, line in enumerate(text.splitlines(), 1):
        prose = re.sub(r"\{ #[\w-]+ \}|\]\([^)]*\)|`[^`]*`|\$[^$]*\$|<[^>]*>", "", line)
        tight = re.search(r"[一-龥][A-Za-z0-9]|[A-Za-z0-9][一-龥]", prose)
        assert not tight, f"{name(path)}:{number}: a space in '{tight[0]}'"
        half = re.search(r"[一-龥] ?[,;:!?](\s|$)|[一-龥]\(|\)[一-龥]", prose)
        assert not half, f"{name(path)}:{number}: full-width punctuation in '{half[0]}'"


@pytest.mark.parametrize("path", labs.sources(), ids=lambda path: path.stem)
def test_lab_is_in_both_languages(path: Path) -> None:
    labs.read(path)
    for lang in LANGUAGES:
        assert labs.front_matter(path, lang)["title"]


def test_every_section_has_a_reading_order() -> None:
    ordered = [e for s in content.sections(ENTRIES) for e in content.reading_order(ENTRIES, s)]
    assert len(ordered) == len(CONCEPTS) + len(labs.sources())


# Snippets -----------------------------------------------------------------------


@pytest.mark.parametrize("path", SNIPPET_FILES, ids=snippet_id)
def test_snippet_has_its_pages_and_its_test(path: Path) -> None:
    for lang in LANGUAGES:
        section = DOCS / lang / path.parent.name
        assert any(path in content.embeds(page) for page in section.glob("*.md")), (
            f"no page in docs/{lang}/{path.parent.name} embeds {path.name}"
        )
    test = ROOT / "tests" / "snippets" / path.parent.name / f"test_{path.name}"
    assert test in SNIPPET_TESTS


def test_snippets_have_names_of_their_own() -> None:
    """Copies of all of them may stand in one folder."""
    assert len({path.stem for path in SNIPPET_FILES}) == len(SNIPPET_FILES)


@pytest.mark.parametrize("path", SNIPPET_FILES, ids=snippet_id)
def test_a_published_snippet_has_not_changed(path: Path) -> None:
    name = snippet_id(path).removesuffix(".py")
    published = library.releases().get(library.release(), {}).get(name)
    now = library.versions(name)
    assert published in (None, now), "changed since its release; raise the number in pyproject.toml"
    entries = library.history(path.read_text("utf-8"))
    assert all(re.match(r"\d+\.\d+\.\d+ \S", entry) for entry in entries)


@pytest.mark.parametrize("path", SNIPPET_TESTS, ids=lambda path: path.stem)
def test_test_has_its_snippet(path: Path) -> None:
    assert SNIPPETS / path.parent.name / path.name.removeprefix("test_") in SNIPPET_FILES


@pytest.mark.parametrize("path", SNIPPET_FILES, ids=snippet_id)
def test_snippet_has_the_shape_of_the_house(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            top = module.split(".")[0]
            assert top in ("torch", "triton") or top in sys.stdlib_module_names, (
                f"imports {module}; a snippet needs torch (and what comes with it, Triton) "
                "and other snippets (from .name import …)"
            )
    doc = ast.get_docstring(tree) or ""
    for word in ("Paper", "Needs:", "Axes:"):
        assert word in doc, f"the docstring at the top lacks '{word}'"
    assert "demo" in content.markers(path) and len(content.markers(path)) > 1, "parts to embed"
    assert any(isinstance(n, ast.Assign) and n.targets[0].id == "__all__" for n in tree.body)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("path", SNIPPET_FILES, ids=snippet_id)
def test_snippet_runs_when_copied_out(path: Path, tmp_path: Path) -> None:
    """With what it imports, in an empty folder; it prints what its page shows."""
    for file in [path, *labs.closure(path)]:
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    quiet = "ignore:Conversion of an array"  # NumPy to Triton's interpreter
    command = [sys.executable, "-W", "error", "-W", quiet, "-m", module]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    shown = [
        block.expected_output
        for page in (DOCS / "en" / path.parent.name).glob("*.md")
        for block in code_blocks(page)
    ]
    assert result.stdout in shown, "the demo is shown on the page, with what it prints"


# Figures and terms ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("script", figures.scripts(), ids=lambda path: path.stem)
def test_figures_are_what_their_script_draws(script: Path) -> None:
    for path, text in figures.draw(script):
        assert path.is_file(), f"{path} is missing; run `make figures`"
        assert path.read_text("utf-8") == text, f"{path} is not up to date; run `make figures`"


def test_every_figure_has_its_script_and_its_place() -> None:
    drawn = set(svg.OUTPUT.rglob("*.svg"))
    text = {lang: "".join(p.read_text("utf-8") for p in content.pages(lang)) for lang in LANGUAGES}
    scripts = "".join(path.read_text("utf-8") for path in figures.scripts())
    for path in drawn:
        stem, lang = path.stem.split(".")
        assert path.name in text[lang], f"no page shows {path.name}; delete it or show it"
        assert f'"{stem}"' in scripts, f"no script draws {path.name}"


def test_the_glossary_names_pages_that_exist() -> None:
    for term in glossary.load():
        assert term.get("page", "index") in ENTRIES, f"{term['id']}: no page {term['page']}"
