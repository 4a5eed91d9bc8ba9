"""What must hold in a row, beyond the schema."""

from collections.abc import Mapping
from typing import Any

from benchmarks.detectors.training import NAMES

MEASURED = (
    "parameters", "flops", "train_seconds", "losses", "latency_ms", "boxes", "threshold",
    "counts", "pictures",
)  # fmt: skip
EMPTY: dict[str, Any] = {
    "status": "ok",
    "reason": None,
    **dict.fromkeys(MEASURED),
    "masks": None,
}


def wrong(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> str | None:
    """What contradicts itself in a row; None where all agrees."""
    if row["status"] != "ok":
        gone = all(row[name] is None for name in (*MEASURED, "masks"))
        return None if row["reason"] and gone else "a status other than ok needs a reason alone"
    missing = [name for name in MEASURED if row[name] is None]
    if missing or row["reason"]:
        return f"status ok needs {', '.join(missing) or 'no reason'}"
    batch, seen = manifest["budget"]["batch"], row["images_seen"]
    budget = manifest["budget"]["images"] // batch * batch * row["config"]["longer"]
    if seen != row["steps"] * batch or abs(seen - budget) >= batch * row["config"]["longer"]:
        return f"images_seen is {seen}, the budget {budget}"
    times = row["latency_ms"]
    order = [times[name] for name in ("min", "p20", "median", "p80")]
    if order != sorted(order):
        return f"times are out of order, got {order}"
    for kind in ("boxes", "masks"):
        if row[kind] is not None and (found := _scores(row[kind])):
            return f"{kind}: {found}"
    return _pictures(row, manifest)


def _scores(found: Mapping[str, float]) -> str | None:
    if tuple(found) != NAMES:
        return f"needs {', '.join(NAMES)}, got {', '.join(found)}"
    outside = [name for name, x in found.items() if not (0 <= x <= 1 or x == -1)]
    if outside:
        return f"{outside[0]} must be a share or -1, got {found[outside[0]]}"
    if not found["AP75"] <= found["AP50"] or not found["AP"] <= found["AP50"]:
        return f"AP50 is {found['AP50']}, less than AP or AP75"
    if not found["AR1"] <= found["AR10"] <= found["AR100"]:
        return f"AR1, AR10 and AR100 must rise, got {found['AR1']}, {found['AR10']}"
    return None


def _pictures(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> str | None:
    size, count = manifest["data"]["size"], manifest["data"]["held_out"]
    for number, picture in enumerate(row["pictures"]):
        if picture["image"] != number or number >= count:
            return f"picture {number} is of image {picture['image']}"
        n = len(picture["boxes"])
        if len(picture["scores"]) != n or len(picture["labels"]) != n:
            return f"picture {number} needs boxes, scores and labels of the same number"
        if picture["masks"] is not None and len(picture["masks"]) != n:
            return f"picture {number} needs a mask for each box"
        if any(sum(counts) != size * size for counts in picture["masks"] or ()):
            return f"picture {number} has a mask of another size"
        if picture["scores"] != sorted(picture["scores"], reverse=True):
            return f"scores of picture {number} must fall, got {picture['scores']}"
        for x1, y1, x2, y2 in picture["boxes"]:
            if x2 < x1 or y2 < y1:
                return f"picture {number} has the box {[x1, y1, x2, y2]}"
    return None
