"""Exported programs: the detections of the detector at any size, and never a file that computes something else."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdetr.config import Recipe, ShapesDataset, ShortestSide
from sdetr.data.labels import LabelMap
from sdetr.detector import create_detector
from sdetr.errors import UserError
from sdetr.export import formats
from sdetr.export.formats import FORMATS, format_of
from sdetr.export.parity import BOUND, check, compare
from sdetr.export.program import DetectionProgram, trace
from sdetr.export.run import checked_sizes, described_labels, export_run, load_detector
from sdetr.files import sha256
from sdetr.models.stacked import StackedDETR
from tests.small import recipe

CLASSES = 3
SIZES = ((64, 64), (48, 80), (131, 77))


def detector_of(chosen: Recipe) -> StackedDETR:
    torch.manual_seed(0)
    detector = create_detector(chosen.detector, CLASSES)
    assert isinstance(detector, StackedDETR)
    return detector.eval()


def saved(chosen: Recipe, folder: Path) -> Path:
    path = folder / "weights.pt"
    torch.save(detector_of(chosen).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def exported(small_shapes: ShapesDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    chosen = recipe("demo_sdetr")
    weights = saved(chosen, folder)
    paths = {suffix: folder / f"tiny{suffix}" for suffix in FORMATS}
    for path in paths.values():
        export_run(chosen, small_shapes, weights, None, path)
    return paths


@pytest.mark.parametrize("suffix", FORMATS)
def test_detections_at_every_size_are_those_of_the_detector(exported: dict[str, Path], suffix: str) -> None:
    difference = compare(detector_of(recipe("demo_sdetr")), FORMATS[suffix].load(exported[suffix]), SIZES)
    assert difference.scores < 1e-5
    assert difference.boxes < 1e-5


def test_torch_alone_runs_the_program(exported: dict[str, Path]) -> None:
    code = (
        "import sys, torch; run = torch.export.load(sys.argv[1]).module(); "
        "boxes, scores, labels = run(torch.rand(1, 3, 50, 70), torch.tensor([[480, 640]])); "
        "assert boxes.shape[-1] == 4 and scores.shape == labels.shape == boxes.shape[:2]; "
        "assert not {'sdetr', 'baselines', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, exported[".pt2"]], check=True, cwd="/")


def test_onnx_says_what_goes_in_and_out(exported: dict[str, Path]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exported[".onnx"], providers=["CPUExecutionProvider"])
    queries = 12
    assert [(each.name, each.type, each.shape) for each in session.get_inputs()] == [
        ("image", "tensor(float)", [1, 3, "height", "width"]),
        ("original_size", "tensor(int64)", [1, 2]),
    ]
    assert [(each.name, each.type, each.shape) for each in session.get_outputs()] == [
        ("boxes", "tensor(float)", [1, queries, 4]),
        ("scores", "tensor(float)", [1, queries]),
        ("labels", "tensor(int64)", [1, queries]),
    ]
    assert sorted(path.name for path in exported[".onnx"].parent.iterdir()) == [
        "tiny.onnx",
        "tiny.onnx.json",
        "tiny.pt2",
        "tiny.pt2.json",
        "weights.pt",
    ]


@pytest.mark.parametrize("suffix", FORMATS)
def test_description_belongs_to_the_file(exported: dict[str, Path], suffix: str, small_shapes: ShapesDataset) -> None:
    path = exported[suffix]
    said = json.loads(path.with_name(f"{path.name}.json").read_text())
    chosen = recipe("demo_sdetr")
    categories = json.loads(small_shapes.split("val").annotations.read_text())["categories"]
    assert said["labels"] == [{"id": each["id"], "name": each["name"]} for each in categories]
    assert said["sha256"] == sha256(path)
    assert said["weights_sha256"] == sha256(path.with_name("weights.pt"))
    assert said["recipe_sha256"] == chosen.sha256()
    assert said["resize"] == {"square": 64, "interpolation": "bilinear", "antialias": True}
    assert said["inputs"][0]["shape"] == [1, 3, "height", "width"]
    assert said["checked"]["largest_difference"]["scores"] <= said["checked"]["bound"] == BOUND
    assert set(FORMATS[suffix].packages) < set(said["versions"])


def test_labels_that_no_category_has_are_null() -> None:
    categories = {1: "person", 3: "car"}
    assert described_labels(LabelMap(categories, "category_id")) == [
        None,
        {"id": 1, "name": "person"},
        None,
        {"id": 3, "name": "car"},
    ]
    assert described_labels(LabelMap(categories, "contiguous")) == [
        {"id": 1, "name": "person"},
        {"id": 3, "name": "car"},
    ]


def test_one_size_is_the_only_size(tmp_path: Path) -> None:
    detector = detector_of(recipe("demo_detr"))
    program = trace(detector, (64, 96))
    for suffix, kind in FORMATS.items():
        path = tmp_path / f"fixed{suffix}"
        kind.write(program, path)
        run = kind.load(path)
        check(detector, run, [(64, 96)], path)
        with pytest.raises(Exception, match=r"64"):
            run(torch.rand(1, 3, 96, 64), torch.tensor([[480, 640]]))


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["small", "resnet50"])
def test_every_option_of_a_stack_is_traced_at_every_size(backbone: str) -> None:
    changes: dict[str, Any] = {
        "detector__backbone__name": backbone,
        "detector__attention": "plain",
        "detector__norm": "post",
        "detector__prediction_heads": "separate",
        "detector__query_embedding": "shared",
        "detector__encoder_block": "parallel",
        "detector__hand_over": "zeros",
    }
    detector = detector_of(recipe("demo_sdetr", **changes))
    for name, buffer in detector.named_buffers():  # statistics that keep a random deep network in range
        if name.endswith("running_var"):
            buffer.uniform_(1.5, 2.5)
    detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    difference = compare(detector, trace(detector, None).module(), SIZES)
    assert difference.scores < 1e-6
    assert difference.boxes < 1e-6


@torch.no_grad()
def test_detect_compiles_to_one_graph() -> None:
    detector = detector_of(recipe("demo_sdetr"))
    compiled = torch.compile(detector.detect, fullgraph=True, backend="aot_eager")
    for size in SIZES[:2]:
        images, original = [torch.rand(3, *size)], torch.tensor([[480, 640]])
        (found,), (expected,) = compiled(images, original), detector.detect(images, original)
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-5 * 640)


Outputs = tuple[Tensor, ...]


def changed(position: int, change: Callable[[Tensor], Tensor]) -> Callable[[StackedDETR], formats.Run]:
    """A program that gives one of a detector's outputs otherwise."""

    def build(detector: StackedDETR) -> formats.Run:
        def run(image: Tensor, original_size: Tensor) -> Outputs:
            outputs = list(DetectionProgram(detector)(image, original_size))
            outputs[position] = change(outputs[position])
            return tuple(outputs)

        return run

    return build


