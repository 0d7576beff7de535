"""Weights files: loaded exactly or refused with the list, and never executed."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Literal

import pytest
import torch

from sdetr import build_detector
from sdetr.config import BackboneConfig
from sdetr.errors import UserError
from sdetr.models.backbone import build_backbone, new_backbone, read_state_dict
from sdetr.models.reference_weights import load_reference_weights
from sdetr.models.stacked import StackedDETR
from tests.unit.models import golden


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (str(self.path),))


@pytest.fixture(scope="module")
def detector() -> StackedDETR:
    built = build_detector("detr_r50")
    assert isinstance(built, StackedDETR)
    return built


def test_a_reference_checkpoint_with_optimizer_and_arguments_loads(detector: StackedDETR, tmp_path: Path) -> None:
    state = golden.load("detr_r50").reference_state()
    content = {"model": state, "optimizer": {"step": 3}, "args": argparse.Namespace(lr=1e-4, masks=False), "epoch": 149}
    torch.save(content, tmp_path / "checkpoint.pth")
    load_reference_weights(detector, tmp_path / "checkpoint.pth")
    assert torch.equal(detector.class_head.weight, state["class_embed.weight"])
    load_reference_weights(detector, state)


def test_names_and_shapes_that_do_not_fit_are_listed(detector: StackedDETR) -> None:
    state = golden.load("detr_r50").reference_state()
    state["class_embed.weight"] = state["class_embed.weight"][:21]
    state["mask_head.lay1.weight"] = torch.zeros(3)
    del state["query_embed.weight"]
    with pytest.raises(UserError) as caught:
        load_reference_weights(detector, state)
    message = str(caught.value)
    assert "class_head.weight has shape (21, 256), not (92, 256)" in message
    assert "mask_head.lay1.weight is unknown" in message
    assert "stages.0.queries.weight is missing" in message


def test_a_weights_file_runs_no_code(detector: StackedDETR, tmp_path: Path) -> None:
    for name, save in (("a.pth", torch.save), ("b.pth", lambda x, path: path.write_bytes(pickle.dumps(x)))):
        save({"model": Malicious(tmp_path / "touched")}, tmp_path / name)
        with pytest.raises(UserError, match=f"{name}: is not a readable checkpoint"):
            load_reference_weights(detector, tmp_path / name)
        with pytest.raises(UserError, match=f"{name}: is not a readable weights file"):
            read_state_dict(tmp_path / name)
    assert not (tmp_path / "touched").exists()


def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"weights.pt: is not a readable weights file") as caught:
        read_state_dict(tmp_path / "weights.pt")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"absent\.pt: is not a readable weights file"):
        read_state_dict(tmp_path / "absent.pt")


@pytest.mark.parametrize("name", ["small", "resnet50"])
def test_what_batch_norm_learnt_goes_into_frozen_batch_norm(tmp_path: Path, name: Literal["small", "resnet50"]) -> None:
    torch.manual_seed(0)
    pretrained = new_backbone(name, torch.nn.BatchNorm2d)
    with torch.no_grad():
        pretrained.train()([torch.randn(4, 3, 32, 32)], frozenset(["layer3"]))
    torch.save(pretrained.state_dict(), tmp_path / "backbone.pt")
    config = BackboneConfig(name=name, weights=str(tmp_path / "backbone.pt"), dilation=False, frozen=())
    images = torch.randn(2, 3, 32, 32)
    expected = pretrained.eval()([images], frozenset(["layer3"]))[0]["layer3"]
    torch.testing.assert_close(build_backbone(config)([images], frozenset(["layer3"]))[0]["layer3"], expected)
