"""Parity with torchvision's own Faster R-CNN: same weights, same images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2
from torchvision.ops import FrozenBatchNorm2d

from baselines.torchvision_faster_rcnn import TorchvisionFasterRCNN
from sdetr.architectures import architecture
from sdetr.detector import create_detector
from sdetr.structures import Target
from tests import small

HEIGHT, WIDTH = 96, 160
BUILDERS = {"build": fasterrcnn_resnet50_fpn, "build_v2": fasterrcnn_resnet50_fpn_v2}
Pair = tuple[TorchvisionFasterRCNN, nn.Module]


@pytest.fixture(scope="module", params=BUILDERS)
def pair(request: pytest.FixtureRequest) -> Pair:
    torch.manual_seed(0)
    config = architecture("faster_rcnn_r50_fpn", num_queries=100, dropout=0.1, backbone_weights="none")
    factory = f"baselines.torchvision_faster_rcnn:{request.param}"
    ours = create_detector(config.model_copy(update={"factory": factory}), num_classes=90)
    assert isinstance(ours, TorchvisionFasterRCNN)
    _draw_statistics(ours)
    theirs = BUILDERS[request.param](
        weights=None, weights_backbone=None, num_classes=91, min_size=HEIGHT, max_size=WIDTH, box_score_thresh=0.0
    )
    if request.param == "build":
        _freeze_batch_norm(theirs.backbone.body)
    names = {name.replace("body.stem.", "body."): value for name, value in ours.model.state_dict().items()}
    theirs.load_state_dict(names)
    ours.model.roi_heads.score_thresh = 0.0
    # Images have the wanted size already; torchvision would still draw a random number to choose it in training.
    theirs.transform._skip_resize = True
    return ours, theirs


def _draw_statistics(detector: nn.Module) -> None:
    """Batch norm that is no identity, so that a misplaced one shows."""
    with torch.no_grad():
        for name, buffer in detector.named_buffers():
            if name.endswith("running_mean"):
                buffer.uniform_(-0.2, 0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.8, 1.2)


def _freeze_batch_norm(module: nn.Module) -> None:
    """As torchvision builds version 1 where weights are given."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features))
        else:
            _freeze_batch_norm(child)


def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, HEIGHT, WIDTH, generator=generator) for _ in range(2)]


def target() -> Target:
    boxes = torch.tensor([[8.0, 10.0, 60.0, 80.0], [70.0, 20.0, 150.0, 90.0]])
    labels = torch.tensor([0, 16])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return Target(boxes, labels, area, torch.zeros_like(labels), 1, (HEIGHT, WIDTH), (HEIGHT, WIDTH))


def test_losses_are_torchvisions(pair: Pair) -> None:
    ours, theirs = (detector.train() for detector in pair)
    torch.manual_seed(3)
    mine = ours.loss(images(), [target(), target()])
    torch.manual_seed(3)
    reference = theirs(images(), [{"boxes": target().boxes, "labels": target().labels + 1}] * 2)
    assert mine.keys() == reference.keys()
    for name, value in reference.items():
        assert mine[name].item() == pytest.approx(value.item(), rel=1e-5)


@torch.no_grad()
def test_detections_are_torchvisions_scaled_to_the_original_image(pair: Pair) -> None:
    ours, theirs = (detector.eval() for detector in pair)
    found = ours.detect(images(), torch.tensor([[2 * HEIGHT, 3 * WIDTH]] * 2))
    scale = torch.tensor([3.0, 2.0, 3.0, 2.0])
    for mine, reference in zip(found, theirs(images()), strict=True):
        assert len(mine.scores) == 100
        torch.testing.assert_close(mine.scores, reference["scores"])
        torch.testing.assert_close(mine.labels, reference["labels"] - 1)
        torch.testing.assert_close(mine.boxes, reference["boxes"] * scale)


def test_version_2_learns_its_batch_norm_but_in_the_frozen_levels() -> None:
    config = architecture("faster_rcnn_r50_fpn", num_queries=100, dropout=0.1, backbone_weights="none")
    config = config.model_copy(update={"factory": "baselines.torchvision_faster_rcnn:build_v2"})
    detector = create_detector(config, num_classes=90)
    trained = {name for name, value in detector.named_parameters() if value.requires_grad}
    theirs = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    every = {f"model.{name}" for name, _ in theirs.named_parameters()}
    frozen = ("model.backbone.body.conv1", "model.backbone.body.bn1", "model.backbone.body.layer1.")
    assert trained == {name for name in every if not name.startswith(frozen)}
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in detector.modules())


def test_levels_that_nothing_reads_are_not_trained() -> None:
    detector = create_detector(
        small.recipe(
            "demo_faster_rcnn", detector__levels=["layer1", "layer2"], detector__anchor_sizes=[8, 16, 32]
        ).detector,
        5,
    )
    assert not [name for name, _ in detector.named_parameters() if "layer3" in name]
    size = (64, 64)
    boxes, label = torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.ones(1, dtype=torch.int64)
    target = Target(boxes, label, torch.ones(1), torch.zeros_like(label), 0, size, size)
    torch.stack(list(detector.train().loss([torch.rand(3, *size)], [target]).values())).sum().backward()
    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)


@torch.no_grad()
def test_bfloat16_rounds_no_box() -> None:
    torch.manual_seed(0)
    detector = create_detector(small.recipe("demo_faster_rcnn").detector, 5).train()
    assert isinstance(detector, TorchvisionFasterRCNN)
    seen: dict[str, list[Tensor]] = {}
    detector.model.rpn.anchor_generator.register_forward_hook(lambda _m, _i, out: seen.update(anchors=out))
    detector.model.roi_heads.register_forward_pre_hook(lambda _m, given: seen.update(proposals=given[1]))
    detector.model.roi_heads.box_roi_pool.register_forward_pre_hook(lambda _m, given: seen.update(sampled=given[1]))
    size = (64, 1000)
    boxes = torch.tensor([[701.3, 3.7, 897.7, 60.2]])
    label = torch.ones(1, dtype=torch.int64)
    target = Target(boxes, label, torch.ones(1), torch.zeros_like(label), 0, size, size)
    found = {}
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = detector.loss([torch.rand(3, *size)], [target])
        assert {value.dtype for value in losses.values()} == {torch.float32}
        found[enabled] = dict(seen)
    assert torch.equal(found[True]["anchors"][0], found[False]["anchors"][0])
    assert found[True]["proposals"][0].dtype == torch.float32
    # The true boxes are among the samples of the head, to the last bit.
    assert bool((found[True]["sampled"][0] == boxes).all(-1).any())
