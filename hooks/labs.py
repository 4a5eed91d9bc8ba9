"""Labs: `docs/labs/<name>.py`, a notebook in percent format, rendered by mkdocs-jupyter.

One file holds both languages: a text cell says `lang="en"` or `lang="zh"`, code cells are shared.
They are executed once, and again only when their code, a snippet they import or a requirement has
changed; a cell that fails, warns or does not end stops the build (hooks/contained.py).
"""

import ast
import hashlib
import json
import re
import tempfile
import time
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup, Tag
from jupyter_client.manager import AsyncKernelManager
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from mkdocs.structure.toc import get_toc
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from hooks import CACHE, DOCS, LANGUAGES, ROOT, contained
from hooks.contribute import safety
from hooks.errors import problem
from hooks.svg import clean, inline
from hooks.text import PLAIN, parse, plain, strings
from hooks.text import read as read_text

SETUP = {
    "en": "Writes the snippets that the cells below import beside the notebook.",
    "zh": "把下面的单元格导入的代码片段写到笔记本旁边。",
}
OUTPUT = {"en": "Output", "zh": "输出"}
DOWNLOAD = {"en": "Download the notebook", "zh": "下载笔记本"}
COLAB = {"en": "Open in Colab", "zh": "在 Colab 中打开"}


def sources() -> list[Path]:
    return sorted((DOCS / "labs").glob("*.py"))


def read(path: Path) -> tuple[list[NotebookNode], list[int]]:
    """The cells and the line each begins on."""
    import jupytext  # slow to import, and not every site has labs

    text = read_text(path)
    cells = jupytext.reads(text, fmt="py:percent").cells
    lines = [n for n, line in enumerate(text.splitlines(), 1) if line.startswith("# %%")]
    if len(lines) != len(cells):
        raise problem(path, 1, 'a lab begins with a cell: # %% [markdown] lang="en"')
    pending = 0  # text cells in English that wait for their Chinese twin
    for cell, line in zip(cells, lines, strict=True):
        lang = cell.metadata.get("lang")
        if cell.cell_type == "markdown" and lang not in LANGUAGES:
            raise problem(path, line, 'a text cell says its language: lang="en" or lang="zh"')
        if cell.cell_type == "raw":
            raise problem(path, line, "raw cells are not shown; make it text or code")
        pending += {"en": 1, "zh": -1}.get(lang, 0)
        if pending not in (0, 1) or (cell.cell_type == "code" and pending):
            raise problem(path, line, 'text cells come in pairs: first lang="en", then lang="zh"')
    if pending:
        raise problem(path, lines[-1], 'the last text cell has no twin; add one with lang="zh"')
    if not any(cell.cell_type == "code" for cell in cells):
        raise problem(path, 1, "a lab has a cell with code; add # %%")
    return cells, lines


def front_matter(path: Path, lang: str) -> dict[str, Any]:
    """Title, description, tags and `requires`, from the first text cell of the language."""
    cells, lines = read(path)
    for cell, line in zip(cells, lines, strict=True):
        if cell.metadata.get("lang") != lang:
            continue
        title = re.match(r"# (.+)", cell.source)
        meta = cell.metadata
        if not title or "description" not in meta:
            message = 'the first text cell has description="…" and begins with # # Title'
            raise problem(path, line, message)
        found = {
            "title": title[1],
            "description": meta["description"],
            "tags": meta.get("keywords", []),
            "requires": meta.get("requires", []),
        }
        for field, value in found.items():
            values = value if field in ("tags", "requires") else [value]
            if not strings(values) or not all(map(plain, values)):
                raise problem(path, line, f"the {field} of a lab must be {PLAIN}")
        return found
    raise problem(path, 1, f"this lab has no text in '{lang}'")


# Running ------------------------------------------------------------------------


def closure(path: Path) -> list[Path]:
    """The snippets that a Python file imports, and those that these import."""
    found: list[Path] = []
    todo = [path]
    while todo:
        file = todo.pop()
        for node in ast.walk(parse(file)):
            if not isinstance(node, ast.ImportFrom):
                continue
            if node.level > 2:
                raise problem(file, node.lineno, "imports from outside; a snippet imports snippets")
            if node.level:
                base = file.parents[node.level - 1]
            elif (node.module or "").split(".")[0] == "snippets":
                base = ROOT
            else:
                continue
            target = base.joinpath(*(node.module or "").split(".")).with_suffix(".py")
            if not target.is_file():
                message = f"imports {target.name}, which is not there; write from .name import …"
                raise problem(file, node.lineno, message)
            if target not in found:
                found.append(target)
                todo.append(target)
    return sorted(found)


