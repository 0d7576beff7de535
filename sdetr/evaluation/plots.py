"""All pictures of a suite, from the files in its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sdetr.evaluation.finished_suite import FinishedSuite, read_finished_suite
from sdetr.evaluation.plots_common import COLOURS, Subject
from sdetr.evaluation.plots_curves import draw_curves
from sdetr.evaluation.plots_differences import draw_ablations, draw_claims
from sdetr.evaluation.plots_images import draw_detections, draw_scenes, read_split
from sdetr.evaluation.plots_precision_recall import draw_precision_recall
from sdetr.evaluation.plots_sizes import SIZES, draw_sizes


@dataclass(frozen=True)
class _Pictures:
    """Draws the pictures of a suite; each method says whether the suite has what its picture shows."""

    suite: FinishedSuite
    reference_curves: Mapping[str, Path]

    @property
    def subject(self) -> Subject:
        return Subject(self.suite.name, self.suite.dataset.name, self.suite.synthetic)

    @property
    def shown_runs(self) -> list[str]:
        """All runs, or without the ablations where all of them could not be told apart in one picture."""
        return self.suite.runs if len(self.suite.runs) <= len(COLOURS) else self.suite.main_runs

    def claims(self, out: Path) -> bool:
        if (table := self.suite.file("claims.csv")) is None:
            return False
        draw_claims(table, out, self.subject)
        return True

    def ap_by_size(self, out: Path) -> bool:
        draw_sizes(self.suite.table, self.shown_runs, self.suite.image_intervals(SIZES), out, self.subject)
        return True

    def learning_curves(self, out: Path) -> bool:
        table = self.suite.table
        trained = set(table.loc[table["origin"] == "trained_here", "run"])
        folders = {
            run: [file.parent for file in self.suite.of_seeds(run, "train.csv")]
            for run in self.shown_runs
            if run in trained
        }
        if not folders:
            return False
        published = self.suite.file("published.csv")
        draw_curves(folders, self.shown_runs, out, self.subject, self.reference_curves, published)
        return True

    def precision_recall(self, out: Path) -> bool:
        runs = self.suite.main_runs
        detections = {run: self.suite.of_seeds(run, "detections.json") for run in runs}
        draw_precision_recall(self.suite.dataset.split("val").annotations, detections, runs, out, self.subject)
        return True

    def ablations(self, out: Path) -> bool:
        if (table := self.suite.file("ablations.csv")) is None:
            return False
        draw_ablations(table, out, self.subject)
        return True

    def detections(self, out: Path) -> bool:
        val = self.suite.dataset.split("val")
        first = {run: self.suite.of_seeds(run, "detections.json")[0] for run in self.suite.main_runs}
        draw_detections(read_split(val.annotations, val.images), first, out, self.subject)
        return True

    def scenes(self, out: Path) -> bool:
        val = self.suite.dataset.split("val")
        draw_scenes(read_split(val.annotations, val.images), out, self.subject)
        return True


_DRAWERS: Mapping[str, Callable[[_Pictures, Path], bool]] = {
    "claims": _Pictures.claims,
    "ap_by_size": _Pictures.ap_by_size,
    "learning_curves": _Pictures.learning_curves,
    "precision_recall": _Pictures.precision_recall,
    "ablations": _Pictures.ablations,
    "detections": _Pictures.detections,
    "scenes": _Pictures.scenes,
}


def draw_figures(results: Path, reference_curves: Mapping[str, Path]) -> None:
    """Draw what a suite has something for; a picture of an earlier call that it has nothing for any more is removed.

    Args:
        results: folder of the suite, with ``detectors.csv``, ``dataset.yaml`` and the seed folders below ``runs``;
            ``published.csv``, ``claims.csv``, ``ablations.csv``, each with the YAML that it was made of, and
            ``bootstrap.npz`` of each seed where they exist. Pictures go to ``figures/NAME.png``.
        reference_curves: by what to call it, somebody else's log: a CSV with ``epoch`` (counted from 0) and ``AP``.

    Raises:
        UserError: a file that is missing or broken.
    """
    pictures = _Pictures(read_finished_suite(results), reference_curves)
    for name, draw in _DRAWERS.items():
        out = results / f"figures/{name}.png"
        if not draw(pictures, out):
            out.unlink(missing_ok=True)
