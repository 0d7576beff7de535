"""Downloads from a server that breaks off, ignores ranges or sends something else; archives that mean harm."""

from __future__ import annotations

import hashlib
import io
import shutil
import stat
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sdetr.data.download import RemoteFile, download, unpack
from sdetr.errors import UserError
from tests.unit.data.file_server import FileServer, serving

CONTENT = np.random.default_rng(0).bytes(300_000)
DiskUsage = namedtuple("DiskUsage", "total used free")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving({"/file.zip": CONTENT}) as server:
        yield server


def remote(server: FileServer) -> RemoteFile:
    return RemoteFile(f"{server.url}/file.zip", len(CONTENT), hashlib.md5(CONTENT).hexdigest())


def refusal(server: FileServer, path: Path, *waits: float) -> str:
    with pytest.raises(UserError) as error:
        download(remote(server), path, waits)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_whole_file_comes_in_one_request(server: FileServer, tmp_path: Path) -> None:
    download(remote(server), tmp_path / "a", ())
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.ranges == [None]
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_broken_connection_is_taken_up_where_it_broke(server: FileServer, tmp_path: Path) -> None:
    server.drops = [100_000, 50_000]
    download(remote(server), tmp_path / "a", (0, 0))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_call_fetches_only_the_rest(server: FileServer, tmp_path: Path) -> None:
    server.drops = [120_000]
    message = refusal(server, tmp_path / "a")
    assert "120000 bytes are kept" in message
    download(remote(server), tmp_path / "a", ())
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=120000-"]


def test_a_server_that_ignores_ranges_sends_the_file_anew(server: FileServer, tmp_path: Path) -> None:
    server.honours_ranges, server.drops = False, [100_000]
    download(remote(server), tmp_path / "a", (0,))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]


@pytest.mark.parametrize("etag", [None, '"second"'])
def test_a_file_that_changed_meanwhile_is_fetched_anew(server: FileServer, tmp_path: Path, etag: str | None) -> None:
    (tmp_path / "a").write_bytes(CONTENT[:50_000])
    (tmp_path / "a.version.json").write_text('{"if_range": "\\"before\\""}')
    server.etag = etag
    download(remote(server), tmp_path / "a", ())
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.ranges == ["bytes=50000-"]


def test_more_bytes_than_the_file_has_are_not_kept(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT + b"more")
    download(remote(server), tmp_path / "a", ())
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_range_that_cannot_be_had_starts_over(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT[:50_000])
    server.statuses = [416]
    download(remote(server), tmp_path / "a", (0,))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.ranges == ["bytes=50000-", None]


def test_wrong_bytes_are_refused_and_deleted(server: FileServer, tmp_path: Path) -> None:
    server.files["/file.zip"] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    assert "wrong bytes: the MD5 sum is" in refusal(server, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_size_is_refused_before_it_comes(server: FileServer, tmp_path: Path) -> None:
    server.files["/file.zip"] = CONTENT + b"more"
    assert "the server's file has 300004 bytes, not 300000" in refusal(server, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_not_repeated(server: FileServer, tmp_path: Path, status: int) -> None:
    server.statuses = [status] * 3
    assert f"the server answered {status}" in refusal(server, tmp_path / "a", 0, 0)
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    download(remote(server), tmp_path / "a", (0, 0))
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_waits_are_kept_and_start_again_after_progress(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("sdetr.data.download.time.sleep", waited.append)
    server.statuses, server.drops = [503, 503], [100_000, 100_000]
    download(remote(server), tmp_path / "a", (1, 2))
    assert waited == [1, 2, 1, 1]


def test_without_a_network_the_user_is_told(server: FileServer, tmp_path: Path) -> None:
    there = remote(server)
    with pytest.raises(UserError, match=r"no connection .* gave up after 2 attempts.* Check the network"):
        download(RemoteFile("http://127.0.0.1:9/file.zip", there.size, there.md5), tmp_path / "a", (0,))


def test_only_web_addresses_are_sources(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must begin with http"):
        download(RemoteFile(f"file://{tmp_path}/a", 1, ""), tmp_path / "b", ())


# ---------------------------------------------------------------------------------------------- archives


def archive(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as content:
        for member, value in members:
            content.writestr(member, value)
    return path


def link(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


def wants_all(_name: str) -> bool:
    return True


def test_only_wanted_members_are_unpacked(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", ("in/a.txt", b"a"), ("in/sub/", b""), ("in/sub/b.txt", b"b"), ("c.txt", b"c"))
    assert unpack(path, tmp_path / "out", lambda name: name.startswith("in/")) == 2
    files = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert files == {"in/a.txt", "in/sub/b.txt"}


@pytest.mark.parametrize("name", ["../evil", "in/../../evil", "/tmp/evil", "..\\evil", "C:\\evil", "C:/evil"])
def test_a_member_that_would_leave_the_folder_spoils_the_archive(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "a.zip", ("in/good", b"good"), (name, b"evil"))
    with pytest.raises(UserError, match="would be written outside its folder; nothing was unpacked"):
        unpack(path, tmp_path / "sub/out", wants_all)
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


def test_a_link_spoils_the_archive_even_where_it_is_not_wanted(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", ("in/good", b"good"), (link("other"), b"/etc/passwd"))
    with pytest.raises(UserError, match="is a link or a device"):
        unpack(path, tmp_path / "out", lambda name: name.startswith("in/"))
    assert not (tmp_path / "out").exists()


def test_a_damaged_member_is_found(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", ("a", CONTENT))
    data = bytearray(path.read_bytes())
    data[200_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="is not a zip file that can be read"):
        unpack(path, tmp_path / "out", wants_all)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"<html>")
    with pytest.raises(UserError, match="is not a zip file that can be read"):
        unpack(tmp_path / "a.zip", tmp_path / "out", wants_all)


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = archive(tmp_path / "a.zip", ("a", b"1"), ("a", b"2"))
    with pytest.raises(UserError, match="holds a file twice"):
        unpack(path, tmp_path / "out", wants_all)


def test_the_space_is_checked_before_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO(bytes(10_000_000))
    path = archive(tmp_path / "a.zip", ("zeros", buffer.getvalue()))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(0, 0, 4_000_000))
    with pytest.raises(UserError, match=r"0\.01 GB are needed and 0\.00 GB are free; free 0\.01 GB more"):
        unpack(path, tmp_path / "out", wants_all)
    assert not (tmp_path / "out").exists()
