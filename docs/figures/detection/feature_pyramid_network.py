"""Top-down and lateral paths of an FPN; the nodes and edges of FPN, PAN and BiFPN."""

from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, new


def figures(t):
    yield "fpn_paths", paths(t)
    yield "fpn_topologies", topologies(t)


def arrow(ax, start, end, color=INK, bend=0.0, style="-"):
    look = dict(arrowstyle="-|>", mutation_scale=9, color=color, lw=1.2, linestyle=style)
    curve = f"arc3,rad={bend}"
    patch = FancyArrowPatch(start, end, connectionstyle=curve, shrinkA=0, shrinkB=0, **look)
    ax.add_patch(patch)


def label(ax, x, y, text, **style):
    ax.text(x, y, text, **(dict(ha="center", va="center", fontsize=9) | style))


def maps(ax, x, y, width, height, depth, color):
    """A stack of squares; deeper stacks have more channels."""
    left, bottom = x - width / 2, y - height / 2
    look = dict(facecolor=(color, 0.15), edgecolor=color, lw=1.1)
    ax.add_patch(Rectangle((left, bottom), width, height, **look))
    right, top = left + width, bottom + height
    for back in range(1, depth):  # of those behind, what can be seen
        near, far = 0.07 * (back - 1), 0.07 * back
        xs = [left + far, left + far, right + far, right + far, right + near]
        ys = [top + near, top + far, top + far, bottom + far, bottom + far]
        ax.plot(xs, ys, color=color, lw=1.1)


def box(ax, x, y, text, color, width=0.62):
    place = (x - width / 2, y - 0.17)
    look = dict(boxstyle="round,pad=0.04", facecolor=(color, 0.15), edgecolor=color, lw=1.1)
    ax.add_patch(FancyBboxPatch(place, width, 0.34, **look))
    label(ax, x, y, text)


def paths(t):
    figure, (ax,) = new(6, 3.4)
    ax.set_axis_off()
    heights = {5: 4.1, 4: 2.6, 3: 0.7}
    widths = {5: 0.5, 4: 0.85, 3: 1.45}
    depths = {5: 5, 4: 3, 3: 2}
    for level, y in heights.items():
        w = widths[level]
        maps(ax, 0.9, y, w, w * 0.75, depths[level], BLUE)
        label(ax, 0.9, y, f"C{level}")
        right = 0.9 + w / 2 + 0.07 * depths[level]
        box(ax, 2.45, y, "1 × 1", PURPLE)
        arrow(ax, (right + 0.03, y), (2.05, y))
        last = level == 5
        ax.add_patch(Circle((3.75, y), 0.2, facecolor=(INK, 0.0), edgecolor=INK, lw=1.1))
        label(ax, 3.75, y, "M5" if last else "+", fontsize=9 if last else 12)
        arrow(ax, (2.84, y), (3.53, y))
        box(ax, 4.95, y, "3 × 3", PURPLE)
        arrow(ax, (3.97, y), (4.55, y))
        maps(ax, 6.35, y, w, w * 0.75, 2, ORANGE)
        label(ax, 6.35, y, f"P{level}")
        arrow(ax, (5.34, y), (6.35 - w / 2 - 0.04, y))
        box(ax, 8.1, y, t("head", "头部"), GREEN, width=0.75)
        arrow(ax, (6.35 + w / 2 + 0.14, y), (7.63, y))
    arrow(ax, (0.9, 1.36), (0.9, 2.2))
    arrow(ax, (0.9, 3.12), (0.9, 3.84))
    for top, bottom in ((4.1, 2.6), (2.6, 0.7)):
        middle = (top + bottom) / 2
        arrow(ax, (3.75, top - 0.21), (3.75, middle + 0.23))
        box(ax, 3.75, middle, t("2×, nearest", "2×，最近邻"), PURPLE, width=1.25)
        arrow(ax, (3.75, middle - 0.23), (3.75, bottom + 0.23))
        look = dict(color=GREEN, lw=1.2, linestyle=(0, (2, 2)))
        ax.plot([8.1, 8.1], [top - 0.23, bottom + 0.23], **look)
    label(ax, 8.2, 3.5, t("same", "权重"), color=GREEN, ha="left")
    label(ax, 8.2, 3.2, t("weights", "相同"), color=GREEN, ha="left")
    for x, text, color in (
        (0.9, t("bottom-up", "自下而上"), BLUE),
        (2.45, t("lateral", "横向连接"), PURPLE),
        (3.75, t("top-down", "自上而下"), INK),
        (6.35, t("pyramid", "金字塔"), ORANGE),
    ):
        label(ax, x, 4.78, text, color=color, fontsize=10)
    ax.set_xlim(0.0, 9.05)
    ax.set_ylim(0.0, 5.0)
    return figure


def topologies(t):
    figure, axes = new(6, 3.7, 3)
    levels = [3, 4, 5, 6, 7]
    for ax, name in zip(axes, ("FPN", "PAN", "BiFPN"), strict=True):
        ax.set_axis_off()
        ax.set_xlim(-0.55, 2.55)
        ax.set_ylim(2.3, 7.95)
        label(ax, 0.5 if name == "FPN" else 1.0, 7.75, name, fontsize=11)

        def node(x, level, color, ax=ax):
            look = dict(facecolor=(color, 0.2), edgecolor=color, lw=1.3)
            ax.add_patch(Circle((x, level), 0.22, **look))

        def edge(start, end, color=INK, bend=0.0, ax=ax):
            (x, y), (u, v) = start, end
            length = ((u - x) ** 2 + (v - y) ** 2) ** 0.5
            dx, dy = 0.25 * (u - x) / length, 0.25 * (v - y) / length
            arrow(ax, (x + dx, y + dy), (u - dx, v - dy), color, bend)

        last = 1 if name == "FPN" else 2
        for level in levels:
            node(0, level, BLUE)
            label(ax, -0.5, level, level)
            between = name != "BiFPN" or level in (4, 5, 6)
            if between:
                node(1, level, ORANGE if name == "FPN" else PURPLE)
                edge((0, level), (1, level))
            if last == 2:
                node(2, level, ORANGE)
                if between:
                    edge((1, level), (2, level))
                else:
                    edge((0, level), (2, level))
        for level in (6, 5, 4, 3):
            if name != "BiFPN":
                edge((1, level + 1), (1, level))
            elif level == 6:
                edge((0, 7), (1, 6))
            elif level == 3:
                edge((1, 4), (2, 3))
            else:
                edge((1, level + 1), (1, level))
        if last == 2:
            for level in (3, 4, 5, 6):
                edge((2, level), (2, level + 1))
        if name == "BiFPN":
            for level in (4, 5, 6):
                arrow(ax, (0.16, level + 0.19), (1.84, level + 0.19), GREEN, -0.3)
        texts = {
            "FPN": (t("down", "自上而下"),),
            "PAN": (t("down", "自上而下"), t("up", "自下而上")),
            "BiFPN": (t("down", "自上而下"), t("up", "自下而上")),
        }[name]
        colors = [ORANGE] if name == "FPN" else [PURPLE, ORANGE]
        for x, (text, color) in enumerate(zip(texts, colors, strict=True), start=1):
            label(ax, x, 2.5, text, color=color)
        label(ax, -0.05, 2.5, t("in", "输入"), color=BLUE)
    return figure
