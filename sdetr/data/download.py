"""Downloads that survive a broken connection, and archives that cannot write outside their folder."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import logging
import shutil
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sdetr.errors import UserError
from sdetr.files import write_json
from sdetr.strict_json import shorten

WAITS = (2.0, 5.0, 15.0, 45.0)
"""Seconds before each new attempt; the count starts again whenever an attempt brought something."""

_TIMEOUT = 60
_BLOCK = 1 << 20
_SECONDS_BETWEEN_LINES = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteFile:
    """A file whose content is known before it is downloaded; ``size`` in bytes."""

    url: str
    size: int
    md5: str


class _AttemptError(Exception):
    """An attempt that another one may mend."""


def download(remote: RemoteFile, path: Path, waits: Sequence[float]) -> None:
    """Fetch a file to ``path``, from where an earlier call stopped if the server still has the same file.

    ``path`` holds the whole file with the right checksum when this returns, and what came so far when it raises.
    What the server says of the file's version lies beside it while it is incomplete.

    Args:
        remote: what to fetch; http or https.
        path: where to.
        waits: seconds before each new attempt after a failure.

    Raises:
        UserError: no connection after all attempts, a refusal, another size or checksum, or a full disk.
    """
    scheme = urllib.parse.urlsplit(remote.url).scheme
    if scheme not in ("http", "https"):
        raise UserError(f"{remote.url}: the source must begin with http:// or https://, not {scheme or 'a path'}")
    if _size(path) > remote.size:
        path.unlink()
    failures = 0
    while (have := _size(path)) < remote.size:
        try:
            _attempt(remote, path)
            raise _AttemptError("the connection was closed early")
        except _AttemptError as error:
            if _size(path) == remote.size:
                break
            failures = failures + 1 if _size(path) <= have else 1
            if failures > len(waits):
                raise UserError(
                    f"{remote.url}: {error}; gave up after {failures} attempts without progress. "
                    f"Check the network and run the same command again: {_size(path)} bytes are kept in {path}"
                ) from error
            _log.info("%s: %s; next attempt in %g s", path.name, error, waits[failures - 1])
            time.sleep(waits[failures - 1])
    _check_md5(remote, path)
    _version_file(path).unlink(missing_ok=True)


def _attempt(remote: RemoteFile, path: Path) -> None:
    have = _size(path)
    request = urllib.request.Request(remote.url)
    if have:
        request.add_header("Range", f"bytes={have}-")
        if (version := _read_version(path)) is not None:
            request.add_header("If-Range", version)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            start = _start_of(response, remote)
            if start not in (0, have):
                raise _AttemptError(f"the server sent byte {start} when byte {have} was asked for")
            _write_version(path, response.headers)
            with path.open("r+b" if start else "wb") as file:
                file.seek(start)
                _copy(response, file, remote, path.name)
    except urllib.error.HTTPError as error:
        _refused(error, remote, path)
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _AttemptError(f"no connection ({getattr(error, 'reason', None) or error})") from error
    except OSError as error:
        raise _disk_error(error, path) from error


def _refused(error: urllib.error.HTTPError, remote: RemoteFile, path: Path) -> None:
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        path.unlink(missing_ok=True)
        raise _AttemptError("the server does not have the rest of this file; starting over") from error
    if error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR or error.code == http.HTTPStatus.TOO_MANY_REQUESTS:
        raise _AttemptError(f"the server answered {error.code} {error.reason}") from error
    raise UserError(f"{remote.url}: the server answered {error.code} {error.reason}; check --source") from error


def _start_of(response: http.client.HTTPResponse, remote: RemoteFile) -> int:
    """The byte that a response starts at; its idea of the whole file's size is checked before anything is stored."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        unit_and_range, _, total = (response.headers.get("Content-Range") or "").partition("/")
        first = unit_and_range.removeprefix("bytes ").partition("-")[0]
        start, whole = int(first) if first.isdigit() else -1, total
    else:
        start, whole = 0, response.headers.get("Content-Length") or ""
    if whole.isdigit() and int(whole) != remote.size:
        raise UserError(
            f"{remote.url}: the server's file has {whole} bytes, not {remote.size}: it is another file; check --source"
        )
    return start


