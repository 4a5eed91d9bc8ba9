"""What the libraries that we compare with need before they can be imported."""

from importlib.metadata import PackageNotFoundError, version

import torch

_declared: list[torch.library.Library] = []


def allow_torchvision() -> None:
    """Let torchvision from PyPI, which is built for CUDA, load beside a torch for the CPU.

    Its import asks for two operators that are compiled for CUDA; without them its Python works.
    transformers imports it where it is installed.
    """
    try:
        built_for_cpu = "+" in version("torchvision")
    except PackageNotFoundError:
        return
    if _declared or built_for_cpu or not torch.__version__.endswith("+cpu"):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
