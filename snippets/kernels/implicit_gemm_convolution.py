# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
"""Convolution as one matrix product whose left factor is gathered on the fly, in Triton.

Paper: Chetlur et al., "cuDNN: Efficient Primitives for Deep Learning", 2014, section 3.1.
       https://arxiv.org/abs/1410.0759
Needs: Python >= 3.10, torch >= 2.8 on Linux with a CUDA GPU (its Triton >= 3.4), nothing else;
       copy this file as it is. On a CPU: torch >= 2.10 (its Triton >= 3.6: the interpreter of 3.4
       refuses these strides), and TRITON_INTERPRET=1 set before Python starts.
Axes:  N images, H and W input map, C input channels, P and Q output map, K output channels,
       R and S window, G groups. A pair is (height, width); one integer stands for both.
"""

# --8<-- [start:imports]
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor

if __name__ == "__main__" and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # lets the demo run on a CPU, one operation at a time

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
# --8<-- [end:imports]

__all__ = ["conv1x1_fused", "implicit_gemm_conv2d"]


# --8<-- [start:tile]
@triton.jit
def _dot(a, b, acc):
    if INTERPRETED:  # it would multiply the bits of bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def _gather(
    X, n, y, x, c, N, H, W,
    C: tl.constexpr, PIXEL: tl.constexpr, FLAT: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """The channels c of the pixels at n, y, x: (pixels, channels), zeros outside the map."""
    inside = (n < N) & (y >= 0) & (y < H)
    place = X + n.to(tl.int64) * (H * W * PIXEL) + (y * W + x) * PIXEL  # one address a pixel
    if FLAT:  # c runs on into the pixels to the right
        at = (x * PIXEL)[:, None] + c[None, :]
        mask = inside[:, None] & (at >= 0) & (at < W * PIXEL) & (c < C)[None, :]
    elif EVEN:
        mask = (inside & (x >= 0) & (x < W))[:, None]
    else:
        mask = (inside & (x >= 0) & (x < W))[:, None] & (c < C)[None, :]
    return tl.load(place[:, None] + c[None, :], mask=mask, other=0.0)


# --8<-- [end:tile]


