"""YOLO v7: ELAN and E-ELAN, convolutions that are folded into one, labels with a dynamic count.

Paper: Wang et al., "YOLOv7: Trainable Bag-of-Freebies Sets New State-of-the-Art for Real-Time
       Object Detectors", CVPR 2023, sections 3.1, 4.1 and 4.2. https://arxiv.org/abs/2207.02696
       Ding et al., "RepVGG", CVPR 2021, section 3.3 (the folding).
       https://arxiv.org/abs/2101.03697
       Ge et al., "YOLOX", 2021, section 2.1 (SimOTA). https://arxiv.org/abs/2107.08430
       Numbers that the papers do not give are those of https://github.com/WongKinYiu/yolov7
Needs: Python >= 3.10, torch >= 2.0, and yolo_v5.py with all that it needs.
Axes:  B images, C channels, h, w of a map, n ground truths, N predictions of an image on all maps,
       P candidates among them, K classes.
"""

# --8<-- [start:imports]
from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from .iou import box_iou
from .yolo_v2 import Priors
from .yolo_v5 import YOLOv5, match_all, v5_loss
from .yolo_v8 import silu_block

__all__ = [
    "EELAN",
    "ELAN",
    "RepConv",
    "YOLOv7",
    "dynamic_k_assign",
    "fold_norm",
    "ota_cost",
    "v7_loss",
]


