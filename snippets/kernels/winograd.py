"""Winograd convolution: fewer multiplications for small kernels, the transforms derived exactly.

Paper: Winograd, "Arithmetic Complexity of Computations", SIAM, 1980 (minimal filtering F(m, r)).
       https://doi.org/10.1137/1.9781611970364
       Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.
       https://arxiv.org/abs/1509.09308
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  B batch, C input channels, O output channels, H and W input, HO and WO output, KH and KW
       kernel, M outputs along the side of a tile, NH = M + KH - 1 and NW = M + KW - 1 its inputs,
       TH and TW tiles along an axis, P = B * TH * TW all tiles.
"""

# --8<-- [start:imports]
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = int | tuple[int, int]  # (height, width), or one number for both
# --8<-- [end:imports]

__all__ = [
    "POINTS",
    "Transforms",
    "WinogradCost",
    "error_growth",
    "transforms",
    "winograd_conv2d",
    "winograd_cost",
]


# --8<-- [start:transforms]
Matrix = tuple[tuple[Fraction, ...], ...]

# Small numbers and their reciprocals: large powers cost precision. Infinity is always added.
POINTS = (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2))


class Transforms(NamedTuple):
    """F(m, r): m neighbouring outputs of a filter of r taps are at @ ((g @ w) * (bt @ x))."""

    at: Matrix  # (m, n) with n = m + r - 1
    g: Matrix  # (n, r)
    bt: Matrix  # (n, n)


def transforms(m: int, r: int, points: Sequence[int | Fraction] | None = None) -> Transforms:
    """Derive the matrices of F(m, r) from the points at which polynomials are evaluated.

    Args:
        m: outputs; r: taps of the filter.
        points: m + r - 2 different numbers, exact; None: the first of POINTS.

    Returns:
        Matrices of exact fractions, one row (in `at`: column) a point, infinity last.

    Raises:
        ValueError: m or r is not positive, or the points are too few, too many or not distinct.
    """
    p = _checked_points(m, r, points)  # n - 1 of them
    at = [[x**i for i in range(m)] for x in p]  # values of a polynomial of m coefficients
    g = [[x**j for j in range(r)] for x in p]  # and of one of r
    bt: list[list[Fraction]] = []
    for i, x in enumerate(p):
        others = p[:i] + p[i + 1 :]
        norm = math.prod((x - y for y in others), start=Fraction(1))
        bt.append([*_from_roots(others), Fraction(0)])  # Lagrange's polynomial, times norm
        g[i] = [value / norm for value in g[i]]  # ... which the filter pays, once
    at.append([Fraction(i == m - 1) for i in range(m)])  # infinity: the leading coefficient
    g.append([Fraction(j == r - 1) for j in range(r)])
    bt.append(_from_roots(p))  # vanishes at all the other points
    return Transforms(tuple(zip(*at, strict=True)), _frozen(g), _frozen(bt))


