"""Figures of the page on the state of the art."""

import numpy as np
import torch
from matplotlib.patches import Patch
from scipy import stats

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.concepts.pareto_front import paired_bootstrap, pareto_front

# torchvision's table of classification weights (docs.pytorch.org/vision/stable/models.html), those
# trained on ImageNet-1K alone: name, parameters in millions, GFLOPS, top-1. SWAG weights are left
# out: they were trained on further images.
TABLE = """
AlexNet.V1 61.1 0.71 56.522
ConvNeXt_Tiny.V1 28.6 4.46 82.520
ConvNeXt_Small.V1 50.2 8.68 83.616
ConvNeXt_Base.V1 88.6 15.36 84.062
ConvNeXt_Large.V1 197.8 34.36 84.414
DenseNet121.V1 8.0 2.83 74.434
DenseNet161.V1 28.7 7.73 77.138
DenseNet169.V1 14.1 3.36 75.600
DenseNet201.V1 20.0 4.29 76.896
EfficientNet_B0.V1 5.3 0.39 77.692
EfficientNet_B1.V1 7.8 0.69 78.642
EfficientNet_B1.V2 7.8 0.69 79.838
EfficientNet_B2.V1 9.1 1.09 80.608
EfficientNet_B3.V1 12.2 1.83 82.008
EfficientNet_B4.V1 19.3 4.39 83.384
EfficientNet_B5.V1 30.4 10.27 83.444
EfficientNet_B6.V1 43.0 19.07 84.008
EfficientNet_B7.V1 66.3 37.75 84.122
EfficientNet_V2_S.V1 21.5 8.37 84.228
EfficientNet_V2_M.V1 54.1 24.58 85.112
EfficientNet_V2_L.V1 118.5 56.08 85.808
GoogLeNet.V1 6.6 1.50 69.778
Inception_V3.V1 27.2 5.71 77.294
MaxVit_T.V1 30.9 5.56 83.700
MNASNet0_5.V1 2.2 0.10 67.734
MNASNet0_75.V1 3.2 0.21 71.180
MNASNet1_0.V1 4.4 0.31 73.456
MNASNet1_3.V1 6.3 0.53 76.506
MobileNet_V2.V1 3.5 0.30 71.878
MobileNet_V2.V2 3.5 0.30 72.154
MobileNet_V3_Large.V1 5.5 0.22 74.042
MobileNet_V3_Large.V2 5.5 0.22 75.274
MobileNet_V3_Small.V1 2.5 0.06 67.668
RegNet_Y_400MF.V1 4.3 0.40 74.046
RegNet_Y_400MF.V2 4.3 0.40 75.804
RegNet_Y_800MF.V1 6.4 0.83 76.420
RegNet_Y_800MF.V2 6.4 0.83 78.828
RegNet_Y_1_6GF.V1 11.2 1.61 77.950
RegNet_Y_1_6GF.V2 11.2 1.61 80.876
RegNet_Y_3_2GF.V1 19.4 3.18 78.948
RegNet_Y_3_2GF.V2 19.4 3.18 81.982
RegNet_Y_8GF.V1 39.4 8.47 80.032
RegNet_Y_8GF.V2 39.4 8.47 82.828
RegNet_Y_16GF.V1 83.6 15.91 80.424
RegNet_Y_16GF.V2 83.6 15.91 82.886
RegNet_Y_32GF.V1 145.0 32.28 80.878
RegNet_Y_32GF.V2 145.0 32.28 83.368
RegNet_X_400MF.V1 5.5 0.41 72.834
RegNet_X_400MF.V2 5.5 0.41 74.864
RegNet_X_800MF.V1 7.3 0.80 75.212
RegNet_X_800MF.V2 7.3 0.80 77.522
RegNet_X_1_6GF.V1 9.2 1.60 77.040
RegNet_X_1_6GF.V2 9.2 1.60 79.668
RegNet_X_3_2GF.V1 15.3 3.18 78.364
RegNet_X_3_2GF.V2 15.3 3.18 81.196
RegNet_X_8GF.V1 39.6 8.00 79.344
RegNet_X_8GF.V2 39.6 8.00 81.682
RegNet_X_16GF.V1 54.3 15.94 80.058
RegNet_X_16GF.V2 54.3 15.94 82.716
RegNet_X_32GF.V1 107.8 31.74 80.622
RegNet_X_32GF.V2 107.8 31.74 83.014
ResNet18.V1 11.7 1.81 69.758
ResNet34.V1 21.8 3.66 73.314
ResNet50.V1 25.6 4.09 76.130
ResNet50.V2 25.6 4.09 80.858
ResNet101.V1 44.5 7.80 77.374
ResNet101.V2 44.5 7.80 81.886
ResNet152.V1 60.2 11.51 78.312
ResNet152.V2 60.2 11.51 82.284
ResNeXt50_32X4D.V1 25.0 4.23 77.618
ResNeXt50_32X4D.V2 25.0 4.23 81.198
ResNeXt101_32X8D.V1 88.8 16.41 79.312
ResNeXt101_32X8D.V2 88.8 16.41 82.834
ResNeXt101_64X4D.V1 83.5 15.46 83.246
Wide_ResNet50_2.V1 68.9 11.40 78.468
Wide_ResNet50_2.V2 68.9 11.40 81.602
Wide_ResNet101_2.V1 126.9 22.75 78.848
Wide_ResNet101_2.V2 126.9 22.75 82.510
ShuffleNet_V2_X0_5.V1 1.4 0.04 60.552
ShuffleNet_V2_X1_0.V1 2.3 0.14 69.362
ShuffleNet_V2_X1_5.V1 3.5 0.30 72.996
ShuffleNet_V2_X2_0.V1 7.4 0.58 76.230
SqueezeNet1_0.V1 1.2 0.82 58.092
SqueezeNet1_1.V1 1.2 0.35 58.178
Swin_T.V1 28.3 4.49 81.474
Swin_S.V1 49.6 8.74 83.196
Swin_B.V1 87.8 15.43 83.582
Swin_V2_T.V1 28.4 5.94 82.072
Swin_V2_S.V1 49.7 11.55 83.712
Swin_V2_B.V1 87.9 20.32 84.112
VGG11.V1 132.9 7.61 69.020
VGG11_BN.V1 132.9 7.61 70.370
VGG13.V1 133.0 11.31 69.928
VGG13_BN.V1 133.1 11.31 71.586
VGG16.V1 138.4 15.47 71.592
VGG16_BN.V1 138.4 15.47 73.360
VGG19.V1 143.7 19.63 72.376
VGG19_BN.V1 143.7 19.63 74.218
ViT_B_16.V1 86.6 17.56 81.072
ViT_B_32.V1 88.2 4.41 75.912
ViT_L_16.V1 304.3 61.55 79.662
ViT_L_32.V1 306.5 15.38 76.972
"""


