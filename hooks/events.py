"""Where MkDocs calls in: each event hands over to the module that knows how."""

import re
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# For a bare `mkdocs build`, which does not look for modules in this folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jinja2 import Environment, FileSystemBytecodeCache
from markdown.treeprocessors import InlineProcessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from pymdownx.highlight import Highlight

from hooks import (
    CACHE,
    DOCS,
    ROOT,
    content,
    formulas,
    glossary,
    labs,
    machines,
    measured,
    path,
    search,
    status,
    svg,
    take,
    weight,
)
from hooks.contribute import history, safety, stale
from hooks.contribute.lag import Lag

SEARCH = {"en": "Search", "zh": "搜索"}
SKIP = ("跳转至", "跳到正文")  # the theme's "go to" does not say where
TAGS = {"en": "Tags", "zh": "标签"}

# Styles: formulas and figures carry style attributes. Images: the theme's icons are data addresses.
POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; worker-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'"
)
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
# A section with an index page: the label that should name its list holds an icon only.
NAMELESS = re.compile(
    r'aria-labelledby="(__nav_\w+)_label"( aria-expanded="\w+">\s*<label class="md-nav__title" '
    r'for="\1">\s*<span class="md-nav__icon md-icon"></span>\s*([^<]*?)\s*</label>)'
)


class State:
    """What the events of one build share."""

    lang: str
    entries: dict[str, content.Entry]
    terms: glossary.Terms
    dates: dict[str, str]
    lags: dict[str, list[Lag]]  # by page
    expand: Callable[[str], str]  # the embeds in a text
    known: dict[str, Path]  # what links may lead to
    sections: list[search.Section]  # what the search finds
    index: bytes  # of the search, while only some pages are built
    serving = False
    partly = False  # only the pages that have changed are built


def on_startup(command: str, dirty: bool) -> None:
    State.serving = command == "serve"
    State.partly = dirty


# Both languages show the same code: colour each block once.
_colour = Highlight.highlight
_coloured: dict[str, Any] = {}


def _highlight(self: Highlight, *args: Any, **settings: Any) -> Any:
    key = repr((args, settings))
    if key not in _coloured:
        _coloured[key] = _colour(self, *args, **settings)
    return _coloured[key]


Highlight.highlight = _highlight

# Markdown tries every inline pattern on every cell of a table; most hold nothing to begin one with.
_PATTERN = re.compile(r"[`$\\\[!<&*_]|  \n")
_inline = InlineProcessor._InlineProcessor__handleInline  # type: ignore[attr-defined]


def _handle_inline(self: InlineProcessor, data: str, patternIndex: int = 0) -> str:
    return _inline(self, data, patternIndex) if _PATTERN.search(data) else data


InlineProcessor._InlineProcessor__handleInline = _handle_inline  # type: ignore[attr-defined]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    State.lang = config.theme["language"]
    if State.serving:
        take.refresh()
    refuse(safety.files())
    State.entries = content.entries()
    State.terms = glossary.Terms(State.lang)
    State.sections = []
    State.dates = dates()
    State.lags = stale.by_page(State.lang)
    State.known = {e.source: e.files[State.lang] for e in State.entries.values()}
    State.known["glossary.md"] = glossary.FILE
    if config.site_url and State.lang != "en":
        config.site_url = f"{config.site_url.rstrip('/')}/{State.lang}/"
    config.repo_url = (config.repo_url or "").rstrip("/").removesuffix(".git")
    config.nav = path.navigation(State.entries, State.lang)
    config.markdown_extensions.append(State.terms)  # type: ignore[arg-type]
    return config


