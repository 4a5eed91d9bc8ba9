"""Backbone, neck and head: a small detector put together from parts that fit by contract.

Paper: Bochkovskiy et al., "YOLOv4: Optimal Speed and Accuracy of Object Detection", 2020,
       section 2.1 (the three parts). https://arxiv.org/abs/2004.10934
       Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, section 3 (FPN).
       https://arxiv.org/abs/1612.03144
       Liu et al., "Path Aggregation Network for Instance Segmentation", CVPR 2018, section
       3.1 (PAN). https://arxiv.org/abs/1803.01534
       Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019 (boxes without
       anchors). https://arxiv.org/abs/1904.01355
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  B batch, C channels, H and W of the image, h and w of a map, K classes, N places on all maps.
"""

# --8<-- [start:imports]
import math
from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Channels = dict[int, int]  # stride -> C, fine to coarse
Features = dict[int, Tensor]  # stride -> (B, C, ceil(H / stride), ceil(W / stride))
Images = Tensor | Mapping[str, Tensor]  # one kind of image, or several by name
# --8<-- [end:imports]

__all__ = [
    "FPN",
    "PAN",
    "AnchorFreeHead",
    "Assembly",
    "ClassificationHead",
    "Head",
    "IdentityNeck",
    "Neck",
    "ParallelBackbones",
    "PlainBackbone",
    "Pyramid",
    "ResidualBackbone",
    "SegmentationHead",
    "check_features",
    "initialize",
]


# --8<-- [start:contract]
class Pyramid(nn.Module):
    """What gives one map per stride: a backbone (from images) or a neck (from maps)."""

    out_channels: Channels


class Neck(Pyramid):
    """Maps in, maps out, with the same strides."""

    def __init__(self, in_channels: Channels) -> None:
        """Note what the neck takes."""
        super().__init__()
        _check_channels(in_channels)
        self.in_channels = dict(in_channels)


class Head(nn.Module):
    """Maps and the size (H, W) of the image in, one tensor out."""

    def __init__(self, in_channels: Channels, classes: int) -> None:
        """Note what the head takes."""
        super().__init__()
        _check_channels(in_channels)
        _check_positive("classes", classes)
        self.in_channels = dict(in_channels)


def check_features(
    name: str, features: Mapping[int, Tensor], channels: Mapping[int, int], size: tuple[int, int]
) -> None:
    """Raise ValueError unless there is, for each stride, a map (B, C, ceil(H/s), ceil(W/s))."""
    if list(features) != list(channels):
        raise ValueError(f"{name}: strides must be {list(channels)}, got {list(features)}")
    for stride, C in channels.items():
        h, w = (math.ceil(length / stride) for length in size)
        shape = tuple(features[stride].shape)
        if shape[1:] != (C, h, w):
            raise ValueError(f"{name}: stride {stride} must be (B, {C}, {h}, {w}), got {shape}")


# --8<-- [end:contract]


# --8<-- [start:backbones]
def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution whose output has ceil(length / stride) places."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2)


def conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """The same with batch normalisation, which makes a bias useless."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels))


class PlainBlock(nn.Module):
    """Two 3x3 convolutions, each with normalisation and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """The first convolution has the stride."""
        super().__init__()
        self.first = conv_norm(in_channels, out_channels, 3, stride)
        self.second = conv_norm(out_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', ceil(h/stride), ceil(w/stride))."""
        return self.second(self.first(x).relu()).relu()


class ResidualBlock(PlainBlock):
    """The same with a shortcut, added before the last ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """The shortcut is a 1x1 convolution where the shape changes."""
        super().__init__(in_channels, out_channels, stride)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else conv_norm(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', ceil(h/stride), ceil(w/stride))."""
        return (self.second(self.first(x).relu()) + self.shortcut(x)).relu()


class PlainBackbone(Pyramid):
    """A stem of stride 2 and four stages; the last three give the maps of stride 8, 16 and 32.

    Args:
        widths: channels of the stem and of the four stages.
        blocks: in each stage; the first halves the map.
        image_channels: 3 for RGB, 1 for depth, ….
    """

    block: type[PlainBlock] = PlainBlock

    def __init__(
        self,
        widths: tuple[int, int, int, int, int] = (16, 16, 32, 64, 128),
        blocks: int = 2,
        image_channels: int = 3,
    ) -> None:
        """Build the stages."""
        super().__init__()
        _check_positive("widths, blocks, image_channels", *widths, blocks, image_channels)
        self.image_channels = image_channels
        self.stem = conv_norm(image_channels, widths[0], 3, stride=2)
        self.stages = nn.ModuleList()
        for before, width in pairwise(widths):
            first = self.block(before, width, stride=2)
            more = (self.block(width, width, stride=1) for _ in range(blocks - 1))
            self.stages.append(nn.Sequential(first, *more))
        self.out_channels = dict(zip((8, 16, 32), widths[2:], strict=True))

    def forward(self, images: Tensor) -> Features:
        """Maps of (B, image_channels, H, W)."""
        _check_images(images, self.image_channels)
        x: Tensor = self.stem(images).relu()  # (B, C, H/2, W/2)
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)  # (B, C, h/2, w/2)
            maps.append(x)
        return dict(zip(self.out_channels, maps[1:], strict=True))


