"""Released weights: fetched whole or not at all, and converted so that they compute what they computed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from hashlib import md5, sha256
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2
from torchvision.ops import FrozenBatchNorm2d

from baselines.torchvision_faster_rcnn import TorchvisionFasterRCNN
from sdetr.cli import main
from sdetr.config import Checksum, Recipe, ReleasedConfig, ShapesDataset, dump_yaml, override, parse, read_yaml
from sdetr.detector import create_detector
from sdetr.errors import UserError
from sdetr.released import fetch, load_released
from tests import small
from tests.unit.data.file_server import FileServer, serving
from tests.unit.models import golden

CONTENT = bytes(range(256)) * 8192
CHECKSUM = sha256(CONTENT).hexdigest()
HEIGHT, WIDTH = 96, 160


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving({"/a.pth": CONTENT}) as running:
        yield running


@pytest.mark.parametrize(
    "checksum",
    [Checksum("sha256", CHECKSUM), Checksum("sha256", CHECKSUM[:8]), Checksum("md5", md5(CONTENT).hexdigest()[:6])],
)
def test_a_file_is_fetched_once(server: FileServer, tmp_path: Path, checksum: Checksum) -> None:
    path = tmp_path / "data/weights/a.pth"
    for _ in range(2):
        fetch(f"{server.url}/a.pth", checksum, path)
        assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1


def refused(address: str, path: Path, checksum: str = CHECKSUM, algorithm: Literal["sha256", "md5"] = "sha256") -> str:
    with pytest.raises(UserError) as caught:
        fetch(address, Checksum(algorithm, checksum), path)
    assert not list(path.parent.iterdir()), "a part of the file was left"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_fetched_leaves_nothing_and_says_what_to_do(server: FileServer, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    lost, address = f"{server.url}/b.pth", f"{server.url}/a.pth"
    assert f"{lost}: the server answered 404 Not Found" in refused(lost, path)
    server.drops = [len(CONTENT) // 2]
    broken = refused(address, path)
    assert f"it broke after {len(CONTENT) // 2} of {len(CONTENT)} bytes" in broken
    assert f"put it at {path}" in broken
    wrong = refused(address, path, "0123abcd")
    assert f"its SHA-256 is {CHECKSUM}, which does not begin with 0123abcd" in wrong
    assert f"its MD5 is {md5(CONTENT).hexdigest()}, which does not begin with 012345" in refused(
        address, path, "012345", "md5"
    )
    assert "no connection" in refused("http://127.0.0.1:9/a.pth", path)


def test_a_file_that_is_there_is_checked_and_kept(server: FileServer, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"a.pth: its SHA-256 is .*; delete it, and it is downloaded again"):
        fetch(f"{server.url}/a.pth", Checksum("sha256", CHECKSUM), path)
    assert path.read_bytes() == b"something else"
    assert not server.requests


# ------------------------------------------------------------------------------------------- from file to tables


def authors_name(name: str) -> str:
    """What the authors' code calls a parameter of a DETR of ours."""
    for pattern, replacement in (
        (r"^backbone\.(layer\d)\.", r"backbone.0.body.\1."),
        (r"^class_head\.", "class_embed."),
        (r"^box_head\.", "bbox_embed."),
        (r"^stages\.0\.projection\.", "input_proj."),
        (r"^stages\.0\.queries\.", "query_embed."),
        (r"^stages\.0\.(encoder|decoder)_norm\.", r"transformer.\1.norm."),
        (r"^stages\.0\.(encoder|decoder)\.", r"transformer.\1.layers."),
        (r"\.self_attention\.", ".self_attn."),
        (r"\.cross_attention\.", ".multihead_attn."),
        (r"\.feed_forward\.", "."),
        (r"\.residual(\d)\.norm\.", r".norm\1."),
    ):
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture
def released(tmp_path: Path, small_shapes: ShapesDataset) -> tuple[Path, dict[str, Tensor]]:
    """A folder with a tiny recipe, its data set and a checkpoint of it in the authors' names; and our own weights."""
    recipe = small.recipe("demo_detr", detector__loss__dense_weight=0, detector__backbone__weights="imagenet")
    (tmp_path / "recipe.yaml").write_text(dump_yaml(recipe))
    (tmp_path / "dataset.yaml").write_text(dump_yaml(small_shapes))
    torch.manual_seed(3)
    own = create_detector(small.recipe("demo_detr", detector__loss__dense_weight=0).detector, 3).state_dict()
    state = {authors_name(name): value for name, value in own.items()}
    assert state.keys() != own.keys()
    torch.save({"model": state, "epoch": 299, "optimizer": {"step": 1}}, tmp_path / "served.pth")
    return tmp_path, own


