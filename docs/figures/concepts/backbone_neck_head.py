"""The three parts with the shapes of one image; parameters of six assemblies."""

import torch
from matplotlib.patches import FancyArrowPatch, Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, new
from snippets.concepts.backbone_neck_head import (
    FPN,
    PAN,
    AnchorFreeHead,
    Assembly,
    ClassificationHead,
    IdentityNeck,
    PlainBackbone,
    ResidualBackbone,
    SegmentationHead,
)


def figures(t):
    yield "bnh_parts", parts(t)
    yield "bnh_parameters", parameters(t)


def parts(t):
    backbone = ResidualBackbone()
    neck = PAN(backbone.out_channels)
    pyramids = Assembly(backbone, neck, {}).eval().features(torch.zeros(1, 3, 100, 160))
    figure, (ax,) = new(6, 3.4)
    ax.set_axis_off()
    rows = {8: 0.0, 16: 1.55, 32: 2.75}

    def arrow(start, end, color=INK):
        style = dict(arrowstyle="-|>", mutation_scale=9, color=color, lw=1.1, shrinkA=0, shrinkB=0)
        ax.add_patch(FancyArrowPatch(start, end, **style))

    def label(x, y, text, **style):
        ax.text(x, y, text, **(dict(ha="center", va="center", fontsize=9) | style))

    ax.add_patch(Rectangle((-0.1, 0.25), 1.3, 0.85, facecolor=(INK, 0.12), edgecolor=INK, lw=1))
    label(0.55, 0.67, t("image", "图像"))
    label(0.55, 0.02, "3 × 100 × 160")
    places = []
    for x, maps, color in ((2.6, pyramids[0], BLUE), (5.6, pyramids[1], ORANGE)):
        for stride, y in rows.items():
            _, channels, height, width = maps[stride].shape
            w, h, depth = width / 15, height / 15, channels / 128
            for back in (depth * 0.34, 0):
                corner = (x - w / 2 + back, y + 0.25 + back * 0.6)
                box = dict(facecolor=(color, 0.25), edgecolor=color, lw=1.1)
                ax.add_patch(Rectangle(corner, w, h, **box))
            label(x, y + 0.02, f"{channels} × {height} × {width}")
            places.append((x, y + 0.25 + h / 2, w / 2))
    arrow((1.3, 0.67), (1.88, 0.67))
    for (x, y, w), (x2, _, w2) in zip(places[:3], places[3:], strict=True):
        arrow((x + w + 0.42, y), (x2 - w2 - 0.08, y))
    for x, way in ((3.86, -1), (4.2, 1)):
        for low, high in ((places[0][1], places[1][1]), (places[1][1], places[2][1])):
            ends = [(x, low + 0.12), (x, high - 0.12)]
            arrow(*(ends if way == 1 else ends[::-1]), color=PURPLE)
    heads = [t("mask", "掩码"), t("boxes", "框"), t("label", "标签")]
    for (_, y, _), name in zip(places[3:], heads, strict=True):
        ax.add_patch(
            Rectangle((7.6, y - 0.24), 1.0, 0.48, facecolor=(GREEN, 0.25), edgecolor=GREEN, lw=1.1)
        )
        label(8.1, y, name)
    centres = [y for _, y, _ in places[3:]]
    for source, (x, y, w) in enumerate(places[3:]):
        for target, head_y in enumerate(centres):
            if target != 2 or source == 2:  # the label reads the coarsest map only
                arrow((x + w + 0.42, y), (7.55, head_y))
    for x, name, color in (
        (2.6, t("backbone", "骨干"), BLUE),
        (4.03, t("neck (PAN)", "颈部（PAN）"), PURPLE),
        (5.6, t("mixed maps", "互通后的特征图"), ORANGE),
        (8.1, t("heads", "头部"), GREEN),
    ):
        label(x, 3.75, name, color=color, fontsize=10)
    for stride, y in rows.items():
        label(2.6, y - 0.2, t(f"stride {stride}", f"步幅 {stride}"))
    ax.set_xlim(-0.3, 8.8)
    ax.set_ylim(-0.4, 4.0)
    return figure


def parameters(t):
    cases = [
        (PlainBackbone, FPN, AnchorFreeHead),
        (ResidualBackbone, FPN, AnchorFreeHead),
        (ResidualBackbone, IdentityNeck, AnchorFreeHead),
        (ResidualBackbone, PAN, AnchorFreeHead),
        (ResidualBackbone, PAN, SegmentationHead),
        (ResidualBackbone, PAN, ClassificationHead),
    ]
    names = {
        PlainBackbone: t("plain", "普通"),
        ResidualBackbone: t("residual", "残差"),
        FPN: "FPN",
        PAN: "PAN",
        IdentityNeck: t("no neck", "无颈部"),
        AnchorFreeHead: t("boxes", "框"),
        SegmentationHead: t("mask", "掩码"),
        ClassificationHead: t("label", "标签"),
    }
    figure, (ax,) = new(6, 2.5)
    for row, case in enumerate(cases):
        backbone = case[0]()
        neck = case[1](backbone.out_channels)
        model = Assembly(backbone, neck, {"task": case[2](neck.out_channels, classes=5)})
        left = 0.0
        colors = (BLUE, PURPLE, GREEN)
        for count, color in zip(model.parameter_counts().values(), colors, strict=True):
            width = count / 1000
            ax.barh(row, width, 0.66, left, facecolor=(color, 0.45), edgecolor=color, lw=1)
            if width > 40:
                ax.text(left + width / 2, row, round(width), ha="center", va="center", fontsize=9)
            left += width
    ax.set_yticks(range(6), [" · ".join(names[part] for part in case) for case in cases])
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.set_xlim(0, 1120)
    ax.set_xlabel(t("parameters, thousands", "参数量，千"))
    words = (t("backbone", "骨干"), t("neck", "颈部"), t("head", "头部"))
    for x, name, color in zip((350, 770, 905), words, colors, strict=True):
        ax.text(x, -0.75, name, color=color, ha="center", va="center", fontsize=10)
    ax.set_ylim(5.5, -1.1)
    ax.spines["left"].set_visible(False)
    return figure
