"""Recipes, data sets and suites: frozen, complete, and refused when a key is unknown.

A suite names a data set and runs; each run names a recipe. A recipe is literal: every key is written
down, nothing is inherited and nothing has a default, so what a recipe says is what runs.
This module imports no torch: the workflow reads it each time Snakemake parses its rules.
"""

from __future__ import annotations

from sdetr.config.ablations import PlannedAblation, PlannedAblations
from sdetr.config.base import Config
from sdetr.config.claims import (
    AttentionClaim,
    Claim,
    ClaimRun,
    Claims,
    ClaimSide,
    CostClaim,
    DifferenceClaim,
    PlannedClaim,
    PlannedClaims,
    read_claims,
)
from sdetr.config.dataset import CocoDataset, DatasetConfig, ShapesDataset, ShapesSplit, SplitPaths
from sdetr.config.detectors import (
    BackboneConfig,
    CustomDetectorConfig,
    DetectorConfig,
    SetLossConfig,
    StackedDETRConfig,
    StageConfig,
    TorchvisionFasterRCNNConfig,
)
from sdetr.config.detectron2 import (
    Detectron2BackboneConfig,
    Detectron2FasterRCNNConfig,
    Detectron2HeadConfig,
    Detectron2ProposalsConfig,
)
from sdetr.config.published import Comparison, Published, PublishedRow, read_published
from sdetr.config.reading import dump_yaml, override, parse, read_dataset, read_recipe, read_yaml
from sdetr.config.recipe import (
    CosineSchedule,
    CropConfig,
    EvaluationConfig,
    OptimizerConfig,
    Recipe,
    Resize,
    Schedule,
    ShortestSide,
    Square,
    StepCountSchedule,
    StepSchedule,
    TrainingConfig,
    TrainTransforms,
    Transforms,
    content_sha256,
)
from sdetr.config.suite import (
    AblationConfig,
    AnyRun,
    Checksum,
    ComparedRunsConfig,
    ComparisonConfig,
    PretrainingConfig,
    PublishedMetric,
    ReleasedConfig,
    ResultsFileConfig,
    RunConfig,
    Suite,
)

__all__ = [
    "AblationConfig",
    "AnyRun",
    "AttentionClaim",
    "BackboneConfig",
    "Checksum",
    "Claim",
    "ClaimRun",
    "ClaimSide",
    "Claims",
    "CocoDataset",
    "ComparedRunsConfig",
    "Comparison",
    "ComparisonConfig",
    "Config",
    "CosineSchedule",
    "CostClaim",
    "CropConfig",
    "CustomDetectorConfig",
    "DatasetConfig",
    "DetectorConfig",
    "Detectron2BackboneConfig",
    "Detectron2FasterRCNNConfig",
    "Detectron2HeadConfig",
    "Detectron2ProposalsConfig",
    "DifferenceClaim",
    "EvaluationConfig",
    "OptimizerConfig",
    "PlannedAblation",
    "PlannedAblations",
    "PlannedClaim",
    "PlannedClaims",
    "PretrainingConfig",
    "Published",
    "PublishedMetric",
    "PublishedRow",
    "Recipe",
    "ReleasedConfig",
    "Resize",
    "ResultsFileConfig",
    "RunConfig",
    "Schedule",
    "SetLossConfig",
    "ShapesDataset",
    "ShapesSplit",
    "ShortestSide",
    "SplitPaths",
    "Square",
    "StackedDETRConfig",
    "StageConfig",
    "StepCountSchedule",
    "StepSchedule",
    "Suite",
    "TorchvisionFasterRCNNConfig",
    "TrainTransforms",
    "TrainingConfig",
    "Transforms",
    "content_sha256",
    "dump_yaml",
    "override",
    "parse",
    "read_claims",
    "read_dataset",
    "read_published",
    "read_recipe",
    "read_yaml",
]
