"""Robustness: FGSM and PGD attacks, common corruptions, accuracy curves, corruption error.

Paper: Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015
       (FGSM). https://arxiv.org/abs/1412.6572
       Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to
       Adversarial Attacks", ICLR 2018 (PGD). https://arxiv.org/abs/1706.06083
       Hendrycks, Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
       Perturbations", ICLR 2019 (ImageNet-C, mCE). https://arxiv.org/abs/1903.12261
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  B examples, K classes, D features, C channels, H height, W width, R corruption types,
       S severities, L levels; `*` is any number of axes.
"""

# --8<-- [start:imports]
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["linf", "l2"]
Loss = Callable[[Tensor, Tensor], Tensor]  # logits (B, K), labels (B,) -> (B,)
# --8<-- [end:imports]

__all__ = [
    "IMAGENET_C",
    "accuracy",
    "accuracy_curve",
    "contrast",
    "corruption_error",
    "cross_entropy",
    "fgsm",
    "gaussian_blur",
    "gaussian_noise",
    "impulse_noise",
    "linear_margin",
    "margin_loss",
    "pgd",
    "project",
    "random_in_ball",
    "steepest",
]


# --8<-- [start:ball]
def project(delta: Tensor, eps: float, norm: Norm) -> Tensor:
    """Nearest point of the ball of radius eps, for each example: (B, *) -> (B, *)."""
    _check_ball(eps, norm)
    if norm == "linf":
        return delta.clamp(-eps, eps)
    tiny = torch.finfo(delta.dtype).tiny
    return delta * (eps / _l2(delta).clamp_min(tiny)).clamp_max(1.0)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Step of size 1 along which a linear function grows most; 0 where the gradient is 0."""
    _check_ball(0.0, norm)
    if norm == "linf":
        return gradient.sign()
    wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))  # float16 loses 1e-6
    largest = wide.flatten(1).abs().amax(1)  # (B,); squares of what is left do not underflow
    scaled = wide / _column(torch.where(largest > 0, largest, 1.0), wide)
    return (scaled / _l2(scaled).clamp_min(1.0)).to(gradient.dtype)


def random_in_ball(x: Tensor, eps: float, norm: Norm, generator: torch.Generator | None) -> Tensor:
    """A uniform draw from the ball, for each example: (B, *)."""
    if norm == "linf":
        unit = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return eps * (2 * unit - 1)
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    volume = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
    radius = eps * volume ** (1 / max(x[0:1].numel(), 1))  # volume grows like radius^D
    return _column(radius, x) * steepest(direction, norm)


# --8<-- [end:ball]


# --8<-- [start:attacks]
def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(logits)[y]: (B, K), (B,) -> (B,)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Largest other logit minus that of y: positive exactly where the answer is not y."""
    other = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return other - logits.gather(1, y[:, None])[:, 0]