class ResidualBackbone(PlainBackbone):
    """The same with residual blocks."""

    block = ResidualBlock


# --8<-- [end:backbones]


# --8<-- [start:necks]
class IdentityNeck(Neck):
    """No neck: the maps as they are."""

    def __init__(self, in_channels: Channels) -> None:
        """As many channels as come in."""
        super().__init__(in_channels)
        self.out_channels = self.in_channels

    def forward(self, features: Features) -> Features:
        """The same maps."""
        return dict(features)


class FPN(Neck):
    """Top-down: each map gets the sum of all coarser ones, and all get the same width."""

    def __init__(self, in_channels: Channels, width: int = 64) -> None:
        """One 1x1 and one 3x3 convolution per level."""
        super().__init__(in_channels)
        _check_positive("width", width)
        self.out_channels = dict.fromkeys(in_channels, width)
        self.lateral = nn.ModuleList(conv(C, width, 1) for C in in_channels.values())
        self.smooth = nn.ModuleList(conv(width, width, 3) for _ in in_channels)

    def forward(self, features: Features) -> Features:
        """Maps of equal width."""
        sums = [layer(x) for layer, x in zip(self.lateral, features.values(), strict=True)]
        for i in reversed(range(len(sums) - 1)):  # from coarse to fine
            sums[i] = sums[i] + F.interpolate(sums[i + 1], size=sums[i].shape[-2:])  # nearest
        maps = [layer(x) for layer, x in zip(self.smooth, sums, strict=True)]
        return dict(zip(features, maps, strict=True))


class PAN(Neck):
    """FPN, then bottom-up: each map also gets the finer ones, over short ways."""

    def __init__(self, in_channels: Channels, width: int = 64) -> None:
        """An FPN, and two 3x3 convolutions for each level but the finest."""
        super().__init__(in_channels)
        self.top_down = FPN(in_channels, width)
        self.out_channels = self.top_down.out_channels
        steps = len(in_channels) - 1
        self.down = nn.ModuleList(conv(width, width, 3, stride=2) for _ in range(steps))
        self.smooth = nn.ModuleList(conv(width, width, 3) for _ in range(steps))

    def forward(self, features: Features) -> Features:
        """Maps of equal width; the finest is that of the FPN."""
        finest, *coarser = self.top_down(features).values()
        maps = [finest]
        for x, down, smooth in zip(coarser, self.down, self.smooth, strict=True):
            maps.append(smooth(x + down(maps[-1]).relu()).relu())
        return dict(zip(features, maps, strict=True))


# --8<-- [end:necks]


