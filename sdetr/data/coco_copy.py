"""A copy of COCO 2017 in a folder: made from COCO's own archives, or verified where it lies.

Sizes and MD5 sums are those that COCO's host sends and that public mirrors and loaders check; COCO publishes none.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sdetr.config import SplitPaths
from sdetr.data.checks import check_split
from sdetr.data.download import RemoteFile, check_space, download, file_md5, unpack
from sdetr.errors import UserError

COCO_SOURCE = "http://images.cocodataset.org"
_WORKSHOP = ".unpacking"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """One archive of COCO 2017.

    Attributes:
        name: of the zip file.
        path: below the source's address.
        size: bytes.
        md5: checksum.
        unpacked: bytes on disk of what is wanted of it, a little too many rather than too few.
        gives: files or folders below the root, in the archive under the same names; nothing else is unpacked.
    """

    name: str
    path: str
    size: int
    md5: str
    unpacked: int
    gives: tuple[str, ...]

    def remote(self, source: str) -> RemoteFile:
        """Where the archive is at a source."""
        return RemoteFile(f"{source.rstrip('/')}/{self.path}", self.size, self.md5)

    def wants(self, member: str) -> bool:
        """Whether a member of the archive is unpacked."""
        return any(member == name or member.startswith(f"{name}/") for name in self.gives)


@dataclass(frozen=True)
class SplitCount:
    """How many images and objects (crowds included) a split of COCO 2017 has."""

    images: int
    objects: int


ARCHIVES = (
    Archive(
        name="annotations_trainval2017.zip",
        path="annotations/annotations_trainval2017.zip",
        size=252_907_541,
        md5="f4bbac642086de4f52a3fdda2de5fa2c",
        unpacked=500_000_000,
        gives=("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
    ),
    Archive(
        name="val2017.zip",
        path="zips/val2017.zip",
        size=815_585_330,
        md5="442b8da7639aecaf257c1dceb8ba8c80",
        unpacked=840_000_000,
        gives=("val2017",),
    ),
    Archive(
        name="train2017.zip",
        path="zips/train2017.zip",
        size=19_336_861_798,
        md5="cced6f7f71b7629ddf16f17bbcfab6b2",
        unpacked=19_800_000_000,
        gives=("train2017",),
    ),
)
SPLITS = {"train2017": SplitCount(118_287, 860_001), "val2017": SplitCount(5_000, 36_781)}


def prepare_coco(root: Path, source: str, archives: Sequence[Archive], waits: Sequence[float]) -> None:
    """Download and unpack what a folder lacks of COCO 2017; what is there already is not touched.

    The space is checked before anything is fetched. An archive is deleted once all of it is unpacked and verified; one
    that the user put into ``root`` is used instead of a download, and kept. A call that was stopped is taken up again.

    Args:
        root: folder that gets ``annotations``, ``train2017`` and ``val2017``.
        source: address that has ``zips/`` and ``annotations/`` below it, as `COCO_SOURCE`.
        archives: usually `ARCHIVES`.
        waits: see `sdetr.data.download.download`.

    Raises:
        UserError: too little space, no connection, wrong bytes, an unsafe archive, or another call is at work.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / ".prepare.lock", timeout=0)
        with lock:
            _fetch_missing(root, source, archives, waits)
    except Timeout as error:
        raise UserError(f"{root}: another `sdetr prepare coco` is at work there; wait until it has ended") from error
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror or error}); choose another --root") from error


def _fetch_missing(root: Path, source: str, archives: Sequence[Archive], waits: Sequence[float]) -> None:
    shutil.rmtree(root / _WORKSHOP, ignore_errors=True)
    missing = [archive for archive in archives if not all((root / name).exists() for name in archive.gives)]
    for archive in archives:
        if archive not in missing:
            _log.info("%s: is there already; nothing to download", root / archive.gives[0])
    check_space(root, space_needed(root, missing), "download and unpack COCO 2017")
    for archive in missing:
        _install(root, _obtain(root, archive, source, waits), archive)


def space_needed(root: Path, missing: Sequence[Archive]) -> int:
    """Most bytes that will be in use at once beyond now; an archive goes before the next one comes."""
    added, most = 0, 0
    for archive in missing:
        part, own = _part(root, archive), root / archive.name
        present = part.stat().st_size if part.exists() else 0
        download_size = 0 if own.exists() else archive.size - present
        most = max(most, added + download_size + archive.unpacked)
        added += archive.unpacked - present
    return most


def _part(root: Path, archive: Archive) -> Path:
    return root / f"{archive.name}.part"


def _obtain(root: Path, archive: Archive, source: str, waits: Sequence[float]) -> Path:
    """The archive's file, verified: the user's own, or one that is downloaded."""
    own = root / archive.name
    if not own.exists():
        part = _part(root, archive)
        download(archive.remote(source), part, waits)
        return part
    if own.stat().st_size != archive.size or file_md5(own) != archive.md5:
        raise UserError(f"{own}: is not COCO's archive (its size or MD5 sum differs); move it away and run again")
    return own


def _install(root: Path, file: Path, archive: Archive) -> None:
    """Unpack beside the final place, then rename: a folder of images is there whole or not at all."""
    workshop = root / _WORKSHOP
    unpack(file, workshop, archive.wants)
    for name in archive.gives:
        if not (workshop / name).exists():
            raise UserError(f"{file}: holds no {name}; it is not COCO's archive, so delete it")
    for name in archive.gives:
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            (workshop / name).rename(target)
    shutil.rmtree(workshop)
    if file == _part(root, archive):
        file.unlink()


def verify_coco(root: Path, decode: int, expected: Mapping[str, SplitCount]) -> dict[str, Any]:
    """Check a copy without writing anything: annotations, each image's header, and ``decode`` whole images a split.

    Args:
        root: folder with ``annotations``, ``train2017`` and ``val2017``.
        decode: images of each split that are decoded.
        expected: usually `SPLITS`.

    Returns:
        By split: what `sdetr.data.checks.check_split` counts, and ``complete``, whether it is all of COCO 2017's.

    Raises:
        UserError: a file or folder is missing, or as `check_split`.
    """
    paths = {
        name: SplitPaths(annotations=root / f"annotations/instances_{name}.json", images=root / name)
        for name in expected
    }
    wanted = [path for split in paths.values() for path in (split.annotations, split.images)]
    if missing := [str(path.relative_to(root)) for path in wanted if not path.exists()]:
        raise UserError(
            f"{root}: {', '.join(missing)} missing; `sdetr prepare coco --root {root}` downloads what is missing"
        )
    report = {}
    for name, split in paths.items():
        try:
            counts = check_split(split, decode)
        except UserError as error:
            raise UserError(
                f"{error}. If many are missing, move {split.images} away and run `sdetr prepare coco --root {root}`"
            ) from error
        complete = (counts["images"], counts["objects"]) == (expected[name].images, expected[name].objects)
        report[name] = {**counts, "complete": complete}
    return report


def describe_copy(root: Path, report: Mapping[str, Any], expected: Mapping[str, SplitCount]) -> list[str]:
    """The lines that say what `verify_coco` found."""
    lines = []
    for name, found in report.items():
        counts = f"{found['images']} images and {found['objects']} objects of {len(found['categories'])} categories"
        if found["complete"]:
            lines.append(f"ok       {root / name}: {counts}: all of COCO 2017")
        else:
            whole = expected[name]
            lines.append(
                f"WARNING  {root / name}: {counts}, all of them good, but not COCO 2017, which has "
                f"{whole.images} images and {whole.objects} objects; its results are no COCO results"
            )
    return lines
