from __future__ import annotations

import pytest
import torch

from sdetr.config import ShapesDataset
from sdetr.data.coco import CocoImages
from sdetr.detector import create_detector
from sdetr.engine.predict import predict
from tests import small

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["demo_sdetr", "demo_detr", "demo_faster_rcnn"])
def test_results_are_coco_results_of_the_data_set(name: str, small_shapes: ShapesDataset) -> None:
    changes = {"detector__score_threshold": 0.0} if name == "demo_faster_rcnn" else {}
    recipe = small.recipe(name, **changes)
    images = CocoImages(small_shapes.split("val"), recipe.label_numbering)
    torch.manual_seed(0)
    detector = create_detector(recipe.detector, images.label_map.num_classes)
    found = predict(detector, recipe, images, CPU, workers=0).results
    assert {row["image_id"] for row in found} == set(images.image_ids)
    assert {row["category_id"] for row in found} <= {1, 3, 7}
    assert all(0 <= row["score"] <= 1 and row["bbox"][2] >= 0 and row["bbox"][3] >= 0 for row in found)


def test_images_of_one_size_give_the_same_detections_at_any_batch_size(small_shapes: ShapesDataset) -> None:
    recipes = [small.recipe("demo_sdetr", evaluation__batch_size=size) for size in (1, 2)]
    images = CocoImages(small_shapes.split("val"), "contiguous")
    torch.manual_seed(0)
    detector = create_detector(recipes[0].detector, images.label_map.num_classes)
    single, paired = (predict(detector, recipe, images, CPU, workers=0).results for recipe in recipes)
    assert [row["category_id"] for row in single] == [row["category_id"] for row in paired]
    for a, b in zip(single, paired, strict=True):
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)
        assert a["bbox"] == pytest.approx(b["bbox"], abs=1e-3)


def test_the_category_id_numbering_writes_only_real_categories(small_shapes: ShapesDataset) -> None:
    recipe = small.recipe("demo_detr", label_numbering="category_id")
    images = CocoImages(small_shapes.split("val"), recipe.label_numbering)
    assert images.label_map.num_classes == 8
    torch.manual_seed(0)
    detector = create_detector(recipe.detector, images.label_map.num_classes)
    found = predict(detector, recipe, images, CPU, workers=0).results
    assert {row["category_id"] for row in found} <= {1, 3, 7}