def weights():
    rows = [line.split() for line in TABLE.split("\n") if line]
    numbers = torch.tensor([[float(x) for x in row[1:]] for row in rows], dtype=torch.float64)
    return [row[0] for row in rows], *numbers.unbind(dim=1)


def fronts(t):
    """Two costs, two fronts."""
    names, params, gflops, top1 = weights()
    figure, axes = new(6, 3.5, columns=2)
    panels = [
        (
            gflops,
            t("GFLOPS, log scale", "GFLOPS（对数刻度）"),
            (0.01, 110),
            ("MobileNet_V3_Large.V2", "MobileNetV3-L", (6, 10), "right"),
        ),
        (
            params,
            t("million parameters, log scale", "参数量（百万，对数刻度）"),
            (0.3, 520),
            ("SqueezeNet1_1.V1", "SqueezeNet 1.1", (7, -3), "left"),
        ),
    ]
    old, new_recipe = names.index("ResNet50.V1"), names.index("ResNet50.V2")
    for ax, (cost, label, limits, smallest) in zip(axes, panels, strict=True):
        front = pareto_front(cost[:, None], top1)
        order = cost[front].argsort()
        x, y = cost[front][order], top1[front][order]
        ax.plot(cost[~front], top1[~front], "o", ms=4, color=INK, alpha=0.25, mew=0)
        ax.step([*x, limits[1]], [*y, y[-1]], where="post", color=BLUE, lw=1.2)
        ax.plot(x, y, "o", ms=5, color=BLUE, mew=0)
        ax.set(xscale="log", xlabel=label, xlim=limits, ylim=(55, 89))
        ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
        for key, text, offset, align in (
            smallest,
            ("EfficientNet_B3.V1", "EfficientNet-B3", (-6, 3), "right"),
            ("EfficientNet_V2_L.V1", "EfficientNetV2-L", (4, 7), "right"),
        ):
            place = dict(xytext=offset, textcoords="offset points", ha=align, fontsize=9)
            ax.annotate(text, (cost[names.index(key)], top1[names.index(key)]), color=BLUE, **place)
        at = cost[old].item()
        ax.plot([at, at], [65.5, top1[new_recipe]], color=ORANGE, lw=1)
        ax.plot([at, at], [top1[old], top1[new_recipe]], "o", ms=5, mew=0, color=ORANGE)
        text = t("ResNet-50,\nV1 and V2", "ResNet-50，\nV1 与 V2")
        ax.text(at, 65, text, ha="center", va="top", fontsize=9, color=ORANGE)
    axes[0].set_ylabel(t("ImageNet-1K top-1 in %", "ImageNet-1K top-1（%）"))
    axes[1].tick_params(labelleft=False)
    return figure


