from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sdetr.config import ShapesDataset
from sdetr.data.coco import CocoImages
from sdetr.detector import create_detector
from sdetr.engine import train
from sdetr.engine.precision import random_target
from sdetr.engine.train import Trainer
from sdetr.errors import UserError
from sdetr.models.compiled import Compiled
from sdetr.models.padding import pad_images, pad_shared_batch
from sdetr.models.stacked import StackedDETR
from sdetr.structures import Target
from tests import small

CPU = torch.device("cpu")
CLASSES = 91
needs_compiler = pytest.mark.skipif(
    not small.can_compile(),
    reason="torch.compile needs a C++ compiler, and torch below a path without a space",
)
ONE_LAYER = {"detector__stages__0__encoder_layers": 1, "detector__stages__0__decoder_layers": 1}


def detr(**changes: object) -> StackedDETR:
    torch.manual_seed(0)
    detector = create_detector(small.recipe("demo_detr", **{**ONE_LAYER, **changes}).detector, CLASSES)
    assert isinstance(detector, StackedDETR)
    return detector.train()


def work(*sizes: tuple[int, int]) -> tuple[list[Tensor], list[Target]]:
    torch.manual_seed(1)
    return [torch.rand(3, *size) for size in sizes], [random_target(size) for size in sizes]


def loss_and_gradient(detector: StackedDETR, *sizes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    detector.zero_grad()
    images, targets = work(*sizes)
    torch.manual_seed(2)
    loss = torch.stack(list(detector.loss(images, targets).values())).sum()
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in detector.parameters() if p.grad is not None])


@needs_compiler
def test_a_compiled_detector_has_the_loss_and_the_gradient_of_the_plain_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    plain, compiled = detr(detector__dropout=0.0), detr(detector__dropout=0.0, detector__compile="default")
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    for sizes in (((64, 64), (48, 64)), ((64, 48), (64, 48))):
        expected, found = loss_and_gradient(plain, *sizes), loss_and_gradient(compiled, *sizes)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=0)
        assert (found[1] - expected[1]).norm() < 1e-5 * expected[1].norm()
    assert "batches of 2 x 64 x 48, program 2" in caplog.text
    said = len(caplog.records)
    loss_and_gradient(compiled, (64, 64), (48, 64))
    # Detection is never compiled: each image has another shape.
    images, _ = work((48, 80))
    torch.testing.assert_close(compiled.eval().forward(images).boxes, plain.eval().forward(images).boxes)
    assert len(caplog.records) == said


class _Killed(BaseException):
    pass


@needs_compiler
def test_a_compiled_training_with_dropout_resumes_bitwise(
    small_shapes: ShapesDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small.recipe("demo_detr", **ONE_LAYER, detector__compile="default", detector__dropout=0.1)
    images = CocoImages(small_shapes.split("train"), recipe.label_numbering)

    def run(folder: str) -> dict[str, Tensor]:
        torch.manual_seed(5)
        detector = create_detector(recipe.detector, images.label_map.num_classes)
        settings = {"name": "run", "seed": 0, "inputs": {}, "device": CPU, "workers": 0, "monitor": None}
        Trainer(detector, recipe, images, folder=tmp_path / folder, **settings).run()
        return detector.state_dict()

    def dies(_self: object, done: int, _epoch: int, _loss: float) -> None:
        if done == 4:
            raise _Killed

    expected = run("whole")
    with monkeypatch.context() as patch:
        patch.setattr(train.Progress, "update", dies)
        with pytest.raises(_Killed):
            run("killed")
    found = run("killed")
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


class _Sum(nn.Module):
    def total(self, batches: list[Tensor]) -> Tensor:
        return batches[0].sum()


def test_cuda_graphs_without_a_gpu_are_refused() -> None:
    with pytest.raises(UserError, match=r"^detector.compile: reduce-overhead makes CUDA graphs, which need a GPU"):
        detr(detector__compile="reduce-overhead").loss(*work((64, 64)))


def test_a_machine_that_cannot_compile_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/no/such/compiler",))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    with pytest.raises(
        UserError, match=r"^detector.compile: torch.compile failed \(.*C\+\+ compiler.* or set it to none$"
    ):
        Compiled(_Sum.total, "default")(_Sum(), [torch.rand(1, 3, 8, 9)])


def test_sides_become_multiples_and_the_rest_is_padding() -> None:
    images = [torch.rand(3, 40, 64), torch.rand(3, 33, 20)]
    batch = pad_shared_batch(images, 32)
    assert batch.pixels.shape == (2, 3, 64, 64)
    for image, pixels, padding in zip(images, batch.pixels, batch.padding, strict=True):
        height, width = image.shape[1:]
        assert torch.equal(pixels[:, :height, :width], image)
        assert not padding[:height, :width].any()
        assert int((~padding).sum()) == height * width
    assert torch.equal(pad_shared_batch(images).pixels, pad_images(images).pixels)


def test_a_training_step_pads_to_the_multiple_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    detector = detr(detector__pad_multiple=48)
    backbone = detector.backbone.forward
    monkeypatch.setattr(
        detector.backbone,
        "forward",
        lambda batches, levels: (seen.extend(x.shape for x in batches), backbone(batches, levels))[1],
    )
    detector.loss(*work((40, 64), (33, 20)))
    detector.forward(work((40, 64))[0])
    assert seen == [(2, 3, 48, 96), (1, 3, 40, 64)]


@pytest.mark.parametrize("multiple", [32, 64, 128])
def test_more_padding_changes_loss_and_gradient_no_more_than_rounding_to_bf16_may(multiple: int) -> None:
    sizes = (100, 134), (110, 93)
    loss, gradient = loss_and_gradient(detr(detector__dropout=0.0), *sizes)
    padded = loss_and_gradient(detr(detector__dropout=0.0, detector__pad_multiple=multiple), *sizes)
    assert padded[0] != loss  # a convolution sees what lies beyond the border
    assert padded[0].item() == pytest.approx(loss.item(), rel=0.02)
    assert torch.cosine_similarity(padded[1].double(), gradient.double(), dim=0) > 0.9
