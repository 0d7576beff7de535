"""Suites: what one call of Snakemake does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Discriminator, Field, Tag, model_validator

from sdetr.config.base import Config, Name, NonEmptyPath, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

PublishedMetric = Literal["AP", "AP50", "AP75", "APs", "APm", "APl"]


class PretrainingConfig(Config):
    """Pretraining of a backbone on the data set's ``pretraining`` split: the stand-in for ImageNet weights."""

    recipe: Name = Field(description="file in `config/recipes`, without .yaml")
    seed: NonNegativeInt = Field(description="seed of the pretraining; one backbone serves all runs")


class Checksum(NamedTuple):
    """The first characters of a file's checksum, or all of them."""

    algorithm: Literal["sha256", "md5"]
    digits: str


class ReleasedConfig(Config):
    """Weights that others trained and released: the run is evaluated, not trained."""

    weights: Annotated[str, Field(min_length=1)] = Field(
        description="http(s) address, path, or a name under the suite's weights_files"
    )
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{8}|[0-9a-f]{64})$")] | None = Field(
        description="of the file, whole or the first 8 characters that its name carries; null: unknown, not checked"
    )
    md5: Annotated[str, Field(pattern=r"^([0-9a-f]{6}|[0-9a-f]{32})$")] | None = Field(
        default=None,
        description="instead of sha256 for detectron2's model zoo, whose file names carry the first 6 characters of it",
    )
    obtain: str | None = Field(default=None, description="where a person gets a file that has no address")
    batch_norm_epsilon: NonNegativeFloat | None = Field(
        default=None, description="of the file's frozen batch norm, where it is not torchvision's 1e-5"
    )

    @property
    def checksum(self) -> Checksum | None:
        """What the file is checked against; None where nothing is known."""
        if self.md5 is not None:
            return Checksum("md5", self.md5)
        return None if self.sha256 is None else Checksum("sha256", self.sha256)

    @property
    def is_address(self) -> bool:
        """Whether the workflow downloads the file."""
        return self.weights.startswith(("http://", "https://"))

    @property
    def file_name(self) -> str:
        """Last part of the address or path."""
        return self.weights.rpartition("/")[2]

    @model_validator(mode="after")
    def _can_be_had(self) -> ReleasedConfig:
        if self.sha256 is not None and self.md5 is not None:
            raise ValueError("md5: one checksum is enough; give sha256 or md5, and set the other to null")
        if self.is_address and self.checksum is None:
            raise ValueError("sha256: what is downloaded is checked; give the checksum, or its first 8 characters")
        if not self.is_address and self.obtain is None:
            raise ValueError("obtain: is missing; say where a person gets the file")
        return self


class ComparisonConfig(Config):
    """A row of ``config/published.csv`` that a run is held against, metric by metric."""

    row: Name = Field(description="row of `config/published.csv` that the run is held against")
    tolerance: Annotated[dict[PublishedMetric, PositiveFloat], Field(min_length=1)] = Field(
        description="largest difference, in points of 0..100, that still counts as agreement"
    )


class ComparedRunsConfig(Config):
    """The runs of a suite that a claim of ``config/claims.yaml`` is measured on: it says that ``first`` is better."""

    first: Name = Field(description="the run that the claim says is better")
    second: Name = Field(description="the run that it is compared with")

    @model_validator(mode="after")
    def _differ(self) -> ComparedRunsConfig:
        if self.first == self.second:
            raise ValueError(f"second: is {self.second} like first; name the run that it is compared with")
        return self


Seeds = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]


def _check_seeds(seeds: tuple[int, ...]) -> None:
    if len(set(seeds)) < len(seeds):
        raise ValueError("seeds: a seed is listed twice; remove one")


class RunConfig(Config):
    """A row of the tables per seed: a recipe, and dotted keys of it that this run sets otherwise."""

    recipe: Name = Field(description="file in `config/recipes`, without .yaml")
    seeds: Seeds = Field(
        description="a training and a row of `detectors.csv` for each; a verdict needs three; with released "
        "weights: `[0]`"
    )
    set: dict[str, Any] = Field(
        default_factory=dict, description="dotted keys of the recipe that this run sets otherwise"
    )
    released: ReleasedConfig | None = Field(default=None, description="weights to evaluate instead of training")
    published: ComparisonConfig | None = Field(default=None, description="the published numbers of this run")

    @model_validator(mode="after")
    def _seeds_differ(self) -> RunConfig:
        _check_seeds(self.seeds)
        if self.released is not None and self.seeds != (0,):
            raise ValueError("seeds: released weights have no seed of ours; write [0]")
        return self