def best_of(t):
    """How far the best of K equal models rises above their true accuracy by luck."""
    figure, (ax,) = new(6, 2.9)
    tries = np.unique(np.logspace(0, 3, 60).astype(int))
    for n, colour in ((1000, RED), (10_000, PURPLE), (50_000, GREEN)):
        below = stats.binom(n, 0.76).cdf(np.arange(n))
        luck = [100 * ((1 - below**k).sum() / n - 0.76) for k in tries]
        ax.plot(tries, luck, color=colour, lw=1.8)
        text = t(f"{n:,} test images", f"{n:,} 张测试图像")
        ax.annotate(
            text,
            (1000, luck[-1]),
            xytext=(-2, 4 if n > 1000 else -26),
            textcoords="offset points",
            ha="right",
            va="bottom" if n > 1000 else "top",
            fontsize=9,
            color=colour,
        )
    ax.set(
        xscale="log",
        xlim=(1, 1000),
        ylim=(0, None),
        xlabel=t(
            "submissions of equally good, independent models", "提交次数（模型一样好，彼此独立）"
        ),
        ylabel=t("points above the truth", "高出真实值（百分点）"),
    )
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    return figure


def paired(t):
    """The bootstrap distribution of one difference, with and without the pairs."""
    generator = torch.Generator().manual_seed(0)
    difficulty = torch.rand(2000, generator=generator)
    noise_a, noise_b = 0.05 * torch.randn(2, 2000, generator=generator)
    a, b = (difficulty + noise_a < 0.78).double(), (difficulty + noise_b < 0.76).double()
    lost = b[torch.randperm(2000, generator=generator)]
    figure, (ax,) = new(6, 2.6)
    bins = np.arange(-3.425, 7, 0.15)
    for level, (scores, colour) in enumerate(((b, BLUE), (lost, ORANGE))):
        result = paired_bootstrap(a, scores, generator=generator)
        ax.hist(
            100 * result.replicates,
            bins,
            color=colour,
            alpha=0.45,
            histtype="stepfilled",
            edgecolor="none",
        )
        height = -170 - 170 * level
        ax.plot([100 * result.low, 100 * result.high], [height] * 2, color=colour, lw=3)
        ax.plot(100 * result.difference, height, "o", ms=5, color=colour, mew=0)
    ax.axvline(0, color=INK, lw=1, ls="--")
    ax.set(
        xlim=(-3.4, 6.8),
        yticks=[],
        xlabel=t(
            "difference in accuracy on the resamples, in points",
            "各次重采样上的准确率之差（百分点）",
        ),
    )
    ax.spines["left"].set_visible(False)
    ax.text(-0.1, 1150, t("no difference", "没有差异"), ha="right", fontsize=9)
    ax.legend(
        handles=[
            Patch(color=BLUE, alpha=0.6, label=t("paired by image", "按图像配对")),
            Patch(color=ORANGE, alpha=0.6, label=t("pairs lost", "打乱配对")),
        ],
        loc="upper right",
        fontsize=9,
    )
    return figure


def figures(t):
    yield "pareto_fronts", fronts(t)
    yield "best_of_many", best_of(t)
    yield "paired_bootstrap", paired(t)
