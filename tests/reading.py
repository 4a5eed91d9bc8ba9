"""What the tests know of a page: its text as a reader sees it, its code blocks, its sections."""

import io
import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from markdown import Markdown
from pytest_codeblocks.main import CodeBlock, extract_from_buffer

from hooks import DOCS, LANGUAGES, ROOT, content

CONFIG = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), Loader=yaml.BaseLoader)
PAGES = [path for lang in LANGUAGES for path in content.pages(lang)]
PYTHON = re.compile(r"^(\s*`{3,})python\b.*$", re.MULTILINE)


def name(path: Path) -> str:
    return path.relative_to(DOCS).as_posix() if path.is_relative_to(DOCS) else path.name


def expand(path: Path) -> str:
    """The page with its embeds expanded, by the extension and the settings of the site."""
    extension = "pymdownx.snippets"
    options = CONFIG["markdown_extensions"][extension]
    options = options | {"base_path": [str(ROOT / "snippets")]}
    markdown = Markdown(extensions=[extension], extension_configs={extension: options})
    lines = path.read_text("utf-8").splitlines()
    return "\n".join(markdown.preprocessors["snippet"].run(lines)) + "\n"


def code_blocks(path: Path) -> list[CodeBlock]:
    """The blocks of a page as pytest-codeblocks finds them, `lineno` counted in the page's file.

    It knows only the bare fence ```python, so what else stands on that line is taken away.
    """
    text = PYTHON.sub(r"\1python", expand(path))
    blocks = extract_from_buffer(io.StringIO(text))
    # Its line numbers are those of the expanded text; fences come in the same order in both.
    places = dict(zip(_openings(text), _openings(path.read_text("utf-8")), strict=True))
    for block in blocks:
        block.lineno = places[block.lineno]
    return blocks


def _openings(text: str) -> list[int]:
    """The lines on which a fence opens."""
    found, fence = [], ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*(`{3,})(.*)", line):
            if not fence:
                fence = match[1]
                found.append(number)
            elif match[1].startswith(fence) and not match[2].strip():
                fence = ""
    return found


@dataclass(frozen=True)
class Section:
    """What both languages must share between one `##` heading and the next."""

    anchors: list[str]
    code: list[str]
    formulas: list[str]
    figures: list[str]
    widgets: list[str]
    links: set[str]
    numbers: set[str]


def sections(path: Path) -> dict[str, Section]:
    """The sections of a page by anchor; what stands before the first is called ''."""
    text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text("utf-8"), flags=re.DOTALL)
    fences = re.compile(r"^(\s*)(`{3,})(\w*).*?\n(.*?)^\1\2\s*$", re.MULTILINE | re.DOTALL)
    codes = [f"{m[3]}\n{m[4]}" for m in fences.finditer(text)]
    text = fences.sub(lambda m: f"\n\0code{len(m[0])}\n", text)
    numbered = iter(codes)
    found: dict[str, Section] = {}
    for part in re.split(r"^(?=## )", text, flags=re.MULTILINE):
        head = re.search(r"^## .*\{ #([\w-]+) \}$", part, re.MULTILINE)
        anchors = re.findall(r"^#{2,} .*\{ #([\w-]+) \}$", part, re.MULTILINE)
        code = [next(numbered) for _ in re.findall(r"\0code\d+", part)]
        prose = re.sub(r"\0code\d+", "", part)
        prose = re.sub(r"\{ #[\w-]+ \}", "", prose)
        inline = re.findall(r"`([^`\n]+)`", prose)
        prose = re.sub(r"`[^`\n]+`", "", prose)
        figures = re.findall(r"!\[[^\]]*\]\(([^)\s]+)\.(?:en|zh)\.svg", prose)
        widgets = re.findall(r"\{ ?widget=([\w-]+)", prose)
        prose = re.sub(r"^!\[.*$", "", prose, flags=re.MULTILINE)
        links = set(re.findall(r"\]\(([^)\s]+)\)", prose))
        prose = re.sub(r"\]\([^)]*\)", "]", prose)
        display = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
        formulas = [" ".join(f.split()) for f in display.findall(prose)]
        prose = display.sub("", prose)
        formulas += [" ".join(f.split()) for f in re.findall(r"\$([^$\n]+)\$", prose)]
        prose = re.sub(r"\$[^$\n]+\$", "", prose)
        numbers = set(re.findall(r"\d+(?:[.,]\d+)*", prose))
        found[head[1] if head else ""] = Section(
            anchors, code + sorted(inline), sorted(formulas), figures, widgets, links, numbers
        )
    return found