class AblationConfig(Config):
    """Another run of the suite with some keys set otherwise: it has the base's recipe, and a row of ablations.csv."""

    base: Name = Field(description="the run of this suite that is changed, an ablation or not")
    set: Annotated[dict[str, Any], Field(min_length=1)] = Field(
        description="dotted recipe keys; they come on top of those that the base sets"
    )
    seeds: Seeds | None = Field(default=None, description="null: the seeds of the base")

    @model_validator(mode="after")
    def _seeds_differ(self) -> AblationConfig:
        _check_seeds(self.seeds or ())
        return self


class ResultsFileConfig(Config):
    """A COCO results file that any other program made: it is scored as every run is, and nothing else."""

    results_file: Annotated[str, Field(min_length=1)] = Field(
        description="path; with more than one seed, `{seed}` stands for the seed"
    )
    model: Annotated[str, Field(min_length=1, description="the name that tables and figures show")]
    source: Annotated[str, Field(min_length=1, description="the program, its version, its configuration, its training")]
    seeds: Seeds = Field(default=(0,), description="a row of `detectors.csv` for each")
    epochs: PositiveInt | None = Field(default=None, description="that the detector was trained for, if known")
    eval_batch_size: PositiveInt | None = Field(default=None, description="images per batch when it detected, if known")
    published: ComparisonConfig | None = Field(default=None, description="the published numbers of this run")

    @model_validator(mode="after")
    def _a_file_per_seed(self) -> ResultsFileConfig:
        _check_seeds(self.seeds)
        if len(self.seeds) > 1 and "{seed}" not in self.results_file:
            raise ValueError("results_file: several seeds need several files; write {seed} where their names differ")
        return self

    def file_of(self, seed: int) -> Path:
        """The results file of a seed."""
        return Path(self.results_file.replace("{seed}", str(seed)))


def _run_kind(value: Any) -> str:
    # What is no mapping is no run of any kind: pydantic says so.
    keys = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    return "an ablation" if "base" in keys else "a results file" if "results_file" in keys else "a recipe"


AnyRun = Annotated[
    Annotated[RunConfig, Tag("a recipe")]
    | Annotated[AblationConfig, Tag("an ablation")]
    | Annotated[ResultsFileConfig, Tag("a results file")],
    Discriminator(_run_kind),
]


class Suite(Config):
    """What one call of Snakemake does."""

    suite: Name = Field(description="its name: what it makes is in `results/<suite>`")
    description: Annotated[str, Field(min_length=1)] = Field(description="what the report says of it")
    dataset: Name = Field(description="file in `config/datasets`, without .yaml")
    coco_root: NonEmptyPath | None = Field(
        default=None,
        description="folder of a data set in COCO's layout whose own root is null; null: the data set says it",
    )
    gpus: NonNegativeInt = Field(
        description="GPUs that a training or a prediction takes, with a process for each; 0 runs on the CPU"
    )
    threads: PositiveInt = Field(description="CPU threads that a training or a prediction takes, all its GPUs together")
    workers: NonNegativeInt = Field(
        description="processes that load images, for all GPUs of a training together; 0 loads in the training process"
    )
    pretraining: PretrainingConfig | None = Field(
        description="pretraining of a backbone on a synthetic data set, for recipes whose backbone.weights is "
        "`suite`; null: none"
    )
    measure_attention: bool = Field(
        description="measure here what self-attention costs, by tokens and heads; about a minute on a CPU"
    )
    set: dict[str, Any] = Field(default_factory=dict, description="dotted recipe keys that every run sets otherwise")
    weights_files: dict[Name, Path | None] = Field(
        default_factory=dict, description="released files that the user gives; runs whose file is null are left out"
    )
    cited: tuple[Name, ...] = Field(
        default=(), description="rows of config/published.csv to list beside those that runs are held against"
    )
    reference_curves: dict[str, Path] = Field(
        default_factory=dict, description="logs of others to draw beside the learning curves, by what to call them"
    )
    claims: dict[Name, ComparedRunsConfig] = Field(
        default_factory=dict,
        description="runs that claims of config/claims.yaml are measured on; others are not measured",
    )
    runs: Annotated[dict[Name, AnyRun], Field(min_length=1)] = Field(
        description="the runs by name; each is a recipe, an ablation or a results file"
    )
