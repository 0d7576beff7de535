"""JSON files that others wrote: read once, whole, and refused where two readers could understand them differently."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from sdetr.errors import UserError

_PIECE = 100
_LONGEST_PATH = 1000


def check_regular(path: Path) -> None:
    """Refuse a pipe or a device, which may never end, and whose content is gone once it was read.

    Raises:
        UserError: it is one of them.
        OSError: there is no such file, or it must not be looked at.
        ValueError: no file can have this name.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{path}: is a pipe or a device, and is read more than once; give a file on a disk")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: the file is missing, cannot be read, is empty or no JSON; or an object has a key twice.
    """
    try:
        check_regular(path)
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; check the path or make the file first") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not valid JSON in UTF-8 ({error}); write the file again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a readable file") from error
    except ValueError as error:  # a NUL in the name
        raise UserError(f"{str(path)!r}: is no path ({error}); correct it") from error
    if not text.strip():
        raise UserError(f"{path}: the file is empty; copy it again from its source")
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON ({error}); write the file again") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        where = f" with id {shorten(content['id'])}" if "id" in content else ""
        raise ValueError(f"an object{where} has the key {shorten(twice)} twice")
    return content


def shorten(value: Any) -> str:
    """A value from a file as a message can show it: on one line, and not too long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no whole numbers of more than 4,300 digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= _PIECE else f"{text[:_PIECE]}..."


def shown(path: str | Path) -> str:
    """A path as a message can show it: as it is, but where it would break the line or fill the screen."""
    text = str(path)
    return text if text.isprintable() and len(text) <= _LONGEST_PATH else shorten(text)


def is_file(path: Path) -> bool:
    """Whether there is such a file, also for a path that no file can have."""
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def exists(path: Path) -> bool:
    """Whether there is such a file or folder, also for a path that none can have."""
    try:
        return path.exists()
    except OSError:
        return False
