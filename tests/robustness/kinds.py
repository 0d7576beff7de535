"""All kinds of bad input by name: who makes the cases, and how many there are at least in the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.robustness import (
    bad_annotations,
    bad_archives,
    bad_config,
    bad_images,
    bad_pickles,
    bad_results,
    bad_weights,
)
from tests.robustness.doors import Case


@dataclass(frozen=True)
class Kind:
    """``cases(seed, count)``: ``count`` is how many places are cut or flipped in each good file."""

    cases: Callable[[int, int], Iterator[Case]]
    at_least: int


KINDS = {
    "annotations, training": Kind(bad_annotations.training_cases, 1000),
    "annotations, scoring": Kind(bad_annotations.scoring_cases, 1000),
    "images": Kind(bad_images.header_cases, 150),
    "results, evaluate": Kind(bad_results.evaluated_cases, 300),
    "results, adopt": Kind(bad_results.adopted_cases, 300),
    "recipes": Kind(bad_config.recipe_cases, 500),
    "suites": Kind(bad_config.suite_cases, 300),
    "data set files": Kind(bad_config.dataset_cases, 300),
    "claims": Kind(bad_config.claims_cases, 300),
    "weights that run code": Kind(bad_pickles.attack_cases, 500),
    "weights, damaged": Kind(bad_weights.damage_cases, 150),
    "weights that do not fit": Kind(bad_weights.misfit_cases, 20),
    "checkpoints, damaged": Kind(bad_weights.checkpoint_cases, 15),
    "archives": Kind(bad_archives.archive_cases, 90),
}
