"""Feature pyramids for detectors: coarser levels above an FPN or PAN, BiFPN, one head for all.

Paper: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, section 4.1 (P6).
       https://arxiv.org/abs/1612.03144
       Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 4 (P6 and P7).
       https://arxiv.org/abs/1708.02002
       Tan et al., "EfficientDet: Scalable and Efficient Object Detection", CVPR 2020, sections 3.2
       and 3.3 (BiFPN). https://arxiv.org/abs/1911.09070
Needs: Python >= 3.10, torch >= 2.0, and backbone_neck_head.py beside this file.
Axes:  B batch, C channels, h and w of a map. Maps come and go as a dict from stride to map, fine to
       coarse; each next one has half as many rows and columns, rounded up.
"""

# --8<-- [start:imports]
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from ..concepts.backbone_neck_head import (
    FPN,
    Channels,
    Features,
    Neck,
    check_features,
    conv,
    conv_norm,
)

__all__ = ["BiFPN", "BiFPNLayer", "CoarserLevels", "Fusion", "SharedHead", "enlarge", "halve"]

SOURCES = ("pool", "input", "output")
FUSIONS = ("fast", "softmax", "sum")


# --8<-- [start:coarser]
class CoarserLevels(Neck):
    """A neck with further levels on top, for objects larger than its coarsest map is made for.

    Args:
        neck: with one width for all maps, such as FPN or PAN.
        levels: how many more.
        source: "pool", every second cell of the level below, no weights (FPN's P6); or convolutions
            3x3 of stride 2, with ReLU between two of them, the first of which reads the coarsest
            map of the neck's "input" (RetinaNet: C5) or of its "output" (FCOS: P5).
    """

    def __init__(self, neck: Neck, levels: int = 2, source: str = "input") -> None:
        """The convolutions, if any."""
        super().__init__(neck.in_channels)
        width = _one_width(neck.out_channels)
        _check_choice("source", source, SOURCES)
        _check_positive("levels", levels)
        self.neck, self.source = neck, source
        coarsest = max(neck.out_channels)
        self.strides = [coarsest * 2**i for i in range(1, levels + 1)]
        self.out_channels = {**neck.out_channels, **dict.fromkeys(self.strides, width)}
        first = neck.in_channels[coarsest] if source == "input" else width
        widths = [first] + [width] * (levels - 1)
        used = [] if source == "pool" else widths
        self.convs = nn.ModuleList(conv(C, width, 3, stride=2) for C in used)

    def forward(self, features: Features) -> Features:
        """The neck's maps and the coarser ones; in_channels says which maps it takes."""
        _check_maps(features, self.in_channels)
        maps: Features = dict(self.neck(features))
        coarsest = max(maps)
        x = features[coarsest] if self.source == "input" else maps[coarsest]
        for i, stride in enumerate(self.strides):
            if self.source == "pool":
                x = x[..., ::2, ::2]  # (B, C, ceil(h/2), ceil(w/2))
            else:
                x = self.convs[i](x if i == 0 else x.relu())  # (B, C, ceil(h/2), ceil(w/2))
            maps[stride] = x
        return maps


# --8<-- [end:coarser]


# --8<-- [start:fusion]
class Fusion(nn.Module):
    """A weighted mean of maps of one shape, with a learned number for each.

    Args:
        inputs: how many maps.
        kind: "fast", w / (sum of w + epsilon) with w = ReLU(weight); "softmax"; or "sum", all 1.
        epsilon: against division by zero; 0.0001 in the paper.
    """

    def __init__(self, inputs: int, kind: str = "fast", epsilon: float = 1e-4) -> None:
        """All weights equal at first."""
        super().__init__()
        _check_choice("kind", kind, FUSIONS)
        _check_positive("inputs", inputs)
        self.kind, self.epsilon = kind, epsilon
        self.weights = nn.Parameter(torch.ones(inputs), requires_grad=kind != "sum")

    def shares(self) -> Tensor:
        """By how much each map counts, (inputs,)."""
        if self.kind == "sum":
            return torch.ones_like(self.weights)
        if self.kind == "softmax":
            return self.weights.softmax(dim=0)
        positive = self.weights.relu()
        return positive / (positive.sum() + self.epsilon)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """As many maps (B, C, h, w) as inputs, to one."""
        _check_same(maps, len(self.weights))
        pairs = zip(self.shares(), maps, strict=True)
        return torch.stack([share * x for share, x in pairs]).sum(dim=0)


