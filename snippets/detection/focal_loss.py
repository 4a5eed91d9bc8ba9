"""Focal loss: cross-entropy that fades for what is already classified well, in stable form.

Paper: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eqs. (4) and (5),
       sections 3.3 and 4.1 (initialisation). https://arxiv.org/abs/1708.02002
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  N anchors, K classes; `...` is any batch.
"""

# --8<-- [start:imports]
import math

import torch
import torch.nn.functional as F
from torch import Tensor

# --8<-- [end:imports]

__all__ = ["prior_bias", "sigmoid_focal_loss", "softmax_focal_loss"]


# --8<-- [start:core]
def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, alpha: float | None = 0.25, gamma: float = 2.0
) -> Tensor:
    """One yes-or-no question for each number, -alpha_t (1 - p_t)^gamma log p_t, not reduced.

    Args:
        logits: any shape, floating and finite; the probability of yes is sigmoid(logits).
        targets: of the same shape and device, 1 or True for yes, 0 or False for no.
        alpha: weight of yes, in [0, 1]; no weighs 1 - alpha. None: both weigh 1
            (torchvision: -1).
        gamma: how fast easy examples fade, not negative; 0 leaves cross-entropy.

    Returns:
        The shape of logits, at least in float32; none of them gives none, NaN stays NaN. Add up
        and divide by the number of positives, at least 1.

    Raises:
        ValueError: shapes or devices differ, other targets than 0 and 1, alpha or gamma outside.
            On a GPU looking at the targets waits for them.
    """
    _check_sigmoid(logits, targets, alpha, gamma)
    yes, logits = targets.bool(), _widen(logits)
    loss = _focal(torch.where(yes, logits, -logits), gamma)
    if alpha is None:
        return loss
    return torch.where(yes, alpha * loss, (1 - alpha) * loss)


def _focal(margin: Tensor, gamma: float) -> Tensor:
    """-(1 - p_t)^gamma log p_t for p_t = sigmoid(margin), both factors by their logarithms."""
    log_p, log_rest = F.logsigmoid(margin), F.logsigmoid(-margin)
    return -(gamma * log_rest).exp() * log_p


# --8<-- [end:core]


# --8<-- [start:softmax]
def softmax_focal_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, gamma: float = 2.0
) -> Tensor:
    """One question with K answers for each row: -w_t (1 - p_t)^gamma log p_t, not reduced.

    Args:
        logits: (..., K), floating and finite, K at least 2, background among the classes if there
            is one; F.cross_entropy has the classes on axis 1 instead.
        labels: int64 (...), in [0, K).
        weights: (K,), one for each class; None: all weigh 1.
        gamma: as for sigmoid_focal_loss.

    Returns:
        (...), at least in float32; NaN stays NaN.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, labels or gamma outside.
    """
    _check_softmax(logits, labels, weights, gamma)
    logits = _widen(logits)
    true = F.one_hot(labels, logits.shape[-1]).bool()  # (..., K)
    own = logits.gather(-1, labels[..., None])[..., 0]  # (...)
    others = logits.masked_fill(true, -math.inf).logsumexp(-1)  # (...)
    loss = _focal(own - others, gamma)  # p_t = sigmoid(own - others)
    return loss if weights is None else weights.to(loss.dtype)[labels] * loss


# --8<-- [end:softmax]


# --8<-- [start:prior]
def prior_bias(prior: float) -> float:
    """The bias of the last layer that makes a network with small weights answer `prior`."""
    if not 0 < prior < 1:
        raise ValueError(f"prior must lie between 0 and 1, got {prior}")
    return -math.log((1 - prior) / prior)


# --8<-- [end:prior]


def _widen(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _check_logits(logits: Tensor, gamma: float) -> None:
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating, got {logits.dtype}")
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be finite and not negative, got {gamma}")


def _check_sigmoid(logits: Tensor, targets: Tensor, alpha: float | None, gamma: float) -> None:
    _check_logits(logits, gamma)
    if logits.shape != targets.shape or logits.device != targets.device:
        found = f"{tuple(logits.shape)} on {logits.device}, {tuple(targets.shape)}"
        message = f"logits and targets need one shape and device, got {found} on {targets.device}"
        raise ValueError(message)
    other = targets[(targets != 0) & (targets != 1)]
    if len(other):
        raise ValueError(f"targets must be 0 or 1, got {other[0].item()}")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1] or be None, got {alpha}")


def _check_softmax(logits: Tensor, labels: Tensor, weights: Tensor | None, gamma: float) -> None:
    _check_logits(logits, gamma)
    if logits.ndim < 1 or logits.shape[-1] < 2 or labels.shape != logits.shape[:-1]:
        found = f"{tuple(logits.shape)}, {tuple(labels.shape)}"
        raise ValueError(f"logits must be (..., K), K at least 2, and labels (...), got {found}")
    if labels.dtype != torch.int64 or labels.device != logits.device:
        found = f"{labels.dtype} on {labels.device}"
        raise ValueError(f"labels must be int64 on {logits.device}, got {found}")
    classes = logits.shape[-1]
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise ValueError(f"labels must lie in [0, {classes}), got {int(outside[0])}")
    if weights is None:
        return
    if weights.shape != (classes,) or weights.device != logits.device:
        found = f"{tuple(weights.shape)} on {weights.device}"
        raise ValueError(f"weights must be ({classes},) on {logits.device}, got {found}")
    bad = weights[~weights.isfinite() | (weights < 0)]
    if len(bad):
        raise ValueError(f"weights must be finite and not negative, got {float(bad[0])}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    def logit(p: float) -> Tensor:
        return torch.tensor(p, dtype=torch.float64).logit()

    easy = logit(0.01).expand(99_900)  # background, told with p_t = 0.99
    hard = logit(0.1).expand(100)  # objects, told with p_t = 0.1
    print("gamma    easy    hard  share of the easy")
    for gamma in (0.0, 0.5, 1.0, 2.0):
        low = sigmoid_focal_loss(easy, torch.zeros_like(easy), None, gamma).sum()
        high = sigmoid_focal_loss(hard, torch.ones_like(hard), None, gamma).sum()
        share = float(low / (low + high))
        print(f"{gamma:5} {float(low):7.1f} {float(high):7.1f} {share:18.2%}")
    # --8<-- [end:demo]