def execute(path: Path) -> list[list[NotebookNode]]:
    """The outputs of each code cell, from the cache where nothing has changed."""
    cells, lines = read(path)
    code = [
        (cell, line) for cell, line in zip(cells, lines, strict=True) if cell.cell_type == "code"
    ]
    digest = hashlib.sha256((ROOT / "requirements.txt").read_bytes())
    for part in [
        *(cell.source for cell, _ in code),
        *(p.read_text("utf-8") for p in closure(path)),
    ]:
        digest.update(part.encode() + b"\0")
    cache = CACHE / "labs" / f"{path.stem}-{digest.hexdigest()[:16]}.ipynb"
    if not cache.is_file():
        notebook = nbformat.v4.new_notebook(cells=[cell for cell, _ in code])
        _run(notebook, path, [line for _, line in code])
        cache.parent.mkdir(parents=True, exist_ok=True)
        for old in cache.parent.glob(f"{path.stem}-*.ipynb"):
            old.unlink()
        nbformat.write(notebook, cache)
    return [cell.outputs for cell in nbformat.read(cache, as_version=4).cells]


def _run(notebook: NotebookNode, path: Path, lines: list[int]) -> None:
    print(f"Running {path.relative_to(ROOT)} …", flush=True)
    end = time.monotonic() + contained.SECONDS
    begun: list[NotebookNode] = []

    def left(cell: NotebookNode) -> float:
        begun.append(cell)
        return max(1, end - time.monotonic())

    def wrong(message: str, inside: int = 0) -> PluginError:
        index = next(i for i, cell in enumerate(notebook.cells) if cell is begun[-1])
        return problem(path, lines[index] + inside, f"this cell {message}")

    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as sockets,
        tempfile.TemporaryDirectory() as home,
    ):
        # Over TCP the kernel warns that its messages are not encrypted.
        kernel = AsyncKernelManager(transport="ipc", ip=f"{sockets}/kernel")
        client = NotebookClient(
            notebook, km=kernel, timeout_func=left, resources={"metadata": {"path": folder}}
        )
        try:
            client.execute(
                cleanup_kc=True,
                env=contained.environment(Path(home)),
                preexec_fn=contained.limit,
            )
        except CellExecutionError as error:
            inside = re.findall(r"line (\d+)", error.traceback.split("\n\n")[0])
            raise wrong(
                f"fails: {error.ename}: {error.evalue}; mend it, then build again",
                int(inside[0]) if inside else 0,
            ) from None
        except CellTimeoutError:
            message = f"has not ended; a lab has {contained.SECONDS} s in all; let it do less"
            raise wrong(message) from None
        except DeadKernelError:
            raise wrong("ends the process it runs in; let it do less, or find its limit") from None
    for cell, line in zip(notebook.cells, lines, strict=True):
        for output in cell.outputs:
            if output.get("name") == "stderr":
                raise problem(path, line, f"this cell warns: {output.text.strip()}")


# Notebooks ------------------------------------------------------------------------


def notebook(path: Path, lang: str) -> Path:
    """The notebook in one language, as a file for mkdocs-jupyter; `tidy` adds the outputs."""
    cells, _ = read(path)
    file = CACHE / "labs" / lang / "labs" / f"{path.stem}.ipynb"
    file.parent.mkdir(parents=True, exist_ok=True)
    text = write(in_language(cells, lang))
    if not file.is_file() or file.read_text("utf-8") != text:  # else it would look new
        file.write_text(text, "utf-8")
    return file


def download(path: Path, lang: str) -> str:
    """The notebook without outputs, able to run where this project is not installed."""
    cells, _ = read(path)
    kept = in_language(cells, lang)
    first_code = next(i for i, cell in enumerate(kept) if cell.cell_type == "code")
    return write([*kept[:first_code], setup(closure(path), lang), *kept[first_code:]])


def setup(snippets: list[Path], lang: str) -> NotebookNode:
    """The cell that writes snippets beside the notebook, to be imported by the cells below it."""
    needed = {p.relative_to(ROOT).as_posix(): p.read_text("utf-8") for p in snippets}
    return cell(
        "code",
        f"# {SETUP[lang]}\nfrom pathlib import Path\n\nfiles = {_literal(needed)}\n"
        "for name, text in files.items():\n"
        "    Path(name).parent.mkdir(parents=True, exist_ok=True)\n"
        '    Path(name).write_text(text, encoding="utf-8")',
    )


def _literal(files: dict[str, str]) -> str:
    """A dict as Python code that a person can read."""
    items = "".join(f"    {name!r}: r'''{text}''',\n" for name, text in files.items())
    return f"{{\n{items}}}"


def in_language(cells: list[NotebookNode], lang: str) -> list[NotebookNode]:
    return [c for c in cells if c.cell_type == "code" or c.metadata.lang == lang]


def cell(kind: str, source: str) -> NotebookNode:
    """A new cell; nbformat's own would be validated one by one, which takes long."""
    more = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return NotebookNode(cell_type=kind, source=source, **more)


