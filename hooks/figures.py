"""Figures: drawn by `docs/figures/<section>/<page>.py`, set into the page as inline SVG.

A script defines `figures(t)`, which yields (name, Figure) pairs; `t(en, zh)` picks the text of the
language being drawn. Each figure becomes `docs/assets/figures/<section>/<name>.<lang>.svg`.
Draw with `INK` and the five colours: ink takes the colour of the page's text, the others are
legible on a light and on a dark ground. Write symbols in Unicode (√d, σ²): mathtext would break
them apart. A script runs contained: hooks/contained.py.
"""

import atexit
import io
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from functools import cache
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mkdocs.exceptions import PluginError

from hooks import DOCS, LANGUAGES, ROOT, contained
from hooks.errors import did_you_mean, problem
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


def draw(script: Path) -> list[tuple[Path, str]]:
    """(file, SVG) for each figure of a script, in both languages."""
    worker = _worker()
    assert worker.stdin and worker.stdout
    worker.stdin.write(f"{script}\n")
    worker.stdin.flush()
    answer = json.loads(worker.stdout.readline() or '[1, "the process that draws has ended"]')
    if isinstance(answer, list):
        line, message = answer
        raise problem(script, line, f"{message}; a figure script draws, and does nothing else")
    for name in answer:  # looked at here, for a script can write the answer itself
        if not re.fullmatch(r"\w+\.(?:en|zh)\.svg", name):
            raise problem(script, 1, f"'{name}' is no name of a figure")
    return [(OUTPUT / script.parent.name / name, svg) for name, svg in answer.items()]


@cache
def _worker() -> subprocess.Popen[str]:
    """One process has the libraries loaded; what it forks for each script is contained."""
    home = tempfile.TemporaryDirectory(prefix="figures-")
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", "from hooks import figures; figures.work()"],
        cwd=home.name,
        env=contained.environment(Path(home.name)),
        stdin=pipe,
        stdout=pipe,
        text=True,
        encoding="utf-8",
    )
    atexit.register(home.cleanup)
    atexit.register(process.communicate)  # before that; the process ends where its input does
    return process


def work() -> None:
    """Answer each line, the path of a script, with {name: SVG} or [line, what is wrong]."""
    import torch  # noqa: F401  # what most scripts need, loaded once

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a script may print
    file = Path("answer.json").resolve()
    for line in sys.stdin:
        script = Path(line.strip())
        file.unlink(missing_ok=True)
        if not (child := os.fork()):
            signal.alarm(contained.SECONDS)
            contained.limit()
            file.write_text(json.dumps(_answer(script)), "utf-8")
            sys.stderr.flush()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGXCPU):
            answer = json.dumps([1, f"this script has not ended after {contained.SECONDS} s"])
        else:
            answer = file.read_text("utf-8") if file.is_file() else '[1, "this script has crashed"]'
        print(answer, file=answers, flush=True)


def _answer(script: Path) -> dict[str, str] | list[object]:
    refusals: list[list[object]] = []

    def refused(what: str) -> None:
        frame = sys._getframe()
        while frame and frame.f_code.co_filename != str(script):
            frame = frame.f_back  # type: ignore[assignment]
        refusals.append([frame.f_lineno if frame else 1, f"this script {what}, which is refused"])

    contained.guard(Path.cwd(), refused)
    found: dict[str, str] = {}
    try:
        for index, lang in enumerate(LANGUAGES):
            with mpl.rc_context(mpl.rcParamsDefault | STYLE):
                figures = runpy.run_path(str(script))["figures"]
                for name, figure in figures(lambda *texts, index=index: texts[index]):
                    if not re.fullmatch(r"\w+", name):
                        return [1, f"'{name}' is no name of a figure"]
                    found[f"{name}.{lang}.svg"] = to_svg(figure, name)
    except BaseException as error:  # whatever it is, it is the script's
        traceback.print_exc()
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(script)]
        said = [lines[-1] if lines else 1, f"{type(error).__name__}: {error}"]
        return refusals[0] if refusals else said
    return refusals[0] if refusals else found


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
