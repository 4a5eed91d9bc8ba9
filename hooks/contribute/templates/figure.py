"""_TITLE_: TODO(new): what the figure shows."""

import torch

from hooks.figures import BLUE, ORANGE, new
from snippets._SECTION_._NAME_ import _NAME_


def figures(t):
    yield "_NAME_", example(t)


# TODO(new): the figure of the concept in the place of this example.
def example(t):
    """A row and the row less its mean."""
    figure, axes = new(6, 2.2, 2)
    row = torch.tensor([1.0, 2.0, 6.0])
    titles = (t("row", "原来的一行"), t("less its mean", "减去均值之后"))
    for ax, title, numbers, color in zip(
        axes, titles, (row, _NAME_(row)), (BLUE, ORANGE), strict=True
    ):
        ax.bar(range(len(numbers)), numbers.tolist(), color=(color, 0.35), edgecolor=color)
        ax.axhline(float(numbers.mean()), color=color, lw=1.2, ls=":")
        ax.set_title(title)
        ax.set_xticks([])
        ax.set_ylim(-2.5, 6.5)
    return figure