def _from_roots(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients, the constant first, of the product of (x - root)."""
    poly, zero = [Fraction(1)], Fraction(0)
    for root in roots:
        poly = [a - root * b for a, b in zip([zero, *poly], [*poly, zero], strict=True)]
    return poly


# --8<-- [end:transforms]


# --8<-- [start:core]
def winograd_conv2d(
    x: Tensor,
    weight: Tensor,
    padding: Pair = 0,
    tile: int = 2,
    points: Sequence[int | Fraction] | None = None,
) -> Tensor:
    """Convolve as F.conv2d with stride 1 does, by F(tile x tile, KH x KW).

    Args:
        x: input, (B, C, H, W), floating point.
        weight: kernels, (O, C, KH, KW), applied without flipping (cross-correlation).
        padding: zeros at each end of the axis.
        tile: outputs along the side of a tile; 2 and 4 are what libraries use for 3 x 3.
        points: as for `transforms`, tile + K - 2 of them, for both axes: square kernels only.

    Returns:
        Output (B, O, HO, WO). In float16 and bfloat16 the transformed tiles and kernels are
        rounded to this precision, as for a matrix unit; transforms and sums are in float32
        (in TF32 on a GPU where torch.set_float32_matmul_precision asks for less).

    Raises:
        ValueError: shapes do not fit, a parameter is out of range, or too few points are known.
        TypeError: x and weight are not of one floating dtype.
    """
    _check(x, weight)
    kh, kw = weight.shape[2:]
    ho, wo = _output_size(x.shape[2:], weight.shape[2:], padding)
    rows, columns = transforms(tile, kh, points), transforms(tile, kw, points)
    with torch.autocast(x.device.type, enabled=False):
        y = _tiles(x, weight, _pair(padding), (ho, wo), tile, rows, columns)
    return y[:, :, :ho, :wo].to(x.dtype)


def _tiles(
    x: Tensor,
    weight: Tensor,
    padding: tuple[int, int],
    size: tuple[int, int],
    tile: int,
    rows: Transforms,
    columns: Transforms,
) -> Tensor:
    """Compute whole tiles of the output, (B, O, TH * M, TW * M)."""
    dtype, wide = x.dtype, torch.promote_types(x.dtype, torch.float32)

    # Kernels: once for all images.
    u = _both(rows.g, columns.g, weight.to(wide))  # (O, C, NH, NW)
    u = u.to(dtype).to(wide).permute(2, 3, 0, 1)  # (NH, NW, O, C)

    # Input: tiles overlap by K - 1; zeros fill up the last ones.
    (ph, pw), (th, tw) = padding, (-(-n // tile) for n in size)
    x = F.pad(x.to(wide), (pw, pw + tw * tile - size[1], ph, ph + th * tile - size[0]))
    tiles = x.unfold(2, len(rows.bt), tile).unfold(3, len(columns.bt), tile)
    v = _both(rows.bt, columns.bt, tiles)  # (B, C, TH, TW, NH, NW)
    v = v.to(dtype).to(wide).permute(4, 5, 1, 0, 2, 3)  # (NH, NW, C, B, TH, TW)

    # One matrix product for each of the NH * NW places: here are all the multiplications.
    product = (u @ v.flatten(3)).reshape(*u.shape[:3], *v.shape[3:])  # (NH, NW, O, B, TH, TW)

    y = _both(rows.at, columns.at, product.permute(3, 2, 4, 5, 0, 1))  # (B, O, TH, TW, M, M)
    return y.transpose(3, 4).flatten(4, 5).flatten(2, 3)  # (B, O, TH * M, TW * M)


def _both(rows: Matrix, columns: Matrix, x: Tensor) -> Tensor:
    """Transform the last two axes: rows @ x @ columns.T."""
    left, right = (
        torch.tensor([[float(v) for v in row] for row in matrix], dtype=x.dtype, device=x.device)
        for matrix in (rows, columns)
    )
    return left @ x @ right.T


# --8<-- [end:core]


# --8<-- [start:error]
def error_growth(matrices: Transforms) -> float:
    """Tell by what factor the rounding of random transformed tiles counts in the output.

    The error of F(m x m, r x r) relative to the output, as root mean square, is this times that
    of a rounded number, for tiles and kernels each.
    """
    at, g, bt = matrices
    power = [_square(a) * _square(b) for a, b in zip(g, bt, strict=True)]  # of each product
    total = sum(a * a * p for row in at for a, p in zip(row, power, strict=True))
    return float(total / (len(at) * len(g[0])))  # an output alone has the power r


def _square(row: tuple[Fraction, ...]) -> Fraction:
    return sum((value * value for value in row), Fraction(0))


# --8<-- [end:error]


# --8<-- [start:cost]
class WinogradCost(NamedTuple):
    """What one convolution takes, forwards; a multiplication or an addition is one FLOP."""

    direct: int  # FLOP of the definition
    products: int  # FLOP of the NH * NW matrix products, as many multiplications as additions
    transforms: int  # FLOP on input and output, nothing shared, no 0 added, no 1 multiplied
    kernels: int  # the same on the kernels, once after each update
    numbers: int  # input, kernels and output
    tiles: int  # numbers in the transformed input and in the products, written and read again


def winograd_cost(
    x_shape: tuple[int, int, int, int],
    weight_shape: tuple[int, int, int, int],
    padding: Pair = 0,
    tile: int = 2,
) -> WinogradCost:
    """Count for the shapes (B, C, H, W) and (O, C, KH, KW)."""
    (b, c, h, w), (o, _, kh, kw) = x_shape, weight_shape
    ho, wo = _output_size((h, w), (kh, kw), padding)
    rows, columns = transforms(tile, kh), transforms(tile, kw)
    nh, nw = len(rows.bt), len(columns.bt)
    p = b * -(-ho // tile) * -(-wo // tile)  # tiles
    # First the columns of a tile, one by one, then the rows of what came out.
    ins = _flops(rows.bt) * nw + nh * _flops(columns.bt)
    outs = _flops(rows.at) * nw + tile * _flops(columns.at)
    once = _flops(rows.g) * kw + nh * _flops(columns.g)
    return WinogradCost(
        direct=2 * b * o * ho * wo * c * kh * kw,
        products=2 * p * o * c * nh * nw,
        transforms=p * (c * ins + o * outs),
        kernels=o * c * once,
        numbers=b * c * h * w + o * c * kh * kw + b * o * ho * wo,
        tiles=p * (c + o) * nh * nw,
    )


def _flops(matrix: Matrix) -> int:
    """Operations of matrix @ vector: additions of what is not 0, products with what is not 1."""
    rows = [[value for value in row if value] for row in matrix]
    return sum(len(row) - 1 + sum(abs(value) != 1 for value in row) for row in rows)


# --8<-- [end:cost]


def _frozen(rows: list[list[Fraction]]) -> Matrix:
    return tuple(tuple(row) for row in rows)


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _checked_points(m: int, r: int, points: Sequence[int | Fraction] | None) -> list[Fraction]:
    if min(m, r) < 1:
        raise ValueError(f"m and r must be at least 1, got {m}, {r}")
    need = m + r - 2
    if points is None:
        if need > len(POINTS):
            raise ValueError(f"F({m}, {r}) takes {need} points, known are {len(POINTS)}")
        points = POINTS[:need]
    result = [Fraction(point) for point in points]
    if len(result) != need:
        raise ValueError(f"F({m}, {r}) takes {need} points, got {len(result)}")
    if len(set(result)) < need:
        raise ValueError(f"points must be distinct, got {[str(x) for x in result]}")
    return result


def _output_size(x: Sequence[int], kernel: Sequence[int], padding: Pair) -> tuple[int, int]:
    pads = _pair(padding)
    if min(pads) < 0:
        raise ValueError(f"padding must not be negative, got {padding}")
    if min(kernel) < 1:
        raise ValueError(f"the kernel must have a cell, got {tuple(kernel)}")
    h, w = (n + 2 * p - k + 1 for n, k, p in zip(x, kernel, pads, strict=True))
    if min(h, w) < 1:
        raise ValueError(f"a kernel of {tuple(kernel)} does not fit into {tuple(x)} + 2 * {pads}")
    return h, w


def _check(x: Tensor, weight: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must be (B, C, H, W), got {tuple(x.shape)}")
    if weight.ndim != 4:
        raise ValueError(f"weight must be (O, C, KH, KW), got {tuple(weight.shape)}")
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"x and weight differ in C: {tuple(x.shape)}, {tuple(weight.shape)}")
    if not (x.is_floating_point() and x.dtype == weight.dtype):
        raise TypeError(
            f"x and weight must share one floating dtype, got {x.dtype}, {weight.dtype}"
        )


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 16, 15, 13, generator=generator)  # no multiple of any tile
    weight = torch.randn(8, 16, 3, 3, generator=generator)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    for tile in (2, 4, 6):
        out = winograd_conv2d(x, weight, padding=1, tile=tile)
        same = torch.allclose(out.double(), exact, atol=1e-3)
        print(f"F({tile}x{tile}, 3x3)", tuple(out.shape), same)

    for name, matrix in zip(("A^T", "G", "B^T"), transforms(2, 3), strict=True):
        print(name, "; ".join(" ".join(f"{v!s:>4}" for v in row) for row in matrix))
    # --8<-- [end:demo]
