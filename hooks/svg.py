"""Figures in the page: cleaned, checked, set in as inline SVG; a widget may take one's place."""

import html
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from mkdocs.exceptions import PluginError

from hooks import DOCS
from hooks.contribute import safety
from hooks.errors import did_you_mean, problem
from hooks.text import lines_outside_code, read

OUTPUT = DOCS / "assets" / "figures"
INK = "#010203"  # becomes currentColor in the file
LONG_NUMBER = re.compile(r"-?\d+\.\d{2,}")
ROOT_STYLE = 'font-family="system-ui, sans-serif" stroke-linejoin="round" stroke-linecap="butt"'
WIDGETS = DOCS / "assets" / "javascripts" / "widgets"
IMAGE = re.compile(
    r'^!\[(?P<alt>[^\]]*)\]\((?P<file>[^)\s"]+\.svg)(?:\s+"(?P<caption>[^"]*)")?\)'
    r"(?:\{ ?widget=(?P<widget>[\w-]+) ?\})?$"
)


def clean(svg: str) -> str:
    """matplotlib's SVG without what differs from run to run or leaks into the page around it."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(r'width="[^"]*" height="[^"]*" ', "", svg, count=1)
    svg = svg.replace("<svg ", f"<svg {ROOT_STYLE} ", 1)
    # A tenth of a point is finer than a screen, and hides the last bits in which processors differ.
    svg = re.sub(r' (?:d|x|y)="[^"]+"', lambda part: LONG_NUMBER.sub(_shorten, part[0]), svg)
    svg = re.sub(r"(?<=[\d\n])\s*\b([MLCQz])\b\s*", r"\1", svg)
    return re.sub(r"[ \t]+\n", "\n", svg)


def _shorten(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")


def check(path: Path) -> None:
    """Raise the first problem with the figures of a page."""
    for error in problems(path):
        raise error


def problems(path: Path) -> Iterator[PluginError]:
    """Figures of the page that do not exist or say nothing to who cannot see them."""
    lang = path.relative_to(DOCS).parts[0]
    for number, line in lines_outside_code(read(path)):
        if not (match := IMAGE.match(line)):
            if OUTPUT.name in line and "assets/figures/" in re.sub(r"`[^`]*`", "", line):
                message = 'a figure stands alone on its line: ![what is seen](path.svg "caption")'
                message += ', without ] or " in the texts; { widget=name } may follow'
                yield problem(path, number, message)
            continue
        file = (path.parent / match["file"]).resolve()
        if not file.is_relative_to(OUTPUT) or not file.is_file():
            hint = did_you_mean(file.name, {p.name for p in OUTPUT.rglob("*.svg")})
            yield problem(path, number, f"no figure '{match['file']}'; {hint} `make figures` draws")
        elif not file.name.endswith(f".{lang}.svg"):
            yield problem(path, number, f"'{file.name}' is not for this page; show .{lang}.svg")
        if not match["alt"]:
            yield problem(path, number, "a figure says what is seen: ![what is seen](…)")
        if match["widget"] and match["widget"] not in widgets():
            hint = did_you_mean(match["widget"], widgets())
            yield problem(path, number, f"no widget '{match['widget']}'; {hint}")


def widgets() -> list[str]:
    """What may take a figure's place: a module each, beside the one that they share."""
    return sorted(file.stem for file in WIDGETS.glob("*.js") if file.stem != "base")


def hold_places(markdown: str) -> str:
    """Replace each image of a figure by a comment that says where it goes."""
    lines = markdown.splitlines()
    for number, line in lines_outside_code(markdown):
        if IMAGE.match(line):
            lines[number - 1] = f"<!--figure {line.replace('--', '&#45;&#45;')}-->"
    return "\n".join(lines)


def set_figures(content: str, path: Path) -> str:
    """Put the figures themselves into the page, so that they take its colours."""

    def figure(place: re.Match[str]) -> str:
        match = IMAGE.match(place[1].replace("&#45;&#45;", "--"))
        assert match
        file = (path.parent / match["file"]).resolve()
        if not file.is_relative_to(OUTPUT):
            raise problem(path, 1, f"'{match['file']}' is no figure; see docs/assets/figures")
        svg = file.read_text("utf-8")
        for error in safety.drawing(svg, file):
            raise error
        shown = inline(svg, match["alt"], match["caption"] or "")
        name = match["widget"]
        return f'<x-widget name="{name}">{shown}</x-widget>' if name else shown

    return re.sub(r"<!--figure (.*?)-->", figure, content)


def inline(svg: str, alt: str, caption: str = "") -> str:
    """A cleaned figure as HTML; ids are made the figure's own, so that two on a page do not mix."""
    names = dict.fromkeys(re.findall(r' id="([^"]+)"', svg))
    prefix = f"f{zlib.crc32(re.sub(r'[pm][0-9a-f]{10}', '', svg).encode()):08x}-"
    used = set(re.findall(r'#([^")]+)', svg)) & set(names)
    svg = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", svg)
    new = {name: f"{prefix}{i}" for i, name in enumerate(n for n in names if n in used)}
    svg = re.sub(r'(id="|#)([^")]+)', lambda m: m[1] + new.get(m[2], m[2]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg).strip()
    label = html.escape(alt, quote=True)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg}{below}</figure>"
