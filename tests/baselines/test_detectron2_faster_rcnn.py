"""Parity with detectron2 itself: same weights, same images, same seed. Runs wherever detectron2 can be imported."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdetr.config import (
    Detectron2FasterRCNNConfig,
    Recipe,
    ShapesDataset,
    StepCountSchedule,
    override,
    parse,
    read_recipe,
    read_yaml,
)
from sdetr.data.coco import CocoImages
from sdetr.detector import create_detector
from sdetr.engine.schedule import learning_rate_factor
from sdetr.engine.train import Trainer
from sdetr.errors import UserError
from sdetr.released import load_released
from sdetr.structures import Target
from tests import small

pytest.importorskip("detectron2", reason="detectron2 is not installed (environment.yml has it)")

from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from baselines.detectron2_faster_rcnn import Detectron2FasterRCNN, model_config

RECIPES = sorted(small.RECIPES.glob("*_detectron2_*.yaml"))
CLASSES = 7
HEIGHT, WIDTH = 96, 128
NETS = ("r50_fpn", "r50_dc5", "r101_fpn")


def recipe(net: str, kind: str = "3x", **changes: Any) -> Recipe:
    """A recipe with random weights and narrow heads; a wide one of DC5 has 100 million parameters."""
    name = f"faster_rcnn_{net}_detectron2_{kind}"
    settings = {"detector.backbone.weights": "none", "detector.head_width": 32}
    settings |= {key.replace("__", "."): value for key, value in changes.items()}
    return parse(Recipe, override(read_yaml(small.RECIPES / f"{name}.yaml"), settings, name), name)


def detectron2s_own(net: str, kind: str = "3x") -> Any:
    """detectron2's configuration from its own file, narrowed as ours is."""
    depth, neck = net.removeprefix("r").split("_")
    cfg = model_zoo.get_config(f"COCO-Detection/faster_rcnn_R_{depth}_{neck.upper()}_{kind}.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = CLASSES, 32
    return cfg


def settled(cfg: Any) -> nn.Module:
    """detectron2's model with random weights whose outputs spread as a trained detector's do."""
    torch.manual_seed(0)
    model: nn.Module = build_model(cfg).eval()
    spread = {
        "proposal_generator.rpn_head.objectness_logits": 2.0,
        "proposal_generator.rpn_head.anchor_deltas": 0.3,
        "roi_heads.box_predictor.cls_score": 3.0,
        "roi_heads.box_predictor.bbox_pred": 2.0,
    }
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.uniform_(-0.2, 0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.8, 1.2)
            elif name.endswith("conv3.norm.weight"):
                buffer.fill_(0.2)
        for name, wanted in spread.items():
            module = model.get_submodule(name)
            seen: list[Tensor] = []
            hook = module.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output.std()))
            model([{"image": torch.rand(3, HEIGHT, WIDTH) * 255}])
            hook.remove()
            module.weight.mul_(wanted / seen[0])
    return model


