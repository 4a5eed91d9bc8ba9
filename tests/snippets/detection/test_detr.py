"""DETR: matching against scipy, model and loss against transformers, training, bad input.

Yardstick: scipy.optimize.linear_sum_assignment; transformers.DetrForObjectDetection;
    transformers.loss.loss_for_object_detection.ForObjectDetectionLoss; torch.nn.MultiheadAttention;
    plain loops.
"""

import itertools
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.testing import assert_close
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

from snippets.attention.multi_head_attention import MultiHeadAttention
from snippets.detection.average_precision import evaluate_coco
from snippets.detection.detr import (
    DETR,
    Predictions,
    attend,
    hungarian,
    image_positions,
    matching_cost,
    set_loss,
)
from snippets.detection.shapes_dataset import shapes

detr = sys.modules[DETR.__module__]

sizes = st.integers(0, 7)
seeds = st.integers(0, 2**32 - 1)


def random_targets(counts, classes=3, size=(40, 60), seed=0):
    """Objects with xyxy boxes in pixels, as many in each image as `counts` says."""
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for n in counts:
        corners = torch.rand(n, 2, 2, generator=generator, dtype=torch.float64).sort(1).values
        boxes = corners.flatten(1) * torch.tensor([size[1], size[0]] * 2)
        targets.append(dict(boxes=boxes, labels=torch.randint(classes, (n,), generator=generator)))
    return targets