def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    norm: Norm = "linf",
    targeted: bool = False,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    loss: Loss = cross_entropy,
) -> Tensor:
    """Fast gradient sign method: one step of size eps from x. Arguments as for pgd."""
    _check_attack(x, y, eps, norm, bounds)
    with _evaluating(model):
        _, gradient = _ascent(model, x, y, loss, targeted)
    return _clamp(x.detach() + eps * steepest(gradient, norm), bounds)


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    steps: int = 10,
    step: float | None = None,
    norm: Norm = "linf",
    targeted: bool = False,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    loss: Loss = cross_entropy,
    random_start: bool = True,
    restarts: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient ascent on the loss inside the ball of radius eps around x.

    Unlike Madry et al., who keep the last iterate, it returns the one of the highest loss, start
    included, over all restarts. With more than two classes the highest cross-entropy need not be
    an error: pass loss=margin_loss to count errors.

    Args:
        model: maps (B, *) to logits (B, K), each example by itself; run in eval mode, its flags
            are given back, its parameters get no gradient.
        x: inputs within bounds, (B, *), floating point.
        y: true classes, or those wanted if targeted, (B,), int64.
        eps: radius >= 0, on the scale of x.
        steps: >= 1.
        step: size of one step; 2.5 * eps / steps if None.
        norm: "linf" or "l2".
        targeted: step down the loss of y instead of up.
        bounds: smallest and largest valid value, or None.
        loss: (B, K), (B,) -> (B,).
        random_start: begin at a uniform draw from the ball, else at x.
        restarts: >= 1; more than one needs a random start.
        generator: of the random starts, on the device of x.

    Returns:
        (B, *), within the ball and within bounds, detached.
    """
    _check_attack(x, y, eps, norm, bounds)
    _check_steps(steps, step, restarts, random_start)
    x = x.detach()
    size = 2.5 * eps / steps if step is None else step
    best, highest = x, torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    with _evaluating(model):
        for _ in range(restarts):
            delta = random_in_ball(x, eps, norm, generator) if random_start else 0.0
            current = _clamp(x + delta, bounds)
            for i in range(steps + 1):
                score, gradient = _ascent(model, current, y, loss, targeted)  # (B,), (B, *)
                better = score > highest
                best = torch.where(_column(better, x), current, best)
                highest = torch.where(better, score.to(x.dtype), highest)
                if i < steps:
                    delta = current - x + size * steepest(gradient, norm)
                    current = _clamp(x + project(delta, eps, norm), bounds)
    return best


def _ascent(
    model: nn.Module, x: Tensor, y: Tensor, loss: Loss, targeted: bool
) -> tuple[Tensor, Tensor]:
    """What the attack wants high, (B,), and its gradient by the input, (B, *)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        score = loss(model(x), y)
        score = -score if targeted else score
        return score.detach(), torch.autograd.grad(score.sum(), x)[0]


@contextmanager
def _evaluating(model: nn.Module) -> Generator[None, None, None]:
    """Eval mode inside; afterwards each module has its own flag back."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


# --8<-- [end:attacks]


# --8<-- [start:linear]
def linear_margin(
    weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, eps: float = 0.0, norm: Norm = "linf"
) -> Tensor:
    """Smallest margin of a linear classifier within the ball around x, in closed form.

    Args:
        weight: (K, D) of F.linear.
        bias: (K,).
        x: (B, D).
        y: true classes, (B,).
        eps: radius; the ball is not cut off by any bounds.
        norm: of the ball; the weights are measured in its dual norm.

    Returns:
        (B,); positive exactly where no point of the ball is misclassified.
    """
    _check_ball(eps, norm)
    rows = torch.arange(len(weight), device=y.device)
    others = rows != y[:, None]  # (B, K)
    rest = rows.expand_as(others)[others].reshape(len(y), len(weight) - 1)  # (B, K-1)
    w = weight[y][:, None] - weight[rest]  # (B, K-1, D)
    margins = (w * x[:, None]).sum(-1) + bias[y][:, None] - bias[rest]  # (B, K-1)
    dual = w.abs().sum(-1) if norm == "linf" else _length(w)
    return (margins - eps * dual).amin(1)


# --8<-- [end:linear]


# --8<-- [start:corruptions]
# Strength at severity 1 to 5 in the code of ImageNet-C, for images of 224 pixels in 0..1.
IMAGENET_C = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "gaussian_blur": (1.0, 2.0, 3.0, 4.0, 6.0),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
}


def gaussian_noise(x: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
    """Add noise of standard deviation sigma: (B, *) in 0..1 -> the same."""
    _check_image(x, "sigma", sigma)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return (x + sigma * noise).clamp(0, 1)


def impulse_noise(x: Tensor, amount: float, generator: torch.Generator | None = None) -> Tensor:
    """Set a share of the values to 0 or 1, each half of the time: (B, *) -> the same."""
    _check_image(x, "amount", amount, highest=1.0)
    u = torch.rand(x.shape, generator=generator, dtype=torch.float32, device=x.device)
    salt_and_pepper = (u < amount / 2).to(x.dtype)
    return torch.where(u < amount, salt_and_pepper, x)


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Blur along both axes, borders repeated, cut off at 4 sigma: (B, C, H, W) -> the same."""
    _check_image(x, "sigma", sigma, axes=4)
    if sigma == 0:
        return x.clone()
    height, width = (_blur_matrix(n, sigma, x) for n in x.shape[-2:])
    return (height @ x @ width.mT).clamp(0, 1)  # rounding may leave the range