def zoo_file(model: nn.Module, path: Path) -> Path:
    """As the model zoo's pickles are, with the entries that those of 2019 still have."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    state |= {"pixel_mean": model.pixel_mean.numpy(), "pixel_std": model.pixel_std.numpy()}
    state["proposal_generator.anchor_generator.cell_anchors.0"] = np.zeros((3, 4), dtype=np.float32)
    path.write_bytes(pickle.dumps({"model": state, "__author__": "Detectron2 Model Zoo"}))
    return path


def photos() -> list[np.ndarray[Any, Any]]:
    """RGB images of bytes, (H, W, 3), of two sizes."""
    rng = np.random.default_rng(0)
    small_ones = [rng.integers(256, size=(6, 8, 3)), rng.integers(256, size=(5, 9, 3))]
    return [np.kron(image, np.ones((12, 12, 1))).astype(np.uint8) for image in small_ones]


def as_ours(photo: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(photo.copy()).permute(2, 0, 1).float() / 255


def targets(sizes: list[tuple[int, int]], *counts: int) -> list[Target]:
    boxes = torch.tensor([[8.0, 10.0, 60.0, 52.0], [30.0, 20.0, 90.0, 58.0]])
    labels = torch.tensor([0, CLASSES - 1])
    return [
        Target(boxes[:n], labels[:n], torch.ones(n), torch.zeros(n, dtype=torch.int64), 1, size, size)
        for size, n in zip(sizes, counts, strict=True)
    ]


# ------------------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_detectron2s_own_configurations(path: Path) -> None:
    said = read_recipe(path)
    _, _, depth, neck, _, kind = path.stem.split("_")
    theirs = model_zoo.get_config(
        f"COCO-Detection/faster_rcnn_R_{depth[1:]}_{neck.upper()}_{'3x' if kind == 'plus' else kind}.yaml"
    )
    assert isinstance(said.detector, Detectron2FasterRCNNConfig)
    ours = model_config(said.detector, theirs.MODEL.ROI_HEADS.NUM_CLASSES)
    assert theirs.MODEL.WEIGHTS.rpartition("/")[2] == Path(said.detector.backbone.weights).name
    theirs.MODEL.WEIGHTS, theirs.MODEL.DEVICE = "", "cpu"
    if kind == "plus":
        for part, weight in ((theirs.MODEL.RPN, 1), (theirs.MODEL.ROI_BOX_HEAD, 20)):
            part.BBOX_REG_LOSS_TYPE, part.BBOX_REG_LOSS_WEIGHT = "giou", weight
    assert not ours.MODEL.MASK_ON
    ours.MODEL.ROI_MASK_HEAD = theirs.MODEL.ROI_MASK_HEAD
    assert ours.MODEL == theirs.MODEL
    assert ours.TEST == theirs.TEST
    assert ours.INPUT.FORMAT == theirs.INPUT.FORMAT
    solver, inputs, train = theirs.SOLVER, theirs.INPUT, said.transforms.train
    assert (
        said.optimizer.learning_rate,
        said.optimizer.momentum,
        said.optimizer.weight_decay,
    ) == (solver.BASE_LR, solver.MOMENTUM, solver.WEIGHT_DECAY)
    assert said.optimizer.learning_rate == said.optimizer.backbone_learning_rate
    assert said.training.batch_size == solver.IMS_PER_BATCH
    assert not solver.CLIP_GRADIENTS.ENABLED
    assert not solver.AMP.ENABLED
    test = said.transforms.test.model_dump()
    assert (*test["shortest"], test["longest"]) == (inputs.MIN_SIZE_TEST, inputs.MAX_SIZE_TEST)
    if kind != "plus":
        assert (said.schedule.model_dump()["drop_steps"], said.training.max_steps) == (solver.STEPS, solver.MAX_ITER)
        resize = train.resize.model_dump()
        assert (resize["shortest"], resize["longest"]) == (inputs.MIN_SIZE_TRAIN, inputs.MAX_SIZE_TRAIN)
        assert inputs.RANDOM_FLIP == "horizontal"
        assert (train.horizontal_flip, train.vertical_flip) == (0.5, 0)


@pytest.mark.parametrize("kind", ["1x", "3x"])
def test_learning_rates_are_detectron2s_at_every_step_that_counts(kind: str) -> None:
    cfg = detectron2s_own("r50_fpn", kind)
    weight = nn.Parameter(torch.zeros(1))
    theirs = build_lr_scheduler(cfg, torch.optim.SGD([weight], lr=1.0))
    schedule = recipe("r50_fpn", kind).schedule
    assert isinstance(schedule, StepCountSchedule)
    near = {drop + offset for drop in schedule.drop_steps for offset in (-1, 0, 1)}
    for step in sorted({*range(1005), *near, cfg.SOLVER.MAX_ITER - 1}):
        theirs.last_epoch = step
        assert learning_rate_factor(schedule, step, 7392, 0) == pytest.approx(theirs.get_lr()[0], abs=1e-12), step


# --------------------------------------------------------------------------------------------------- detections


@pytest.mark.parametrize("net", NETS)
@torch.no_grad()
def test_detections_of_a_zoo_file_are_the_default_predictors(net: str, tmp_path: Path) -> None:
    cfg = detectron2s_own(net)
    model = settled(cfg)
    cfg.MODEL.WEIGHTS = str(zoo_file(model, tmp_path / "model_final.pkl"))
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = HEIGHT, 2 * WIDTH
    predictor = DefaultPredictor(cfg)
    ours = load_released(recipe(net), CLASSES, tmp_path / "model_final.pkl", None).eval()
    for photo in photos():
        theirs = predictor(photo[:, :, ::-1])["instances"]
        resized = predictor.aug.get_transform(photo).apply_image(photo)
        assert resized.shape != photo.shape
        (mine,) = ours.detect([as_ours(resized)], torch.tensor([photo.shape[:2]]))
        assert len(mine.scores) == len(theirs) > 20
        assert len(set(mine.labels.tolist())) > 1
        assert torch.equal(mine.labels, theirs.pred_classes)
        torch.testing.assert_close(mine.scores, theirs.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(mine.boxes, theirs.pred_boxes.tensor, atol=1e-4, rtol=0)


@torch.no_grad()
def test_images_of_unequal_size_are_padded_as_detectron2_pads_them() -> None:
    model = settled(detectron2s_own("r50_fpn"))
    ours = load_released(recipe("r50_fpn"), CLASSES, model.state_dict(), None).eval()
    images = [as_ours(photo) for photo in photos()]
    assert images[0].shape != images[1].shape
    theirs = model([{"image": image.flip(0) * 255, "height": 200, "width": 300} for image in images])
    found = ours.detect(images, torch.tensor([[200, 300]] * 2))
    for mine, reference in zip(found, theirs, strict=True):
        torch.testing.assert_close(mine.boxes, reference["instances"].pred_boxes.tensor, atol=1e-4, rtol=0)
        assert mine.boxes[:, 0::2].max() <= 300
        assert mine.boxes[:, 1::2].max() <= 200


def test_rgb_stays_rgb() -> None:
    with torch.no_grad():
        detector = create_detector(recipe("r50_fpn", detector__image_format="RGB").detector, CLASSES)
    assert isinstance(detector, Detectron2FasterRCNN)
    image = torch.rand(3, 4, 5)
    torch.testing.assert_close(detector._pixels(image), image * 255)


# ------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(
    ("net", "kind", "counts"),
    [
        ("r50_fpn", "3x", (2, 1)),
        ("r50_fpn", "3x", (0, 0)),
        ("r50_fpn", "plus", (2, 0)),
        ("r50_fpn", "plus", (0, 0)),
        ("r50_dc5", "plus", (2, 1)),
    ],
)
def test_losses_are_detectron2s(net: str, kind: str, counts: tuple[int, int]) -> None:
    cfg = detectron2s_own(net)
    if kind == "plus":
        cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE = cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE = "giou"
        cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT = 20.0
    model = settled(cfg).train()
    ours = load_released(recipe(net, kind), CLASSES, model.state_dict(), None).train()
    sizes = [photo.shape[:2] for photo in photos()]
    truth = targets(sizes, *counts)
    inputs = [
        {
            "image": torch.from_numpy(photo[:, :, ::-1].copy()).permute(2, 0, 1),
            "instances": Instances(size, gt_boxes=Boxes(target.boxes), gt_classes=target.labels),
        }
        for photo, size, target in zip(photos(), sizes, truth, strict=True)
    ]
    torch.manual_seed(3)
    with EventStorage():
        reference = model(inputs)
    torch.manual_seed(3)
    mine = ours.loss([as_ours(photo) for photo in photos()], truth)
    assert mine.keys() == reference.keys()
    for name, value in reference.items():
        assert mine[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-7), name
    torch.stack(list(mine.values())).sum().backward()
    torch.stack(list(reference.values())).sum().backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    for name, value in ours.named_parameters():
        if value.grad is not None:
            torch.testing.assert_close(value.grad, gradients[name.removeprefix("model.")], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["3x", "plus"])
def test_a_loss_that_has_diverged_is_told_from_a_mistake(kind: str) -> None:
    detector = create_detector(recipe("r50_fpn", kind).detector, CLASSES).train()
    with torch.no_grad():
        detector.get_parameter("model.proposal_generator.rpn_head.anchor_deltas.weight").fill_(float("nan"))
    photo = photos()[0]
    with pytest.raises(FloatingPointError):
        detector.loss([as_ours(photo)], targets([photo.shape[:2]], 2))


def test_bfloat16_comes_close_and_boxes_are_not_rounded() -> None:
    model = settled(detectron2s_own("r50_fpn"))
    detector = load_released(recipe("r50_fpn"), CLASSES, model.state_dict(), None).train()
    seen: list[Tensor] = []
    hook = detector.get_submodule("model.roi_heads.box_pooler").register_forward_hook(
        lambda _, __, output: seen.append(output)
    )
    truth = targets([photo.shape[:2] for photo in photos()], 2, 2)
    totals = []
    for enabled in (False, True):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = detector.loss([as_ours(photo) for photo in photos()], truth)
        totals.append(sum(value.item() for value in losses.values()))
    hook.remove()
    assert [output.dtype for output in seen] == [torch.float32] * 2
    assert totals[1] == pytest.approx(totals[0], rel=0.05)


# ----------------------------------------------------------------------------------------------------- training


def test_groups_and_frozen_parts_are_told_apart() -> None:
    for net, body in (("r50_fpn", "model.backbone.bottom_up."), ("r50_dc5", "model.backbone.")):
        said = recipe(net, optimizer__backbone_learning_rate=0.01)
        detector = create_detector(said.detector, CLASSES)
        groups = {group["name"]: group for group in detector.parameter_groups(said.optimizer)}
        names = {id(value): name for name, value in detector.named_parameters()}
        assert {name: group["lr"] for name, group in groups.items()} == {"rest": 0.02, "backbone": 0.01}
        found = {names[id(value)] for value in groups["backbone"]["params"]}
        assert {name.removeprefix(body).partition(".")[0] for name in found} == {"res3", "res4", "res5"}
        assert all(name.startswith(body) for name in found)


def test_training_lowers_the_loss(small_shapes: ShapesDataset, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "transforms__train__resize": {"square": 64},
        "schedule__warmup_steps": 0,
        "optimizer__learning_rate": 0.002,
        "optimizer__backbone_learning_rate": 0.002,
        "training__batch_size": 4,
        "detector__head__samples": 32,
        "detector__proposals_train": {"before_nms": 100, "after_nms": 50},
    }
    said = recipe("r50_fpn", **settings)
    images = CocoImages(small_shapes.split("train"), "contiguous")
    torch.manual_seed(0)
    detector = create_detector(said.detector, images.label_map.num_classes)
    # Random layers without batch norm's statistics double at every block; a trained body does not.
    with torch.no_grad():
        for name, buffer in detector.named_buffers():
            if name.endswith("conv3.norm.weight"):
                buffer.fill_(0.2)
    trainer = Trainer(
        detector,
        said,
        images,
        name="test",
        seed=0,
        inputs={},
        folder=tmp_path,
        device=torch.device("cpu"),
        workers=0,
        monitor=None,
    )
    losses = [trainer.train_step(batch) for epoch in range(6) for batch in trainer.batches(epoch, 0)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])


# ------------------------------------------------------------------------------------------- backbone's weights


def caffe2_name(name: str) -> str:
    """What Caffe2 calls a parameter of detectron2's ResNet."""
    name = name.replace("stem.conv1.norm", "res_conv1_bn").replace("stem.", "").replace(".norm", ".bn")
    for old, new in (
        (".shortcut", ".branch1"),
        (".conv1.", ".branch2a."),
        (".conv2.", ".branch2b."),
        (".conv3.", ".branch2c."),
    ):
        name = name.replace(old, new)
    if "bn." in name or "_bn" in name:
        name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
    return name.replace(".weight", ".w").replace(".", "_")