@pytest.mark.parametrize(
    "build",
    [
        changed(0, lambda boxes: boxes + 0.1),
        changed(0, lambda boxes: boxes[..., [1, 0, 3, 2]]),
        changed(1, lambda scores: scores + 2e-4),
        changed(1, lambda scores: scores * torch.nan),
        changed(2, lambda labels: (labels + 1) % CLASSES),
    ],
)
def test_other_results_are_refused(build: Callable[[StackedDETR], formats.Run]) -> None:
    detector = detector_of(recipe("demo_sdetr"))
    with pytest.raises(UserError, match=r"mine\.onnx: was not written"):
        check(detector, build(detector), SIZES[:2], Path("mine.onnx"))


@torch.no_grad()
def test_of_classes_that_tie_either_may_be_the_label() -> None:
    detector = detector_of(recipe("demo_sdetr"))
    for parameter in detector.class_head.parameters():
        parameter.zero_()
    run = changed(2, lambda labels: (labels + 1) % CLASSES)(detector)
    assert compare(detector, run, SIZES[:1]).scores < 1e-6


def test_no_file_is_left_of_a_program_that_is_refused(
    small_shapes: ShapesDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe("demo_sdetr")
    wrong = changed(1, lambda scores: scores + 2e-4)(detector_of(chosen))
    stand_in = dataclasses.replace(
        FORMATS[".pt2"], write=lambda _, path: path.write_bytes(b"program"), load=lambda _: wrong
    )
    monkeypatch.setitem(FORMATS, ".pt2", stand_in)
    monkeypatch.setattr("sdetr.export.run.trace", lambda *_: None)
    weights = saved(chosen, tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="was not written"):
        export_run(chosen, small_shapes, weights, None, tmp_path / "out/mine.pt2")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = recipe("demo_sdetr")
    with pytest.raises(UserError, match=r"mine\.pth: .* \*\.onnx or \*\.pt2"):
        format_of(Path("mine.pth"))
    with pytest.raises(UserError, match="faster_rcnn:build cannot be exported"):
        load_detector(recipe("demo_faster_rcnn"), CLASSES, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"weights\.pt: does not fit: class_head\.weight has shape \(4, 64\), not \(6"):
        load_detector(chosen, 5, saved(chosen, tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UserError, match=r"ONNX needs onnxscript.*pip install onnxscript"):
        format_of(Path("mine.onnx"))


def test_files_are_checked_on_sizes_of_the_recipe() -> None:
    rule = ShortestSide(shortest=(800,), longest=1333)
    assert checked_sizes(rule, None) == ((800, 1066), (799, 600))
    assert checked_sizes(recipe("demo_sdetr").transforms.test, None) == ((64, 64), (48, 48))
    assert checked_sizes(rule, (480, 640)) == ((480, 640), (480, 640))