def on_pre_build(config: MkDocsConfig) -> None:
    if State.partly:
        State.index = (Path(config.site_dir) / "search/search_index.json").read_bytes()


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside the language's folder, or is made by the build."""
    for uri, file in assets():
        ours = file.suffix in (".css", ".js")
        found = {"content": weight.asset(file)} if ours else {"abs_src_path": str(file)}
        files.append(File.generated(config, uri, **found))
    css = formulas.stylesheet()
    files.append(File.generated(config, "assets/katex/katex.min.css", content=css))
    library = search.LIBRARY.read_text("utf-8")
    files.append(File.generated(config, "assets/javascripts/minisearch.js", content=library))
    for uri, source in measured.files():
        files.append(File.generated(config, uri, abs_src_path=str(source)))
    titles = {name: entry.meta[State.lang]["title"] for name, entry in State.entries.items()}
    text = glossary.page(State.lang, titles)
    files.append(File.generated(config, "glossary.md", content=text))
    for lab in labs.sources():
        notebook = labs.notebook(lab, State.lang)
        uri = f"labs/{lab.stem}.ipynb"
        files.append(File(uri, str(notebook.parents[1]), config.site_dir, True))
        copy = f"labs/{lab.stem}/{lab.stem}.ipynb"
        files.append(File.generated(config, copy, content=labs.download(lab, State.lang)))
    State.expand = machines.embedding(config)
    url = config.site_url or ""
    for entry in State.entries.values():
        if (source := entry.files[State.lang]).suffix == ".md":
            content.check(source, State.known)
        for uri, text in take.files(entry, State.lang, url, State.expand).items():
            files.append(File.generated(config, uri, content=text))
    return files


def assets() -> Iterator[tuple[str, Path]]:
    """Address and file of what both languages share; figures stand in the pages themselves."""
    folder = DOCS / "assets"
    for file in sorted(folder.rglob("*")):
        place = file.relative_to(folder)
        # Hidden ones are an editor's, and no rule looks at them.
        hidden = any(part.startswith(".") for part in place.parts)
        if file.is_file() and not hidden and not file.is_relative_to(svg.OUTPUT):
            yield f"assets/{place.as_posix()}", file