# --8<-- [start:heads]
class AnchorFreeHead(Head):
    """At each place of each map one box and its class logits; (B, N, 4 + K), x1 y1 x2 y2 in pixels.

    A 1x1 convolution per level makes the widths equal; all other weights serve every level.
    """

    def __init__(self, in_channels: Channels, classes: int, width: int = 64) -> None:
        """Build the layers."""
        super().__init__(in_channels, classes)
        _check_positive("width", width)
        self.stems = nn.ModuleList(conv(C, width, 1) for C in in_channels.values())
        self.tower = conv(width, width, 3)
        self.distances = conv(width, 4, 3)
        self.logits = conv(width, classes, 3)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Predictions of all maps in one row, fine to coarse; boxes are not clipped to size."""
        rows: list[Tensor] = []
        for stem, (stride, x) in zip(self.stems, features.items(), strict=True):
            x = self.tower(stem(x).relu()).relu()  # (B, width, h, w)
            far = stride * F.softplus(self.distances(x))  # (B, 4, h, w): left, top, right, bottom
            y, x_ = ((torch.arange(n, device=x.device) + 0.5) * stride for n in x.shape[-2:])
            centre = torch.stack(torch.meshgrid(x_, y, indexing="xy")).to(x.dtype)  # (2, h, w)
            corners = [centre - far[:, :2], centre + far[:, 2:]]
            rows.append(torch.cat([*corners, self.logits(x)], dim=1).flatten(2))  # (B, 4+K, h*w)
        return torch.cat(rows, dim=2).transpose(1, 2)  # (B, N, 4+K)


class ClassificationHead(Head):
    """One label for the image, (B, K): the mean of the coarsest map and a linear layer."""

    def __init__(self, in_channels: Channels, classes: int) -> None:
        """Build the layer."""
        super().__init__(in_channels, classes)
        self.linear = nn.Linear(list(in_channels.values())[-1], classes)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Class logits."""
        return self.linear(list(features.values())[-1].mean(dim=(2, 3)))


