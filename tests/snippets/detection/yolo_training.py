"""Short trainings of the YOLO detectors, for their tests: AP on images they have not seen."""

from functools import cache

import torch

from snippets.detection.average_precision import evaluate_coco
from snippets.detection.shapes_dataset import shapes


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(pairs):
    return torch.stack([image for image, _ in pairs]), [target for _, target in pairs]


@cache
def drawn(count, seed, most):
    """Small images; a label says whether a shape is brighter than the image: soon learnt."""
    pairs = shapes(count, seeded(seed), size=48, objects=(1, most), sides=(18, 30))
    for image, target in pairs:
        bright = [int(image[:, mask].mean() > image.mean()) for mask in target["masks"]]
        target["labels"] = torch.tensor(bright, dtype=torch.int64)
    return pairs


def trained(model, loss, steps, rate, size=8, most=1, seed=0):
    """Train on images that are new in each step, evaluate on others; `loss` of model, batch."""
    torch.set_num_threads(1)
    pairs = drawn(steps * size, seed, most)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for i in range(steps):
        value = loss(model, *batch(pairs[i * size : (i + 1) * size]))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    images, targets = batch(drawn(60, 1000 + seed, most))
    return evaluate_coco(model.eval().detect(images, candidates=100), targets)


def without(part=None):
    """The loss of a PriorDetector, one of its parts (boxes, objectness, classes) left out."""

    def loss(model, images, targets):
        parts = model.parts(*model.predict(images), targets)
        return sum(x for i, x in enumerate(parts) if i != part)

    return loss
