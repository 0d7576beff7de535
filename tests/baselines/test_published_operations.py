"""Operations against those that the DETR paper prints (arXiv 2005.12872, table 1).

They are means over the first 100 images of val2017, whose shapes are mixed. After resizing, images of 4:3, the
commonest, are smaller than those of 3:2: what is printed must lie between the two. Nothing is computed here: shapes
alone decide.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from baselines.torchvision_faster_rcnn import TorchvisionFasterRCNN
from sdetr import build_detector
from sdetr.evaluation.cost import gflops

PUBLISHED = pd.read_csv(Path(__file__).parents[2] / "config/published.csv", index_col="row")["gflops"]


@pytest.mark.parametrize("name", ["detr_r50", "detr_r50_dc5"])
def test_detr_needs_what_the_paper_prints(name: str) -> None:
    with FakeTensorMode(), torch.no_grad():
        detector = build_detector(name).eval()
        smaller, larger = (gflops(lambda: detector([torch.rand(3, 800, width)])) for width in (1066, 1199))  # noqa: B023
    published = PUBLISHED[f"{name}_500e"]
    assert 0.92 * published < smaller < published < larger < 1.09 * published


def test_faster_rcnn_needs_what_the_paper_prints() -> None:
    # detectron2's in the paper, torchvision's here: the same pyramid and heads.
    with FakeTensorMode(), torch.no_grad():
        detector = build_detector("faster_rcnn_r50_fpn").eval()
        assert isinstance(detector, TorchvisionFasterRCNN)
        model, regions = detector.model, torch.rand(1000, 256, 7, 7)

        def run(width: int) -> None:
            features = model.backbone(torch.rand(1, 3, 800, width))
            model.rpn.head(list(features.values()))
            model.roi_heads.box_predictor(model.roi_heads.box_head(regions))

        # Widths are padded to multiples of 32.
        smaller, larger = (gflops(lambda: run(width)) for width in (1088, 1216))  # noqa: B023
    published = PUBLISHED["faster_rcnn_r50_fpn_37e"]
    assert smaller == pytest.approx(
        177.59, abs=0.01
    )  # as `detect` counts on an image of 800 x 1066 with 1000 proposals
    assert 0.92 * published < smaller < published < larger < 1.12 * published
