"""What follows from a number of processes before any of them starts; `tests.integration.test_parallel` starts them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdetr import estimate, parallel
from sdetr.config import ShapesDataset
from sdetr.data.coco import CocoImages
from sdetr.data.loader import evaluation_batches, training_batches
from sdetr.engine.distributed import check_batch_size, share_of
from sdetr.engine.launch import LAUNCHER, in_processes
from sdetr.errors import UserError
from sdetr.estimate import Burst, RunEstimate, format_estimate
from sdetr.workload import DiskUse, part_of_one_gpu, read_plan
from tests import small
from tests.unit.planned import shapes_suite

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


def test_the_place_is_what_torchrun_says_all_of_it() -> None:
    assert parallel.place(TORCHRUN) == parallel.Place(5, 8, 1, 4)
    for name in TORCHRUN:
        assert parallel.place({key: value for key, value in TORCHRUN.items() if key != name}) == parallel.ALONE


def test_a_process_alone_talks_to_nobody() -> None:
    value = torch.tensor([1.0, 2.0])
    assert parallel.mean(value) is value
    assert (parallel.total(3), parallel.largest(4, -5)) == (3, (4, -5))
    assert parallel.gathered("it") == ["it"]
    assert parallel.from_main(lambda: 7) == parallel.main_first(lambda: 7) == 7


def test_only_what_the_network_says_is_taken_for_the_end_of_another_process() -> None:
    for text in ("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1", "NCCL error: remote"):
        with pytest.raises(parallel.PeerError), parallel.peers():
            raise RuntimeError(text)
    with pytest.raises(torch.OutOfMemoryError), parallel.peers():
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(("count", "processes", "share"), [(8, 2, 4), (3, 2, 1), (1, 4, 1), (0, 4, 0), (5, 1, 5)])
def test_threads_and_workers_are_dealt_out(count: int, processes: int, share: int) -> None:
    assert share_of(count, processes) == share


def test_the_parts_of_a_batch_make_it_up(small_shapes: ShapesDataset) -> None:
    recipe, images = small.recipe("demo_detr"), CocoImages(small_shapes.split("train"), "contiguous")

    def load(part: slice) -> list[list[torch.Tensor]]:
        transforms = recipe.transforms.train
        settings = {"seed": 1, "epoch": 2, "batch_size": 4, "workers": 0, "device": torch.device("cpu")}
        batches = training_batches(images, transforms, **settings, first_step=1, part=part)
        return [batch.images for batch in batches]

    for whole, first, second in zip(*map(load, (slice(None), slice(0, 2), slice(2, 4))), strict=True):
        assert all(torch.equal(*pair) for pair in zip(whole, first + second, strict=True))


def test_evaluation_deals_out_whole_batches(small_shapes: ShapesDataset) -> None:
    images = CocoImages(small_shapes.split("val"), "contiguous")

    def load(part: slice) -> list[list[int]]:
        resize = small.recipe("demo_detr").transforms.test
        batches = evaluation_batches(images, resize, batch_size=2, workers=0, part=part)
        return [[target.image_id for target in batch.targets] for batch in batches]

    whole = load(slice(None))
    assert [load(slice(number, None, 2)) for number in (0, 1)] == [whole[::2], whole[1::2]]


def test_a_batch_that_cannot_be_dealt_out_is_refused_by_the_suite_and_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipes = {"detr": small.recipe("demo_detr", training__batch_size=6)}
    with pytest.raises(UserError, match=r"runs.detr: training.batch_size 6 cannot be dealt out evenly to gpus: 4;"):
        read_plan(shapes_suite(tmp_path, recipes, drawn=False, gpus=4), None)
    assert read_plan(shapes_suite(tmp_path, recipes, drawn=False, gpus=3), None).suite.gpus == 3
    with pytest.raises(UserError, match="6 images cannot be dealt out evenly to 4 processes; make it a multiple of 4"):
        in_processes(4, 6, [], lambda: None)
    check_batch_size(6, 3)


def test_processes_that_are_not_as_many_as_gpus_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(LAUNCHER, raising=False)
    for name, value in {**TORCHRUN, "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"--gpus: is 4, and 8 processes were started; .* give --gpus 8, or 0"):
        in_processes(4, 16, [], lambda: None)


def test_the_doctor_and_the_estimate_measure_the_part_of_one_gpu_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small.recipe("demo_detr", training__batch_size=6)
    assert part_of_one_gpu(recipe, 3).training.batch_size == 2
    assert part_of_one_gpu(recipe, 0) == recipe
    row = RunEstimate("detr", 1, 6, Burst((1.0, 1.0), 0.1, 0.1), 1.0, 0.1, 0.1, DiskUse(1, 2))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimate, "device_name", lambda _: "a GPU")
    said = {}
    for gpus in (1, 3):
        said[gpus] = format_estimate(
            [row], read_plan(shapes_suite(tmp_path, {"detr": recipe}, drawn=False, gpus=gpus), None)
        )
    assert "one process each, on a GPU" in said[1]
    assert "3 processes each, on 3 GPUs like this: a GPU" in said[3]
    assert ["tell each other" in text for text in said.values()] == [False, True]
