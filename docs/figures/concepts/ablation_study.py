"""Skip connections and normalisation: lines that are not parallel, and shares of the gain."""

import contextlib
import io
import runpy
from functools import cache

from hooks.figures import BLUE, INK, ORANGE, new
from snippets.concepts import ablation_study


@cache
def scores():
    """The study of the snippet's demo without decay: {cell: scores of the seeds}."""
    with contextlib.redirect_stdout(io.StringIO()):
        study = runpy.run_path(ablation_study.__file__, run_name="__main__")["study"]
    cells = ["", "skip", "norm", "skip norm"]
    return {cell: [round(x, 3) for x in study.of(cell.split()).tolist()] for cell in cells}


def figures(t):
    y = scores()
    mean = {cell: sum(x) / len(x) for cell, x in y.items()}
    figure, (left, right) = new(6, 3, 2)

    lines = [
        ("skip", BLUE, t("with skip", "有跳跃连接"), (0.42, 95.5)),
        ("", ORANGE, t("without", "无跳跃连接"), (0.58, 57)),
    ]
    for first, color, label, place in lines:
        ends = [first, f"{first} norm".strip()]
        left.plot([0, 1], [mean[cell] for cell in ends], color=color, marker="o", ms=7)
        for x, cell in enumerate(ends):
            side = -0.09 if x == 0 else 0.09
            left.plot([x + side] * len(y[cell]), y[cell], color=color, ls="", marker="o", ms=3)
        left.text(*place, label, color=color, ha="right" if first else "left")
    left.set_xlim(-0.3, 1.3)
    left.set_ylim(25, 103)
    left.set_xticks([0, 1], [t("norm off", "归一化关"), t("norm on", "归一化开")])
    left.set_title(t("test accuracy, %", "测试准确率（%）"))

    base, full = mean[""], mean["skip norm"]
    skip_first, norm_first = mean["skip"] - base, mean["norm"] - base
    shares = [
        (t("skip\nfirst", "先加\n跳跃连接"), skip_first),
        (t("norm\nfirst", "先加\n归一化"), full - base - norm_first),
        (t("Shapley\nvalue", "Shapley\n值"), (skip_first + full - base - norm_first) / 2),
    ]
    for x, (_, skip) in enumerate(shares):
        norm = full - base - skip
        below, above = ((norm, ORANGE), (skip, BLUE)) if x == 1 else ((skip, BLUE), (norm, ORANGE))
        start = 0
        for height, color in (below, above):
            right.bar(x, height, 0.62, start, color=(color, 0.35), edgecolor=color)
            right.text(x, start + height / 2, f"{height:.1f}", ha="center", va="center")
            start += height
    right.text(2.42, skip_first * 0.37, t("skip", "跳跃"), color=BLUE, va="center")
    right.text(2.42, 40, t("norm", "归一化"), color=ORANGE, va="center")
    right.set_xticks(range(3), [label for label, _ in shares])
    right.tick_params(axis="x", length=0)
    right.set_xlim(-0.5, 3.15)
    right.set_ylim(0, 56)
    right.set_title(t("points gained", "增加的百分点"), color=INK)
    yield "ablation_interaction", figure
