"""What the doctor says of suites that would go wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdetr import doctor
from sdetr.cli import main
from sdetr.config import BackboneConfig, Recipe, override, parse
from sdetr.data.labels import LabelMap
from sdetr.doctor import examine, weights
from sdetr.doctor.finding import Finding
from sdetr.doctor.recipes import category_finding
from sdetr.jobs import Job, RunIdentity, train_run
from sdetr.models.backbone import build_backbone, imagenet_weights
from sdetr.workload import Workload, read_plan
from sdetr.worst_step import Attempt, MemoryReport
from tests import small
from tests.unit.data.builders import COCO_SAMPLE
from tests.unit.data.file_server import serving
from tests.unit.planned import coco_suite, pretrained_suite, results_file_suite, shapes_suite

IMAGENET = imagenet_weights("resnet50")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return


def said(suite: Path, *, memory: bool = False) -> dict[str, Finding]:
    found = list(examine(suite, None, 5, memory))
    assert all("\n" not in finding.text for finding in found)
    return {finding.subject: finding for finding in found}


def errors(found: dict[str, Finding]) -> list[str]:
    return [subject for subject, finding in found.items() if finding.level == "ERROR"]


def test_a_healthy_suite_passes_every_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipes = {"detr": small.recipe("demo_detr"), "longer": small.recipe("demo_detr", training__epochs=3)}
    suite = shapes_suite(tmp_path, recipes, drawn=True)
    assert main(["doctor", str(suite)]) == 0
    lines = capsys.readouterr().out.splitlines()
    subjects = [line[9:].partition(": ")[0] for line in lines]
    assert {line[:7].strip() for line in lines} <= {"ok", "WARNING"}
    assert subjects.count("memory, detr, longer") == 1  # they differ in length alone: measured once
    assert {"versions", "suite", "GPUs", "weights, small", "disk", "earlier runs"} <= set(subjects)
    assert {"data, train", "data, val", "data, monitor", "data, pretraining"} <= set(subjects)
    assert not (tmp_path / "results").exists()


def test_data_that_is_not_drawn_is_sampled_and_stays_so(tmp_path: Path) -> None:
    suite = shapes_suite(tmp_path, {"detr": small.recipe("demo_detr")}, drawn=False)
    found = said(suite)
    assert errors(found) == []
    assert "not drawn yet" in found["data"].text
    assert not (tmp_path / "data").exists()


def test_a_suite_of_results_files_alone_is_checked_to_its_end(tmp_path: Path) -> None:
    found = said(results_file_suite(tmp_path), memory=True)
    assert errors(found) == []
    assert "1 runs on data set" in found["suite"].text
    assert {"data, val", "disk", "earlier runs"} <= set(found)


def test_an_unknown_key_is_the_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = shapes_suite(tmp_path, {"detr": small.recipe("demo_detr")}, drawn=False, gpu=1)
    assert errors(said(suite)) == ["suite"]
    assert main(["doctor", str(suite)]) == 2
    assert "1 of the checks above failed" in capsys.readouterr().err


def test_a_broken_image_is_found_and_the_rest_is_put_off(tmp_path: Path) -> None:
    suite = shapes_suite(tmp_path, {"detr": small.recipe("demo_detr")}, drawn=True)
    image = sorted((tmp_path / "data/train").iterdir())[0]
    image.write_bytes(image.read_bytes()[:100])
    found = said(suite, memory=True)
    assert errors(found) == ["data"]
    assert image.name in found["data"].text
    assert found["all other checks"].level == "WARNING"
    assert not any(subject.startswith("memory") for subject in found)


def test_only_a_full_decoding_finds_what_the_sample_misses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = shapes_suite(tmp_path, {"detr": small.recipe("demo_detr")}, drawn=True)
    second = sorted((tmp_path / "data/train").iterdir())[1]
    second.write_bytes(second.read_bytes()[:-400])
    found = {finding.subject: finding for finding in examine(suite, None, 2, False)}
    assert errors(found) == []
    assert main(["doctor", str(suite), "--all", "--skip-memory"]) == 2
    assert second.name in capsys.readouterr().out


@pytest.mark.parametrize(("numbering", "classes"), [("contiguous", 80), ("category_id", 91)])
def test_eighty_categories_and_ninety_one_classes_are_told_apart(tmp_path: Path, numbering: str, classes: int) -> None:
    recipe = small.recipe("demo_detr", label_numbering=numbering, training__batch_size=1)
    found = said(coco_suite(tmp_path, {"detr": recipe}))
    assert found["categories, detr"].text.startswith(
        f"80 categories, {classes} classes: label_numbering is {numbering}"
    )
    assert ("11 of them stand for no category" in found["categories, detr"].text) == (classes == 91)


def test_labels_that_do_not_come_back_are_an_error() -> None:
    label_map = LabelMap({3: "three", 8: "eight"}, "contiguous")
    label_map._category_id[1] = 3
    load = Workload("one", small.recipe("demo_detr"), (0,), "train")
    assert category_finding(load, label_map).level == "ERROR"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"training__batch_size": 10}, "training.batch_size: 10 is more than the 3 training images; make it smaller"),
        (
            {"detector": {"factory": "sdetr.models.stacked:nope", "options": {}}},
            "detector.factory: sdetr.models.stacked:nope cannot be imported",
        ),
    ],
)
def test_what_keeps_a_recipe_from_starting_is_told_of_its_run(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    sound = small.recipe("demo_detr", training__batch_size=1)
    wrong = parse(Recipe, override(sound.model_dump(mode="json"), _dotted(changes), "wrong"), "wrong")
    found = said(coco_suite(tmp_path, {"sound": sound, "wrong": wrong}), memory=True)
    assert errors(found) == ["recipe, wrong"]
    assert found["recipe, wrong"].text.startswith(problem)
    assert found["schedules, released weights, space and memory"].text == "not checked; mend the recipes first"
    assert "earlier runs" in found
    assert not any(subject.startswith("memory") for subject in found)


def _dotted(changes: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("__", "."): value for key, value in changes.items()}


def test_drops_that_a_training_on_this_data_never_reaches_are_told(tmp_path: Path) -> None:
    counted = {"kind": "step_count", "warmup_steps": 0, "warmup_factor": None, "factor": 0.1}
    recipes = {
        name: small.recipe("demo_detr", schedule={**counted, "drop_steps": drops}, schedule__warmup_steps=1)
        for name, drops in {"reached": [3, 5], "missed": [3, 6]}.items()
    }
    found = said(shapes_suite(tmp_path, recipes, drawn=True))
    assert (found["schedule, reached"].level, found["schedule, missed"].level) == ("ok", "WARNING")
    assert "training ends after 6 steps, before the learning rate drops at step 6" in found["schedule, missed"].text


def test_parts_of_a_schedule_that_max_steps_cuts_off_are_told(tmp_path: Path) -> None:
    schedule = {"kind": "step", "warmup_steps": 0, "drop_epochs": [1], "factor": 0.1}
    recipes = {  # 12 images in batches of 4: 2 epochs of 3 steps
        f"max_{steps}": small.recipe(
            "demo_detr", training__max_steps=steps, schedule=schedule, schedule__warmup_steps=0
        )
        for steps in (3, 4, 6, 7)
    }
    found = said(shapes_suite(tmp_path, recipes, drawn=True))
    levels = {subject: finding.level for subject, finding in found.items() if subject.startswith(("sched", "length"))}
    assert levels == {
        "schedule, max_3": "WARNING",
        "schedule, max_4": "ok",
        "schedule, max_6": "ok",
        "schedule, max_7": "ok",
        "length, max_7": "WARNING",
    }
    assert found["schedule, max_3"].text == (
        "training ends after 3 steps, before the learning rate drops at step 3; make training.epochs or "
        "training.max_steps larger, or schedule.drop_epochs smaller"
    )
    assert found["length, max_7"].text == (
        "training.max_steps is 7, but training ends after 6 steps: 2 epochs of 3; make training.epochs larger, or "
        "max_steps smaller"
    )


def test_released_weights_alone_need_the_validation_images_alone(tmp_path: Path) -> None:
    torch.save({}, "a.pth")
    released = {"weights": "a.pth", "sha256": None, "obtain": "by hand"}
    runs = {"theirs": {"recipe": "detr", "seeds": [0], "released": released}}
    suite = coco_suite(tmp_path, {"detr": small.recipe("demo_detr")}, runs=runs)
    copy = tmp_path / "coco"
    for part in ("train2017", "annotations/instances_train2017.json"):  # which `coco_suite` makes the val split
        (copy / part).parent.mkdir(parents=True, exist_ok=True)
        (copy / part).symlink_to(COCO_SAMPLE / part)
    dataset = tmp_path / "config/datasets/data.yaml"
    dataset.write_text(dataset.read_text().replace(str(COCO_SAMPLE), str(copy)))
    found = said(suite)
    assert [subject for subject in found if subject.startswith("data")] == ["data, val"]
    assert errors(found) == ["released weights, theirs"]  # a.pth is empty


def test_the_worst_step_of_the_pretraining_has_the_cores_that_the_workflow_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = small.recipe("demo_detr", detector__backbone__weights="suite")
    pretrainer = small.recipe("demo_backbone")
    suite = pretrained_suite(tmp_path, detector, pretrainer)
    threads = {}

    def measured(recipe: Recipe, images: object, gpus: int, count: int) -> MemoryReport:  # noqa: ARG001
        threads[recipe.model] = count
        return MemoryReport(1, 1, (Attempt(4, 1.0, 1.0),), None, None)

    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr("sdetr.doctor.memory.measure_worst_step", measured)
    said(suite, memory=True)
    assert threads == {pretrainer.model: 3, detector.model: 1}


def test_the_version_of_an_optional_package_is_told_and_its_absence_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = shapes_suite(tmp_path, {"detr": small.recipe("demo_detr")}, drawn=False)
    for installed, text in ((True, "detectron2 0.6,"), (False, "no detectron2 (")):
        monkeypatch.setattr("sdetr.doctor.importlib.metadata.version", partial(_version, installed))
        versions = said(suite)["versions"]
        assert text in versions.text
        assert versions.level == "ok"


def _version(has_detectron2: bool, package: str) -> str:
    if package == "detectron2" and not has_detectron2:
        raise PackageNotFoundError(package)
    return "0.6"


@pytest.mark.parametrize(("wanted", "visible", "level"), [(1, 0, "ERROR"), (0, 1, "WARNING"), (1, 2, "ok")])
def test_gpus_are_counted(
    wanted: int, visible: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80e9))
    plan = read_plan(shapes_suite(tmp_path, {"detr": small.recipe("demo_detr")}, drawn=False, gpus=wanted), None)
    (finding,) = doctor._devices(plan)
    assert finding.level == level


# ---------------------------------------------------------------------------------------------- weights


def backbone(weights: str, name: str = "resnet50") -> BackboneConfig:
    return BackboneConfig.model_validate({"name": name, "weights": weights, "dilation": False, "frozen": []})


def cached(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "torch/hub/checkpoints" / IMAGENET.url.rsplit("/", 1)[1]
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_weights_that_are_not_there_are_looked_for_but_not_fetched(tmp_path: Path) -> None:
    with serving({"/weights.pth": b"weights"}) as server:
        path = tmp_path / "weights.pth"
        assert weights.download_finding("w", f"{server.url}/weights.pth", path).level == "ok"
        gone = weights.download_finding("w", f"{server.url}/gone.pth", path)
        assert server.methods == ["HEAD", "HEAD"]
    assert gone.level == "WARNING"
    assert "Not Found" in gone.text
    offline = weights.download_finding("w", "http://127.0.0.1:9/weights.pth", path)
    assert offline.level == "WARNING"
    assert f"download it elsewhere to {path}" in offline.text
    assert not path.exists()


def test_a_cached_file_with_another_checksum_is_damaged(tmp_path: Path) -> None:
    path = cached(tmp_path, b"half of it")
    finding = weights.weights_finding("weights", backbone("imagenet"))
    assert finding.level == "ERROR"
    assert f"{path} is damaged" in finding.text


def test_a_cached_file_is_read_and_must_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"stands for the weights"
    url = f"https://example.org/resnet50-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setattr(weights, "imagenet_weights", lambda _: SimpleNamespace(url=url))
    path = tmp_path / "torch/hub/checkpoints" / url.rsplit("/", 1)[1]
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    built = []
    monkeypatch.setattr(weights, "build_backbone", built.append)
    assert weights.weights_finding("weights", backbone("imagenet")).level == "ok"
    assert built == [backbone("imagenet")]


def test_a_weights_file_of_the_users_must_fit(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save(build_backbone(backbone("none", "small")).state_dict(), path)
    recipe = small.recipe("demo_detr", detector__backbone__weights=str(path))
    suite = shapes_suite(tmp_path, {"detr": recipe}, drawn=True)
    assert errors(said(suite)) == []
    torch.save({"stem.weight": torch.zeros(1)}, path)
    assert errors(said(suite)) == ["weights, small"]


# ----------------------------------------------------------------------------------------- earlier runs


def finished(tmp_path: Path, suite: Path) -> Path:
    plan = read_plan(suite, None)
    folder = plan.results / "runs/detr/seed0"
    job = Job(plan.recipes["detr"], plan.dataset, folder, 0, 1, 0)
    train_run(job, RunIdentity("tiny", "detr", "detr", 0), None)
    return tmp_path / folder


def test_finished_runs_are_compared_with_their_recipes(tmp_path: Path) -> None:
    suite = shapes_suite(tmp_path, {"detr": small.recipe("demo_detr", training__max_steps=1)}, drawn=True)
    finished(tmp_path, suite)
    assert said(suite)["run detr, seed 0"].text == "finished with this recipe"
    shapes_suite(tmp_path, {"detr": small.recipe("demo_detr", training__max_steps=2)}, drawn=True)
    changed = said(suite)["run detr, seed 0"]
    assert changed.level == "WARNING"
    assert "will train it again" in changed.text


@pytest.mark.parametrize(
    ("content", "problem"), [('{"recipe_sha256": ', "is not valid JSON"), ("[]", "holds no object")]
)
def test_a_broken_file_of_a_finished_run_is_told_and_the_others_are_looked_at(
    content: str, problem: str, tmp_path: Path
) -> None:
    runs = {"detr": {"recipe": "detr", "seeds": [0, 1]}}
    recipe = small.recipe("demo_detr")
    suite = shapes_suite(tmp_path, {"detr": recipe}, drawn=True, runs=runs)
    for seed, text in enumerate((content, json.dumps({"recipe_sha256": recipe.sha256()}))):
        train = tmp_path / f"results/tiny/runs/detr/seed{seed}/train.json"
        train.parent.mkdir(parents=True)
        train.write_text(text)
    found = said(suite)
    assert errors(found) == ["run detr, seed 0"]
    assert problem in found["run detr, seed 0"].text
    assert found["run detr, seed 1"].text == "finished with this recipe"


def test_checkpoints_are_compared_with_the_recipe_and_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small.recipe("demo_detr", training__max_steps=4)
    suite = shapes_suite(tmp_path, {"detr": recipe}, drawn=True)
    monkeypatch.setattr("sdetr.engine.train.Trainer.finish", lambda _: None)
    folder = finished(tmp_path, suite)
    (folder / "train.json").unlink()
    assert said(suite)["run detr, seed 0"].text == "goes on after step 4"
    slower = small.recipe("demo_detr", training__max_steps=4, optimizer__learning_rate=1e-5)
    shapes_suite(tmp_path, {"detr": slower}, drawn=True)
    found = said(suite)["run detr, seed 0"]
    assert found.level == "ERROR"
    assert "recipe.optimizer.learning_rate was" in found.text
    shapes_suite(tmp_path, {"detr": recipe}, drawn=True)
    annotations = tmp_path / "data/annotations/instances_train.json"
    annotations.write_text(json.dumps(json.loads(annotations.read_text())))
    assert "inputs.annotations was" in said(suite)["run detr, seed 0"].text
