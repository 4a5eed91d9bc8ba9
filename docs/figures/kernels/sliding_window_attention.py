"""What three ways of attending inside a window compute; how much of it lies inside the band."""

from matplotlib.patches import Polygon, Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, new
from snippets.kernels.sliding_window_attention import band_edges, tile_work


def figures(t):
    yield "swa_computed", computed(t)
    yield "swa_tiles", tiles(t)


def computed(t):
    n, window, tile = 512, 96, 64
    left, _ = band_edges(window)
    inside, visited = tile_work(n, n, window, tile, tile)
    strip = window + left  # keys that a chunk of `window` queries may see
    chunks = [(start - left, start, strip, min(window, n - start)) for start in range(0, n, window)]
    squares = [
        (column, row, tile, tile)
        for row in range(0, n, tile)
        for column in range(max(0, (row - left) // tile * tile), row + 1, tile)
    ]
    assert len(squares) * tile * tile == visited
    cases = [
        (t("full matrix", "完整矩阵"), [(0, 0, n, n)], n * n, ORANGE),
        (t("overlapping chunks", "重叠的段"), chunks, -(-n // window) * window * strip, PURPLE),
        (t("tiles on the band", "碰到带的分块"), squares, visited, GREEN),
    ]
    figure, axes = new(6, 2.6, 3)
    for ax, (title, boxes, scores, color) in zip(axes, cases, strict=True):
        for x, y, width, height in boxes:
            ax.add_patch(Rectangle((x, y), width, height, fc=(color, 0.22), ec=color, lw=0.8))
        band = [(0, 0), (n, n), (n - window, n), (0, window)]
        ax.add_patch(Polygon(band, closed=True, fc=(BLUE, 0.75), ec="none"))
        ax.add_patch(Rectangle((0, 0), n, n, fc="none", ec=INK, lw=0.8))
        ax.set_title(title)
        share = f"{inside / scores:.0%}".replace("%", " %")
        ax.set_xlabel(t(f"{share} of it used", f"用到其中的 {share}"), color=color)
        ax.set_xlim(-left - 4, n + 4)
        ax.set_ylim(n + 68, -4)
        ax.set_aspect("equal")
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_visible(False)
    axes[0].set_ylabel(t("queries", "查询"))
    axes[0].text(n / 2, n + 40, t("keys", "键"), ha="center", va="center")
    axes[0].text(330, 120, t("the band", "带"), color=INK, ha="center", va="center")
    return figure


def tiles(t):
    figure, (ax,) = new(6, 2.9)
    length = 8192  # beyond that only the start of the sequence counts less
    for tile, color, dashes in ((32, GREEN, "-"), (64, ORANGE, "-"), (128, BLUE, "-")):
        ends = [2**k for k in range(12)]
        windows = {1, 2, *ends}
        for k in range(1, 2048 // tile + 1):
            windows |= {k * tile + 1, k * tile + 2}
        xs = sorted(w for w in windows if w <= 2049)
        shares = []
        for w in xs:
            inside, visited = tile_work(length, length, w, tile, tile)
            shares.append(100 * inside / visited)
        ax.plot(xs, shares, dashes, color=color, lw=1.5, label=f"{tile} × {tile}")
    ax.plot([256], [100 * 256 / 384], "o", color=INK, ms=5)
    ax.annotate(
        t("w = 256: 67 %", "w = 256：67 %"),
        (256, 66.7),
        xytext=(300, 45),
        arrowprops={"arrowstyle": "-", "color": INK, "lw": 0.8},
    )
    ax.set_xscale("log", base=2)
    ax.set_xticks([1, 4, 16, 64, 256, 1024], ["1", "4", "16", "64", "256", "1024"])
    ax.set_xlim(1, 2300)
    ax.set_ylim(0, 101)
    ax.set_yticks([0, 25, 50, 75, 100], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    ax.set_xlabel(t("window w (causal)", "窗口 w（因果）"))
    ax.set_ylabel(t("computed and used", "算出且用到的"))
    legend = ax.legend(title=t("queries × keys of a tile", "分块：查询 × 键"), loc="upper left")
    legend.get_title().set_color(INK)
    return figure
