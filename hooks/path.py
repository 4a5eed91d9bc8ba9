"""The learning path, drawn from the front matter: navigation, section lists, what to read first."""

from html import escape
from typing import Any

from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from hooks import glossary
from hooks.content import Entry, reading_order, sections

MARK = "<!-- learning-path -->"
WORDS = {
    "en": {"first": "Read first", "next": "Leads to", "sep": ", ", "colon": ": "},
    "zh": {"first": "先读", "next": "接着读", "sep": "、", "colon": "："},
}
HOME = {"en": "Home", "zh": "首页"}
# Pages that stand alone, after the sections.
LAST = ("tags", "about", "status", "design")


def navigation(entries: dict[str, Entry], lang: str) -> list[Any]:
    nav: list[Any] = [{HOME[lang]: entries["index"].source}]
    for section in sections(entries):
        index = entries[f"{section}/index"]
        order = [entry.source for entry in reading_order(entries, section)]
        nav.append({index.meta[lang]["title"]: [index.source, *order]})
    more = [entries[name].source for name in LAST]
    return [*nav, {glossary.TITLE[lang]: "glossary.md"}, *more]


def set_path(markdown: str, entries: dict[str, Entry], uri: str, lang: str) -> str:
    """Put the list of pages where the page marks it: of its section, or of all on the home page."""
    if MARK not in markdown:
        return markdown
    section = uri.rpartition("/")[0]
    if section:
        listing = _list(entries, section, lang, "")
    else:
        listing = "\n\n".join(
            f"### [{entries[f'{s}/index'].meta[lang]['title']}]({s}/index.md) {{ #{s} }}\n\n"
            + _list(entries, s, lang, f"{s}/")
            for s in sections(entries)
        )
    return markdown.replace(MARK, listing)


def _list(entries: dict[str, Entry], section: str, lang: str, prefix: str) -> str:
    lines = []
    for number, entry in enumerate(reading_order(entries, section), 1):
        meta = entry.meta[lang]
        link = prefix + entry.source.split("/", 1)[1]
        line = f"{number}.  [**{meta['title']}**]({link})  \n    {meta['description']}"
        if entry.requires:
            up = "" if prefix else "../"
            names = [
                f"[{_title(entries[n], lang)}]({up}{entries[n].source})" for n in entry.requires
            ]
            words = WORDS[lang]
            line += f"  \n    {words['first']}{words['colon']}{words['sep'].join(names)}"
        lines.append(line)
    return "\n".join(lines)


def set_requirements(
    html: str, entries: dict[str, Entry], page: Page, lang: str, files: Files
) -> str:
    """Under the title of a page: what to read before it, and what builds on it."""
    name = page.file.src_uri.rsplit(".", 1)[0]
    if name not in entries:
        return html
    before = [entries[n] for n in entries[name].requires]
    after = [e for e in entries.values() if name in e.requires]
    words = WORDS[lang]
    parts = []
    for label, found in ((words["first"], before), (words["next"], after)):
        links = []
        for entry in found:
            file = files.get_file_from_path(entry.source)
            assert file
            href = file.url_relative_to(page.file)
            links.append(f'<a href="{href}">{escape(_title(entry, lang))}</a>')
        if links:
            parts.append(f"<span>{label}{words['colon']}{words['sep'].join(links)}</span>")
    if not parts:
        return html
    line = f'<p class="path">{" ".join(parts)}</p>'
    head, end, rest = html.partition("</h1>")
    return head + end + line + rest


def _title(entry: Entry, lang: str) -> str:
    return entry.meta[lang]["title"]
