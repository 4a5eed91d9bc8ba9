"""_TITLE_: TODO(new): what it does, in a few words.

Paper: TODO(new): the primary source. Author et al., "Title", venue, year, equation. Address.
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  C numbers of a row; `...` is any batch. TODO(new): the axes of the concept.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor

# --8<-- [end:imports]

__all__ = ["_NAME_"]

# TODO(new): the concept in the place of this example, here and in its test.


# --8<-- [start:core]
def _NAME_(x: Tensor) -> Tensor:
    """Take from each row its mean.

    Args:
        x: (..., C), floating point.

    Returns:
        (..., C); rows of no numbers stay empty.

    Raises:
        TypeError: x is not of a floating dtype.
        ValueError: x has no axis.
    """
    _check(x)
    return x - x.mean(dim=-1, keepdim=True)  # (..., C)


# --8<-- [end:core]


def _check(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"x must be floating, got {x.dtype}")
    if x.ndim < 1:
        raise ValueError(f"x needs at least one axis, got {tuple(x.shape)}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    row = torch.tensor([1.0, 2.0, 6.0])
    less = _NAME_(row)
    print("row ", *(f"{number:5.2f}" for number in row))
    print("less", *(f"{number:5.2f}" for number in less))
    # --8<-- [end:demo]