def msra_file(path: Path, depth: int) -> Path:
    """As MSRA's R-50.pkl: Caffe2's names, the classifier, and a bias that detectron2 does not have."""
    cfg = detectron2s_own(f"r{depth}_dc5")
    body = build_model(cfg).backbone
    generator = torch.Generator().manual_seed(5)
    arrays = {
        caffe2_name(name): torch.rand(value.shape, generator=generator).numpy() + 0.5
        for name, value in body.state_dict().items()
    }
    arrays |= {"conv1_b": np.ones(64, np.float32), "fc1000_w": np.ones((4, 2), np.float32), "fc1000_b": np.ones(4)}
    path.write_bytes(pickle.dumps(arrays, 2))
    return path


@pytest.mark.parametrize("net", ["r50_fpn", "r50_dc5"])
def test_msras_weights_go_where_detectron2_puts_them(net: str, tmp_path: Path) -> None:
    path = msra_file(tmp_path / "R-50.pkl", 50)
    assert {"res_conv1_bn_running_var", "res2_0_branch2a_w", "res5_2_branch2c_bn_gamma"} < set(
        pickle.loads(path.read_bytes())
    )
    theirs = build_model(detectron2s_own(net))
    DetectionCheckpointer(theirs).load(str(path))
    ours = create_detector(recipe(net, detector__backbone__weights=str(path)).detector, CLASSES)
    body = "backbone.bottom_up." if net == "r50_fpn" else "backbone."
    compared = {name: value for name, value in theirs.state_dict().items() if name.startswith(f"{body}res")}
    assert len(compared) > 200
    found = ours.state_dict()
    for name, value in compared.items():
        assert torch.equal(found[f"model.{name}"], value), name