def contrast(x: Tensor, factor: float) -> Tensor:
    """Shrink the distance to the mean of each channel: (B, C, H, W); 1 changes nothing."""
    _check_image(x, "factor", factor, axes=4, highest=1.0)
    mean = x.mean((-2, -1), keepdim=True)
    return (mean + factor * (x - mean)).clamp(0, 1)


def _blur_matrix(n: int, sigma: float, like: Tensor) -> Tensor:
    """Row i holds the weights of the n pixels for output i: (n, n)."""
    radius = math.floor(4 * sigma + 0.5)
    offset = torch.arange(-radius, radius + 1)
    weight = (-0.5 * (offset.double() / sigma) ** 2).softmax(0)  # (2r+1,)
    place = (torch.arange(n)[:, None] + offset).clamp(0, n - 1)  # (n, 2r+1)
    matrix = torch.zeros(n, n, dtype=torch.float64)  # on the CPU: not every device has float64
    return matrix.scatter_add(1, place, weight.expand(n, -1)).to(like)


# --8<-- [end:corruptions]


# --8<-- [start:measures]
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of (B, *) given the class y, (B,); in eval mode; nan without examples."""
    with _evaluating(model), torch.no_grad():
        return (model(x).argmax(1) == y).to("cpu", torch.float64).mean().item()


def accuracy_curve(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    perturb: Callable[[Tensor, float], Tensor],
    levels: Sequence[float],
) -> Tensor:
    """Accuracy on perturb(x, level) for each level: (L,) float64. For corruptions and attacks."""
    found = [accuracy(model, perturb(x, level), y) for level in levels]
    return torch.tensor(found, dtype=torch.float64)


def corruption_error(
    errors: Tensor,
    reference: Tensor,
    clean: tuple[float, float] | None = None,
) -> Tensor:
    """CE of each corruption; its mean is mCE.

    Args:
        errors: error rates of the model, (R, S).
        reference: those of the reference model (AlexNet for ImageNet-C), (R, S).
        clean: error rates of both on clean data: gives the relative CE, of the increases.

    Returns:
        (R,); 1 means as bad as the reference (published numbers are in per cent).
    """
    _check_errors(errors, reference)
    ours, theirs = clean if clean is not None else (0.0, 0.0)
    return (errors - ours).sum(1) / (reference - theirs).sum(1)


# --8<-- [end:measures]


def _l2(x: Tensor) -> Tensor:
    return _column(_length(x.flatten(1)), x)  # (B, 1, …)


def _length(x: Tensor) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # float16 squares end at 65504
    square = wide.square().sum(-1)
    positive = torch.where(square > 0, square, 1.0)  # the root has no derivative at 0
    return torch.where(square > 0, positive.sqrt(), 0.0).to(x.dtype)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))  # (B,) -> (B, 1, …)


def _clamp(x: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    return x if bounds is None else x.clamp(*bounds)


def _check_ball(eps: float, norm: str) -> None:
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm must be 'linf' or 'l2', got {norm!r}")
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be finite and not negative, got {eps}")


def _check_attack(
    x: Tensor, y: Tensor, eps: float, norm: str, bounds: tuple[float, float] | None
) -> None:
    _check_ball(eps, norm)
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")
    if x.dim() < 2 or y.shape != x.shape[:1]:
        raise ValueError(f"need x (B, *) and y (B,), got {tuple(x.shape)}, {tuple(y.shape)}")
    if y.dtype != torch.int64:
        raise TypeError(f"y must be int64, got {y.dtype}")
    if bounds is None:
        return
    low, high = bounds
    if not low < high:
        raise ValueError(f"bounds must be (low, high), got {bounds}")
    if x.numel() and not (x.amin() >= low and x.amax() <= high):
        seen = f"{x.amin().item():g} to {x.amax().item():g}"
        raise ValueError(f"x must lie within bounds {bounds}, got {seen}")


def _check_steps(steps: int, step: float | None, restarts: int, random_start: bool) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if step is not None and not 0 <= step < math.inf:
        raise ValueError(f"step must be finite and not negative, got {step}")
    if restarts < 1:
        raise ValueError(f"restarts must be at least 1, got {restarts}")
    if restarts > 1 and not random_start:
        raise ValueError(f"without a random start all {restarts} restarts are the same")


def _check_image(
    x: Tensor, name: str, strength: float, axes: int | None = None, highest: float = math.inf
) -> None:
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")
    if axes is not None and x.dim() != axes:
        raise ValueError(f"x must be (B, C, H, W), got {tuple(x.shape)}")
    if not 0 <= strength <= highest or math.isinf(strength):
        raise ValueError(f"{name} must be finite, from 0 to {highest:g}, got {strength}")
    if x.numel() and not (x.amin() >= 0 and x.amax() <= 1):
        seen = f"{x.amin().item():g} to {x.amax().item():g}"
        raise ValueError(f"x must lie in 0 to 1, got {seen}")


def _check_errors(errors: Tensor, reference: Tensor) -> None:
    if errors.dim() != 2 or errors.shape != reference.shape:
        shapes = f"{tuple(errors.shape)}, {tuple(reference.shape)}"
        raise ValueError(f"errors and reference must both be (R, S), got {shapes}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(1530) % 2  # two classes of images: faint stripes across, faint stripes down
    wave = 0.5 + 0.04 * torch.tensor([1.0, 1, -1, -1], dtype=torch.float64).repeat(4)  # (16,)
    images = torch.stack([wave[:, None].expand(16, 16), wave.expand(16, 16)])[y]  # (B, 16, 16)
    x = gaussian_noise(images[:, None], 0.15, generator)  # (B, 1, 16, 16)

    means = torch.stack([x[:30][y[:30] == k].mean(0).flatten() for k in (0, 1)])  # (K, D)
    bias = -means.square().sum(1) / 2  # the nearest mean is the largest logit
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 2, dtype=torch.float64))
    model.load_state_dict({"1.weight": means, "1.bias": bias})
    seen, new = accuracy(model, x[:30], y[:30]), accuracy(model, x[30:], y[30:])
    print(f"train {seen:.2f}, test {new:.2f}, gap {seen - new:.2f}")

    x, y, levels = x[30:], y[30:], [0.0, 0.01, 0.02, 0.03]
    signs = 2 * torch.randint(0, 2, x.shape, generator=generator) - 1
    perturbations: dict[str, Callable[[Tensor, float], Tensor]] = {
        "random signs": lambda x, eps: (x + eps * signs).clamp(0, 1),
        "FGSM": lambda x, eps: fgsm(model, x, y, eps),
        "PGD": lambda x, eps: pgd(model, x, y, eps, generator=generator),
    }
    print(f"{'eps':<13}", *(f"{eps:.2f}" for eps in levels))
    for name, perturb in perturbations.items():
        print(f"{name:<13}", *(f"{a:.2f}" for a in accuracy_curve(model, x, y, perturb, levels)))
    exact = [linear_margin(means, bias, x.flatten(1), y, eps) > 0 for eps in levels]
    print(f"{'closed form':<13}", *(f"{robust.double().mean():.2f}" for robust in exact))
    # --8<-- [end:demo]
