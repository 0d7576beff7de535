"""Archives that would write elsewhere, fill the disk, or are broken."""

from __future__ import annotations

import io
import stat
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sdetr.data.download import unpack
from sdetr.errors import UserError
from tests.robustness.doors import Case
from tests.robustness.mutations import cuts, flips

GOOD = {"images/1.jpg": b"one" * 100, "images/2.jpg": b"two" * 100}
OUTSIDE = (
    *("../out.txt", "images/../../out.txt", "/tmp/robustness_out.txt", "//out.txt", "..\\out.txt", "C:\\out.txt"),
    *("C:/out", "images/..", "./../out.txt", "a/b/c/../../../../out.txt", "\\out.txt", "..", "images/../.."),
)


def unpacked(arguments: Sequence[str]) -> int:
    """What `sdetr prepare coco` does with an archive once its checksum is right: archive and folder."""
    archive, folder = map(Path, arguments)
    try:
        unpack(archive, folder, lambda _: True)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def archive_cases(seed: int, count: int) -> Iterator[Case]:
    """Everything that a zip file can say."""
    for name in OUTSIDE:
        yield _case(f"a member called {name!r}", _zipped({**GOOD, name: b"x"}), True)
    for kind in ("FLNK", "FCHR", "FBLK", "FIFO", "FSOCK"):
        yield _case(f"a member of kind {kind}", _with_mode(getattr(stat, f"S_I{kind}"), b"/tmp"), True)
    yield _case("a link, then a file through it", _through_a_link(), True)
    yield _case("a file twice", _twice("images/1.jpg"), True)
    yield _case("a file twice, spelt otherwise", _zipped({**GOOD, "images//1.jpg": b"x"}), True)
    yield _case("a file and a folder of one name", _zipped({**GOOD, "images/1.jpg/x": b"x"}), True)
    yield _case("a name of 5,000 letters", _zipped({"x" * 5000: b"x"}), True)
    yield _case("a name with NUL", _with_nul(), True)
    yield _case("a name that is no text", _zipped(GOOD).replace(b"images/1.jpg", b"images/\xff\xfe\xff\xff\xff"), None)
    yield _case("encrypted", _flagged(1), True)
    yield _case("of an unknown compression", _compressed_by(99), True)
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        broken = _zipped(GOOD, method)
        yield _case(f"broken, compression {method}", broken[:60] + bytes(40) + broken[100:], True)
    yield _case("a bomb, 1000 to 1", _zipped({"images/1.jpg": bytes(30_000_000)}, zipfile.ZIP_DEFLATED), None)
    yield _case("that claims 2 to the 60 bytes", _claiming(2**60), True)
    yield _case("that claims less than it holds", _claiming(5), True)
    for name, content in {
        "nothing": b"",
        "zeros": bytes(100),
        "HTML": b"<html>404</html>",
        "gzip": b"\x1f\x8b",
    }.items():
        yield _case(name, content, True)
    for way in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        content = _zipped(GOOD, way)
        for name, spoilt in cuts(content, count, seed):
            yield _case(f"compression {way}, {name}", spoilt, True)
        for name, spoilt in flips(content, 2 * count, seed):
            yield _case(f"compression {way}, {name}", spoilt, None)


def _case(name: str, content: bytes, refused: bool | None) -> Case:
    def arrange(folder: Path) -> Sequence[str]:
        (folder / "deep/er").mkdir(parents=True)
        (folder / "deep/er/bad.zip").write_bytes(content)
        return [str(folder / "deep/er/bad.zip"), str(folder / "deep/er/new")]

    def effect(folder: Path) -> str | None:
        inside = folder / "deep/er/new"
        outside = [path for path in folder.rglob("*") if path.is_file() and inside not in path.parents]
        return None if [path.name for path in outside] == ["bad.zip"] else f"wrote {outside}"

    return Case(name, arrange, "", refused, effect, (), _checked(effect_folder=effect))


def _checked(effect_folder: Callable[[Path], str | None]) -> Callable[[Sequence[str]], int]:
    """Unpack, see that nothing lies outside, and clear what was unpacked: a refusal may leave a part of it inside."""

    def door(arguments: Sequence[str]) -> int:
        status = unpacked(arguments)
        folder = Path(arguments[1])
        wrong = effect_folder(folder.parents[2])
        assert wrong is None, wrong
        assert not Path("/tmp/robustness_out.txt").exists()
        if status and folder.exists():
            for path in folder.rglob("*"):
                assert not path.is_symlink()
                if path.is_file():
                    path.unlink()
        return status

    return door


def _zipped(members: dict[str, bytes], way: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", way) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo("x")
            # As it stands: the constructor mends some names.
            info.filename = name
            info.compress_type = way
            archive.writestr(info, content)
    return buffer.getvalue()


def _with_mode(mode: int, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("images/link")
        info.create_system = 3
        info.external_attr = (mode | 0o777) << 16
        archive.writestr(info, content)
    return buffer.getvalue()


def _through_a_link() -> bytes:
    buffer = io.BytesIO(_with_mode(stat.S_IFLNK, b"../.."))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("images/link/out.txt", b"x")
    return buffer.getvalue()


def _twice(name: str) -> bytes:
    return _zipped({**GOOD, name.replace("1", "0"): b"another"}).replace(b"images/0.jpg", name.encode())


def _with_nul() -> bytes:
    return _zipped({**GOOD, "images/0.jpg": b"x"}).replace(b"images/0.jpg", b"images/0\0jpg")


def _flagged(bit: int) -> bytes:
    """Set a flag of the first member, in its own header and in the directory."""
    content = bytearray(_zipped(GOOD))
    content[6] |= bit
    content[content.index(b"PK\x01\x02") + 8] |= bit
    return bytes(content)


def _compressed_by(method: int) -> bytes:
    content = bytearray(_zipped(GOOD))
    content[8] = method
    content[content.index(b"PK\x01\x02") + 10] = method
    return bytes(content)


def _claiming(size: int) -> bytes:
    """A member whose size in the directory is another."""
    content = bytearray(_zipped({"images/1.jpg": b"x" * 1000}, zipfile.ZIP_DEFLATED))
    place = content.index(b"PK\x01\x02")
    if size < 2**32:
        content[place + 24 : place + 28] = struct.pack("<I", size)
        return bytes(content)
    # A size of 64 bits stands in an extra field of the directory.
    extra = struct.pack("<HHQ", 1, 8, size)
    name_length = struct.unpack_from("<H", content, place + 28)[0]
    content[place + 24 : place + 28] = b"\xff" * 4
    content[place + 30 : place + 32] = struct.pack("<H", len(extra))
    content[place + 46 + name_length : place + 46 + name_length] = extra
    end = content.rindex(b"PK\x05\x06")
    content[end + 12 : end + 16] = struct.pack("<I", struct.unpack_from("<I", content, end + 12)[0] + len(extra))
    return bytes(content)