def test_weights_of_another_depth_are_refused_with_the_list(tmp_path: Path) -> None:
    deep = str(msra_file(tmp_path / "R-101.pkl", 101))
    with pytest.raises(UserError, match=r"R-101\.pkl: does not fit: res4\.10\.\S+ is unknown"):
        create_detector(recipe("r50_fpn", detector__backbone__weights=deep).detector, CLASSES)
    shallow = str(msra_file(tmp_path / "R-50.pkl", 50))
    with pytest.raises(UserError, match=r"R-50\.pkl: does not fit: res4\.6\.\S+ is missing"):
        create_detector(recipe("r101_fpn", detector__backbone__weights=shallow).detector, CLASSES)


def test_a_released_file_of_another_detector_is_refused_with_the_list(tmp_path: Path) -> None:
    path = zoo_file(build_model(detectron2s_own("r50_fpn")), tmp_path / "model_final.pkl")
    with pytest.raises(UserError, match=r"does not fit: model\.backbone\.\S+ is missing"):
        load_released(recipe("r50_dc5"), CLASSES, path, None)
    with pytest.raises(UserError, match=r"cls_score\.weight has shape \(8, 32\), not \(81, 32\)"):
        load_released(recipe("r50_fpn"), 80, path, None)
    with pytest.raises(UserError, match=r"released\.batch_norm_epsilon: this detector has no frozen"):
        load_released(recipe("r50_fpn"), CLASSES, path, 0.0)


def test_building_changes_no_configuration() -> None:
    said = recipe("r50_fpn").detector
    before = copy.deepcopy(said)
    create_detector(said, CLASSES)
    assert said == before
