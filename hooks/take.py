"""What a reader takes along from a concept page: the file, all of it in one file, a notebook.

The files are made by the code behind `runnable-dl add`, so both give the same text.
"""

import re
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from textwrap import dedent

from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from nbformat import NotebookNode

from hooks import SNIPPETS, content, labs
from hooks.content import Entry
from snippets._cli import library

WORDS = {
    "en": {
        "alone": "needs only torch, and is a single file already.",
        "more": "needs torch and {n} more {files}: {names}.",
        "triton": " Its kernels are in Triton, which PyTorch brings on Linux with a CUDA GPU.",
        "sep": ", ",
        "copy": "Copy the file",
        "copy_single": "Copy all as one file",
        "copied": "Copied",
        "failed": "That did not work; download the file instead.",
        "file": "Download the file",
        "single": "Download as a single file",
        "command": "Or on the command line",
        "from": "Code from this page, ready to run: {page}",
    },
    "zh": {
        "alone": "只依赖 torch，本身就是单个文件。",
        "more": "依赖 torch 和另外 {n} 个文件：{names}。",
        "triton": "计算核用 Triton 编写；在带 CUDA GPU 的 Linux 上，PyTorch 自带 Triton。",
        "sep": "、",
        "copy": "复制整个文件",
        "copy_single": "复制单文件版",
        "copied": "已复制",
        "failed": "复制失败，请改为下载文件。",
        "file": "下载文件",
        "single": "下载单文件版",
        "command": "或使用命令行",
        "from": "本页的代码，可以直接运行：{page}",
    },
}
CODE = re.compile(r'<h2 id="code">.*?</h2>', re.DOTALL)
# A heading, or a fenced block with its indentation, mark, language and text.
PART = re.compile(
    r"^(?P<heading>##+ [^\n]+?)(?: \{ #[^\n]*)?$|^(?P<in>[ ]*)(?P<mark>```+)(?P<lang>\w*)[^\n]*\n"
    r"(?P<text>.*?)^(?P=in)(?P=mark)$",
    re.DOTALL | re.MULTILINE,
)
IMPORT = re.compile(r"^(?:from|import) snippets\.(\w+)\.(\w+)", re.MULTILINE)


def names(entry: Entry) -> list[str]:
    """The snippets that a page shows."""
    if entry.files["en"].suffix != ".md":
        return []
    paths = content.embeds(entry.files["en"])
    return [path.relative_to(SNIPPETS).with_suffix("").as_posix() for path in paths]


def refresh() -> None:
    """Read the snippets again: in the preview they are being edited."""
    for known in (library.data, library.library, library.needs, library.body):
        known.cache_clear()


# Files ----------------------------------------------------------------------------


def files(entry: Entry, lang: str, url: str, expand: Callable[[str], str]) -> dict[str, str]:
    """What stands beside a page, by address."""
    found: dict[str, str] = {}
    for name in names(entry):
        for single in (False, True)[: 1 + bool(library.needs(name))]:
            found[entry.address + file_name(name, single)] = library.copy_of(name, single)
    if found:
        stem = Path(entry.name).name
        found[f"{entry.address}{stem}.ipynb"] = notebook(entry, lang, url, expand)
    return found


def file_name(name: str, single: bool = False) -> str:
    return f"{Path(name).name}{'_single_file' if single else ''}.py"


def addresses(name: str) -> dict[str, str]:
    """Where the files of a snippet are, beside the page that explains it."""
    page = library.library()[name].page
    found = {"copy": f"{page}/{file_name(name)}", "notebook": f"{page}/{Path(page).name}.ipynb"}
    if library.needs(name):
        found["single_file"] = f"{page}/{file_name(name, single=True)}"
    return found


def notebook(entry: Entry, lang: str, url: str, expand: Callable[[str], str]) -> str:
    """The usage blocks of a page, able to run where this project is not installed."""
    title = entry.meta[lang]["title"]
    link = f"[{title}]({url}{entry.address})" if url else title
    cells = list(_cells(entry.files[lang].read_text("utf-8"), expand))
    imported = {"/".join(found) for cell in cells for found in IMPORT.findall(cell.source)}
    needed = sorted({SNIPPETS / f"{n}.py" for name in imported for n in library.closure(name)})
    start = labs.cell("markdown", f"# {title}\n\n{WORDS[lang]['from'].format(page=link)}")
    return labs.write([start, labs.setup(needed, lang), *cells])


def _cells(text: str, expand: Callable[[str], str]) -> Iterator[NotebookNode]:
    """The Python blocks that are more than embeds, each below its heading."""
    heading = ""
    for part in PART.finditer(text):
        heading = part["heading"] or heading
        lines = dedent(part["text"] or "").strip().splitlines()
        if part["lang"] != "python" or all("--8<--" in line for line in filter(None, lines)):
            continue
        if heading:
            yield labs.cell("markdown", heading)
        heading = ""
        yield labs.cell("code", expand("\n".join(lines)))


# Panel ----------------------------------------------------------------------------


def set_panel(html: str, entry: Entry, page: Page, lang: str, repository: str) -> str:
    """Offer the files below the heading of the code."""
    found = names(entry)
    if not found:
        return html
    groups = [_group(name, page, lang, repository) for name in found]
    groups.append(labs.buttons(lang, Path(entry.name).name, page))
    panel = f'<section class="take">{"".join(groups)}</section>'
    return CODE.sub(lambda heading: heading[0] + panel, html, count=1)


def _group(name: str, page: Page, lang: str, repository: str) -> str:
    words, file = WORDS[lang], file_name(name)
    single = bool(library.needs(name))  # then the button copies that: it runs alone
    links = [_link(file_name(name, single=True), words["single"])] if single else []
    links.append(_link(file, words["file"]))
    label = words["copy_single" if single else "copy"]
    copy = (
        f'<button type="button" class="md-button" data-copied="{words["copied"]}"'
        f' data-failed="{words["failed"]}" hidden>{label}</button>'
    )
    install = f"pip install git+{escape(repository)}\n" if repository else ""
    command = f"{install}runnable-dl add {name} --to ."
    command = labs.block(command, "language-bash", words["command"])
    return (
        f'<div role="group" aria-label="{file}"><p><code>{file}</code> {_needs(name, page, lang)}'
        f'</p><p>{copy} {" ".join(links)} <span role="status"></span></p>{command}</div>'
    )


def _link(file: str, text: str) -> str:
    return f'<a class="md-button" href="{file}" download>{text}</a>'


def _needs(name: str, page: Page, lang: str) -> str:
    words, others = WORDS[lang], library.closure(name)[:-1]
    kernels = any("import triton\n" in library.body(one) for one in (name, *others))
    triton = words["triton"] if kernels else ""
    if not others:
        return words["alone"] + triton
    links = [
        f'<a href="{get_relative_url(addresses(other)["copy"], page.url)}" download>'
        f"<code>{file_name(other)}</code></a>"
        for other in others
    ]
    noun = "file" if len(others) == 1 else "files"
    return words["more"].format(n=len(others), files=noun, names=words["sep"].join(links)) + triton
