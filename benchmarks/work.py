"""The arithmetic of a comparison: what must be computed and moved, and the least time for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4}
# Which ceiling bounds which amount, and the name of the bound when it does.
BOUNDS = {"flops": ("matmul", "mma"), "bytes": ("copy", "memory"), "exps": ("exp", "exp")}


@dataclass(frozen=True)
class Work:
    """What one call cannot do without.

    flops   multiplications and additions of the matrix products
    bytes   each input read once, each output written once
    exps    exponentials
    """

    flops: int
    bytes: int
    exps: int


def _attention(shape: Mapping[str, int], name: str, causal: bool, itemsize: int) -> Work:
    """Causal counts half of the scores, as the papers do."""
    B, H, G, N, M, D = (shape[axis] for axis in "BHGNMD")
    pairs = B * H * N * M // (2 if causal else 1)
    return _products(name, pairs, D, itemsize, B * H * N * D, B * G * M * D)


def _sliding(shape: Mapping[str, int], name: str, causal: bool, itemsize: int) -> Work:
    """The scores inside the band, one by one; the window holds w keys, the query's own included."""
    B, H, G, N, D, w = (shape[axis] for axis in "BHGNDw")
    w = min(w, N)
    pairs = B * H * (N * w - w * (w - 1) // 2)
    return _products(name, pairs, D, itemsize, B * H * N * D, B * G * N * D)


def _window(shape: Mapping[str, int], name: str, causal: bool, itemsize: int) -> Work:
    """Every token with all tokens of its window; those of other regions are masked, not saved."""
    tokens = shape["B"] * shape["height"] * shape["width"]
    pairs = tokens * shape["H"] * shape["window"] ** 2
    values = tokens * shape["H"] * shape["D"]
    return _products(name, pairs, shape["D"], itemsize, values, values)


def _products(name: str, pairs: int, D: int, itemsize: int, queries: int, keys: int) -> Work:
    """Forward: 2 products; q k v read, out written. Backward: 5; dout too, dq dk dv written."""
    if name == "forward":
        return Work(4 * pairs * D, itemsize * (2 * queries + 2 * keys), pairs)
    return Work(10 * pairs * D, itemsize * (3 * queries + 4 * keys), pairs)


def _convolution(shape: Mapping[str, int], name: str, causal: bool, itemsize: int) -> Work:
    """Each pass has one product, reads two of input, weight and output, and writes the third."""
    if "L" in shape:
        B, C, L, k = (shape[axis] for axis in "BCLk")
        return Work(2 * B * C * L * k, itemsize * (2 * B * C * L + C * k), 0)
    N, C, K, R, side = (shape[axis] for axis in ("N", "C", "K", "R", "side"))
    reach = shape["dilation"] * (R - 1) + 1
    pixels = N * ((side + 2 * shape["padding"] - reach) // shape["stride"] + 1) ** 2
    taps = R * R * C // shape["groups"]
    whole = shape["stride"] <= R or name == "dgrad"  # else pixels between windows stay
    values = (N * side**2 if whole else pixels) * C + K * taps + pixels * K
    if "residual" in shape:  # scale, shift and what is added
        values += 2 * K + pixels * K
    return Work(2 * pixels * K * taps, itemsize * values, 0)


FORMULAS: dict[str, Callable[[Mapping[str, int], str, bool, int], Work]] = {
    "attention": _attention,
    "sliding": _sliding,
    "window": _window,
    "convolution": _convolution,
    "depthwise": _convolution,
}


def work(row: Mapping[str, Any]) -> Work | None:
    """Of a row, from its shape; None for a suite whose work is not counted."""
    formula = FORMULAS.get(row["suite"])
    if formula is None:
        return None
    return formula(row["shape"], row["pass"], bool(row["causal"]), ITEMSIZE[row["dtype"]])


def floor(amount: Work, ceilings: Mapping[str, float]) -> tuple[float, str]:
    """Least time in ms on a machine of these ceilings (per second), and what sets it.

    All units work at the same time: the slowest decides. A launch bounds what is shorter.
    """
    times = {
        bound: 1000 * getattr(amount, what) / ceilings[kind]
        for what, (kind, bound) in BOUNDS.items()
        if kind in ceilings
    }
    if "launch" in ceilings:
        times["launch"] = 1000 / ceilings["launch"]
    bound = max(times, key=lambda name: times[name])
    return times[bound], bound