class SegmentationHead(Head):
    """One label for each pixel, (B, K, H, W): all maps enlarged to the finest and added."""

    def __init__(self, in_channels: Channels, classes: int, width: int = 64) -> None:
        """Build the layers."""
        super().__init__(in_channels, classes)
        _check_positive("width", width)
        self.stems = nn.ModuleList(conv(C, width, 1) for C in in_channels.values())
        self.logits = conv(width, classes, 1)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Class logits of every pixel."""
        maps = [stem(x) for stem, x in zip(self.stems, features.values(), strict=True)]
        maps = [F.interpolate(x, size=maps[0].shape[-2:], mode="bilinear") for x in maps]
        logits = self.logits(torch.stack(maps).sum(dim=0).relu())  # (B, K, h, w)
        return F.interpolate(logits, size=size, mode="bilinear")  # (B, K, H, W)


# --8<-- [end:heads]


# --8<-- [start:assembly]
class Assembly(nn.Module):
    """One backbone, one neck and any number of heads, whose contracts are checked.

    Args:
        backbone: takes images.
        neck: in_channels must be the backbone's out_channels.
        heads: by name; in_channels must be the neck's out_channels.
    """

    def __init__(self, backbone: Pyramid, neck: Neck, heads: Mapping[str, Head]) -> None:
        """Refuse parts that do not fit."""
        super().__init__()
        _check_fit("neck", neck.in_channels, backbone.out_channels)
        for name, head in heads.items():
            _check_fit(f"heads.{name}", head.in_channels, neck.out_channels)
        self.backbone, self.neck, self.heads = backbone, neck, nn.ModuleDict(heads)
        self.frozen: set[str] = set()

    def features(self, images: Images) -> tuple[Features, Features]:
        """Maps of the backbone and of the neck."""
        size = _image_size(images)
        maps = self.backbone(images)
        check_features("backbone", maps, self.backbone.out_channels, size)
        fused = self.neck(maps)
        check_features("neck", fused, self.neck.out_channels, size)
        return maps, fused

    def forward(self, images: Images) -> dict[str, Tensor]:
        """What each head says, by its name."""
        _, fused = self.features(images)
        return {name: head(fused, _image_size(images)) for name, head in self.heads.items()}

    def parts(self) -> dict[str, nn.Module]:
        """The parts under the names that `freeze` takes."""
        heads = {f"heads.{name}": head for name, head in self.heads.items()}
        return {"backbone": self.backbone, "neck": self.neck, **heads}

    def parameter_counts(self, trainable_only: bool = False) -> dict[str, int]:
        """Number of parameters of each part."""
        counts: dict[str, int] = {}
        for name, part in self.parts().items():
            found = [p for p in part.parameters() if p.requires_grad or not trainable_only]
            counts[name] = sum(p.numel() for p in found)
        return counts

    def freeze(self, *names: str) -> None:
        """Keep these parts as they are, weights and running statistics, also after train()."""
        self._check_names(names)
        for name in names:
            self.parts()[name].requires_grad_(False)
        self.frozen |= set(names)
        self.train(self.training)

    def unfreeze(self, *names: str) -> None:
        """Undo freeze: these parts get gradients again and follow train()."""
        self._check_names(names)
        for name in names:
            self.parts()[name].requires_grad_(True)
        self.frozen -= set(names)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Assembly":
        """As nn.Module.train, but frozen parts stay in eval mode."""
        super().train(mode)
        for name in self.frozen:
            self.parts()[name].eval()
        return self

    def _check_names(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in self.parts():
                raise ValueError(f"a part must be one of {list(self.parts())}, got {name!r}")


# --8<-- [end:assembly]


# --8<-- [start:modalities]
class ParallelBackbones(Pyramid):
    """One backbone for each kind of image; their maps side by side along the channels."""

    def __init__(self, backbones: Mapping[str, Pyramid]) -> None:
        """All must have the same strides."""
        super().__init__()
        if not backbones:
            raise ValueError(f"at least one backbone, got {dict(backbones)}")
        each = [backbone.out_channels for backbone in backbones.values()]
        if any(list(channels) != list(each[0]) for channels in each):
            raise ValueError(f"backbones must have the same strides, got {[list(c) for c in each]}")
        self.backbones = nn.ModuleDict(backbones)
        self.out_channels = {stride: sum(c[stride] for c in each) for stride in each[0]}

    def forward(self, images: Mapping[str, Tensor]) -> Features:
        """Maps of images that show the same scene, pixel on pixel."""
        if set(images) != set(self.backbones):
            raise ValueError(f"images must be {list(self.backbones)}, got {list(images)}")
        maps: list[Features] = [b(images[name]) for name, b in self.backbones.items()]
        return {s: torch.cat([m[s] for m in maps], dim=1) for s in self.out_channels}


# --8<-- [end:modalities]


def initialize(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw all weights anew (He et al., 2015), on the CPU; norms as after construction."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                fan_in = layer.weight[0].numel()
                layer.weight.normal_(0, math.sqrt(2 / fan_in), generator=generator)
                if layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
                    layer.bias.zero_()
            elif isinstance(layer, nn.BatchNorm2d):
                layer.reset_parameters()


def _image_size(images: Images) -> tuple[int, int]:
    each = [images] if isinstance(images, Tensor) else list(images.values())
    sizes = [(x.shape[0], x.shape[2], x.shape[3]) for x in each if x.ndim == 4]
    if len(sizes) < len(each) or len(set(sizes)) != 1:
        shapes = [tuple(x.shape) for x in each]
        raise ValueError(f"images must be (B, C, H, W) with equal B, H and W, got {shapes}")
    _, H, W = sizes[0]
    return H, W


def _check_images(images: Tensor, channels: int) -> None:
    if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape[2:]:
        raise ValueError(f"images must be (B, {channels}, H, W), got {tuple(images.shape)}")


def _check_channels(channels: Channels) -> None:
    doubled = all(b == 2 * a for a, b in pairwise(channels))
    if not channels or not doubled or min(*channels, *channels.values()) < 1:
        raise ValueError(f"strides must double from map to map, C be positive, got {channels}")


def _check_positive(names: str, *values: int) -> None:
    if min(values) < 1:
        raise ValueError(f"{names} must be positive, got {', '.join(map(str, values))}")


def _check_fit(name: str, takes: Channels, given: Channels) -> None:
    if list(takes.items()) != list(given.items()):
        raise ValueError(f"{name} takes (stride: channels) {takes}, but is given {given}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    backbone = ResidualBackbone()  # or PlainBackbone()
    neck = FPN(backbone.out_channels)  # or PAN(…), IdentityNeck(…)
    head = AnchorFreeHead(neck.out_channels, classes=5)  # or SegmentationHead(…), …
    model = Assembly(backbone, neck, {"boxes": head})
    initialize(model, torch.Generator().manual_seed(0))

    images = torch.zeros(2, 3, 100, 160)  # (B, C, H, W)
    for name, maps in zip(("backbone", "neck"), model.features(images), strict=True):
        for stride, x in maps.items():
            print(f"{name:<9} stride {stride:<2} {tuple(x.shape)}")
    print("boxes", tuple(model(images)["boxes"].shape))  # (B, N, 4 + K)
    print(model.parameter_counts())

    model.freeze("backbone")
    model.train()
    print(model.backbone.training, model.parameter_counts(trainable_only=True))
    # --8<-- [end:demo]