def _copy(response: http.client.HTTPResponse, file: BinaryIO, remote: RemoteFile, name: str) -> None:
    done, said, since = file.tell(), time.monotonic(), file.tell()
    while block := response.read(min(_BLOCK, remote.size - done)):
        file.write(block)
        done += len(block)
        now = time.monotonic()
        if now - said > _SECONDS_BETWEEN_LINES or done == remote.size:
            rate = (done - since) / max(now - said, 1e-9) / 1e6
            _log.info("%s: %.1f of %.1f MB (%.1f MB/s)", name, done / 1e6, remote.size / 1e6, rate)
            said, since = now, done


def _check_md5(remote: RemoteFile, path: Path) -> None:
    found = file_md5(path)
    if found != remote.md5:
        path.unlink()
        _version_file(path).unlink(missing_ok=True)
        raise UserError(
            f"{remote.url}: wrong bytes: the MD5 sum is {found}, not {remote.md5}; what came was deleted, "
            "so run the command again, or name another --source"
        )


def file_md5(path: Path) -> str:
    """MD5 sum of a file's bytes, as COCO's archives are known by."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _version_file(path: Path) -> Path:
    return path.with_name(path.name + ".version.json")


def _read_version(path: Path) -> str | None:
    try:
        return str(json.loads(_version_file(path).read_text(encoding="utf-8"))["if_range"])
    except (OSError, ValueError, KeyError):
        return None


def _write_version(path: Path, headers: http.client.HTTPMessage) -> None:
    """Keep a strong ETag, or else the date: what If-Range may carry (RFC 9110, section 13.1.5)."""
    tag = headers.get("ETag")
    version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
    if version is None:
        _version_file(path).unlink(missing_ok=True)
    else:
        write_json(_version_file(path), {"if_range": version})


# ---------------------------------------------------------------------------------------------- archives


def unpack(archive: Path, folder: Path, wanted: Callable[[str], bool]) -> int:
    """Unpack the wanted members of a zip file into a new ``folder``; each one's own checksum is verified.

    Every member's name is checked before the first byte is written.

    Args:
        archive: zip file.
        folder: must not exist yet; it may be left incomplete by an error.
        wanted: whether to unpack the member of this name.

    Returns:
        Number of files written.

    Raises:
        UserError: no zip file, damaged, a member that is a link or would leave ``folder``, or too little space.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            members = content.infolist()
            for member in members:
                _check_member(archive, member)
            chosen = [member for member in members if not member.is_dir() and wanted(member.filename)]
            if len({member.filename for member in chosen}) < len(chosen):
                raise UserError(f"{archive}: holds a file twice; it is not COCO's archive, so delete it")
            check_space(folder.parent, sum(member.file_size for member in chosen), f"unpack {archive.name}")
            _extract(content, chosen, folder, archive.name)
    except OSError as error:
        raise _disk_error(error, folder) from error
    except UserError:
        raise
    except Exception as error:  # zipfile and what it unpacks with raise many kinds for what is damaged
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{archive}: is not a zip file that can be read ({reason}); delete it and run again") from error
    return len(chosen)


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    # `orig_filename` is the name as it stands in the archive; zipfile mends some of it in `filename`.
    name = PurePosixPath(member.orig_filename.replace("\\", "/"))
    leaves = name.is_absolute() or ".." in name.parts or (name.parts and name.parts[0].endswith(":"))
    kind = stat.S_IFMT(member.external_attr >> 16)
    if "\0" in member.orig_filename:
        raise UserError(f"{archive}: {shorten(member.orig_filename)} is no name of a file; delete this archive")
    if leaves or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "would be written outside its folder" if leaves else "is a link or a device"
        raise UserError(f"{archive}: {shorten(member.orig_filename)} {what}; nothing was unpacked, delete this archive")


def _extract(content: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path, name: str) -> None:
    said = time.monotonic()
    for number, member in enumerate(members, start=1):
        path = folder / member.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        with content.open(member) as source, path.open("xb") as target:
            shutil.copyfileobj(source, target, _BLOCK)
        if time.monotonic() - said > _SECONDS_BETWEEN_LINES or number == len(members):
            _log.info("%s: unpacked %d of %d files", name, number, len(members))
            said = time.monotonic()


def check_space(folder: Path, needed: int, purpose: str) -> None:
    """Refuse what does not fit.

    Raises:
        UserError: the disk of ``folder`` has fewer than ``needed`` bytes free; how many more are needed is said.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: to {purpose}, {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free; "
            f"free {(needed - free) / 1e9:.2f} GB more, or choose another disk"
        )


def _disk_error(error: OSError, path: Path) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"{path}: the disk is full; free some space and run the same command again, it goes on")
    return UserError(f"{path}: cannot be written ({error.strerror or error}); check the folder and its permissions")