def on_env(env: Environment, **_: object) -> None:
    folder = CACHE / "templates"
    folder.mkdir(parents=True, exist_ok=True)
    env.bytecode_cache = FileSystemBytecodeCache(str(folder))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    State.terms.up = "../" * page.file.src_uri.count("/")
    State.terms.active = page.file.src_uri != "glossary.md" and not page.is_index
    source = source_of(page)
    if source.suffix == ".py":
        page.meta = labs.front_matter(source, State.lang)
    page.meta["colab"] = colab(page, config)
    if config.repo_url:
        start = f"{config.repo_url.rstrip('/')}/edit/{config.extra['branch']}"
        page.edit_url = f"{start}/{source.relative_to(ROOT).as_posix()}"
    if date := State.dates.get(source.relative_to(ROOT).as_posix()):
        page.meta["git_revision_date_localized"] = page.update_date = date
    if source.suffix == ".py":
        refuse(safety.lab(source))
    if source.suffix != ".md":
        return markdown
    svg.check(source)
    refuse(safety.page(source))
    markdown = path.set_path(markdown, State.entries, page.file.src_uri, State.lang)
    markdown = measured.set_tables(markdown, source, page.file.src_uri, State.lang)
    markdown = status.set_tables(markdown, source, State.entries, State.lang)
    return svg.hold_places(markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = source_of(page)
    if source.suffix != ".py":
        refuse(safety.rendered(html, source))
    if source.suffix == ".py":
        html = labs.tidy(html, source, State.lang, page, files)
    elif entry := State.entries.get(page.file.src_uri.removesuffix(".md")):
        html = take.set_panel(html, entry, page, State.lang, config.repo_url or "")
        html = stale.set_notes(html, State.lags.get(entry.name, ()), page.url)
    page.meta["search"] = {"exclude": True}  # from the plugin's index; ours is made below
    return path.set_requirements(html, State.entries, page, State.lang, files)


@event_priority(-100)  # after the plugins, which need not read formulas and figures
def on_page_context(
    context: dict[str, object], page: Page, config: MkDocsConfig, **_: object
) -> None:
    State.sections += search.read(page)
    source = source_of(page)
    html, page.meta["formulas"] = formulas.set_formulas(page.content or "", source)
    page.content = svg.set_figures(html, source)
    page.meta["widgets"] = "<x-widget " in page.content
    # Both languages remember one colour scheme: the theme keeps it below this path.
    up = get_relative_url(".", page.url)
    config.extra["scope"] = up if State.lang == "en" else f"{up}/.."


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    return protect(name_landmarks(weight.squeeze(output)))


def on_post_template(output: str, template_name: str, config: MkDocsConfig) -> str:
    return protect(name_landmarks(output)) if template_name.endswith(".html") else output


def protect(html: str) -> str:
    """Let the browser load from this site alone, and run no inline script but these."""
    if State.serving:  # live reload adds a script of its own
        return html
    hashes = (b64encode(sha256(m[1].encode()).digest()).decode() for m in SCRIPT.finditer(html))
    scripts = "".join(f" 'sha256-{digest}'" for digest in dict.fromkeys(hashes))
    policy = POLICY.format(scripts=scripts)
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return html.replace('<meta charset="utf-8">', f'<meta charset="utf-8">{meta}', 1)


def name_landmarks(html: str) -> str:
    """Name what the theme leaves without a name that a screen reader could say."""
    html = html.replace(' role="dialog">', f' role="dialog" aria-label="{SEARCH[State.lang]}">', 1)
    html = html.replace(*SKIP, 1)
    html = html.replace('_label" tabindex="0">', '_label">')  # site.js puts a button inside
    tags = '<nav class="md-tags"'
    html = html.replace(tags, f'{tags} aria-label="{TAGS[State.lang]}"', 1)
    return NAMELESS.sub(r'aria-label="\3"\2', html)


def on_post_build(config: MkDocsConfig) -> None:
    site = Path(config.site_dir)
    (site / "assets/katex/fonts").mkdir(exist_ok=True)
    for name, font in formulas.fonts().items():
        (site / "assets/katex/fonts" / name).write_bytes(font)
    index = site / "search/search_index.json"
    if State.partly:  # the other pages' part of the rest would be lost
        index.write_bytes(State.index)
        return
    search.write(index, State.sections, State.entries, State.lang)
    every = State.entries.items()
    texts = {
        f"{n}.md": machines.markdown(e, State.entries, State.lang, State.expand) for n, e in every
    }
    texts["llms.txt"] = machines.llms(State.entries, State.lang, config)
    texts["snippets.json"] = machines.registry()
    for name, text in texts.items():
        (site / name).write_text(text, "utf-8", newline="\n")
    weight.trim_theme(site)
    if not config.site_url or State.lang != "en":  # it needs full addresses, and has both languages
        (site / "sitemap.xml").unlink(missing_ok=True)


def refuse(problems: Iterable[PluginError]) -> None:
    for problem in problems:
        raise problem


def source_of(page: Page) -> Path:
    """The file in docs/ that a contributor edits to change the page."""
    name = page.file.src_uri
    if name == "glossary.md":
        return glossary.FILE
    entry = State.entries[name.rsplit(".", 1)[0]]
    return entry.files[State.lang]


def colab(page: Page, config: MkDocsConfig) -> str:
    """Colab reads notebooks from GitHub only: from the branch that workflows/site.yml pushes."""
    parts = urlsplit(config.repo_url or "")
    if parts.hostname != "github.com":
        return ""
    prefix = "" if State.lang == "en" else f"{State.lang}/"
    name = Path(page.url).name
    branch = f"blob/{config.remote_branch}/{prefix}{page.url}{name}.ipynb"
    return f"https://colab.research.google.com/github/{parts.path.strip('/')}/{branch}"


def dates() -> dict[str, str]:
    """The day of the last commit of each file; none where the history is not here."""
    try:
        history.check()
        log = history.git(ROOT, "log", "--format=%x00%cs", "--name-only", "--", "docs").decode()
    except history.Unknown:
        return {}
    found: dict[str, str] = {}
    for commit in log.split("\0")[1:]:
        day, *names = commit.split("\n")
        for name in names:
            found.setdefault(name, day)
    return found
