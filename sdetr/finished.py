"""A finished training is never lost, and never done again by mistake.

Snakemake deletes what a job has written if Snakemake itself was killed before it took note of the job's end, even while
the job that outlived it writes. So the files are written where it does not look, then get second names where it does,
and keep the first until a later job shows that it has taken note.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sdetr.engine.checkpoint import clear_checkpoints, list_differences
from sdetr.errors import UserError
from sdetr.files import atomic_path, sha256
from sdetr.provenance import Record, last_finished, without_folders

_KEPT = ".finished"
_log = logging.getLogger(__name__)


def place_for(folder: Path, names: Sequence[str]) -> Path:
    """An empty folder for the files that a training ends with."""
    forget(folder, names)
    kept = folder / _KEPT
    kept.mkdir(exist_ok=True)
    return kept


def put_in_place(folder: Path, names: Sequence[str]) -> None:
    """Give the files of a finished training their names in the folder of the run, as if they were written now."""
    for name in names:
        with atomic_path(folder / name) as temporary:
            temporary.unlink()
            _link(folder / _KEPT / name, temporary)
            os.utime(temporary)


def forget(folder: Path, names: Sequence[str]) -> None:
    """Drop the first names: a later job has started, so Snakemake knows that the training has ended."""
    for name in names:
        (folder / _KEPT / name).unlink(missing_ok=True)
    with suppress(OSError):
        (folder / _KEPT).rmdir()


def start_over(folder: Path, names: Sequence[str]) -> None:
    """Remove all that a training has learnt and written, but its record."""
    clear_checkpoints(folder / "checkpoints")
    forget(folder, names)
    for name in (*names, "train.jsonl"):
        (folder / name).unlink(missing_ok=True)


def is_finished(
    folder: Path,
    names: Sequence[str],
    record: Record,
    job: str,
    decided_by: Mapping[str, Any],
    recipe: Mapping[str, Any],
) -> bool:
    """Whether the training in a folder has ended; then its files are all in place.

    Args:
        folder: of the run.
        names: files that the training ends with.
        record: of the run.
        job: ``train`` or ``pretrain``.
        decided_by: what decides the training, by name, as its attempts record it.
        recipe: its recipe as plain data, to say what has changed in it.

    Raises:
        UserError: a finished training by other things lies there; the differences are listed.
    """
    if any((folder / "checkpoints").glob("step_*.pt")):
        return False
    in_place = all((folder / name).exists() for name in names)
    kept = folder / _KEPT
    if not in_place and not all((kept / name).exists() for name in names):
        forget(folder, names)
        return False
    differences = _differences(record, job, decided_by, recipe)
    if not differences:
        clear_checkpoints(folder / "checkpoints")
        if not in_place:
            put_in_place(folder, names)
        _log.info("%s: is finished already; --fresh trains it again", folder)
        return True
    if in_place:
        raise UserError(
            f"{folder}: holds a finished training, and not this one: {'; '.join(differences)}; "
            f"give another --out, or --fresh to replace it"
        )
    forget(folder, names)
    return False


def check_trained_on(folder: Path, record: Record, annotations: Path) -> None:
    """Refuse weights of other training data: Snakemake does not train again where the data only seem to have moved.

    Args:
        folder: of the run.
        record: of the run.
        annotations: of the train split; where there are none any more, nothing is said.

    Raises:
        UserError: the run was trained on other annotations.
    """
    last = last_finished(record.content, "train")
    then = None if last is None else last.get("inputs", {}).get("annotations")
    if then is not None and annotations.is_file() and then != sha256(annotations):
        raise UserError(
            f"{folder}: was trained on other annotations than {annotations}: name the data set that it was trained on, "
            "or add `--forcerun check` to the command, which checks the data and trains every run again"
        )


def _differences(record: Record, job: str, decided_by: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    last = last_finished(record.content, job)
    if last is None:
        return ["run.json does not say how it was made"]
    then = {key: last.get(key) for key in decided_by}
    in_recipe = list_differences({"recipe": record.content.get("recipe")}, {"recipe": without_folders(recipe)})
    if then["recipe_sha256"] != decided_by["recipe_sha256"] and in_recipe:
        then["recipe_sha256"] = decided_by["recipe_sha256"]
        return in_recipe + list_differences(then, dict(decided_by))
    return list_differences(then, dict(decided_by))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # some file systems have no hard links
        shutil.copy2(source, target)
