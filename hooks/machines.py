"""What programs read: each page as Markdown, llms.txt, the registry of snippets."""

import json
import re
from collections.abc import Callable
from functools import cache

from markdown import Markdown
from mkdocs.config.defaults import MkDocsConfig

from hooks import SNIPPETS, labs, status, take
from hooks.content import EMBED, Entry, reading_order, sections
from hooks.measured import set_tables
from hooks.path import set_path
from snippets._cli import library


def embedding(config: MkDocsConfig) -> Callable[[str], str]:
    """What expands the embeds in a text, by the extension and the settings of the site."""
    name = "pymdownx.snippets"
    settings = config.mdx_configs[name] | {"base_path": [str(SNIPPETS)]}
    snippets = Markdown(extensions=[name], extension_configs={name: settings}).preprocessors
    run = cache(lambda line: "\n".join(snippets["snippet"].run([line])))
    return lambda text: EMBED.sub(lambda line: run(line[0]), text)


def markdown(
    entry: Entry, entries: dict[str, Entry], lang: str, expand: Callable[[str], str]
) -> str:
    """The page as Markdown, figures as their text; what only the build reads is left out."""
    path = entry.files[lang]
    if path.suffix == ".py":
        cells = labs.in_language(labs.read(path)[0], lang)
        code = "```python\n{}\n```"
        parts = (code.format(c.source) if c.cell_type == "code" else c.source for c in cells)
        return "\n\n".join(parts) + "\n"
    text = re.sub(r"\A---\n.*?\n---\n+", "", path.read_text("utf-8"), flags=re.DOTALL)
    text = re.sub(r"<!--pytest-codeblocks:.*?-->\n+", "", text)
    text = re.sub(r"^!\[(.*?)\]\(.*\)(?:\{.*\})?$", r"> \1", text, flags=re.MULTILINE)
    text = set_path(text, entries, entry.source, lang)
    text = set_tables(text, path, entry.source, lang)
    text = status.set_tables(text, path, entries, lang)
    attributes = r"^\{ \..*\}\n|(?<=\S)\{ \..*?\}| \{ #[\w-]+ \}$"
    text = re.sub(attributes, "", text, flags=re.MULTILINE)
    text = re.sub(r"(\]\([^)]*)\.ipynb", r"\1.md", text)
    return expand(text).rstrip("\n") + "\n"


def llms(entries: dict[str, Entry], lang: str, config: MkDocsConfig) -> str:
    """https://llmstxt.org: what the site holds, with links to the Markdown of each page."""
    root = config.site_url or ""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}"]
    for section in sections(entries):
        lines += ["", f"## {entries[f'{section}/index'].meta[lang]['title']}", ""]
        for entry in reading_order(entries, section):
            meta = entry.meta[lang]
            lines.append(f"- [{meta['title']}]({root}{entry.name}.md): {meta['description']}")
    return "\n".join(lines) + "\n"


def registry() -> str:
    """The snippets: where each is, what it needs, which page explains it, which files it is in."""
    found = {
        name: {
            "file": f"snippets/{name}.py",
            "version": f"{library.release()} sha256:{library.digest(library.body(name))}",
            "summary": snippet.doc.split("\n")[0],
            "needs": library.closure(name)[:-1],
            "page": snippet.page,
            "title": snippet.title,
            **take.addresses(name),
        }
        for name, snippet in library.library().items()
    }
    return json.dumps(found, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
