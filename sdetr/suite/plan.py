"""What a suite comes to once everything that it names is resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdetr.config import (
    CocoDataset,
    PlannedClaims,
    Published,
    Recipe,
    ReleasedConfig,
    ResultsFileConfig,
    RunConfig,
    ShapesDataset,
    SplitPaths,
    StackedDETRConfig,
    Suite,
)

PRETRAINING = "pretraining"
WEIGHTS = Path("data/weights")
"""Where released weights are kept that were downloaded; suites share it."""


@dataclass(frozen=True)
class Ablation:
    """A run that is another run of the suite with some keys set otherwise; ``set`` lists only these."""

    base: str
    set: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """A suite with its data set and everything that its runs name, resolved.

    Attributes:
        suite: as the user wrote it.
        dataset: of all runs.
        pretraining: the resolved recipe that makes the suite's backbone, if the suite has one.
        runs: the runs that have a recipe, in the suite's order; ablations among them are written out.
        recipes: the resolved recipe of each of these.
        ablations: which of these are ablations, and of what.
        results_files: the runs whose detections another program made.
        published: the published numbers that are cited or held against runs.
        claims: the claims of the paper with the runs that they are measured on; None without ``config/claims.yaml``.
        left_out: why a run of the suite is in none of the above, by run.
        results: folder of the suite.
    """

    suite: Suite
    dataset: CocoDataset | ShapesDataset
    pretraining: Recipe | None
    runs: Mapping[str, RunConfig]
    recipes: Mapping[str, Recipe]
    ablations: Mapping[str, Ablation]
    results_files: Mapping[str, ResultsFileConfig]
    published: Published
    claims: PlannedClaims | None
    left_out: Mapping[str, str]
    results: Path

    @property
    def seeds(self) -> dict[str, tuple[int, ...]]:
        """The seeds of every run, in the suite's order."""
        rows: dict[str, RunConfig | ResultsFileConfig] = {**self.runs, **self.results_files}
        return {name: rows[name].seeds for name in self.suite.runs if name in rows}

    @property
    def splits(self) -> dict[str, SplitPaths]:
        """Every split of the data set by name, with paths joined to the root."""
        splits = {name: self.dataset.split(name) for name in ("train", "val", "monitor")}
        if isinstance(self.dataset, ShapesDataset):
            splits["pretraining"] = self.dataset.split("pretraining")
        return splits

    @property
    def needed_splits(self) -> dict[str, SplitPaths]:
        """The splits that have to be there: nothing but the validation images where nothing is trained or drawn."""
        if self.trained or isinstance(self.dataset, ShapesDataset):
            return self.splits
        return {"val": self.splits["val"]}

    @property
    def released(self) -> dict[str, ReleasedConfig]:
        """The runs that evaluate weights of others."""
        return {name: run.released for name, run in self.runs.items() if run.released is not None}

    @property
    def trained(self) -> tuple[str, ...]:
        """The runs that are trained."""
        return tuple(name for name, run in self.runs.items() if run.released is None)

    @property
    def stacked_run(self) -> str | None:
        """The run whose attention is pictured: of the stacked family with encoders, the first with most stages."""
        stages = {
            name: len(recipe.detector.stages)
            for name, recipe in self.recipes.items()
            if isinstance(recipe.detector, StackedDETRConfig)
            and any(stage.encoder_layers for stage in recipe.detector.stages)
        }
        return max(stages, key=lambda name: stages[name], default=None)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that are made of the suite, without those of published numbers."""
        there = {
            "claims": self.claims is not None,
            "ablations": bool(self.ablations),
            "attention": self.suite.measure_attention,
            "attention_fit": self.suite.measure_attention,
        }
        return ("detectors", "summary", "cost", *(name for name, wanted in there.items() if wanted))

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the pictures that are drawn of the tables and of the runs."""
        there = {"claims": self.claims is not None, "ablations": bool(self.ablations), "learning_curves": self.trained}
        always = ("ap_by_size", "precision_recall", "detections", "scenes")
        return (*always, *(name for name, wanted in there.items() if wanted))

    @property
    def pictures(self) -> tuple[str, ...]:
        """Names of the pictures that are drawn of attention."""
        there = {
            "attention_cost": self.suite.measure_attention,
            "qkva/qkva_grid": self.stacked_run is not None,
        }
        return tuple(name for name, wanted in there.items() if wanted)

    def released_file(self, run: str) -> Path:
        """Where the weights of a released run lie, or will lie when they are downloaded."""
        released = self.released[run]
        return WEIGHTS / released.file_name if released.is_address else Path(released.weights)

    def backbone_weights(self, run: str) -> str:
        """Where a run's backbone starts: ``none``, ``imagenet``, ``suite`` or a file, as its recipe says."""
        backbone = getattr(self.recipes[run].detector, "backbone", None)
        return "none" if backbone is None else str(backbone.weights)