# --8<-- [end:fusion]


# --8<-- [start:bifpn]
def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Each cell twice along both axes, cropped to the rows and columns of another map."""
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


def halve(x: Tensor) -> Tensor:
    """The largest of 3 x 3 cells around every second one: (B, C, ceil(h/2), ceil(w/2))."""
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class Node(nn.Module):
    """Fuse maps, then a convolution with normalisation and Swish."""

    def __init__(self, inputs: int, width: int, separable: bool, kind: str) -> None:
        """A 3x3 convolution, plain or depthwise and 1x1."""
        super().__init__()
        self.fuse = Fusion(inputs, kind)
        if separable:  # nothing between its two parts
            each = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
            self.conv = nn.Sequential(each, *conv_norm(width, width, 1))
        else:
            self.conv = conv_norm(width, width, 3)

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps (B, C, h, w) to one."""
        return F.silu(self.conv(self.fuse(maps)))


class BiFPNLayer(nn.Module):
    """Once from coarse to fine, once back; 2 * (levels - 1) nodes."""

    def __init__(self, levels: int, width: int, separable: bool = True, kind: str = "fast") -> None:
        """No node where there would be one input only: at the top of the way down."""
        super().__init__()
        if levels < 2:
            raise ValueError(f"BiFPN fuses at least two levels, got {levels}")
        inputs = [3] * (levels - 2) + [2]  # the coarsest level has no map of the way down
        self.top_down = nn.ModuleList(Node(2, width, separable, kind) for _ in inputs)
        self.bottom_up = nn.ModuleList(Node(n, width, separable, kind) for n in inputs)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """As many maps (B, C, h, w), fine to coarse, as levels; the same shapes."""
        _check_count(maps, len(self.top_down) + 1)
        middle = [maps[-1]]  # fine to coarse, as it grows
        for x, node in zip(maps[-2::-1], reversed(self.top_down), strict=True):
            middle.insert(0, node(x, enlarge(middle[0], x)))
        out = [middle[0]]
        for i, node in enumerate(self.bottom_up, start=1):
            own = [maps[i], middle[i]] if i < len(maps) - 1 else [maps[i]]
            out.append(node(*own, halve(out[-1])))
        return out


class BiFPN(Neck):
    """A 1x1 convolution to one width for each level, then the same kind of layer several times.

    Args:
        in_channels: of the backbone's maps.
        width: of all maps inside and of the output.
        coarser: further levels, which take part in the fusion: C5 by a 1x1 convolution of its own,
            halved again and again. EfficientDet has two, P6 and P7.
        layers: repetitions, each with weights of its own.
        separable: depthwise and 1x1 convolutions, as the paper has them, or plain 3x3.
        kind: of fusion, see Fusion.
    """

    def __init__(
        self,
        in_channels: Channels,
        width: int = 64,
        coarser: int = 2,
        layers: int = 3,
        separable: bool = True,
        kind: str = "fast",
    ) -> None:
        """Build the layers."""
        super().__init__(in_channels)
        _check_positive("width, layers", width, layers)
        if coarser < 0:
            raise ValueError(f"coarser must not be negative, got {coarser}")
        coarsest = max(in_channels)
        extra = [coarsest * 2**i for i in range(1, coarser + 1)]
        self.out_channels = dict.fromkeys([*in_channels, *extra], width)
        self.lateral = nn.ModuleList(conv_norm(C, width, 1) for C in in_channels.values())
        if extra:
            self.extra = conv_norm(in_channels[coarsest], width, 1)
        levels = len(self.out_channels)
        self.layers = nn.ModuleList(
            BiFPNLayer(levels, width, separable, kind) for _ in range(layers)
        )

    def forward(self, features: Features) -> Features:
        """Maps of equal width; out_channels says of which strides."""
        _check_maps(features, self.in_channels)
        maps: list[Tensor] = [
            layer(x) for layer, x in zip(self.lateral, features.values(), strict=True)
        ]
        while len(maps) < len(self.out_channels):
            first = len(maps) == len(features)
            maps.append(halve(self.extra(features[max(features)]) if first else maps[-1]))
        for layer in self.layers:
            maps = layer(maps)
        return dict(zip(self.out_channels, maps, strict=True))


