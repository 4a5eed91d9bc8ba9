# pyright: basic, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
"""Depthwise convolution in two and in one dimension, forward and both gradients, in Triton.

Paper: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
       Applications", 2017, section 3.1. https://arxiv.org/abs/1704.04861
       Ding et al., "Scaling Up Your Kernels to 31x31: Revisiting Large Kernel Design in CNNs",
       CVPR 2022. https://arxiv.org/abs/2203.06717
       Gu, Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023.
       https://arxiv.org/abs/2312.00752
Needs: Python >= 3.10, torch >= 2.10 on Linux with a CUDA GPU (its Triton >= 3.6), nothing else;
       copy this file as it is. Without a GPU: TRITON_INTERPRET=1 in the environment.
Axes:  B batch, C channels, H and W input, HO and WO output, R and S filter, L length.
"""

# --8<-- [start:imports]
import functools
import os
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

if __name__ == "__main__" and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # lets the demo run on a CPU, one operation at a time

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
# --8<-- [end:imports]

__all__ = ["causal_conv1d", "depthwise_conv2d_kernel"]


# --8<-- [start:taps]
@triton.jit
def _add_taps(
    sums, at, weight_at, y, x, here, real, H, W, stride_y,
    C: tl.constexpr, PITCH: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    STRIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add R rows of a filter to ROWS x COLUMNS sums; an input is loaded once for all of them."""
    weights = ()
    for j in tl.static_range((ROWS - 1) * STRIDE + R):
        if j < R:
            for s in tl.static_range(S):
                weight = tl.load(weight_at + (j * S + s) * C, mask=real, other=0.0)
                weights += (weight.to(tl.float32),)
        row_inside = here & _within(y + j, H)
        for k in tl.static_range((COLUMNS - 1) * STRIDE + S):
            value = tl.load(at + k * PITCH, mask=row_inside & _within(x + k, W), other=0.0)
            value = value.to(tl.float32)  # (TILES, CHANNELS)
            added = ()
            for i in tl.static_range(ROWS):
                for o in tl.static_range(COLUMNS):
                    total = sums[i * COLUMNS + o]
                    if (j >= i * STRIDE and j < i * STRIDE + R) and (
                        k >= o * STRIDE and k < o * STRIDE + S
                    ):  # a tap brings this input to this output
                        weight = weights[(j - i * STRIDE) * S + k - o * STRIDE]
                        total = tl.fma(value, weight, total)
                    added += (total,)
            sums = added
        at += stride_y
    return sums


@triton.jit
def _within(place, size):
    """0 <= place < size, in one comparison: a negative number is a large unsigned one."""
    return place.to(tl.uint32, bitcast=True) < size


# --8<-- [end:taps]


# --8<-- [start:tiles]
@triton.jit
def _place(group, HO, WO, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILES: tl.constexpr):
    """Image, first row and column of the tiles of a group, which lie below each other."""
    down, across = tl.cdiv(HO, ROWS), tl.cdiv(WO, COLUMNS)
    tile = group * TILES + tl.arange(0, TILES)[:, None]
    image = tile // (down * across)
    return image, tile % down * ROWS, tile // down % across * COLUMNS


# --8<-- [end:tiles]


# --8<-- [start:direct]
@triton.jit
def _direct_kernel(
    X, Weight, Bias, Grad, Out, B, H, W, HO, WO, stride_b, stride_y,
    lead_y, lead_x, shift_y, shift_x,
    C: tl.constexpr, PITCH: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, STRIDE: tl.constexpr, STEP: tl.constexpr,
    SILU: tl.constexpr, TAKEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    TILES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # One program: a block of channels of a group of tiles, one phase of STEP x STEP.
    blocks = tl.cdiv(C, CHANNELS)
    program = tl.program_id(0)
    channel = program % blocks * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    phase_y, phase_x = program // blocks // STEP % STEP, program // blocks % STEP
    group = program // (blocks * STEP * STEP)
    image, i, o = _place(group, tl.cdiv(HO, STEP), tl.cdiv(WO, STEP), ROWS, COLUMNS, TILES)
    row, column = i * STEP + phase_y, o * STEP + phase_x  # of the output
    y = (row * STRIDE + shift_y) // STEP - lead_y  # first input that it sees
    x = (column * STRIDE + shift_x) // STEP - lead_x

    here = (image < B) & (channel < C)  # (TILES, CHANNELS)
    at = X + image.to(tl.int64) * stride_b + (y * stride_y + x * PITCH + channel)
    filter = (phase_y + shift_y) % STEP * STEP + (phase_x + shift_x) % STEP
    channels = tl.broadcast_to(channel, (TILES, CHANNELS))
    weight_at, real = Weight + filter * (R * S * C) + channels, channels < C
    bias = tl.zeros([TILES, CHANNELS], tl.float32)
    if Bias is not None:
        bias = tl.load(Bias + channels, mask=real, other=0.0).to(tl.float32)
    sums = ()
    for _ in tl.static_range(ROWS * COLUMNS):
        sums += (bias,)
    for r in range(0, R, TAKEN):
        sums = _add_taps(
            sums, at + r * stride_y, weight_at + r * S * C, y + r, x, here, real, H, W,
            stride_y, C, PITCH, TAKEN, S, STRIDE, ROWS, COLUMNS,
        )  # fmt: skip

    to = image.to(tl.int64) * (HO * WO * C) + ((row * WO + column) * C + channel)
    for place in tl.static_range(ROWS * COLUMNS):
        total = sums[place]
        down, right = place // COLUMNS * STEP, place % COLUMNS * STEP
        inside = here & (row + down < HO) & (column + right < WO)
        if SILU:
            gate = 1 / (1 + tl.exp(-total))
            if Grad is None:
                total = total * gate
            else:  # of the activation
                grad = tl.load(Grad + to + (down * WO + right) * C, mask=inside, other=0.0)
                grad = grad.to(tl.float32)
                total = grad * gate * (1 + total * (1 - gate))
        tl.store(Out + to + (down * WO + right) * C, total.to(Out.dtype.element_ty), mask=inside)


# --8<-- [end:direct]


# --8<-- [start:weights]
@triton.jit
def _weight_kernel(
    X, Grad, Part, B, H, W, HO, WO, stride_b, stride_y, lead_y, lead_x, parts,
    C: tl.constexpr, PITCH: tl.constexpr, R: tl.constexpr, S: tl.constexpr, STRIDE: tl.constexpr,
    TAKEN: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    TILES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # One program: a block of channels, TAKEN x SPAN taps, every parts-th group of tiles.
    blocks, spans = tl.cdiv(C, CHANNELS), tl.cdiv(S, SPAN)
    program = tl.program_id(0)
    channel = program % blocks * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    r_first = program // blocks // spans % (R // TAKEN) * TAKEN
    s_first = program // blocks % spans * SPAN
    part = program // (blocks * spans * (R // TAKEN))
    groups = tl.cdiv(B * tl.cdiv(HO, ROWS) * tl.cdiv(WO, COLUMNS), TILES)
    sums = ()
    for _ in tl.static_range(TAKEN * SPAN):
        sums += (tl.zeros([TILES, CHANNELS], tl.float32),)
    for group in range(part, groups, parts):
        image, row, column = _place(group, HO, WO, ROWS, COLUMNS, TILES)
        y, x = row * STRIDE + r_first - lead_y, column * STRIDE + s_first - lead_x
        here = (image < B) & (channel < C)
        at = X + image.to(tl.int64) * stride_b + (y * stride_y + x * PITCH + channel)
        grad_at = Grad + image.to(tl.int64) * (HO * WO * C) + ((row * WO + column) * C + channel)
        grads = ()
        for place in tl.static_range(ROWS * COLUMNS):
            down, right = place // COLUMNS, place % COLUMNS
            inside = here & (row + down < HO) & (column + right < WO)
            grad = tl.load(grad_at + (down * WO + right) * C, mask=inside, other=0.0)
            grads += (grad.to(tl.float32),)
        for j in tl.static_range((ROWS - 1) * STRIDE + TAKEN):
            row_inside = here & _within(y + j, H)
            for k in tl.static_range((COLUMNS - 1) * STRIDE + SPAN):
                value = tl.load(at + k * PITCH, mask=row_inside & _within(x + k, W), other=0.0)
                value = value.to(tl.float32)
                added = ()
                for r in tl.static_range(TAKEN):
                    for s in tl.static_range(SPAN):
                        total = sums[r * SPAN + s]
                        for place in tl.static_range(ROWS * COLUMNS):
                            if (j == place // COLUMNS * STRIDE + r) and (
                                k == place % COLUMNS * STRIDE + s
                            ):
                                total = tl.fma(value, grads[place], total)
                        added += (total,)
                sums = added
            at += stride_y
    line = tl.arange(0, CHANNELS) + program % blocks * CHANNELS
    for tap in tl.static_range(TAKEN * SPAN):
        r, s = r_first + tap // SPAN, s_first + tap % SPAN
        to = Part + ((part * R + r) * S + s) * C + line
        tl.store(to, tl.sum(sums[tap], 0), mask=(line < C) & (s < S))


# --8<-- [end:weights]


# --8<-- [start:band]
@triton.jit
def _dot(a, b, acc):
    if INTERPRETED:  # which would multiply the bits of a bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def _planes_kernel(
    X, Planes, B, C, H, W, stride_b, stride_y, stride_x, pieces,
    BACK: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # One program: some of one row of one image, between (B, H, W, C) and (C, H, B, 8 * pieces).
    blocks, across = tl.cdiv(C, CHANNELS), tl.cdiv(pieces * 8, COLUMNS)
    program = tl.program_id(0)
    channel = (program % blocks * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    column = (program // blocks % across * COLUMNS + tl.arange(0, COLUMNS))[:, None]
    line = program // (blocks * across)
    y, image = line // B, line % B
    inside = (column < W) & (channel < C)
    at = X + image.to(tl.int64) * stride_b + (y * stride_y + column * stride_x + channel)
    plane = Planes + ((channel.to(tl.int64) * H + y) * B + image) * (pieces * 8) + column
    padded = (column < pieces * 8) & (channel < C)  # zeros at the end
    if BACK:
        tl.store(at, tl.load(plane, mask=padded, other=0.0), mask=inside)
    else:
        tl.store(plane, tl.load(at, mask=inside, other=0.0), mask=padded)


@triton.jit
def _band_kernel(
    X, Weight, Bias, Out, B, H, W, HO, WO, pieces, out_pieces, pad_y, pad_x, R, S,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LINES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    # One program: of one channel, LINES bundles of ROWS output rows, COLUMNS columns of each.
    bundles, across = B * tl.cdiv(HO, ROWS), tl.cdiv(WO, COLUMNS)
    program = tl.program_id(0)
    parts = tl.cdiv(bundles, LINES)
    line = program % parts * LINES + tl.arange(0, LINES)
    w_first = program // parts % across * COLUMNS
    channel = (program // (parts * across)).to(tl.int64)
    image, row = line % B, line // B * ROWS  # (LINES,)
    place = tl.arange(0, ROWS * COLUMNS)
    i, w = place // COLUMNS, w_first + place % COLUMNS

    # The inputs that these outputs see: columns from w_start on, rows that are not all outside.
    w_start = tl.maximum(w_first - pad_x, 0) // 8 * 8  # 16 bytes
    w_end = tl.minimum(w_first - pad_x + COLUMNS + S - 1, W)
    chunks = tl.cdiv(tl.maximum(w_end - w_start, 0), DEPTH)
    top = program % parts * LINES // B * ROWS
    bottom = (tl.minimum((program % parts + 1) * LINES, bundles) - 1) // B * ROWS
    first = tl.maximum(pad_y - bottom, 0)
    last = tl.maximum(tl.minimum(H + pad_y - top, R + ROWS - 1), first)

    sums = tl.zeros([LINES, ROWS * COLUMNS], tl.float32)
    for step in range(first * chunks, last * chunks):
        down = step // chunks
        column = w_start + step % chunks * DEPTH + tl.arange(0, DEPTH)
        y = row + down - pad_y
        at = X + ((channel * H + y) * B + image)[:, None] * (pieces * 8) + column[None, :]
        inside = ((line < bundles) & (y >= 0) & (y < H))[:, None] & (column < pieces * 8)[None, :]
        x = tl.load(at, mask=inside, other=0.0)  # (LINES, DEPTH)
        r = (down - i)[None, :]
        s = column[:, None] - w[None, :] + pad_x
        tap = (r >= 0) & (r < R) & (s >= 0) & (s < S)
        band = tl.load(Weight + (channel * R + r) * S + s, mask=tap, other=0.0)
        sums = _dot(x, band, sums)  # (LINES, ROWS*COLUMNS)

    if Bias is not None:
        sums += tl.load(Bias + channel).to(tl.float32)
    y = row[:, None] + i[None, :]
    to = Out + ((channel * HO + y) * B + image[:, None]) * (out_pieces * 8) + w[None, :]
    inside = (line < bundles)[:, None] & (y < HO) & (w < out_pieces * 8)[None, :]
    tl.store(to, sums.to(Out.dtype.element_ty), mask=inside)


@triton.jit
def _band_weight_kernel(
    X, Grad, Part, B, H, W, HO, WO, pieces, grad_pieces, pad_y, pad_x, R, S,
    COLUMNS: tl.constexpr, LINES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    # One program: the band of one channel, one row of its filter, COLUMNS outputs, DEPTH inputs.
    across, chunks = tl.cdiv(WO, COLUMNS), tl.cdiv(tl.minimum(COLUMNS + S + 6, W), DEPTH)
    program = tl.program_id(0)
    r = program // (chunks * across) % R
    channel = (program // (chunks * across * R)).to(tl.int64)
    w_first = program // chunks % across * COLUMNS
    w_start = tl.maximum(w_first - pad_x, 0) // 8 * 8 + program % chunks * DEPTH
    w = w_first + tl.arange(0, COLUMNS)
    column = w_start + tl.arange(0, DEPTH)

    first = tl.maximum(pad_y - r, 0)  # outputs whose input is a row of the map
    last = tl.minimum(H + pad_y - r, HO)
    sums = tl.zeros([DEPTH, COLUMNS], tl.float32)
    for step in range(first * B, last * B, LINES):
        line = step + tl.arange(0, LINES)  # of all rows of all images
        inside = (line < last * B)[:, None]
        at = Grad + (channel * HO * B + line)[:, None] * (grad_pieces * 8) + w[None, :]
        real = inside & (w < grad_pieces * 8)[None, :]
        grad = tl.load(at, mask=real, other=0.0)  # (LINES, COLUMNS)
        at = (
            X + (channel * H * B + line + (r - pad_y) * B)[:, None] * (pieces * 8) + column[None, :]
        )
        x = tl.load(at, mask=inside & (column < pieces * 8)[None, :], other=0.0)  # (LINES, DEPTH)
        sums = _dot(tl.trans(x), grad, sums)  # (DEPTH, COLUMNS)

    # A tap is a diagonal. Each output column stores its own piece; all are added up afterwards.
    s = column[:, None] - w[None, :] + pad_x
    to = Part + ((channel * R + r) * across * COLUMNS + w[None, :]) * S + s
    tl.store(to, sums, mask=(s >= 0) & (s < S) & (column < W)[:, None])


# --8<-- [end:band]


# --8<-- [start:launch]
@dataclass(frozen=True)
class _Config:
    """How a direct kernel is launched."""

    taken: int  # rows of the filter whose weights are held at a time; divides R
    rows: int  # tile of a thread
    columns: int
    tiles: int  # of a program
    channels: int  # of a program
    warps: int
    span: int = 8  # taps of a row at a time, weight gradient
    programs: int = 8  # wanted for each multiprocessor, weight gradient


@dataclass(frozen=True)
class _BandConfig:
    """How a band kernel is launched: a product of (lines, depth) and (depth, rows*columns)."""

    rows: int
    columns: int
    lines: int
    depth: int
    warps: int
    stages: int


def _power_of_2(least: int) -> int:
    return 1 << max(least - 1, 0).bit_length()


def _config(x: Tensor, R: int, S: int, stride: int, weights: bool = False) -> _Config:
    """Tiles that the registers hold, as the compiler says: see the assertions of the test."""
    line = 128 // x.element_size()  # 128 bytes, or half of it where fewer threads stay idle
    channels = min(line, line // 2, key=lambda n: triton.cdiv(x.shape[1], n) * n)
    channels = min(_power_of_2(x.shape[1]), channels)
    tiles = max(1, 512 // channels)  # 4 channels a thread
    if weights:
        taken = R if R * S * stride <= 25 else 1
        rows, columns = 4 if R * S * stride <= 9 else 2, 4
    elif R == 1:
        taken, rows, columns = 1, 1, 16
    elif R * S <= 25:
        taken, rows, columns = R, 4 // stride, 4
    elif R * S <= 49 and stride == 1:
        taken, rows, columns = R, 2, 8
    else:
        taken, rows, columns = 1, 1, 8
    return _Config(taken, rows, columns, tiles, channels, warps=4)


def _band_config(W: int, S: int, weights: bool = False) -> _BandConfig:
    columns = 16 if W <= 16 else 32
    depth = min(64, max(16, _power_of_2(min(columns + S - 1, W))))
    if weights:
        return _BandConfig(1, max(columns, 16), 64, depth, warps=4, stages=3)
    return _BandConfig(128 // columns, columns, 128, depth, warps=8, stages=3)


def _by_bands(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether the matrix units are worth the trouble: see the page."""
    large = stride == 1 and min(weight.shape[2:]) >= 13
    return large and x.dtype != torch.float32 and x.numel() > 0


def _arranged(weight: Tensor, step: int = 1) -> Tensor:
    """Channels innermost, (step*step, R', S', C): tap t of phase p is tap t*step + p."""
    C, _, R, S = weight.shape
    R, S = -(-R // step), -(-S // step)  # of a phase
    more = (0, S * step - weight.shape[3], 0, R * step - weight.shape[2])
    weight = torch.nn.functional.pad(weight, more).reshape(C, R, step, S, step)
    return weight.permute(2, 4, 1, 3, 0).reshape(step * step, R, S, C).contiguous()


def _empty(x: Tensor, *shape: int) -> Tensor:
    """(B, C, H, W) with channels innermost in memory."""
    B, C, H, W = shape
    return x.new_empty(B, H, W, C).permute(0, 3, 1, 2)


def _direct(
    x: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor | None, size: tuple[int, ...],
    lead: tuple[int, ...], shift: tuple[int, ...], stride: int, step: int, silu: bool,
    config: _Config | None,
) -> Tensor:  # fmt: skip
    (B, C, H, W), (HO, WO), (R, S) = x.shape, size, weight.shape[1:3]
    config = config or _config(x, R, S, stride)
    out = _empty(x, B, C, HO, WO)
    if not out.numel():
        return out
    down = triton.cdiv(triton.cdiv(HO, step), config.rows)
    across = triton.cdiv(triton.cdiv(WO, step), config.columns)
    groups = triton.cdiv(B * down * across, config.tiles)
    _direct_kernel[(triton.cdiv(C, config.channels) * step * step * groups,)](
        x, weight, bias, grad, out, B, H, W, HO, WO, x.stride(0), x.stride(2), *lead, *shift,
        C=C, PITCH=x.stride(3), R=R, S=S, STRIDE=stride, STEP=step, SILU=silu, TAKEN=config.taken,
        ROWS=config.rows, COLUMNS=config.columns, TILES=config.tiles, CHANNELS=config.channels,
        num_warps=config.warps,
    )  # fmt: skip
    return out


def _to_planes(x: Tensor) -> Tensor:
    """(B, C, H, W), channels innermost, as (C, H, B, 8 * pieces): rows start at 16 bytes."""
    B, C, H, W = x.shape
    planes = x.new_empty(C, H, B, triton.cdiv(W, 8) * 8)
    _planes(x, planes, back=False)
    return planes


def _planes(x: Tensor, planes: Tensor, back: bool) -> None:
    B, C, H, W = x.shape
    pieces = planes.shape[3] // 8
    grid = (B * H * triton.cdiv(pieces, 4) * triton.cdiv(C, 64),)
    strides = (x.stride(0), x.stride(2), x.stride(3))
    _planes_kernel[grid](
        x, planes, B, C, H, W, *strides, pieces,
        BACK=back, COLUMNS=32, CHANNELS=64, num_warps=4,
    )  # fmt: skip


def _bands(
    planes: Tensor, weight: Tensor, bias: Tensor | None, W: int, size: tuple[int, ...],
    pad: tuple[int, ...], config: _BandConfig | None,
) -> Tensor:  # fmt: skip
    (C, H, B, _), (HO, WO), (R, S) = planes.shape, size, weight.shape[2:]
    config = config or _band_config(W, S)
    result = planes.new_empty(C, HO, B, triton.cdiv(WO, 8) * 8)
    parts = triton.cdiv(B * triton.cdiv(HO, config.rows), config.lines)
    pieces = planes.shape[3] // 8, result.shape[3] // 8
    _band_kernel[(C * triton.cdiv(WO, config.columns) * parts,)](
        planes, weight, bias, result, B, H, W, HO, WO, *pieces, *pad, R, S,
        ROWS=config.rows, COLUMNS=config.columns, LINES=config.lines, DEPTH=config.depth,
        num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    out = _empty(planes, B, C, HO, WO)
    _planes(out, result, back=True)
    return out


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, pad: tuple[int, ...],
    size: tuple[int, ...], silu: bool = False, config: _Config | _BandConfig | None = None,
) -> Tensor:  # fmt: skip
    """Output (B, C, HO, WO), channels innermost."""
    x = _aligned(x)
    if config is None and _by_bands(x, weight, stride):
        config = _band_config(x.shape[3], weight.shape[3])
    if isinstance(config, _BandConfig):
        return _bands(_to_planes(x), weight.contiguous(), bias, x.shape[3], size, pad, config)
    return _direct(x, _arranged(weight), bias, None, size, pad, (0, 0), stride, 1, silu, config)


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int,
    pad: tuple[int, ...], silu: bool = False, needs: tuple[bool, ...] = (True,) * 3,
    config: _Config | _BandConfig | None = None, of_weight: _Config | _BandConfig | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x and, in float32, of weight and bias; empty ones where not needed."""
    x, grad = _aligned(x), _aligned(grad)
    (H, W), (HO, WO), (R, S) = x.shape[2:], grad.shape[2:], weight.shape[2:]
    if silu:  # first the gradient of what went into the activation
        grad = grad.contiguous(memory_format=torch.channels_last)
        options = ((0, 0), stride, 1, True, None)
        grad = _direct(x, _arranged(weight), bias, grad, (HO, WO), pad, *options)
    grad_x = x.new_empty(0)
    grad_weight, grad_bias = (x.new_empty(0, dtype=torch.float32) for _ in range(2))
    empty = not (x.numel() and grad.numel())
    bands = isinstance(config or of_weight, _BandConfig)
    bands = bands or (config is None and of_weight is None and _by_bands(x, weight, stride))
    grad_planes = _to_planes(grad) if bands else grad
    if needs[0] and bands:
        back = (R - 1 - pad[0], S - 1 - pad[1])
        grad_x = _bands(grad_planes, weight.flip(2, 3), None, WO, (H, W), back, config)
    elif needs[0]:
        phases = _arranged(weight, stride).flip(1, 2)
        lead = (phases.shape[1] - 1, phases.shape[2] - 1)
        grad_x = _direct(grad, phases, None, None, (H, W), lead, pad, 1, stride, False, config)
    if needs[1]:
        if empty:
            grad_weight = grad_weight.new_zeros(weight.shape)
        elif bands:
            grad_weight = _bands_weight(_to_planes(x), grad_planes, weight, (W, WO), pad, of_weight)
        else:
            grad_weight = _direct_weight(x, grad, weight, stride, pad, of_weight)
    if needs[2]:
        grad_bias = grad.sum((0, 2, 3), dtype=torch.float32)
    return grad_x, grad_weight, grad_bias


def _direct_weight(x, grad, weight, stride, pad, config) -> Tensor:
    (B, C, H, W), (HO, WO), (R, S) = x.shape, grad.shape[2:], weight.shape[2:]
    config = config or _config(x, R, S, stride, weights=True)
    grad = grad.contiguous(memory_format=torch.channels_last)
    span = min(config.span, S)
    each = triton.cdiv(C, config.channels) * (R // config.taken) * triton.cdiv(S, span)
    tiles = B * triton.cdiv(HO, config.rows) * triton.cdiv(WO, config.columns)
    wanted = triton.cdiv(config.programs * _multiprocessors(x.device), each)
    parts = min(triton.cdiv(tiles, config.tiles), wanted)
    part = x.new_empty(parts, R, S, C, dtype=torch.float32)
    _weight_kernel[(each * parts,)](
        x, grad, part, B, H, W, HO, WO, x.stride(0), x.stride(2), *pad, parts,
        C=C, PITCH=x.stride(3), R=R, S=S, STRIDE=stride, TAKEN=config.taken, SPAN=span,
        ROWS=config.rows, COLUMNS=config.columns, TILES=config.tiles, CHANNELS=config.channels,
        num_warps=config.warps,
    )  # fmt: skip
    return part.sum(0).permute(2, 0, 1).contiguous().unsqueeze(1)  # (C, 1, R, S)


def _bands_weight(planes, grad_planes, weight, widths, pad, config) -> Tensor:
    (C, H, B, _), (W, WO), (R, S) = planes.shape, widths, weight.shape[2:]
    config = config or _band_config(W, S, weights=True)
    across = triton.cdiv(WO, config.columns)
    chunks = triton.cdiv(min(config.columns + S + 6, W), config.depth)
    part = planes.new_zeros(C, R, across * config.columns, S, dtype=torch.float32)
    _band_weight_kernel[(C * R * across * chunks,)](
        planes, grad_planes, part, B, H, W, grad_planes.shape[1], WO,
        planes.shape[3] // 8, grad_planes.shape[3] // 8, *pad, R, S,
        COLUMNS=config.columns, LINES=config.lines, DEPTH=config.depth,
        num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    return part.sum(2).unsqueeze(1)  # (C, 1, R, S)


def _aligned(x: Tensor) -> Tensor:
    """The tensor itself where a pixel's channels are one piece, aligned as in a copy, else that."""
    vector = gcd(16 // x.element_size(), x.shape[1])  # no copy can do better
    whole = x.stride(1) == 1 and x.data_ptr() % 16 == 0
    whole = whole and not any(x.stride(axis) % vector for axis in (0, 2, 3))
    near = max(x.shape[2] * x.stride(2), x.shape[3] * x.stride(3)) < 2**30  # places are int32
    return x if whole and near else _empty(x, *x.shape).copy_(x)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 132
    return torch.cuda.get_device_properties(device).multi_processor_count


# --8<-- [end:launch]


# --8<-- [start:core]
def depthwise_conv2d_kernel(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
) -> Tensor:
    """Convolve every channel by itself, as F.conv2d does with groups=C.

    Args:
        x: input, (B, C, H, W); float16, bfloat16 or float32. Fast with channels innermost in
            memory (torch.channels_last), else copied first.
        weight: a filter for each channel, (C, 1, R, S), of the same dtype as x.
        bias: (C,), one of these dtypes, not necessarily that of x.
        stride: step of the window in both directions, 1 or 2.
        padding: zeros at each end, of (H, W) or of both.

    Returns:
        (B, C, HO, WO), channels innermost. Sums are in float32.

    Raises:
        ValueError: shapes do not fit; a tensor is not on a GPU (and Triton does not interpret).
        TypeError: a dtype is not one of the three, or x and weight differ.

    Gradients of x, weight and bias can be had once; the gradient of a gradient raises.
    No autocast: x and weight must already share a type. torch.func transforms are not supported:
    its gradients raise, and jvp gives zeros.
    """
    pad = (padding, padding) if isinstance(padding, int) else padding
    _check(x, weight, bias, stride, pad)
    (H, W), (R, S) = x.shape[2:], weight.shape[2:]
    size = [(H + 2 * pad[0] - R) // stride + 1, (W + 2 * pad[1] - S) // stride + 1]
    return _forward_op(x, weight, bias, stride, list(pad), size, False)


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """Convolve every channel by itself; a position sees itself and the k - 1 before it.

    Args:
        x: input, (B, C, L), dtypes as above. Fast if x.transpose(1, 2) is contiguous.
        weight: (C, k); the last tap meets the position itself.
        bias: (C,), one of these dtypes, not necessarily that of x.
        activation: None, or "silu" for sum * sigmoid(sum).

    Returns:
        (B, C, L), channels innermost. Raises and differentiates as above.
    """
    _check_1d(x, weight, activation)
    x, weight = x.unsqueeze(2), weight[:, None, None]  # a map of one row
    _check(x, weight, bias, 1, (0, weight.shape[3] - 1))
    pad, size = [0, weight.shape[3] - 1], list(x.shape[2:])
    return _forward_op(x, weight, bias, 1, pad, size, activation == "silu").squeeze(2)


NAME = "runnable_dl::" + __name__.replace(".", "_")  # a copy of this file has a name of its own


@torch.library.custom_op(f"{NAME}_forward", mutates_args=())
def _forward_op(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int,
    pad: list[int], size: list[int], silu: bool,
) -> Tensor:  # fmt: skip
    with torch.cuda.device_of(x):
        return _forward(x, weight, bias, stride, tuple(pad), tuple(size), silu)


@torch.library.custom_op(f"{NAME}_backward", mutates_args=())
def _backward_op(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int,
    pad: list[int], silu: bool, needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    with torch.cuda.device_of(x):
        return _backward(grad, x, weight, bias, stride, tuple(pad), silu, tuple(needs))


@_forward_op.register_fake
def _(x, weight, bias, stride, pad, size, silu):
    return _empty(x, *x.shape[:2], *size)


@_backward_op.register_fake
def _(grad, x, weight, bias, stride, pad, silu, needs):
    grad_x = _empty(x, *x.shape) if needs[0] else x.new_empty(0)
    grad_weight = x.new_empty(weight.shape if needs[1] else 0, dtype=torch.float32)
    return grad_x, grad_weight, x.new_empty(x.shape[1] if needs[2] else 0, dtype=torch.float32)


def _save(ctx, inputs, output) -> None:
    x, weight, bias, ctx.stride, ctx.pad, _, ctx.silu = inputs
    ctx.save_for_backward(x, weight, bias)


def _differentiate(ctx, grad):
    tensors, needs = ctx.saved_tensors, list(ctx.needs_input_grad[:3])
    grads = _backward_op(grad, *tensors, ctx.stride, ctx.pad, ctx.silu, needs)
    grads = [g.to(x.dtype) if n else None for g, x, n in zip(grads, tensors, needs, strict=True)]
    return *grads, None, None, None, None


_forward_op.register_autograd(_differentiate, setup_context=_save)
# --8<-- [end:core]


def _check_1d(x: Tensor, weight: Tensor, activation: str | None) -> None:
    if x.ndim != 3:
        raise ValueError(f"x must be (B, C, L), got {tuple(x.shape)}")
    if weight.ndim != 2:
        raise ValueError(f"weight must be (C, k), got {tuple(weight.shape)}")
    if activation not in (None, "silu"):
        raise ValueError(f"activation must be None or 'silu', got {activation!r}")


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, pad: tuple[int, ...]
) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must be (B, C, H, W), got {tuple(x.shape)}")
    C = x.shape[1]
    if weight.ndim != 4 or weight.shape[:2] != (C, 1) or 0 in weight.shape[2:]:
        raise ValueError(f"weight must be (C, 1, R, S) with C = {C}, got {tuple(weight.shape)}")
    if bias is not None and bias.shape != (C,):
        raise ValueError(f"bias must be ({C},), got {tuple(bias.shape)}")
    if stride not in (1, 2):
        raise ValueError(f"stride must be 1 or 2, got {stride}")
    if len(pad) != 2 or min(pad) < 0:
        raise ValueError(f"padding must not be negative, got {pad}")
    (H, W), (R, S) = x.shape[2:], weight.shape[2:]
    if H + 2 * pad[0] < R or W + 2 * pad[1] < S:
        sizes = f"{R}, {S} and {H + 2 * pad[0]}, {W + 2 * pad[1]}"
        raise ValueError(f"the filter must fit into the padded map, got {sizes}")
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32):
            raise TypeError(f"{name} must be float16, bfloat16 or float32, got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"x and {name} must be on one device, got {x.device}, {tensor.device}")
    if weight.dtype != x.dtype:
        raise TypeError(f"x and weight differ in dtype: {x.dtype}, {weight.dtype}")
    if C * (H + 2 * pad[0]) * (W + 2 * pad[1]) >= 2**30:
        raise ValueError(f"a padded image must have fewer than 2**30 numbers, got {tuple(x.shape)}")
    if x.device.type != "cuda" and not INTERPRETED.value:
        raise ValueError(
            f"x must be on a CUDA device, got {x.device}; move it there, or set "
            "TRITON_INTERPRET=1 in the environment before Triton is imported"
        )


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(2, 9, 9, 16, generator=generator).to(device).permute(0, 3, 1, 2)
    weight = torch.randn(16, 1, 3, 3, generator=generator).to(device)
    out = depthwise_conv2d_kernel(x, weight, stride=2, padding=1)
    expected = torch.nn.functional.conv2d(x, weight, stride=2, padding=1, groups=16)
    print(tuple(out.shape), torch.allclose(out, expected, atol=1e-5))

    x = torch.randn(1, 20, 16, generator=generator).to(device).transpose(1, 2)  # (B, C, L)
    weight = torch.randn(16, 4, generator=generator).to(device)
    out = causal_conv1d(x, weight, activation="silu")
    print(tuple(out.shape), out.is_contiguous(), out.transpose(1, 2).is_contiguous())
    # --8<-- [end:demo]