# --8<-- [start:forward]
@triton.jit
def _convolve_kernel(
    X, Weight, Out, Scale, Shift, Residual, N, P, Q, H, W,
    stride_y, stride_x, begin_y, begin_x, step_y, step_x,  # where windows read
    tap, tap_y, tap_x, w_tap, w_out, w_in, w_group,  # which weights they meet
    out_h, out_w, first_y, first_x, every_y, every_x,  # where results go
    TAPS_Y: tl.constexpr, TAPS_X: tl.constexpr, C: tl.constexpr, K: tl.constexpr, G: tl.constexpr,
    PIXEL: tl.constexpr, FLAT: tl.constexpr, RELU: tl.constexpr, BOXES: tl.constexpr,
    W_BOXES: tl.constexpr, TURNED: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
    BN: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    # One program: BLOCK_K channels of a box of BN * BP * BQ pixels. All channels of a box are
    # neighbours in the grid: they find the image in the second-level cache, and all weights.
    program = tl.program_id(0)
    k = program % tl.cdiv(K, BLOCK_K) * BLOCK_K
    program = program // tl.cdiv(K, BLOCK_K)
    g = program % G
    tile = program // G
    q0 = tile % tl.cdiv(Q, BQ) * BQ
    tile = tile // tl.cdiv(Q, BQ)
    p0 = tile % tl.cdiv(P, BP) * BP
    n0 = tile // tl.cdiv(P, BP) * BN
    column = tl.arange(0, BN * BP * BQ)
    n, p, q = n0 + column // (BP * BQ), p0 + column // BQ % BP, q0 + column % BQ
    row, channel = k + tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_C)
    EVEN: tl.constexpr = C % BLOCK_C == 0

    acc = tl.zeros([BLOCK_K, BN * BP * BQ], tl.float32)
    c, u, t = 0, 0, 0  # first channel, column and row of the window
    for _ in tl.range(0, TAPS_Y * TAPS_X * ((C + BLOCK_C - 1) // BLOCK_C)):
        y, x = begin_y + t * step_y, begin_x + u * step_x
        if BOXES:  # the memory engine finds the pixels; zeros outside the map
            seen = X.load([n0, p0 + y, q0 + x, g * C + c]).reshape([BN * BP * BQ, BLOCK_C])
        else:
            seen = _gather(
                X + g * C, n, p * stride_y + y, q * stride_x + x, c + channel, N, H, W,
                C, PIXEL, FLAT, EVEN,
            )  # fmt: skip
        where = (tap + t * tap_y + u * tap_x) * w_tap
        if W_BOXES and TURNED:
            weight = Weight.load([g * C + c, where + k]).T
        elif W_BOXES:  # beyond C it has weights of the next tap, where the image has zeros
            weight = Weight.load([g * K + k, where + c])
        else:
            place = Weight + g * w_group + where
            place = place + row[:, None] * w_out + (c + channel)[None, :] * w_in
            mask = (row < K)[:, None]
            if not EVEN:
                mask = mask & (c + channel < C)[None, :]
            weight = tl.load(place, mask=mask, other=0.0)
        acc = _dot(weight, seen.T, acc)  # (BLOCK_K, pixels)
        c += BLOCK_C  # on to the next channels; after the last to the next tap
        done = c >= C
        c = tl.where(done, 0, c)
        u = tl.where(done, u + 1, u)
        done = u == TAPS_X
        u = tl.where(done, 0, u)
        t = tl.where(done, t + 1, t)

    real = row < K
    if Scale is not None:
        acc *= tl.load(Scale + g * K + row, mask=real, other=0.0).to(tl.float32)[:, None]
    if Shift is not None:
        acc += tl.load(Shift + g * K + row, mask=real, other=0.0).to(tl.float32)[:, None]
    pixel = n.to(tl.int64) * out_h + (first_y + p * every_y)
    pixel = pixel * out_w + (first_x + q * every_x)
    place = pixel[None, :] * (G * K) + (g * K + row)[:, None]
    mask = real[:, None] & ((n < N) & (p < P) & (q < Q))[None, :]
    if Residual is not None:
        acc += tl.load(Residual + place, mask=mask, other=0.0).to(tl.float32)
    if RELU:
        acc = tl.where(acc < 0, 0.0, acc)  # not tl.maximum: nan stays nan
    tl.store(Out + place, acc.to(Out.dtype.element_ty), mask=mask)


# --8<-- [end:forward]


# --8<-- [start:weight]
@triton.jit
def _weight_gradient_kernel(
    X, Grad, Out, N, P, Q, H, W, stride_y, stride_x, begin_y, begin_x, step_y, step_x, per,
    TAPS_Y: tl.constexpr, TAPS_X: tl.constexpr, C: tl.constexpr, K: tl.constexpr, G: tl.constexpr,
    PIXEL: tl.constexpr, FLAT: tl.constexpr, BOXES: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
    BN: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    # One program: BLOCK_K x BLOCK_C weights of one tap, summed over `per` boxes of pixels.
    # Programs that read the same pixels are neighbours in the grid.
    program = tl.program_id(0)
    k = program % tl.cdiv(K, BLOCK_K) * BLOCK_K
    program = program // tl.cdiv(K, BLOCK_K)
    c = program % tl.cdiv(C, BLOCK_C) * BLOCK_C
    program = program // tl.cdiv(C, BLOCK_C)
    u, t = program % TAPS_X, program // TAPS_X % TAPS_Y
    program = program // (TAPS_X * TAPS_Y)
    g, split = program % G, program // G
    row = tl.arange(0, BN * BP * BQ)
    n, p, q = row // (BP * BQ), row // BQ % BP, row % BQ
    out, channel = k + tl.arange(0, BLOCK_K), c + tl.arange(0, BLOCK_C)
    y, x = begin_y + t * step_y, begin_x + u * step_x

    across, down = tl.cdiv(Q, BQ), tl.cdiv(P, BP)  # boxes of a map
    start = split * per
    n0, p0, q0 = start // (across * down) * BN, start // across % down * BP, start % across * BQ
    acc = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    for _ in tl.range(0, tl.minimum(per, across * down * tl.cdiv(N, BN) - start)):
        dy = _gather(
            Grad + g * K, n0 + n, p0 + p, q0 + q, out, N, P, Q,
            K, G * K, False, K % BLOCK_K == 0,
        )  # fmt: skip
        if BOXES:
            seen = X.load([n0, p0 + y, q0 + x, g * C + c]).reshape([BN * BP * BQ, BLOCK_C])
        else:
            seen = _gather(
                X + g * C, n0 + n, (p0 + p) * stride_y + y, (q0 + q) * stride_x + x, channel,
                N, H, W, C, PIXEL, FLAT, C % BLOCK_C == 0,
            )  # fmt: skip
        acc = _dot(dy.T, seen, acc)  # (BLOCK_K, BLOCK_C)
        q0 += BQ  # on to the next box; at the end of a row of boxes to the next row
        done = q0 >= Q
        q0 = tl.where(done, 0, q0)
        p0 = tl.where(done, p0 + BP, p0)
        done = p0 >= P
        p0 = tl.where(done, 0, p0)
        n0 = tl.where(done, n0 + BN, n0)

    place = ((split * G + g) * K + out).to(tl.int64) * (TAPS_Y * TAPS_X) + (t * TAPS_X + u)
    place = place[:, None] * C + channel[None, :]
    mask = (out < K)[:, None] & (channel < C)[None, :]
    tl.store(Out + place, acc.to(Out.dtype.element_ty), mask=mask)


@triton.jit
def _sum_kernel(Parts, Out, size, parts, BLOCK: tl.constexpr):
    """Adds the parts up in the same order on every run."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK], tl.float32)
    place = Parts + at
    for _ in tl.range(0, parts):
        acc += tl.load(place, mask=at < size, other=0.0)
        place += size
    tl.store(Out + at, acc.to(Out.dtype.element_ty), mask=at < size)


# --8<-- [end:weight]


# --8<-- [start:config]
@dataclass(frozen=True)
class _Config:
    pixels: int  # of a tile; for the gradient of the weight those of one step
    block_k: int  # channels that come out; for the gradient of the input those of the input
    block_c: int  # channels that are summed over, in one step
    warps: int
    stages: int  # tiles on their way at a time
    boxes: bool = False  # pixels through the memory engine (Hopper on), where windows allow
    programs: int = 2  # gradient of the weight: wanted for each multiprocessor


def _config(name: str, x: Tensor, C: int, K: int) -> _Config:
    """For "forward" (the gradient of the input too) or "weight", from C channels to K."""
    K, C = max(16, _power_of_2(K)), max(16, _power_of_2(C))
    if INTERPRETED:
        return _Config(128, min(K, 32), min(C, 32), 4, 1, boxes=True)
    if x.dtype == torch.float32:  # without matrix units
        return _Config(32, min(K, 64), min(C, 32), 4, 1)
    modern = torch.cuda.get_device_capability(x.device)[0] in (9, 10)
    if name == "weight":
        K, C = min(K, 128), min(C, 128)
        return _Config(64, K, C, 8 if K * C > 2**13 else 4, 3, boxes=modern)
    if not modern:  # consumer cards with 99 KiB of shared memory among them: correct, not tuned
        return _Config(128, min(K, 128), min(C, 32), 8 if K >= 64 else 4, 3)
    return _Config(256, min(K, 128), min(C, 64), 8, 3, boxes=True)


def _power_of_2(least: int) -> int:
    return 1 << (least - 1).bit_length()


# --8<-- [end:config]


# --8<-- [start:geometry]
@dataclass(frozen=True)
class _Axis:
    """Along one axis, window i < count reads the cells i * stride + begin + t * step, t < taps."""

    size: int  # cells there are
    count: int
    stride: int
    begin: int
    step: int
    taps: int
    tap: int = 0  # tap t meets the weight tap + t * each
    each: int = 1
    first: int = 0  # result i goes to first + i * every
    every: int = 1


def _windows(size: int, taps: int, stride: int, padding: int, dilation: int) -> _Axis:
    count = (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
    return _Axis(size, count, stride, -padding, dilation, taps)


def _phases(axis: _Axis) -> list[_Axis]:
    """The other way round: which windows have read a cell, for each phase of the stride.

    The cells h = phase + j * stride have met the same taps t, those for which
    (h - begin - t * step) / stride is an integer: the number of the window. Each phase is a
    convolution of stride 1 over the windows, and no zeros are inserted.
    """
    both, found = gcd(axis.stride, axis.step), []
    for phase in range(min(axis.stride, axis.size)):
        taps = [
            t for t in range(axis.taps) if (phase - axis.begin - t * axis.step) % axis.stride == 0
        ]
        tap = taps[0] if taps else 0
        found.append(
            _Axis(
                size=axis.count,
                count=(axis.size - 1 - phase) // axis.stride + 1,
                stride=1,
                begin=(phase - axis.begin - tap * axis.step) // axis.stride,
                step=-axis.step // both,
                taps=len(taps),
                tap=tap,
                each=axis.stride // both,
                first=phase,
                every=axis.stride,
            )
        )
    return found


@functools.cache
def _box(N: int, P: int, Q: int, pixels: int) -> tuple[int, int, int]:
    """Images, rows, columns of a tile, powers of 2: as few tiles as possible, as square."""
    powers = [1 << i for i in range(pixels.bit_length())]
    boxes = [(pixels // (p * q), p, q) for p in powers for q in powers if p * q <= pixels]

    def cost(box: tuple[int, int, int]) -> tuple[int, int, int]:
        return _boxes(N, P, Q, box), box[0], abs(box[1] - box[2])

    return min(boxes, key=cost)


def _boxes(N: int, P: int, Q: int, box: tuple[int, int, int]) -> int:
    return -(-N // box[0]) * -(-P // box[1]) * -(-Q // box[2])


# --8<-- [end:geometry]


# --8<-- [start:layout]
def _pixels(x: Tensor) -> Tensor:
    """Channels last in memory and aligned, a copy only if it is not: (N, H, W, C), contiguous."""
    x = x.contiguous(memory_format=torch.channels_last)
    if x.data_ptr() % 16:
        x = x.clone(memory_format=torch.channels_last)
    return x.permute(0, 2, 3, 1)


def _padded(x: Tensor, groups: int, width: int) -> Tensor:
    """(..., groups * C) with C raised to a multiple of the width by zeros."""
    more = -(x.shape[-1] // groups) % width
    return F.pad(x.unflatten(-1, (groups, -1)), (0, more)).flatten(-2).contiguous() if more else x


def _pack(weight: Tensor, groups: int) -> int:
    """How many groups share one product: matrix units want 16 channels, and memory likes 32."""
    widest = max(weight.shape[0] // groups, weight.shape[1])
    most = max(1, min(groups, 32 // widest))
    return max(d for d in range(1, most + 1) if groups % d == 0)


def _packed(weight: Tensor, groups: int, pack: int) -> Tensor:
    """(groups/pack, pack*K/groups, R, S, pack*C): zeros where two groups would mix."""
    weight = _pixels(weight).unflatten(0, (groups // pack, pack, -1))
    if pack == 1:
        return weight.flatten(1, 2)
    wide = weight.new_zeros(*weight.shape[:5], pack, weight.shape[5])
    wide.diagonal(dim1=1, dim2=5).copy_(weight.movedim(1, -1))
    return wide.flatten(5).flatten(1, 2)


def _unpacked(wide: Tensor, pack: int) -> Tensor:
    """The reverse: (K, C, R, S), channels last in memory."""
    wide = wide.unflatten(1, (pack, -1)).unflatten(5, (pack, -1))
    weight = wide.diagonal(dim1=1, dim2=5).movedim(-1, 1).flatten(0, 2)  # (K, R, S, C)
    return weight.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _is_flat(wide: Tensor, ax: _Axis) -> bool:
    """Few channels, as in a first layer: a row of the window is one run of S * C numbers."""
    return wide.shape[0] == 1 and wide.shape[4] <= 8 and ax.taps > 1 and ax.step == 1


# --8<-- [end:layout]


# --8<-- [start:launch]
def _convolve(
    x: Tensor, weight: Tensor, out: Tensor, ay: _Axis, ax: _Axis, config: _Config,
    turned: bool = False, flat: int = 0, scale: Tensor | None = None,
    shift: Tensor | None = None, residual: Tensor | None = None, relu: bool = False,
) -> None:  # fmt: skip
    """Fills `out`, (N, P, Q, G*K), from x, (N, H, W, G*C), and weight, (G, K, R, S, C).

    `turned`: weight is (G, C, R, S, K). `flat`: S*C if weight is (1, K, R, 1, S*C), else 0.
    """
    (N, H, W, _), (G, rows, R, S, columns) = x.shape, weight.shape
    K, PIXEL = out.shape[3] // G, x.shape[3]
    C = flat or PIXEL // G
    box = _box(N, ay.count, ax.count, config.pixels)
    boxes = config.boxes and not flat and (G == 1 or C % config.block_c == 0)
    boxes = boxes and _fits_engine(ay) and _fits_engine(ax)
    source, begin_y, begin_x, kernel = x, ay.begin, ax.begin, weight
    if boxes:
        source, begin_y, begin_x = _descriptor(x, ay, ax, box, config.block_c)
    # Turned, the rows beyond C are the next group's: times the zeros there, infinity would be nan.
    w_boxes = config.boxes and (not turned or G == 1 or C % config.block_c == 0)
    if w_boxes:
        block = [config.block_c, config.block_k] if turned else [config.block_k, config.block_c]
        width = R * S * columns
        kernel = TensorDescriptor(weight, [G * rows, width], [width, 1], block)
    w_out, w_in = (1, R * S * columns) if turned else (R * S * columns, 1)
    grid = (_boxes(N, ay.count, ax.count, box) * G * triton.cdiv(K, config.block_k),)
    with torch.cuda.device_of(x):
        _convolve_kernel[grid](
            source, kernel, out, scale, shift, residual, N, ay.count, ax.count, H, W,
            ay.stride, ax.stride, begin_y, begin_x, ay.step, ax.step,
            ay.tap * S + ax.tap, ay.each * S, ax.each, columns, w_out, w_in, rows * R * S * columns,
            out.shape[1], out.shape[2], ay.first, ax.first, ay.every, ax.every,
            TAPS_Y=ay.taps, TAPS_X=ax.taps, C=C, K=K, G=G, PIXEL=PIXEL, FLAT=flat > 0, RELU=relu,
            BOXES=boxes, W_BOXES=w_boxes, TURNED=turned,
            BLOCK_K=config.block_k, BLOCK_C=config.block_c, BN=box[0], BP=box[1], BQ=box[2],
            num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip


def _fits_engine(axis: _Axis) -> bool:
    """Whether all windows of a box lie side by side: stride 1, or a single tap."""
    phase = axis.begin % axis.stride
    return (axis.stride == 1 or axis.taps == 1) and axis.taps > 0 and phase < axis.size


def _descriptor(
    x: Tensor, ay: _Axis, ax: _Axis, box: tuple[int, int, int], channels: int
) -> tuple[TensorDescriptor, int, int]:
    """Every stride-th pixel of x, from the phase that the windows read, and where they begin."""
    (N, H, W, C), y, z = x.shape, ay.begin % ay.stride, ax.begin % ax.stride
    shape = [N, triton.cdiv(H - y, ay.stride), triton.cdiv(W - z, ax.stride), C]
    strides = [H * W * C, ay.stride * W * C, ax.stride * C, 1]
    described = TensorDescriptor(x[:, y:, z:], shape, strides, [*box, channels])
    return described, ay.begin // ay.stride, ax.begin // ax.stride


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], groups: int, config: _Config | None = None,
    scale: Tensor | None = None, residual: Tensor | None = None, relu: bool = False,
) -> Tensor:  # fmt: skip
    """(N, K, P, Q), channels last in memory."""
    pack = _pack(weight, groups)
    ay, ax = _axes(x.shape, weight.shape, stride, padding, dilation)
    out = _empty(x, (x.shape[0], weight.shape[0], ay.count, ax.count))
    if not x.shape[0]:
        return out
    wide, groups = _packed(weight, groups, pack), groups // pack
    x, wide, ax, flat = _aligned(_pixels(x), wide, ax)
    if flat:
        wide = _padded(wide.flatten(3), 1, 8).unsqueeze(3)  # (1, K, R, 1, S*C)
    config = config or _config("forward", x, wide.shape[4], wide.shape[1])
    residual = None if residual is None else _pixels(residual)
    shift, scale = (None if v is None else v.contiguous() for v in (bias, scale))
    _convolve(
        x, wide, out.permute(0, 2, 3, 1), ay, ax, config, flat=flat,
        scale=scale, shift=shift, residual=residual, relu=relu,
    )  # fmt: skip
    return out


def _input_gradient(
    grad: Tensor, weight: Tensor, H: int, W: int, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], groups: int, config: _Config | None = None,
) -> Tensor:  # fmt: skip
    """(N, C, H, W), channels last in memory: one convolution of grad for each phase."""
    pack, shape = _pack(weight, groups), (grad.shape[0], weight.shape[1] * groups, H, W)
    ay, ax = _axes(shape, weight.shape, stride, padding, dilation)
    out = _empty(grad, shape)
    if not grad.shape[0]:
        return out
    wide, groups = _packed(weight, groups, pack), groups // pack
    C = wide.shape[4]
    wide = _padded(wide, 1, 8)
    if more := -wide.shape[1] % 8:
        wide = F.pad(wide, (0, 0) * 3 + (0, more))
    grad = _padded(_pixels(grad), groups, 8)
    config = config or _config("forward", grad, wide.shape[1], C)
    for y in _phases(ay):
        for x in _phases(ax):
            _convolve(grad, wide, out.permute(0, 2, 3, 1), y, x, config, turned=True)
    return out


def _weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int, exact: bool = False, config: _Config | None = None,
) -> Tensor:  # fmt: skip
    """As weight, of which only the shape is used; `exact` keeps float32."""
    pack, (K, C, R, S) = _pack(weight, groups), weight.shape
    ay, ax = _axes(x.shape, weight.shape, stride, padding, dilation)
    dtype = torch.float32 if exact else x.dtype
    if not x.shape[0]:
        return _empty(x, weight.shape, dtype).zero_()
    groups, K, C = groups // pack, pack * K // groups, pack * C
    wide = weight.new_empty(groups, K, R, S, C, device="meta")
    x, wide, ax, flat = _aligned(_pixels(x), wide, ax)
    grad = _padded(_pixels(grad), groups, 8)
    (N, H, W, PIXEL), rows = x.shape, grad.shape[3] // groups
    columns = flat or wide.shape[4]
    config = config or _config("weight", x, columns, rows)
    box = _box(N, ay.count, ax.count, config.pixels)
    boxes = config.boxes and not flat and _fits_engine(ay) and _fits_engine(ax)
    seen, begin_y, begin_x = x, ay.begin, ax.begin
    if boxes:
        seen, begin_y, begin_x = _descriptor(x, ay, ax, box, config.block_c)

    # So many parts of the pixels that every multiprocessor has work; each part is summed apart.
    tiles = triton.cdiv(rows, config.block_k) * triton.cdiv(columns, config.block_c)
    tiles, steps = tiles * groups * ay.taps * ax.taps, _boxes(N, ay.count, ax.count, box)
    parts = max(1, min(config.programs * _multiprocessors(x.device) // tiles, steps))
    per = triton.cdiv(steps, parts)
    parts = triton.cdiv(steps, per)
    out = x.new_empty(groups, rows, ay.taps, ax.taps, columns, dtype=dtype)
    sums = out if parts == 1 else x.new_empty(parts, *out.shape, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _weight_gradient_kernel[(tiles * parts,)](
            seen, grad, sums, N, ay.count, ax.count, H, W,
            ay.stride, ax.stride, begin_y, begin_x, ay.step, ax.step, per,
            TAPS_Y=ay.taps, TAPS_X=ax.taps, C=columns, K=rows, G=groups,
            PIXEL=PIXEL, FLAT=flat > 0, BOXES=boxes, BLOCK_K=config.block_k, BLOCK_C=config.block_c,
            BN=box[0], BP=box[1], BQ=box[2], num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip
        if parts > 1:
            grid = (triton.cdiv(out.numel(), 1024),)
            _sum_kernel[grid](sums, out, out.numel(), parts, BLOCK=1024)
    return _unpacked(out.view(groups, rows, R, S, -1)[:, :K, :, :, :C], pack)


def _aligned(x: Tensor, wide: Tensor, ax: _Axis) -> tuple[Tensor, Tensor, _Axis, int]:
    """Channels in steps of 16 bytes, of 8 at least; S*C where windows are read flat, else 0."""
    groups, flat = wide.shape[0], _is_flat(wide, ax)
    width = 4 if flat and wide.shape[4] <= 4 else 8
    x, wide = _padded(x, groups, width), _padded(wide, 1, width)
    if not flat:
        return x, wide, ax, 0
    return x, wide, replace(ax, taps=1), ax.taps * wide.shape[4]


def _axes(x, weight, stride, padding, dilation) -> tuple[_Axis, _Axis]:
    one, two = (
        _windows(x[2 + i], weight[2 + i], stride[i], padding[i], dilation[i]) for i in (0, 1)
    )
    return one, two


def _empty(x: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    dtype = dtype or x.dtype
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 4 if INTERPRETED else 132
    return torch.cuda.get_device_properties(device).multi_processor_count


# --8<-- [end:launch]


# --8<-- [start:operators]
_NAME = "runnable_dl::" + __name__.replace(".", "_")  # a copy of this file has a name of its own


@torch.library.custom_op(_NAME + "_forward", mutates_args=())
def _forward_op(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    return _forward(x, weight, bias, stride, padding, dilation, groups)


@torch.library.custom_op(_NAME + "_input_gradient", mutates_args=())
def _input_gradient_op(
    grad: Tensor, weight: Tensor, H: int, W: int, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    return _input_gradient(grad, weight, H, W, stride, padding, dilation, groups)


@torch.library.custom_op(_NAME + "_weight_gradient", mutates_args=())
def _weight_gradient_op(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], groups: int, exact: bool,
) -> Tensor:  # fmt: skip
    return _weight_gradient(grad, x, weight, stride, padding, dilation, groups, exact)


@torch.library.custom_op(_NAME + "_fused", mutates_args=())
def _fused_op(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, relu: bool
) -> Tensor:
    one, none = [1, 1], [0, 0]
    return _forward(x, weight, shift, one, none, one, 1, scale=scale, residual=residual, relu=relu)


@_forward_op.register_fake
def _(x, weight, bias, stride, padding, dilation, groups):
    ay, ax = _axes(x.shape, weight.shape, stride, padding, dilation)
    return _empty(x, (x.shape[0], weight.shape[0], ay.count, ax.count))


@_input_gradient_op.register_fake
def _(grad, weight, H, W, stride, padding, dilation, groups):
    return _empty(grad, (grad.shape[0], weight.shape[1] * groups, H, W))


@_weight_gradient_op.register_fake
def _(grad, x, weight, stride, padding, dilation, groups, exact):
    return _empty(x, weight.shape, torch.float32 if exact else None)


@_fused_op.register_fake
def _(x, weight, scale, shift, residual, relu):
    return _empty(x, (x.shape[0], weight.shape[0], *x.shape[2:]))


def _keep(ctx, inputs, output):
    x, weight, bias, *ctx.rest = inputs
    ctx.bias = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight)


def _gradients(ctx, grad):
    (x, weight), (dx, dw, db) = ctx.saved_tensors, (None, None, None)
    if ctx.needs_input_grad[0]:
        dx = _input_gradient_op(grad, weight, *x.shape[2:], *ctx.rest)
    if ctx.needs_input_grad[1]:
        dw = _weight_gradient_op(grad, x, weight, *ctx.rest, False)
    if ctx.needs_input_grad[2]:
        db = grad.sum((0, 2, 3), dtype=torch.float32).to(ctx.bias)
    return dx, dw, db, None, None, None, None


def _keep_fused(ctx, inputs, output):
    *tensors, _, ctx.relu = inputs
    ctx.save_for_backward(*tensors, output)


def _gradients_fused(ctx, grad):
    x, weight, scale, shift, out = ctx.saved_tensors
    if ctx.relu:
        grad = grad.masked_fill(out <= 0, 0.0)
    needs, (dx, dw, dscale, dshift) = ctx.needs_input_grad, (None,) * 4
    one, none, row = [1, 1], [0, 0], scale.float().reshape(-1, 1, 1, 1)
    if needs[0]:
        scaled = (weight.float() * row).to(weight.dtype)
        dx = _input_gradient_op(grad, scaled, *x.shape[2:], one, none, one, 1)
    if needs[1] or needs[2]:  # by weight * scale; the product with the weight, by the scale
        dw = _weight_gradient_op(grad, x, weight, one, none, one, 1, True)
        dscale = (dw * weight.float()).sum((1, 2, 3)).to(scale.dtype)
        dw = (dw * row).to(weight.dtype)
    if needs[3]:
        dshift = grad.sum((0, 2, 3), dtype=torch.float32).to(shift.dtype)
    return dx, dw, dscale, dshift, grad if needs[4] else None, None


_forward_op.register_autograd(_gradients, setup_context=_keep)
_fused_op.register_autograd(_gradients_fused, setup_context=_keep_fused)

# --8<-- [end:operators]


# --8<-- [start:core]
Pair = int | Sequence[int]


def implicit_gemm_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """F.conv2d with zero padding, as a matrix product whose left factor is never stored.

    Args:
        x: (N, C, H, W), bfloat16, float16 or float32 (full precision, and slow).
        weight: (K, C/groups, R, S) of the same type, applied without flipping.
        bias: (K,), of that type or float32.
        stride, padding, dilation: for both axes, or (height, width).
        groups: of channels that are convolved apart. Small ones share a product, up to 32
            channels, with zeros between them: there an infinite input makes its neighbours nan.

    The memory is read channels last (x.to(memory_format=torch.channels_last), the weight too);
    another layout, and channels that are no multiple of 8, are copied first. Sums are taken in
    float32 in a fixed order. Differentiable once; the gradient of a gradient raises RuntimeError.
    In the weight gradient an infinite pixel near the map's end may reach taps that never read it:
    past the edge a tile multiplies real pixels by 0.

    No autocast: x and weight must already share a type. torch.func transforms are not supported:
    its gradients raise, and jvp gives zeros.

    Returns:
        (N, K, P, Q), channels last in memory.

    Raises:
        ValueError: shapes or numbers do not fit, or the tensors are on a CPU and Triton's
            interpreter is off.
        TypeError: x and weight are not of one of the data types above.
    """
    pairs = [_pair(name, value) for name, value in _named(stride, padding, dilation)]
    _check(x, weight, bias, *pairs, groups)
    return _forward_op(x, weight, bias, *pairs, groups)


def conv1x1_fused(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None = None,
    relu: bool = True,
) -> Tensor:
    """relu(conv(x) * scale + shift + residual) in one kernel: 1x1, its batch norm, the skip.

    Args:
        x: (N, C, H, W), as in implicit_gemm_conv2d.
        weight: (K, C, 1, 1).
        scale, shift: (K,), of the type of x or float32. A batch norm in evaluation has
            scale = gamma / sqrt(var + eps), shift = beta - mean * scale.
        residual: (N, K, H, W), of the type of x, added before the relu.
        relu: whether negative results become 0.

    Returns:
        (N, K, H, W), channels last in memory. Differentiable once, in all tensors.

    Raises, and leaves aside, what implicit_gemm_conv2d does.
    """
    _check(x, weight, shift, (1, 1), (0, 0), (1, 1), 1, "shift")
    _check_fused(x, weight, scale, residual)
    return _fused_op(x, weight, scale, shift, residual, relu)


# --8<-- [end:core]


def _named(stride: Pair, padding: Pair, dilation: Pair) -> list[tuple[str, Pair]]:
    return [("stride", stride), ("padding", padding), ("dilation", dilation)]


def _pair(name: str, value: Pair) -> list[int]:
    pair = [value, value] if isinstance(value, int) else list(value)
    least = 0 if name == "padding" else 1
    if len(pair) != 2 or not all(isinstance(v, int) and v >= least for v in pair):
        raise ValueError(f"{name} must be one or two integers from {least} on, got {value!r}")
    return pair


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], groups: int, name: str = "bias",
) -> None:  # fmt: skip
    shapes = f"{tuple(x.shape)}, {tuple(weight.shape)}"
    if x.ndim != 4 or weight.ndim != 4:
        raise ValueError(f"x and weight need four axes, got {shapes}")
    if groups < 1 or weight.shape[0] % groups or x.shape[1] != weight.shape[1] * groups:
        raise ValueError(
            f"x (N, C, H, W) and weight (K, C/groups, R, S) do not fit {groups} groups: {shapes}"
        )
    if 0 in (*x.shape[1:], *weight.shape):
        raise ValueError(f"only the number of images may be 0, got {shapes}")
    known = (torch.bfloat16, torch.float16, torch.float32)
    if x.dtype != weight.dtype or x.dtype not in known:
        raise TypeError(
            f"x and weight must share bfloat16, float16 or float32, got {x.dtype}, {weight.dtype}"
        )
    if bias is not None:
        _check_vector(name, bias, x, weight)
    if x.device != weight.device:
        raise ValueError(f"x and weight are on {x.device}, {weight.device}")
    ay, ax = _axes(x.shape, weight.shape, stride, padding, dilation)
    if ay.count < 1 or ax.count < 1:
        raise ValueError(f"the window does not fit into the padded map: {shapes}")
    K, C, R, S = weight.shape
    out, seen = (groups * _eights(n) for n in (K // groups, C))  # channels of a pixel, padded
    wide = _eights(K) * R * S * _eights(C * _pack(weight, groups))
    pixels = ay.count * ax.count
    if max(ay.size * ax.size * seen, pixels * out, pixels * x.shape[0], wide) >= 2**31:
        raise ValueError(f"an image, the pixels, the weight must be below 2**31, got {shapes}")
    if x.device.type == "cpu" and not INTERPRETED:
        raise ValueError(
            "x is on the CPU: move it to a GPU, or set TRITON_INTERPRET=1 before Python starts"
        )


def _eights(n: int) -> int:
    return -(-n // 8) * 8


def _check_vector(name: str, vector: Tensor, x: Tensor, weight: Tensor) -> None:
    if tuple(vector.shape) != (weight.shape[0],):
        raise ValueError(f"{name} must be ({weight.shape[0]},), got {tuple(vector.shape)}")
    if vector.dtype not in (x.dtype, torch.float32):
        raise TypeError(f"{name} must be {x.dtype} or torch.float32, got {vector.dtype}")
    if vector.device != x.device:
        raise ValueError(f"x and {name} are on {x.device}, {vector.device}")


def _check_fused(x: Tensor, weight: Tensor, scale: Tensor, residual: Tensor | None) -> None:
    if tuple(weight.shape[2:]) != (1, 1):
        raise ValueError(f"weight must be (K, C, 1, 1), got {tuple(weight.shape)}")
    _check_vector("scale", scale, x, weight)
    if residual is None:
        return
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    if tuple(residual.shape) != shape:
        raise ValueError(f"residual must be {shape}, got {tuple(residual.shape)}")
    if residual.dtype != x.dtype:
        raise TypeError(f"residual must be {x.dtype}, got {residual.dtype}")
    if residual.device != x.device:
        raise ValueError(f"x and residual are on {x.device}, {residual.device}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(2, 6, 9, 9, generator=generator).to(device)  # (N, C, H, W)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(8, 6, 3, 3, generator=generator).to(device)  # (K, C, R, S)
    out = implicit_gemm_conv2d(x, weight, stride=2, padding=1)
    (dx,) = torch.autograd.grad(out.square().sum(), x)
    print(tuple(out.shape), tuple(dx.shape))

    # The same with the left factor in memory: 2 * 5 * 5 pixels, 3 * 3 * 6 numbers each.
    columns = F.unfold(x, 3, stride=2, padding=1)  # (N, C*R*S, P*Q)
    expected = (weight.flatten(1) @ columns).view(2, 8, 5, 5)
    (expected_dx,) = torch.autograd.grad(expected.square().sum(), x)
    print(torch.allclose(out, expected, atol=1e-4), torch.allclose(dx, expected_dx, atol=1e-3))

    # A 1x1 convolution with its folded batch norm, the skip connection and the relu.
    pointwise = torch.randn(6, 6, 1, 1, generator=generator).to(device)
    scale, shift = torch.rand(2, 6, generator=generator).to(device)
    out = conv1x1_fused(x, pointwise, scale, shift, residual=x)
    norm = F.conv2d(x, pointwise) * scale.view(6, 1, 1) + shift.view(6, 1, 1)
    print(torch.allclose(out, F.relu(norm + x), atol=1e-5))
    # --8<-- [end:demo]