def convert(folder: Path, file: Path, **changes: Any) -> int:
    said = {"weights": "theirs", "sha256": None, "obtain": "a shop in the next street", **changes}
    (folder / "released.yaml").write_text(dump_yaml(parse(ReleasedConfig, said, "test")))
    identity = ["--suite", "small", "--run", "theirs", "--recipe-name", "demo_detr", "--out", str(folder / "seed0")]
    files = ["--recipe", str(folder / "recipe.yaml"), "--dataset", str(folder / "dataset.yaml"), "--weights", str(file)]
    return main(["convert", *identity, *files, "--released", str(folder / "released.yaml")])


def test_from_an_address_to_the_tables(
    released: tuple[Path, dict[str, Tensor]], server: FileServer, small_shapes: ShapesDataset
) -> None:
    folder, own = released
    served = (folder / "served.pth").read_bytes()
    checksum = sha256(served).hexdigest()
    server.files["/detr.pth"] = served
    address = f"{server.url}/detr.pth"
    assert main(["fetch", address, "--sha256", checksum[:8], "--out", str(folder / "detr.pth")]) == 0
    assert convert(folder, folder / "detr.pth", weights=address, sha256=checksum[:8]) == 0
    out = folder / "seed0"
    written = (out / "weights.pt").read_bytes()
    assert convert(folder, folder / "detr.pth", weights=address, sha256=checksum[:8]) == 0
    assert (out / "weights.pt").read_bytes() == written  # so the hash in the records stays
    weights = torch.load(out / "weights.pt", weights_only=True)
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[name], value) for name, value in own.items())
    summary = json.loads((out / "train.json").read_text())
    assert (summary["origin"], summary["weights_sha256"]) == ("released_weights", checksum)
    assert (summary["run"], summary["recipe"], summary["seed"]) == ("theirs", "demo_detr", 0)
    data = ["--recipe", str(folder / "recipe.yaml"), "--dataset", str(folder / "dataset.yaml")]
    assert main(["predict", *data, "--weights", str(out / "weights.pt"), "--out", str(out)]) == 0
    scored = ["--annotations", str(small_shapes.split("val").annotations), "--detections", str(out / "detections.json")]
    assert main(["evaluate", *scored, "--out", str(out / "metrics.json")]) == 0
    assert main(["tables", "--out", str(folder), str(out)]) == 0
    row = pd.read_csv(folder / "detectors.csv").iloc[0]
    assert row["origin"] == "released_weights"
    assert row[["epochs", "steps", "batch_size", "gpus", "threads", "train_minutes", "precision"]].isna().all()
    assert row["trainable_parameters"] > 0
    assert isinstance(row["device"], str)


