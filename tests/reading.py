"""What the tests know of a page: its text as a reader sees it, and its code blocks."""

import io
import re
from pathlib import Path

import yaml
from markdown import Markdown
from pytest_codeblocks.main import CodeBlock, extract_from_buffer

from hooks import DOCS, LANGUAGES, ROOT, content
from hooks.text import openings

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
    places = dict(zip(_lines(text), _lines(path.read_text("utf-8")), strict=True))
    for block in blocks:
        block.lineno = places[block.lineno]
    return blocks


def _lines(text: str) -> list[int]:
    return [number for number, _, _ in openings(text)]