# --8<-- [start:fold]
def fold_norm(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A convolution without bias and the normalisation behind it, as one convolution.

    Args:
        weight: (C', C / groups, k, k).
        norm: of C' channels, with running statistics; as in eval mode.

    Returns:
        Weight of the same shape and bias (C',).
    """
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None or weight.ndim != 4 or len(mean) != len(weight):
        found = f"{tuple(weight.shape)} and {norm}"
        raise ValueError(f"need (C', C, k, k) and a norm of C' with statistics, got {found}")
    scale = (var + norm.eps).rsqrt()  # (C',)
    if norm.affine:
        scale = scale * norm.weight
    shift = -mean * scale + (norm.bias if norm.affine else 0)
    return weight * scale[:, None, None, None], shift


class RepConv(nn.Module):
    """Trained as the sum of 3x3, 1x1 and, where shapes allow, the identity; used as one 3x3.

    Args:
        in_channels, out_channels: C and C'.
        stride: of all branches.
        groups: of the convolutions.
        identity: False leaves that branch out: "RepConvN" of v7, for where a shortcut or a
            concatenation takes its place.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        groups: int = 1,
        identity: bool = True,
    ) -> None:
        """Each branch ends in a normalisation of its own; SiLU after the sum."""
        super().__init__()
        if min(in_channels, out_channels, stride, groups) < 1:
            found = f"{in_channels}, {out_channels}, {stride} and {groups}"
            raise ValueError(f"channels, stride and groups must be positive, got {found}")
        self.stride, self.groups = stride, groups
        shape = (in_channels, out_channels)
        self.large = nn.Conv2d(*shape, 3, stride, 1, groups=groups, bias=False)
        self.small = nn.Conv2d(*shape, 1, stride, groups=groups, bias=False)
        same = identity and stride == 1 and in_channels == out_channels
        self.norms = nn.ModuleList(nn.BatchNorm2d(out_channels) for _ in range(2 + same))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', ceil(h / stride), ceil(w / stride))."""
        branches = [self.large(x), self.small(x), x]
        parts = [norm(y) for norm, y in zip(self.norms, branches, strict=False)]
        return F.silu(torch.stack(parts).sum(dim=0))

    @torch.no_grad()
    def folded(self) -> nn.Sequential:
        """One 3x3 convolution with bias, and SiLU: the same output in eval mode."""
        C, width = self.large.out_channels, self.large.in_channels // self.groups
        one = torch.eye(width, device=self.large.weight.device, dtype=self.large.weight.dtype)
        one = one.repeat(self.groups, 1)[:C, :, None, None]  # the identity as 1x1
        kernels = [self.large.weight, *(F.pad(x, (1, 1, 1, 1)) for x in (self.small.weight, one))]
        pairs = [
            fold_norm(kernel, norm)
            for kernel, norm in zip(kernels, self.norms, strict=False)
            if isinstance(norm, nn.BatchNorm2d)
        ]
        shape = (self.large.in_channels, C, 3, self.stride, 1)
        conv = nn.Conv2d(*shape, groups=self.groups).to(self.large.weight)
        conv.weight.copy_(torch.stack([weight for weight, _ in pairs]).sum(dim=0))
        assert conv.bias is not None
        conv.bias.copy_(torch.stack([bias for _, bias in pairs]).sum(dim=0))
        return nn.Sequential(conv, nn.SiLU())


# --8<-- [end:fold]


# --8<-- [start:elan]
class ELAN(nn.Module):
    """Two 1x1 convolutions side by side; behind one of them 3x3 in a row; some of all, joined.

    Args:
        in_channels: C.
        width: of both 1x1 and of every 3x3.
        out_channels: C'.
        depth: number of 3x3.
        step: every how many 3x3 the map is kept for the end; 2 in YOLOv7's backbone.
    """

    def __init__(
        self, in_channels: int, width: int, out_channels: int, depth: int = 4, step: int = 2
    ) -> None:
        """The shortest way to each kept map grows by `step` convolutions."""
        super().__init__()
        if min(in_channels, width, out_channels, depth, step) < 1 or depth % step:
            found = f"{in_channels}, {width}, {out_channels}, {depth} and {step}"
            raise ValueError(f"need positive numbers, depth a multiple of step, got {found}")
        self.first, self.second = (silu_block(in_channels, width) for _ in range(2))
        self.chain = nn.ModuleList(silu_block(width, width, 3) for _ in range(depth))
        self.step = step
        self.join = silu_block((2 + depth // step) * width, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', h, w)."""
        y: Tensor = self.second(x)
        kept = [self.first(x), y]
        for i, layer in enumerate(self.chain, 1):
            y = layer(y)
            if i % self.step == 0:
                kept.append(y)
        return self.join(torch.cat(kept, dim=1))


class EELAN(nn.Module):
    """Extended ELAN: several of them on the same input, added.

    The paper expands the channels with group convolutions, shuffles them and merges the groups;
    the official configuration yolov7-e6e has two ELANs and a sum instead, as here.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        depth: int = 6,
        step: int = 2,
        groups: int = 2,
    ) -> None:
        """`groups` ELANs, see there."""
        super().__init__()
        if groups < 1:
            raise ValueError(f"groups must be at least 1, got {groups}")
        sizes = (in_channels, width, out_channels, depth, step)
        self.groups = nn.ModuleList(ELAN(*sizes) for _ in range(groups))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', h, w)."""
        return torch.stack([group(x) for group in self.groups]).sum(dim=0)


# --8<-- [end:elan]


# --8<-- [start:assign]
def ota_cost(iou: Tensor, probs: Tensor, labels: Tensor, weight: float = 3.0) -> Tensor:
    """How badly each candidate would fit each ground truth: classification and overlap.

    Args:
        iou: (n, P), of predicted boxes with ground truths.
        probs: (P, K), class probability times objectness, both predicted.
        labels: int64 (n,), from 0 to K - 1.
        weight: of -log IoU; 3 in the official code.

    Returns:
        (n, P): binary cross-entropy of the root of `probs`, summed over the classes, plus the
        weighted -log(IoU + 1e-8).
    """
    _check_cost(iou, probs, labels)
    root = probs.sqrt().clamp(1e-7, 1 - 1e-7)  # (P, K)
    yes, no = -root.log(), -(1 - root).log()  # (P, K)
    cost = no.sum(1) + (yes - no).T[labels]  # (n, P)
    return cost - weight * (iou + 1e-8).log()


@torch.no_grad()
def dynamic_k_assign(cost: Tensor, iou: Tensor, most: int = 10) -> Tensor:
    """Each ground truth takes the k candidates of least cost; k is the sum of its best IoUs.

    Args:
        cost: (n, P), see ota_cost.
        iou: (n, P).
        most: IoUs that are added; k is their sum rounded down, at least 1.

    Returns:
        int64 (P,): the ground truth of each candidate, or -1. A candidate that several took goes
        to that of least cost. In the official training these candidates come from match_v5: with
        `reach` 0.5 (fine labels, for the lead head) and 1 (coarse labels, for the auxiliary
        head); the costs are those of the lead head for both.
    """
    _check_assign(cost, iou, most)
    n, P = cost.shape
    if n == 0 or P == 0:
        return torch.full((P,), -1, device=cost.device)
    k = iou.topk(min(most, P), dim=1).values.sum(dim=1).long().clamp(min=1)  # (n,)
    rank = cost.argsort(dim=1, stable=True).argsort(dim=1)  # (n, P)
    taken = rank < k[:, None]
    cheapest = F.one_hot(cost.argmin(dim=0), n).T.bool()  # (n, P)
    taken = torch.where(taken.sum(0) > 1, cheapest, taken)
    return torch.where(taken.any(0), taken.int().argmax(dim=0), -1)


def v7_loss(
    output: Tensor,
    maps: Mapping[int, tuple[int, int]],
    priors: Priors,
    targets: Sequence[Mapping[str, Tensor]],
    reach: float = 0.5,
    most: int = 10,
) -> tuple[Tensor, Tensor, Tensor]:
    """v5_loss with fewer positives: of the candidates of v5 those that dynamic_k_assign picks.

    Args, returns, raises: see v5_loss; `reach` is that of match_v5, `most` of dynamic_k_assign.
    """

    def choose(
        truths: Tensor, labels: Tensor, logits: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        place: Tensor = match_all(truths, maps, priors, reach=reach)[1]
        place = torch.zeros_like(boxes[:, 0]).index_fill(0, place, 1).nonzero()[:, 0]  # (P,), once
        iou = box_iou(truths, boxes[place])  # (n, P)
        probs = logits[place, 5:].sigmoid() * logits[place, 4:5].sigmoid()  # (P, K)
        owner = dynamic_k_assign(ota_cost(iou, probs, labels), iou, most)  # (P,)
        return owner[owner >= 0], place[owner >= 0]

    return v5_loss(output, maps, priors, targets, choose)


# --8<-- [end:assign]


# --8<-- [start:core]
class YOLOv7(YOLOv5):
    """A small detector in the manner of v7: ELAN for C3, RepConv before the predictions, v7_loss.

    The published network also has other transitions between the stages and another pooling block.
    """

    @staticmethod
    def block(in_channels: int, out_channels: int, depth: int, shortcut: bool) -> nn.Module:
        """An ELAN of half the width with 2 * depth 3x3; it has no shortcuts to switch off."""
        return ELAN(in_channels, max(out_channels // 2, 1), out_channels, 2 * depth)

    @staticmethod
    def last(in_channels: int, out_channels: int) -> nn.Module:
        """RepConv to twice the channels, then the 1x1 convolution."""
        block = RepConv(in_channels, 2 * in_channels)
        return nn.Sequential(block, nn.Conv2d(2 * in_channels, out_channels, 1))

    def parts(
        self,
        output: Tensor,
        maps: Mapping[int, tuple[int, int]],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> tuple[Tensor, ...]:
        """See v7_loss."""
        return v7_loss(output, maps, self.priors, targets)

    def folded(self) -> "YOLOv7":
        """A copy for inference, in eval mode, whose RepConvs are single convolutions."""
        used = deepcopy(self).eval()
        for last in used.head:
            block = last.get_submodule("0")
            assert isinstance(last, nn.Sequential) and isinstance(block, RepConv)
            last[0] = block.folded()
        return used


# --8<-- [end:core]


def _check_cost(iou: Tensor, probs: Tensor, labels: Tensor) -> None:
    good = iou.ndim == 2 and probs.ndim == 2 and iou.shape == (*labels.shape, len(probs))
    if not good:
        found = f"{tuple(iou.shape)}, {tuple(probs.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"need iou (n, P), probs (P, K) and labels (n,), got {found}")
    last = probs.shape[1] - 1
    if labels.dtype != torch.int64 or ((labels < 0) | (labels > last)).any():
        raise ValueError(f"labels must be int64 from 0 to {last}, got {labels}")
    for name, values in (("iou", iou), ("probs", probs)):
        bad = ~((values >= 0) & (values <= 1))
        if bad.any():
            raise ValueError(f"{name} must lie in [0, 1], got {float(values[bad][0])}")


def _check_assign(cost: Tensor, iou: Tensor, most: int) -> None:
    if cost.ndim != 2 or cost.shape != iou.shape:
        found = f"{tuple(cost.shape)} and {tuple(iou.shape)}"
        raise ValueError(f"cost and iou must be (n, P), got {found}")
    if cost.isnan().any() or iou.isnan().any():
        raise ValueError("cost and iou must be numbers, got nan")
    if most < 1:
        raise ValueError(f"most must be at least 1, got {most}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    block = RepConv(16, 16).double()
    for name, values in block.named_buffers():  # as after training
        if "running" in name:
            values.uniform_(0.5, 2, generator=generator)
    one = block.eval().folded()
    x = torch.randn(1, 16, 8, 8, generator=generator, dtype=torch.float64)
    print("branches = one convolution:", torch.allclose(block(x), one(x)))
    for name, module in (("trained", block), ("used", one)):
        print(f"{name:8}{sum(p.numel() for p in module.parameters())} parameters")

    with torch.device("meta"):  # the first ELAN of YOLOv7
        elan = ELAN(128, 64, 256)
        print("ELAN:", tuple(elan(torch.rand(1, 128, 160, 160)).shape[1:]))

    iou = torch.tensor([[0.9, 0.8, 0.7, 0.1, 0.0], [0.0, 0.1, 0.4, 0.3, 0.1]])
    probs = torch.full((5, 2), 0.5)
    cost = ota_cost(iou, probs, torch.tensor([0, 1]))
    print("sums of IoU:", [round(float(s), 1) for s in iou.sum(1)], end="  ")
    print("owners:", [int(i) for i in dynamic_k_assign(cost, iou)])
    # --8<-- [end:demo]