def test_a_file_that_is_missing_or_another_ends_in_one_line(
    released: tuple[Path, dict[str, Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = released
    assert convert(folder, folder / "lost.pth") == 2
    assert capsys.readouterr().err == (
        f"error: {folder / 'lost.pth'}: there is no such file; get it at a shop in the next street\n"
    )
    assert convert(folder, folder / "served.pth", sha256="0123abcd") == 2
    assert "which does not begin with 0123abcd; get the file again" in capsys.readouterr().err
    assert not (folder / "seed0").exists()


def test_a_file_of_another_architecture_is_refused_with_the_list(
    released: tuple[Path, dict[str, Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = released
    recipe = small.recipe("demo_detr", detector__loss__dense_weight=0, detector__queries=13)
    (folder / "recipe.yaml").write_text(dump_yaml(recipe))
    assert convert(folder, folder / "served.pth") == 2
    said = capsys.readouterr().err
    width = recipe.detector.model_dump()["width"]
    assert f"served.pth: does not fit: stages.0.queries.weight has shape (12, {width}), not (13, {width})" in said
    assert not (folder / "seed0" / "weights.pt").exists()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"sha256": None}, "sha256: what is downloaded is checked"),
        ({"sha256": "0123abcd", "md5": "012345"}, "md5: one checksum is enough"),
        ({"sha256": None, "md5": "0123456"}, "md5: string should match pattern"),
    ],
)
def test_what_is_downloaded_has_exactly_one_checksum(said: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(ReleasedConfig, {"weights": "https://example.org/model_final_012345.pkl", **said}, "here")
    assert f"here: {message}" in str(caught.value)


def test_an_md5_is_fetched_by_and_checked_by_the_command(
    released: tuple[Path, dict[str, Tensor]], server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = released
    served = (folder / "served.pth").read_bytes()
    server.files["/detr.pth"] = served
    address, digits = f"{server.url}/detr.pth", md5(served).hexdigest()[:6]
    assert main(["fetch", address, "--md5", digits, "--out", str(folder / "detr.pth")]) == 0
    assert convert(folder, folder / "detr.pth", weights=address, md5=digits) == 0
    assert convert(folder, folder / "detr.pth", weights=address, md5="abcdef") == 2
    assert "get the file again, or correct released.md5" in capsys.readouterr().err


def test_a_detector_without_a_released_form_is_named() -> None:
    with pytest.raises(UserError, match=r"released: detector.factory sdetr.models.pretraining:build has no released"):
        load_released(small.recipe("demo_backbone"), 3, {}, None)


# ------------------------------------------------------------------------------------------------ full-size files


def recipe_of(name: str, **changes: Any) -> Recipe:
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    return parse(Recipe, override(read_yaml(small.RECIPES / f"{name}.yaml"), changed, name), name)


@pytest.mark.parametrize(
    ("case", "name"),
    [("sdetr_r50", "sdetr_r50_500e"), ("detr_r50", "detr_r50_500e"), ("detr_r50_dc5", "detr_r50_dc5_500e")],
)
def test_the_recipes_of_released_runs_take_the_authors_files(case: str, name: str) -> None:
    reference = golden.load(case)
    recipe = recipe_of(name, detector__queries=reference.facts["num_queries"])
    detector = load_released(recipe, reference.facts["num_classes"], {**reference.reference_state()}, None)
    expected = reference.detector().state_dict()
    found = detector.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", ["detr_r101_500e", "detr_r101_dc5_500e"])
def test_a_resnet_101_has_the_same_names_deeper(name: str) -> None:
    state = golden.load("detr_r50").reference_state()
    state = {key: value for key, value in state.items() if not key.startswith("backbone.")}
    body = torchvision.models.resnet101(norm_layer=FrozenBatchNorm2d).state_dict()
    state |= {f"backbone.0.body.{key}": value for key, value in body.items() if not key.startswith("fc.")}
    facts = golden.load("detr_r50").facts
    recipe = recipe_of(name, detector__queries=facts["num_queries"])
    detector = load_released(recipe, facts["num_classes"], state, None)
    assert torch.equal(detector.state_dict()["backbone.layer3.22.conv3.weight"], body["layer3.22.conv3.weight"])


def torchvision_model(version: str) -> nn.Module:
    """torchvision's own detector with 91 classes, all of its weights and statistics random."""
    torch.manual_seed(0)
    builder = {"v1": fasterrcnn_resnet50_fpn, "v2": fasterrcnn_resnet50_fpn_v2}[version]
    model = builder(weights=None, weights_backbone=None, min_size=HEIGHT, max_size=WIDTH, box_score_thresh=0.0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_mean"):
                value.uniform_(-0.2, 0.2)
            elif name.endswith("running_var"):
                value.uniform_(0.8, 1.2)
                # One channel varies as little as an epsilon: where it is wrong, it shows.
                value[0] = 1e-5
                model.get_parameter(name.replace("running_var", "weight"))[0] = 1e-5**0.5
        model.roi_heads.box_predictor.cls_score.weight.mul_(20)
    if version == "v1":
        # What its builder does for the released file: batch norm of the body is frozen and has no epsilon.
        _without_epsilon(model.backbone.body)
    model.transform._skip_resize = True
    return model.eval()


def _without_epsilon(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps=0.0)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        else:
            _without_epsilon(child)


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As torchvision named them when it released version 1, with the counters that batch norm then had."""
    renamed = {}
    for name, value in state.items():
        name = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d)\.0\.", r"\1.", name)
        renamed[name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = value
    return {**renamed, "backbone.body.bn1.num_batches_tracked": torch.tensor(0)}


@pytest.mark.parametrize("version", ["v1", "v2"])
@torch.no_grad()
def test_torchvision_files_detect_what_torchvision_detects(version: str, tmp_path: Path) -> None:
    theirs = torchvision_model(version)
    state = theirs.state_dict()
    torch.save(old_names(state) if version == "v1" else state, tmp_path / "released.pth")
    name = {"v1": "faster_rcnn_r50_fpn_26e", "v2": "faster_rcnn_r50_fpn_v2_26e"}[version]
    recipe = recipe_of(name, label_numbering="category_id", detector__score_threshold=0.0)
    ours = load_released(recipe, 91, tmp_path / "released.pth", 0.0 if version == "v1" else None).eval()
    assert isinstance(ours, TorchvisionFasterRCNN)
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, HEIGHT, WIDTH, generator=generator) for _ in range(2)]
    found = ours.detect(images, torch.tensor([[HEIGHT, WIDTH]] * 2))
    for mine, reference in zip(found, theirs(images), strict=True):
        assert len(mine.scores) == 100
        assert mine.labels.unique().numel() > 5
        # Labels are category ids on both sides; 0 is an id that no category has.
        assert torch.equal(mine.labels, reference["labels"])
        assert mine.labels.min() >= 1
        torch.testing.assert_close(mine.scores, reference["scores"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(mine.boxes, reference["boxes"], atol=1e-2, rtol=1e-4)


@torch.no_grad()
def test_an_epsilon_that_is_not_told_shows() -> None:
    state = torchvision_model("v1").state_dict()
    recipe = recipe_of("faster_rcnn_r50_fpn_26e", label_numbering="category_id")
    weights = [load_released(recipe, 91, state, epsilon).state_dict() for epsilon in (0.0, None)]
    name = "model.backbone.body.layer1.0.bn1"
    assert not torch.allclose(weights[0][f"{name}.weight"], weights[1][f"{name}.weight"], rtol=1e-4)
    folded, variance = weights[0][f"{name}.weight"].double(), state["backbone.body.layer1.0.bn1.running_var"].double()
    scale = state["backbone.body.layer1.0.bn1.weight"].double() * variance.rsqrt()
    torch.testing.assert_close(folded * (variance + 1e-5).rsqrt(), scale, rtol=1e-6, atol=0)


def test_contiguous_labels_take_every_row_of_the_predictor() -> None:
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
    detector = load_released(recipe_of("faster_rcnn_r50_fpn_26e"), 3, model.state_dict(), None)
    weight = detector.state_dict()["model.roi_heads.box_predictor.bbox_pred.weight"]
    assert torch.equal(weight, model.state_dict()["roi_heads.box_predictor.bbox_pred.weight"])