def random_predictions(layers=2, batch=3, queries=5, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = layers, batch, queries
    logits = 2 * torch.randn(*shape, classes + 1, generator=generator, dtype=torch.float64)
    boxes = torch.rand(*shape, 4, generator=generator, dtype=torch.float64)
    return Predictions(logits.requires_grad_(), boxes.requires_grad_())


def to_labels(targets, size=(40, 60)):
    """As transformers wants them: shares of the image, cxcywh."""
    labels = []
    for target in targets:
        x1, y1, x2, y2 = target["boxes"].unbind(1)
        cxcywh = [(x1 + x2) / 2 / size[1], (y1 + y2) / 2 / size[0]]
        cxcywh += [(x2 - x1) / size[1], (y2 - y1) / size[0]]
        labels.append(dict(class_labels=target["labels"], boxes=torch.stack(cxcywh, dim=1)))
    return labels


def config(**change):
    backbone = ResNetConfig(
        embedding_size=4,
        hidden_sizes=[4, 4, 4, 32],  # 32 as our own map of stride 8, which takes its place
        depths=[1, 1, 1, 1],
        out_features=["stage4"],
    )
    sizes = dict(d_model=16, encoder_layers=2, decoder_layers=3, encoder_ffn_dim=20)
    sizes |= dict(encoder_attention_heads=4, decoder_attention_heads=4, decoder_ffn_dim=20)
    sizes |= dict(num_queries=5, num_labels=3, dropout=0.0)
    return DetrConfig(use_timm_backbone=False, backbone_config=backbone, **sizes | change)


# Matching: parity -----------------------------------------------------------


def check_matching(cost):
    rows, columns = hungarian(cost)
    assert rows.dtype == columns.dtype == torch.int64
    assert len(rows) == len(columns) == min(cost.shape)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(set(columns.tolist())) == len(columns)
    expected = cost[linear_sum_assignment(cost)].sum()
    assert_close(cost[rows, columns].sum(), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("kind", ["normal", "ties", "signed ties", "one apart", "far apart"])
def test_as_cheap_as_scipy(kind):
    rng = np.random.default_rng(0)
    for _ in range(800):
        n, m = rng.integers(0, 9, 2)
        cost = {
            "normal": lambda n=n, m=m: rng.normal(size=(n, m)),
            "ties": lambda n=n, m=m: rng.integers(0, 3, (n, m)),
            "signed ties": lambda n=n, m=m: rng.integers(-2, 2, (n, m)),
            "one apart": lambda n=n, m=m: np.add.outer(
                rng.integers(0, 9, n), rng.integers(0, 9, m)
            ),
            "far apart": lambda n=n, m=m: 10.0 ** rng.integers(-6, 7, (n, m)),
        }[kind]()
        check_matching(torch.from_numpy(np.asarray(cost, dtype=np.float64)))


def test_as_cheap_as_scipy_on_larger_ones():
    generator = torch.Generator().manual_seed(0)
    for shape in ((60, 60), (100, 20), (20, 100)):
        check_matching(torch.rand(shape, generator=generator, dtype=torch.float64))


def test_the_same_pairs_as_scipy_where_only_one_choice_is_best():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        n, m = torch.randint(1, 8, (2,), generator=generator).tolist()
        cost = torch.rand(n, m, generator=generator, dtype=torch.float64)
        rows, columns = linear_sum_assignment(cost)
        found = hungarian(cost)
        assert found[0].tolist() == rows.tolist() and found[1].tolist() == columns.tolist()


@given(n=st.integers(0, 4), m=st.integers(0, 5), seed=seeds)
def test_no_other_pairing_is_cheaper(n, m, seed):
    cost = torch.randint(-3, 4, (n, m), generator=torch.Generator().manual_seed(seed))
    if n > m:
        cost = cost.T
    rows, columns = hungarian(cost)
    n, m = cost.shape
    all_sums = [cost[range(n), list(p)].sum() for p in itertools.permutations(range(m), n)]
    assert cost[rows, columns].sum() == min(all_sums)


@given(n=sizes, m=sizes, seed=seeds)
def test_a_constant_added_to_a_side_that_is_all_matched_changes_no_pair(n, m, seed):
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(n, m, generator=generator, dtype=torch.float64)
    shift = torch.rand(n, 1, generator=generator, dtype=torch.float64)
    moved = cost + shift if n <= m else cost + torch.rand(1, m, generator=generator).double()
    assert [x.tolist() for x in hungarian(cost)] == [x.tolist() for x in hungarian(moved)]


def test_taking_the_nearest_first_is_not_the_best():
    cost = torch.tensor([[1.0, 2.0], [2.0, 9.0]])
    assert hungarian(cost)[1].tolist() == [1, 0]  # 4; with the 1 first it is 10


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1), (1, 4), (4, 1)], ids=str)
def test_matching_of_few(shape):
    check_matching(torch.rand(shape, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_matching_in_every_dtype_without_change_of_the_argument(dtype):
    cost = (100 * torch.rand(5, 4)).to(dtype).T  # not contiguous
    before = cost.clone()
    rows, columns = hungarian(cost)
    assert torch.equal(cost, before)
    expected = linear_sum_assignment(cost.double())[1]
    assert_close(cost.double()[rows, columns].sum(), cost.double()[range(4), expected].sum())


# Model: parity --------------------------------------------------------------

ATTENTION = {f"{x}_proj": f"{x}_proj" for x in "qkv"} | dict(o_proj="out_proj")
PLACES = {
    "self_attn": "attention",
    "self_attn_layer_norm": "attention_norm.norm",
    "encoder_attn": "cross",
    "encoder_attn_layer_norm": "cross_norm.norm",
    "mlp.fc1": "feed_forward.up",
    "mlp.fc2": "feed_forward.down",
    "final_layer_norm": "feed_forward_norm.norm",
}
REST = {
    "model.query_position_embeddings.weight": "queries",
    "model.input_projection": "project",
    "model.decoder.layernorm": "norm",
    "class_labels_classifier": "logits",
    "bbox_predictor.layers.0": "boxes.0",
    "bbox_predictor.layers.1": "boxes.2",
    "bbox_predictor.layers.2": "boxes.4",
}


def our_name(key):
    """Of a parameter of transformers' model; None for the backbone."""
    for theirs, ours in REST.items():
        if key == theirs or key.startswith(f"{theirs}."):
            return ours + key[len(theirs) :]
    words = key.split(".")
    if words[1] not in ("encoder", "decoder"):
        return None
    layer, kind = words[3], ".".join(words[4:-1])
    inside = ""
    if kind.split(".")[-1] in ATTENTION:
        kind, last = kind.rsplit(".", 1)
        inside = f".{ATTENTION[last]}"
    return f"{words[1]}.{layer}.block.{PLACES[kind]}{inside}.{words[-1]}"


class Backbone(nn.Module):
    """Ours in the place of theirs."""

    def __init__(self, model):
        super().__init__()
        self.model, self.stride = model, 8

    def forward(self, images, mask):
        x = self.model(images)[self.stride]
        mask = mask.new_ones(len(x), *x.shape[-2:], dtype=torch.bool)
        return [(x, mask)]


@pytest.fixture(scope="module")
def both():
    """Our model and transformers', with the same random weights."""
    generator = torch.Generator().manual_seed(0)
    sizes = dict(queries=5, width=16, heads=4, inner=20, encoder_layers=2, decoder_layers=3)
    ours = DETR(3, stride=8, **sizes).double()
    theirs = DetrForObjectDetection(config())
    theirs.model.backbone = Backbone(ours.backbone)
    theirs.double()
    names = {}
    for key, parameter in theirs.named_parameters():
        std = 0.3 if "query" not in key else 1.0
        with torch.no_grad():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
        if (name := our_name(key)) is not None:
            names[key] = name
            ours.get_parameter(name).data.copy_(parameter.data)
    own = {name for name, _ in ours.named_parameters() if not name.startswith("backbone")}
    assert own == set(names.values())
    return ours.eval(), theirs.eval(), names


def images_for(both, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, 40, 60, generator=generator, dtype=torch.float64)


def test_model_equals_transformers(both):
    ours, theirs, names = both
    images = images_for(both).requires_grad_()
    found = ours(images)
    assert found.logits.shape == (3, 2, 5, 4) and found.boxes_cxcywh.shape == (3, 2, 5, 4)
    expected = theirs(images, output_hidden_states=True)
    assert_close(found.logits[-1], expected.logits, rtol=1e-9, atol=1e-10)
    assert_close(found.boxes_cxcywh[-1], expected.pred_boxes, rtol=1e-9, atol=1e-10)
    # The layers before the last: their hidden state, the shared norm and the shared heads.
    # (With auxiliary_loss=True transformers 5.23 hands the normalised state on to the next
    # layer, which the authors' code does not.)
    for i in range(2):
        hidden = theirs.model.decoder.layernorm(expected.decoder_hidden_states[i + 1])
        assert_close(found.logits[i], theirs.class_labels_classifier(hidden), rtol=1e-9, atol=1e-10)
        boxes = theirs.bbox_predictor(hidden).sigmoid()
        assert_close(found.boxes_cxcywh[i], boxes, rtol=1e-9, atol=1e-10)


@pytest.fixture
def doubles():
    """The type in which transformers puts the weights of the classes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("doubles")
def test_gradients_equal_transformers(both):
    ours, theirs, names = both
    images = images_for(both).requires_grad_()
    targets = random_targets([2, 3])
    found = Predictions(*(x[-1:] for x in ours(images)))
    loss = sum(set_loss(found, targets, (40, 60)).values())
    expected = theirs(images, labels=to_labels(targets)).loss
    assert_close(loss, expected, rtol=1e-9, atol=1e-10)
    used = {key: p for key, p in theirs.named_parameters() if key in names}
    wanted = torch.autograd.grad(expected, [images, *used.values()])
    own = [ours.get_parameter(names[key]) for key in used]
    for x, y in zip(torch.autograd.grad(loss, [images, *own]), wanted, strict=True):
        assert_close(x, y, rtol=1e-8, atol=1e-10)


def test_positions_equal_transformers(both):
    embedding = both[1].model.position_embedding
    for h, w in ((5, 8), (1, 1), (7, 3)):
        expected = embedding(torch.Size([1, 16, h, w]), "cpu", torch.float64)[0]  # (16, h, w)
        assert_close(image_positions(h, w, 16), expected.flatten(1).T, rtol=1e-9, atol=1e-10)


def test_attend_equals_pytorch():
    ours = MultiHeadAttention(12, 3).double()
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.4)
    with torch.no_grad():
        for name, w, b in zip("qkv", theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3)):
            getattr(ours, f"{name}_proj").weight.copy_(w)
            getattr(ours, f"{name}_proj").bias.copy_(b)
        ours.out_proj.load_state_dict(theirs.out_proj.state_dict())
    q, k, v = (torch.randn(2, n, 12, dtype=torch.float64) for n in (4, 5, 5))
    assert_close(attend(ours, q, k, v), theirs(q, k, v)[0])


# Loss: parity ---------------------------------------------------------------


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("counts", [[2, 0, 4], [1, 1, 1], [0, 0, 0], [7, 2, 5], [3, 9, 6]], ids=str)
def test_loss_equals_transformers(counts):
    targets = random_targets(counts)
    found, again = random_predictions(), random_predictions()
    parts = set_loss(found, targets, (40, 60))
    theirs = config(auxiliary_loss=True, decoder_layers=2)
    last, earlier = [x[-1] for x in again], [*again]
    labels = to_labels(targets)
    expected, by_name, _ = ForObjectDetectionLoss(last[0], labels, "cpu", last[1], theirs, *earlier)
    assert_close(sum(parts.values()), expected, rtol=1e-10, atol=1e-11)
    for name, key, weight in (("class", "ce", 1), ("l1", "bbox", 5), ("giou", "giou", 2)):
        both = by_name[f"loss_{key}"] + by_name[f"loss_{key}_0"]
        assert_close(parts[name], weight * both, rtol=1e-10, atol=1e-11)
    gradients = torch.autograd.grad(sum(parts.values()), found)
    wanted = torch.autograd.grad(expected, again)
    for x, y in zip(gradients, wanted, strict=True):
        assert_close(x, y, rtol=1e-9, atol=1e-11)


def by_hand(found, targets, weights, no_object, size=(40, 60)):
    """The loss with loops and all pairings, for few objects."""
    parts = [0.0, 0.0, 0.0]
    truths = to_labels(targets, size)
    count = max(1, sum(len(t["boxes"]) for t in truths))
    for logits, boxes in zip(*found, strict=True):
        nll, mass = 0.0, 0.0
        for b, truth in enumerate(truths):
            n, probs = len(truth["boxes"]), logits[b].softmax(-1)

            def terms(q, g, truth=truth, probs=probs, boxes=boxes, b=b):
                x, y = boxes[b, q], truth["boxes"][g]
                l1 = sum(abs(x[i] - y[i]) for i in range(4))
                low = [max(a[i] - a[i + 2] / 2 for a in (x, y)) for i in (0, 1)]
                high = [min(a[i] + a[i + 2] / 2 for a in (x, y)) for i in (0, 1)]
                shared = max(0, high[0] - low[0]) * max(0, high[1] - low[1])
                union = x[2] * x[3] + y[2] * y[3] - shared
                low = [min(a[i] - a[i + 2] / 2 for a in (x, y)) for i in (0, 1)]
                high = [max(a[i] + a[i + 2] / 2 for a in (x, y)) for i in (0, 1)]
                hull = (high[0] - low[0]) * (high[1] - low[1])
                giou = shared / union - (hull - union) / hull
                return -probs[q, truth["class_labels"][g]], l1, -giou

            def cost(pairing):
                each = [terms(q, g) for g, q in enumerate(pairing)]
                return sum(w * x for t in each for w, x in zip(weights, t, strict=True))

            best = min(itertools.permutations(range(len(logits[b])), n), key=cost)
            wanted = dict(zip(best, truth["class_labels"].tolist(), strict=True))
            for q in range(len(logits[b])):
                weight = 1.0 if q in wanted else no_object
                nll -= weight * probs[q, wanted.get(q, -1)].log()
                mass += weight
            for g, q in enumerate(best):
                parts[1] += weights[1] * terms(q, g)[1] / count
                parts[2] += weights[2] * (1 + terms(q, g)[2]) / count
        parts[0] += weights[0] * nll / mass
    return parts


@pytest.mark.parametrize(
    ("weights", "no_object"), [((1.0, 5.0, 2.0), 0.1), ((3.0, 0.5, 1.5), 0.4)], ids=str
)
def test_loss_equals_the_definition(weights, no_object):
    for seed in range(3):
        found, targets = random_predictions(seed=seed, queries=4), random_targets([2, 0, 3])
        parts = set_loss(found, targets, (40, 60), weights, no_object)
        expected = by_hand([x.detach() for x in found], targets, weights, no_object)
        assert list(parts) == ["class", "l1", "giou"]
        for part, value in zip(parts.values(), expected, strict=True):
            assert_close(part, torch.as_tensor(value, dtype=torch.float64))


# Loss: invariants, edges ----------------------------------------------------


@given(seed=seeds)
def test_neither_order_matters(seed):
    generator = torch.Generator().manual_seed(seed)
    found, targets = random_predictions(seed=seed), random_targets([3, 1, 2], seed=seed)
    order = torch.randperm(5, generator=generator)
    shuffled = []
    for target in targets:
        p = torch.randperm(len(target["labels"]), generator=generator)
        shuffled.append(dict(boxes=target["boxes"][p], labels=target["labels"][p]))
    again = Predictions(*(x[:, :, order] for x in found))
    before, after = (set_loss(*x, (40, 60)) for x in ((found, targets), (again, shuffled)))
    assert_close(before, after)


def test_perfect_predictions_cost_nothing():
    targets = random_targets([3, 2])
    logits = torch.full((1, 2, 4, 4), -40.0, dtype=torch.float64)
    boxes = torch.rand(1, 2, 4, 4, dtype=torch.float64)
    logits[..., 3] = 40.0
    for b, truth in enumerate(to_labels(targets)):
        for g, q in enumerate([2, 0, 3][: len(truth["boxes"])]):
            boxes[0, b, q] = truth["boxes"][g]
            logits[0, b, q] = -40.0
            logits[0, b, q, truth["class_labels"][g]] = 40.0
    parts = set_loss(Predictions(logits, boxes), targets, (40, 60))
    for part in parts.values():
        assert_close(part, part.new_zeros(()), rtol=0, atol=1e-9)


def test_a_second_box_on_an_object_is_punished():
    """What makes NMS superfluous."""
    target = random_targets([1])
    truth = to_labels(target)[0]
    boxes = truth["boxes"].expand(1, 1, 2, 4)
    logits = torch.full((1, 1, 2, 4), -5.0, dtype=torch.float64)
    logits[..., truth["class_labels"][0]] = 5.0  # both are sure of the same object
    single = logits.clone()
    single[0, 0, 1] = torch.tensor([-5.0, -5.0, -5.0, 5.0])
    twice, once = (set_loss(Predictions(x, boxes), target, (40, 60)) for x in (logits, single))
    assert twice["class"] > 0.5 > 0.01 > once["class"]


def test_objects_that_find_no_query_still_count():
    """As transformers: they divide the loss, but nothing is compared with them."""
    found = random_predictions(batch=1, queries=1)
    many = random_targets([4])
    parts = set_loss(found, many, (40, 60))
    cost = matching_cost(
        found.logits[:, 0],
        found.boxes_cxcywh[:, 0],
        many[0]["labels"],
        to_labels(many)[0]["boxes"],
    )  # (layers, 1, 4)
    l1 = 0
    for layer, g in enumerate(cost[:, 0].argmin(1)):
        l1 += (found.boxes_cxcywh[layer, 0, 0] - to_labels(many)[0]["boxes"][g]).abs().sum()
    assert_close(parts["l1"], 5 * l1 / 4)


def test_crowds_are_left_out():
    found, targets = random_predictions(batch=2), random_targets([3, 2])
    crowd = [dict(t, crowd=torch.tensor([False, True, False][: len(t["labels"])])) for t in targets]
    kept = [dict(boxes=t["boxes"][::2], labels=t["labels"][::2]) for t in targets]
    assert_close(set_loss(found, crowd, (40, 60)), set_loss(found, kept, (40, 60)))


def test_without_objects_only_classes_are_learned():
    found = random_predictions()
    parts = set_loss(found, random_targets([0, 0, 0]), (40, 60))
    assert parts["l1"] == parts["giou"] == 0 < parts["class"]
    logits, boxes = torch.autograd.grad(sum(parts.values()), found)
    assert logits.any() and not boxes.any()


def test_gradient_of_the_loss():
    found, targets = random_predictions(batch=2, queries=3), random_targets([1, 2])
    assert torch.autograd.gradcheck(
        lambda *x: tuple(set_loss(Predictions(*x), targets, (40, 60)).values()), tuple(found)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_loss_in_every_precision(dtype):
    found = Predictions(*(x.to(dtype) for x in random_predictions()))
    targets = [dict(t, boxes=t["boxes"].float()) for t in random_targets([2, 0, 4])]
    parts = set_loss(found, targets, (40, 60))
    exact = set_loss(Predictions(*(x.double() for x in found)), targets, (40, 60))
    for name, part in parts.items():
        assert part.dtype == torch.float32
        assert_close(part.double(), exact[name], rtol=1e-5, atol=1e-5)


def test_matching_cost_has_no_gradient_and_takes_batches():
    found, target = random_predictions(), random_targets([4])[0]
    truth = target["labels"], to_labels([target])[0]["boxes"]
    cost = matching_cost(*found, *truth)
    assert cost.shape == (2, 3, 5, 4) and not cost.requires_grad
    single = matching_cost(found.logits[1, 2], found.boxes_cxcywh[1, 2], *truth)
    assert_close(cost[1, 2], single)


# Detection ------------------------------------------------------------------


def test_detect_is_the_last_layer_in_pixels(both):
    ours, theirs, _ = both
    images = images_for(both)
    logits, boxes = (x[-1] for x in ours(images))
    for b, found in enumerate(ours.detect(images)):
        probs = logits[b].softmax(-1)[:, :3]
        order = probs.amax(1).argsort(descending=True)
        assert_close(found["scores"], probs.amax(1)[order])
        assert found["labels"].tolist() == probs.argmax(1)[order].tolist()
        cx, cy, w, h = boxes[b, order].unbind(1)
        expected = [60 * (cx - w / 2), 40 * (cy - h / 2), 60 * (cx + w / 2), 40 * (cy + h / 2)]
        assert_close(found["boxes"], torch.stack(expected, dim=1))
        assert not found["boxes"].requires_grad


def test_no_object_is_not_a_label():
    model = DETR(3, queries=4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.logits.bias[3] = 20.0
    (found,) = model.eval().detect(torch.rand(1, 3, 32, 32))
    assert (found["labels"] < 3).all() and (found["scores"] < 1e-3).all()


def test_detect_by_score(both):
    ours, _, _ = both
    every = ours.detect(images_for(both))[0]
    scores = every["scores"]
    assert len(scores) == 5
    for least, n in ((float(scores[2]), 3), (float(scores[1] + scores[2]) / 2, 2), (1.1, 0)):
        kept = ours.detect(images_for(both), least)[0]
        assert_close(kept, {key: x[:n] for key, x in every.items()})
    assert kept["boxes"].shape == (0, 4)


def test_an_image_does_not_depend_on_the_others(both):
    ours, _, _ = both
    images = images_for(both, batch=3)
    together, alone = ours(images), ours(images[1:2])
    assert_close(together.logits[:, 1:2], alone.logits)
    assert ours.detect(images[:0]) == []


def test_queries_in_another_order_give_the_same_set(both):
    ours, _, _ = both
    images, order = images_for(both), torch.tensor([3, 0, 4, 1, 2])
    before = ours(images)
    queries = ours.queries.data
    ours.queries.data = queries[order]
    after = ours(images)
    ours.queries.data = queries
    assert_close(after.logits, before.logits[:, :, order])


def test_same_seed_same_weights():
    first, second = (DETR(2, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    for x, y in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(x, y)


# Training -------------------------------------------------------------------


def average_precision_after(steps, generator):
    """Of twelve images learned by heart; in each step their objects stand in another order."""
    options = dict(size=32, objects=(2, 3), sides=(8, 16), noise=6, empty=0.1)
    drawn = shapes(12, generator, **options)
    images, targets = torch.stack([x for x, _ in drawn]), [target for _, target in drawn]
    sizes = dict(queries=6, encoder_layers=1, decoder_layers=2, stride=8, inner=128)
    model = DETR(4, **sizes, generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        shuffled = []
        for target in targets:
            p = torch.randperm(len(target["labels"]), generator=generator)
            shuffled.append(dict(boxes=target["boxes"][p], labels=target["labels"][p]))
        optimizer.zero_grad()
        model.loss(images, shuffled).backward()
        optimizer.step()
    return evaluate_coco(model.eval().detect(images), targets)["AP50"]


def in_order(cost):
    pairs = min(cost.shape)
    return torch.arange(pairs), torch.arange(pairs)


def dearest(cost):
    rows, columns = linear_sum_assignment(-cost)
    return torch.from_numpy(rows), torch.from_numpy(columns)


def test_it_learns():
    assert average_precision_after(80, torch.Generator().manual_seed(0)) > 0.85


@pytest.mark.parametrize("broken", [in_order, dearest])
def test_it_does_not_learn_without_the_matching(broken, monkeypatch):
    monkeypatch.setattr(detr, "hungarian", broken)
    assert average_precision_after(80, torch.Generator().manual_seed(0)) < 0.5


# Bad input ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (torch.zeros(3), r"must be \(n, m\), got \(3,\)"),
        (torch.tensor([[0.0, torch.nan]]), "must be finite, got nan"),
        (torch.tensor([[0.0], [-torch.inf]]), "must be finite, got -inf"),
    ],
)
def test_bad_cost(cost, message):
    with pytest.raises(ValueError, match=message):
        hungarian(cost)


def good():
    targets = random_targets([2, 1, 0])
    return dict(predictions=random_predictions(), targets=targets, size=(40, 60))


def change(key, value):
    def apply(call):
        call["targets"][0][key] = value

    return apply


def predict(logits, boxes):
    def apply(call):
        call["predictions"] = Predictions(torch.zeros(logits), torch.zeros(boxes))

    return apply


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (change("boxes", torch.tensor([[5.0, 0, 4, 1], [0, 0, 1, 1]])), r"got \[5.0, 0.0, 4.0"),
        (change("boxes", torch.tensor([[0.0, 0, torch.nan, 1]] * 2)), "target 0 must be finite"),
        (
            change("boxes", torch.zeros(2, 4, dtype=torch.int64)),
            "must be floating, got torch.int64",
        ),
        (change("boxes", torch.zeros(3, 4)), r"got \(3, 4\) and \(2,\)"),
        (change("boxes", torch.zeros(4)), r"got \(4,\) and \(2,\)"),
        (change("labels", torch.tensor([0, 3])), "from 0 to 2, got tensor"),
        (change("labels", torch.tensor([-1, 0])), "from 0 to 2, got tensor"),
        (change("labels", torch.tensor([0.0, 1.0])), "int64 from 0 to 2"),
        (change("crowd", torch.tensor([0, 1])), r"crowd must be bool \(2,\), got torch.int64"),
        (
            change("crowd", torch.tensor([True])),
            r"crowd must be bool \(2,\), got torch.bool \(1,\)",
        ),
        (
            change("labels", torch.zeros(2, dtype=torch.int64, device="meta")),
            "one device, got cpu, meta and cpu",
        ),
        (predict((2, 3, 5, 4), (2, 3, 4, 4)), r"got \(2, 3, 5, 4\) and \(2, 3, 4, 4\)"),
        (predict((3, 5, 4), (3, 5, 4)), r"got \(3, 5, 4\) and \(3, 5, 4\)"),
        (predict((2, 3, 5, 1), (2, 3, 5, 4)), r"got \(2, 3, 5, 1\)"),
        (lambda call: call["targets"].pop(), "one target per image, at least one, got 2 targets"),
        (lambda call: call.update(size=(0, 60)), r"size must be positive, got \(0, 60\)"),
    ],
)
def test_bad_targets(break_it, message):
    call = good()
    set_loss(**call)
    break_it(call)
    with pytest.raises(ValueError, match=message):
        set_loss(**call)


def test_predictions_that_are_not_finite():
    found = random_predictions()
    bad = Predictions(found.logits * torch.nan, found.boxes_cxcywh)
    with pytest.raises(ValueError, match="cost must be finite, got nan"):
        set_loss(bad, good()["targets"], (40, 60))
    bad = Predictions(found.logits, found.boxes_cxcywh * torch.nan)
    with pytest.raises(ValueError, match="must be finite with x1 <= x2"):
        set_loss(bad, good()["targets"], (40, 60))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(classes=0), "got 0, 30, 3, 2"),
        (dict(queries=0), "got 2, 0, 3, 2"),
        (dict(decoder_layers=0), "got 2, 30, 0, 2"),
        (dict(encoder_layers=-1), "got 2, 30, 3, -1"),
        (dict(stride=4), r"one of \[8, 16, 32\], got 4"),
        (dict(width=18, heads=3), "multiple of 4, got 1, 1, 18"),
        (dict(heads=5), "multiple of heads, got 64, 5"),
    ],
)
def test_bad_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        DETR(**dict(classes=2) | sizes)
    with pytest.raises(ValueError, match="h, w must be positive, .* got 0, 3, 8"):
        image_positions(0, 3, 8)


def test_bad_images():
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\), got \(3, 32, 32\)"):
        DETR(2).loss(torch.zeros(3, 32, 32), [])