# --8<-- [end:bifpn]


# --8<-- [start:head]
class SharedHead(nn.Module):
    """The same convolutions on every level: 3x3 with ReLU, depth times, then 3x3 to the outputs.

    Args:
        in_channels: stride -> C, the same C everywhere.
        outputs: numbers at each place, such as anchors * classes, or anchors * 4.
        depth: 4 in RetinaNet.
    """

    def __init__(self, in_channels: Channels, outputs: int, depth: int = 4) -> None:
        """Build the layers once."""
        super().__init__()
        width = _one_width(in_channels)
        _check_positive("outputs", outputs)
        if depth < 0:
            raise ValueError(f"depth must not be negative, got {depth}")
        self.in_channels = dict(in_channels)
        self.tower = nn.ModuleList(conv(width, width, 3) for _ in range(depth))
        self.predict = conv(width, outputs, 3)

    def forward(self, features: Features) -> Features:
        """Maps (B, C, h, w) to maps (B, outputs, h, w)."""
        _check_maps(features, self.in_channels)
        maps: Features = {}
        for stride, x in features.items():
            for layer in self.tower:
                x = layer(x).relu()  # (B, C, h, w)
            maps[stride] = self.predict(x)  # (B, outputs, h, w)
        return maps


# --8<-- [end:head]


def _one_width(channels: Channels) -> int:
    if len(set(channels.values())) != 1:
        raise ValueError(f"all maps must have the same number of channels, got {channels}")
    return next(iter(channels.values()))


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _check_positive(names: str, *values: int) -> None:
    if min(values) < 1:
        raise ValueError(f"{names} must be positive, got {', '.join(map(str, values))}")


def _check_count(maps: Sequence[Tensor], count: int) -> None:
    if len(maps) != count:
        raise ValueError(f"made for {count} maps, got {len(maps)}")


def _check_same(maps: Sequence[Tensor], count: int) -> None:
    _check_count(maps, count)
    if len({x.shape for x in maps}) > 1:
        raise ValueError(f"maps must have one shape, got {[tuple(x.shape) for x in maps]}")


def _check_maps(features: Mapping[int, Tensor], channels: Channels) -> None:
    """Strides, channels, sizes that halve, one batch, dtype and device. Values may be anything."""
    finest = min(channels)
    size = features[finest].shape[-2:] if finest in features else (0, 0)
    whole = (finest * size[0], finest * size[-1])
    check_features("features", features, channels, whole)
    if 0 in size:
        raise ValueError(f"maps must have places, got {tuple(features[finest].shape)}")
    kinds = [f"{x.shape[0]} of {x.dtype} on {x.device}" for x in features.values()]
    if len(set(kinds)) > 1 or not features[finest].is_floating_point():
        raise ValueError(f"maps need one batch, floating dtype and device, got {kinds}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    channels = {8: 32, 16: 64, 32: 128}  # stride: channels of the backbone's maps
    sizes = {8: (13, 20), 16: (7, 10), 32: (4, 5)}  # of an image of 100 x 160 pixels
    maps = {s: torch.zeros(2, C, *sizes[s]) for s, C in channels.items()}  # (B, C, h, w)

    fpn = CoarserLevels(FPN(channels, width=64), levels=2, source="input")  # as in RetinaNet
    head = SharedHead(fpn.out_channels, outputs=9 * 4, depth=4)  # 9 anchors, 4 numbers each
    for stride, x in head(fpn(maps)).items():
        print(f"stride {stride:<4}{tuple(x.shape)}")

    for separable in (True, False):
        bifpn = BiFPN(channels, width=64, layers=3, separable=separable)
        shapes = [tuple(x.shape[1:]) for x in bifpn(maps).values()]
        print(len(shapes), shapes[0], shapes[-1], sum(p.numel() for p in bifpn.parameters()))
    # --8<-- [end:demo]