def write(cells: list[NotebookNode]) -> str:
    """The text of a notebook, the same on every build."""
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # jupytext draws random ones
        cell.metadata = {}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}}
    notebook |= {"nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


# Rendering ------------------------------------------------------------------------


def tidy(content: str, path: Path, lang: str, page: Page, files: Files) -> str:
    """What mkdocs-jupyter rendered, without its scripts and styles (600 KB and two foreign hosts).

    Also mends headings (Chinese ones get the anchors of their English twins), links to pages,
    formulas, and gives each plot the text alternative that its cell states.
    """
    cells, lines = read(path)
    shown = [
        (cell, line)
        for cell, line in zip(cells, lines, strict=True)
        if cell.cell_type == "code" or cell.metadata.lang == lang
    ]
    outputs = iter(execute(path))
    anchors = iter(_anchors(cells))
    soup = BeautifulSoup(content, "html.parser")
    rendered = soup.select('.jp-Notebook-cell[id^="cell-id"]')
    parts: list[str] = []
    tokens: list[dict[str, Any]] = []
    for node, (cell, line) in zip(rendered, shown, strict=True):
        if cell.cell_type == "markdown":
            text = node.select_one(".jp-RenderedMarkdown")
            assert text
            parts.append(_text(text, anchors, tokens, path, line, page, files))
            for error in safety.rendered(parts[-1], path, line):
                raise error
            if len(parts) == 1:
                parts.append(buttons(lang, path.stem, page))
        else:
            source = node.select_one(".highlight-ipynb pre")
            assert source
            code = source.decode_contents().removeprefix("<span></span>")
            parts.append(block(code, "language-python"))
            parts += [_output(o, cell, path, line, lang) for o in next(outputs)]
    page.toc = get_toc(tokens)
    return "\n".join(parts)


def _anchors(cells: list[NotebookNode]) -> list[str]:
    """The anchors of the headings, made of the English ones."""
    text = "\n".join(c.source for c in cells if c.metadata.get("lang") == "en")
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") for title in titles]


def _text(
    node: Tag,
    anchors: Any,
    tokens: list[dict[str, Any]],
    path: Path,
    line: int,
    page: Page,
    files: Files,
) -> str:
    for link in node.select("a.anchor-link"):
        link.decompose()
    for heading in node.find_all(re.compile("^h[1-6]$")):
        heading["id"] = next(anchors, "")
        if not heading["id"]:
            raise problem(path, line, "a heading that the English text has not; write it there")
        level, name = int(heading.name[1]), heading.get_text()
        token = {"level": level, "id": heading["id"], "name": name, "children": []}
        (tokens[0]["children"] if tokens and level > 1 else tokens).append(token)
    for link in node.find_all("a", href=re.compile(r"\.(md|ipynb)(#|$)")):
        target, _, anchor = str(link["href"]).partition("#")
        uri = (Path("/labs") / target).resolve().as_posix().removeprefix("/")
        file = files.get_file_from_path(uri)
        if file is None:
            raise problem(path, line, f"no page '{target}' to link to; check the path")
        link["href"] = file.url_relative_to(page.file) + ("#" + anchor if anchor else "")
    html = node.decode_contents()
    html = re.sub(
        r"<p>\s*\$\$(.+?)\$\$\s*</p>", r'<div class="arithmatex">\\[\1\\]</div>', html, flags=re.S
    )
    pieces = re.split(r"(<(?:code|pre).*?</(?:code|pre)>)", html, flags=re.DOTALL)
    inline = r"(?<![\\$])\$(?!\s)([^$\n]+?)(?<!\s)\$(?!\d)"  # "$5 and $6" is money
    span = r'<span class="arithmatex">\\(\1\\)</span>'
    pieces[::2] = [re.sub(inline, span, piece) for piece in pieces[::2]]
    return "".join(pieces)


def block(html: str, name: str, title: str = "") -> str:
    label = f'<span class="filename">{title}</span>' if title else ""
    return f'<div class="{name} highlight">{label}<pre><span></span><code>{html}</code></pre></div>'


def _output(output: NotebookNode, cell: NotebookNode, path: Path, line: int, lang: str) -> str:
    if output.output_type == "stream":
        return block(escape(output.text), "language-text", OUTPUT[lang])
    data = output.data
    if "image/svg+xml" in data:
        alt = cell.metadata.get(f"alt_{lang}")
        if not alt:
            raise problem(path, line, f'this cell draws; say what is seen: # %% alt_{lang}="…"')
        svg = clean(data["image/svg+xml"])
        for error in safety.drawing(svg, path, line):
            raise error
        return inline(svg, alt)
    if "image/png" in data:
        message = 'plots are SVG; add set_matplotlib_formats("svg") to the first code cell'
        raise problem(path, line, message)
    return block(escape(data["text/plain"]), "language-text", OUTPUT[lang])


def buttons(lang: str, stem: str, page: Page) -> str:
    """What leads to the notebook of a page."""
    links = [f'<a class="md-button" href="{stem}.ipynb" download>{DOWNLOAD[lang]}</a>']
    if colab := page.meta.get("colab"):
        links.append(f'<a class="md-button" href="{colab}">{COLAB[lang]}</a>')
    return f"<p>{' '.join(links)}</p>"
