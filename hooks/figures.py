"""Figures: drawn by `docs/figures/<section>/<page>.py`, set into the page as inline SVG.

A script defines `figures(t)`, which yields (name, Figure) pairs; `t(en, zh)` picks the text of the
language being drawn. Each figure becomes `docs/assets/figures/<section>/<name>.<lang>.svg`.
Draw with `INK` and the five colours: ink takes the colour of the page's text, the others are
legible on a light and on a dark ground. Write symbols in Unicode (√d, σ²): mathtext would break
them apart.
"""

import io
import runpy
import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mkdocs.exceptions import PluginError

from hooks import DOCS, ROOT
from hooks.errors import did_you_mean
from hooks.svg import INK, OUTPUT, clean

SCRIPTS = DOCS / "figures"

BLUE, ORANGE, GREEN, RED, PURPLE = "#3b82d6", "#d9730d", "#2b9a66", "#e0484d", "#9a5fd6"
INKED = [
    "text.color",
    "axes.edgecolor",
    "axes.labelcolor",
    "axes.titlecolor",
    "xtick.color",
    "ytick.color",
    "patch.edgecolor",
]
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
