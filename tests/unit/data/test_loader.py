import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
import torch

from sdetr.config import Square
from sdetr.data import loader
from sdetr.data.coco import CocoImages
from sdetr.data.loader import evaluation_batches, steps_per_epoch, training_batches
from sdetr.errors import UserError
from sdetr.structures import Batch
from tests.unit.data.builders import TRANSFORMS, content, write_split

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return write_split(tmp_path_factory.mktemp("data"), content(images=11))


@pytest.fixture(scope="module")
def images(split):
    return CocoImages(split, "contiguous")


def batches(images, **changes):
    arguments = {"seed": 3, "epoch": 1, "batch_size": 2, "workers": 0, "device": CPU, **changes}
    return list(training_batches(images, TRANSFORMS, **arguments))


def ids(some):
    return [target.image_id for batch in some for target in batch.targets]


def assert_equal(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert [target.image_id for target in one.targets] == [target.image_id for target in other.targets]
        assert all(torch.equal(*pair) for pair in zip(one.images, other.images, strict=True))
        for mine, yours in zip(one.targets, other.targets, strict=True):
            assert mine.size == yours.size
            for name in ("boxes", "labels", "area", "iscrowd"):
                assert torch.equal(getattr(mine, name), getattr(yours, name))


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_training(images, workers):
    assert_equal(batches(images), batches(images, workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_in_the_middle_gives_the_rest(images, workers):
    assert_equal(batches(images)[3:], batches(images, first_step=3, workers=workers))
    assert batches(images, first_step=5) == []


def test_starting_in_the_middle_loads_nothing_of_what_comes_before(images, monkeypatch):
    loaded = []
    load = images.load
    monkeypatch.setattr(images, "load", lambda index: loaded.append(index) or load(index))
    batches(images, first_step=4)
    assert len(loaded) == 2


def test_an_epoch_visits_images_once_and_drops_the_incomplete_batch(images):
    assert steps_per_epoch(images, 2) == 5
    visited = ids(batches(images))
    assert len(visited) == len(set(visited)) == 10
    assert set(visited) < set(images.image_ids)


def test_order_and_augmentation_follow_seed_and_epoch(images):
    first = batches(images)
    for other in (batches(images, epoch=2), batches(images, seed=4)):
        assert ids(first) != ids(other)
        mine, yours = (
            {t.image_id: i for b in some for i, t in zip(b.images, b.targets, strict=True)} for some in (first, other)
        )
        shared = mine.keys() & yours.keys()
        assert not all(torch.equal(mine[identity], yours[identity]) for identity in shared)


def test_augmentation_does_not_depend_on_the_batch_size(images):
    pairs, singles = batches(images), batches(images, batch_size=1)
    flat = [image for batch in pairs for image in batch.images]
    assert all(torch.equal(image, single.images[0]) for image, single in zip(flat, singles, strict=False))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_random_state_is_left_alone(images, workers):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(images, workers=workers)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_set_smaller_than_a_batch_is_refused_at_once(images):
    with pytest.raises(UserError, match=r"training\.batch_size: 12 .* 11 training images"):
        training_batches(images, TRANSFORMS, seed=0, epoch=0, batch_size=12, workers=0, device=CPU)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_keeps_order_and_the_last_batch(images, workers):
    some = list(evaluation_batches(images, Square(square=20), batch_size=4, workers=workers))
    assert [len(batch.images) for batch in some] == [4, 4, 3]
    assert ids(some) == list(images.image_ids)
    assert all(tuple(image.shape) == (3, 20, 20) for batch in some for image in batch.images)
    assert all(target.original_size == (32, 40) for batch in some for target in batch.targets)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_user_comes_through_as_it_is(tmp_path, workers):
    split = write_split(tmp_path, content())
    (split.images / "20.png").write_text("no image")
    images = CocoImages(split, "contiguous")
    with pytest.raises(UserError) as caught:
        list(evaluation_batches(images, Square(square=20), batch_size=1, workers=workers))
    assert type(caught.value) is UserError
    assert str(caught.value).startswith(f"{split.images / '20.png'}: image 20 cannot be decoded")
    assert "\n" not in str(caught.value)


class _AskTorch(loader._Samples):
    def __getitem__(self, _index):
        return UserError(f"{torch.get_num_threads()} {torch.multiprocessing.get_sharing_strategy()}")


def test_a_worker_has_one_thread_and_does_not_share_by_file_descriptor():
    threads, strategy = torch.get_num_threads(), torch.multiprocessing.get_sharing_strategy()
    torch.set_num_threads(2)
    try:
        with pytest.raises(UserError, match=r"^1 file_system$"):
            list(loader._batches(_AskTorch(), Batch, [[0]], 1))
    finally:
        torch.set_num_threads(threads)
    assert torch.multiprocessing.get_sharing_strategy() == strategy


def test_batches_that_go_to_a_gpu_are_pinned_whole(images: CocoImages, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []

    def pin_memory(tensor: torch.Tensor, *_: object) -> torch.Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    (batch, *_) = evaluation_batches(images, Square(square=20), batch_size=4, workers=0)
    assert not pinned  # nothing here computes on a GPU
    again = batch.pin_memory()
    assert len(pinned) == len(batch.images) + 4 * len(batch.targets)
    assert again == batch


def _workers_of(batches: Iterator[Batch]) -> tuple[Batch, list[psutil.Process]]:
    """The first batch, and the workers started for it; this process may have other children, a resource tracker say."""
    before = set(psutil.Process().children())
    first = next(batches)
    return first, [child for child in psutil.Process().children() if child not in before]


def test_a_scheduler_that_terminates_every_process_takes_no_worker(images: CocoImages) -> None:
    batches = evaluation_batches(images, Square(square=20), batch_size=1, workers=2)
    first, workers = _workers_of(batches)
    assert len(workers) == 2
    subprocess.run(["kill", "-TERM", *(str(worker.pid) for worker in workers)], check=True)
    assert len([first, *batches]) == len(images)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere any SIGTERM ends a worker")
def test_the_process_itself_can_end_its_workers(images: CocoImages) -> None:
    batches = evaluation_batches(images, Square(square=20), batch_size=1, workers=1)
    _, (worker,) = _workers_of(batches)

    def end_worker() -> None:
        worker.terminate()
        worker.wait(timeout=20)

    # torch says so of a worker that it did not end itself.
    with pytest.raises(RuntimeError, match="exited unexpectedly with exit code 143"):
        end_worker()
