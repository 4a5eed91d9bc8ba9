"""Figures: drawn by `docs/figures/<section>/<page>.py`, set into the page as inline SVG.

A script defines `figures(t)`, which yields (name, Figure) pairs; `t(en, zh)` picks the text of the
language being drawn. Each figure becomes `docs/assets/figures/<section>/<name>.<lang>.svg`.
Draw with `INK` and the five colours: ink takes the colour of the page's text, the others are
legible on a light and on a dark ground. Write symbols in Unicode (√d, σ²): mathtext would break
them apart.
"""

import html
import io
import re
import runpy
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mkdocs.exceptions import PluginError

from hooks import DOCS, ROOT
from hooks.errors import did_you_mean, problem
from hooks.text import lines_outside_code, read

SCRIPTS = DOCS / "figures"
OUTPUT = DOCS / "assets" / "figures"

INK = "#010203"  # becomes currentColor in the file
BLUE, ORANGE, GREEN, RED, PURPLE = "#3b82d6", "#d9730d", "#2b9a66", "#e0484d", "#9a5fd6"
LONG_NUMBER = re.compile(r"-?\d+\.\d{2,}")
INKED = [
    "text.color",
    "axes.edgecolor",
    "axes.labelcolor",
    "axes.titlecolor",
    "xtick.color",
    "ytick.color",
    "patch.edgecolor",
]
ROOT_STYLE = 'font-family="system-ui, sans-serif" stroke-linejoin="round" stroke-linecap="butt"'
STYLE = {
    "svg.fonttype": "none",  # text stays text: searchable, drawn in the reader's fonts
    "font.size": 10,
    "axes.titlesize": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE]),
    **dict.fromkeys(INKED, INK),
}


def new(width: float = 6, height: float = 3, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure, size in inches; 6 inches fill the text column."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def draw(script: Path) -> Iterator[tuple[Path, str]]:
    """Yield (file, SVG) for each figure of a script, in both languages."""
    for index, lang in enumerate(("en", "zh")):
        with mpl.rc_context(mpl.rcParamsDefault | STYLE):
            figures = runpy.run_path(str(script))["figures"]
            for name, figure in figures(lambda *texts, index=index: texts[index]):
                yield OUTPUT / script.parent.name / f"{name}.{lang}.svg", to_svg(figure, name)


def to_svg(figure: Figure, name: str) -> str:
    """The figure as SVG, the same bytes on every machine."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # matplotlib's own font has no Chinese; the reader's browser has.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return clean(buffer.getvalue())


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


def scripts() -> list[Path]:
    return sorted(SCRIPTS.glob("*/*.py"))


def draw_all(only: str = "") -> None:
    chosen = [script for script in scripts() if only in script.relative_to(SCRIPTS).as_posix()]
    if not chosen:
        names = [script.stem for script in scripts()]
        raise PluginError(f"no figure script contains '{only}'; {did_you_mean(only, names)}")
    for script in chosen:
        for path, svg in draw(script):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(svg, "utf-8", newline="\n")
            print(path.relative_to(ROOT))


# Into the page --------------------------------------------------------------------

IMAGE = re.compile(r'^!\[(?P<alt>[^\]]*)\]\((?P<file>[^)\s"]+\.svg)(?:\s+"(?P<caption>[^"]*)")?\)$')


def check(path: Path) -> None:
    """Raise for a figure of the page that does not exist or says nothing to who cannot see it."""
    for number, line in lines_outside_code(read(path)):
        if not (match := IMAGE.match(line)):
            if "assets/figures/" in re.sub(r"`[^`]*`", "", line):
                message = 'a figure stands alone on its line: ![what is seen](path.svg "caption")'
                raise problem(path, number, message + ', without ] or " in the texts')
            continue
        file = (path.parent / match["file"]).resolve()
        if not file.is_relative_to(OUTPUT) or not file.is_file():
            hint = did_you_mean(file.name, {p.name for p in OUTPUT.rglob("*.svg")})
            raise problem(path, number, f"no figure '{match['file']}'; {hint} `make figures` draws")
        lang = path.relative_to(DOCS).parts[0]
        if not file.name.endswith(f".{lang}.svg"):
            raise problem(path, number, f"'{file.name}' is not for this page; show .{lang}.svg")
        if not match["alt"]:
            raise problem(path, number, "a figure says what is seen: ![what is seen](…)")


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
        svg = (path.parent / match["file"]).resolve().read_text("utf-8")
        return inline(svg, match["alt"], match["caption"] or "")

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
