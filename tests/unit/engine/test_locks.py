"""Locks between processes: one at a time, none stale, one GPU each."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from sdetr.engine import device
from sdetr.engine.gpu_lock import LAUNCHER, candidates, identity, list_gpus, parse_gpu_list, take_gpu, take_own_gpu
from sdetr.engine.lock import first_free, holder
from sdetr.errors import UserError

A, B = "GPU-aaaa1111-0000-0000-0000-000000000000", "GPU-aaaa2222-0000-0000-0000-000000000000"
M1, M2 = "MIG-11111111-0000-0000-0000-000000000000", "MIG-22222222-0000-0000-0000-000000000000"
LISTED = f"""GPU 0: NVIDIA H100 80GB HBM3 (UUID: {A})
GPU 1: NVIDIA H100 80GB HBM3 (UUID: {B})
"""
LISTED_WITH_MIG = f"""GPU 0: NVIDIA A100-SXM4-40GB (UUID: {A})
  MIG 3g.20gb     Device  0: (UUID: {M1})
  MIG 3g.20gb     Device  1: (UUID: {M2})
GPU 1: NVIDIA A100-SXM4-40GB (UUID: {B})
"""

LOCK = """
import logging, sys, time
from pathlib import Path
from sdetr.engine.lock import first_free
logging.basicConfig(level=logging.INFO, format="%(message)s")
index, lock = first_free([Path(name) for name in sys.argv[1:]], "it")
print(index, flush=True)
sys.stdin.read()
"""
TAKE = """
import logging, os, sys
from pathlib import Path
from sdetr.engine.gpu_lock import take_gpu
logging.basicConfig(level=logging.INFO, format="%(message)s")
print(take_gpu(Path(sys.argv[1])), flush=True)
assert "torch" not in sys.modules
sys.stdin.read()
"""

# What is needed is loaded before: a user who is not root may not be able to read it.
AS_USER = """
import os, sys, sdetr.engine.gpu_lock
user = int(sys.argv.pop())
os.setgroups([])
os.setgid(user)
os.setuid(user)
"""

TAKE_TWO = """
import logging, sys
from pathlib import Path
from sdetr.engine.gpu_lock import take_gpus
logging.basicConfig(level=logging.INFO, format="%(message)s")
print(*take_gpus(2, Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@contextmanager
def running(program: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds what it took until its input ends."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, text=True, env={**os.environ, **environment}, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def warned(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline().strip()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
def test_a_lock_ends_with_its_process_however_that_ends(end: signal.Signals | None, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with running(LOCK, str(path)) as first:
        assert said(first) == "0"
        assert holder(path) == first.pid
        with running(LOCK, str(path)) as second:
            assert warned(second) == f"it: waiting for another process to end ({first.pid})"
            if end is None:
                assert first.stdin is not None
                first.stdin.close()
            else:
                first.send_signal(end)
            assert said(second) == "0"
            assert holder(path) == second.pid


def test_the_first_free_one_is_taken(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "ab"]
    with running(LOCK, *paths) as first, running(LOCK, *paths) as second:
        assert {said(first), said(second)} == {"0", "1"}


def test_a_process_can_lock_again_what_it_has_locked(tmp_path: Path) -> None:
    _, first = first_free([tmp_path / "lock"], "it")
    _, second = first_free([tmp_path / "lock"], "it")
    for lock in (first, second):
        lock.release()
    assert holder(tmp_path / "lock") is None


@pytest.fixture
def fake_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose ``nvidia-smi`` lists two GPUs."""
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    (program.parent / "list").write_text(LISTED)
    program.write_text(f'#!/bin/sh\n[ "$1" = -L ] && exec cat "{program.parent}/list"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def test_each_job_gets_a_gpu_of_its_own_and_the_next_waits(fake_driver: Path) -> None:
    locks = str(fake_driver)
    with running(TAKE, locks) as first, running(TAKE, locks) as second:
        assert {said(first), said(second)} == {A, B}
        with running(TAKE, locks) as third:
            line = warned(third)
            assert line.startswith(f"GPU {A}, {B}: waiting for another process to end (")
            assert {str(first.pid), str(second.pid)} == set(line.rpartition("(")[2].rstrip(")").split(", "))
            second.kill()
            assert said(third) in (A, B)


def test_two_jobs_that_each_want_both_gpus_run_one_after_the_other(fake_driver: Path) -> None:
    locks = str(fake_driver)
    with running(TAKE_TWO, locks) as first:
        assert said(first) == f"{A} {B}"
        with running(TAKE_TWO, locks) as second, running(TAKE_TWO, locks) as third:
            for waiting in (second, third):
                assert f"GPU {A}, {B}: waiting for another process to end ({first.pid}" in warned(waiting)
            first.kill()
            # Both try at once now, and whichever gets them has both.
            ready, _, _ = select.select([second.stdout, third.stdout], [], [])
            holding = second if second.stdout in ready else third
            assert said(holding) == f"{A} {B}"
            holding.kill()
            assert said(third if holding is second else second) == f"{A} {B}"


def test_who_waits_for_two_gpus_holds_none_meanwhile(fake_driver: Path) -> None:
    locks = str(fake_driver)
    with running(TAKE, locks) as one:
        taken = said(one)
        with running(TAKE_TWO, locks) as two:
            assert "waiting" in warned(two)
            with running(TAKE, locks) as other:
                assert {taken, said(other)} == {A, B}
                one.kill()
                other.kill()
                assert said(two) == f"{A} {B}"


@pytest.mark.parametrize("visible", [None, "0", f"0,{A}"])
def test_more_gpus_than_there_are_are_refused(visible: str | None, fake_driver: Path) -> None:
    (fake_driver / "bin/list").write_text(LISTED.splitlines()[0] + "\n")
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    with running(TAKE_TWO, str(fake_driver), **environment) as process:
        assert process.stderr is not None
        assert "gpus: 2 are asked for, 1 CUDA GPUs are visible; " in process.stderr.read()


def test_a_process_of_torchrun_takes_the_gpu_of_its_number_and_waits_for_nobody(
    fake_driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(LAUNCHER, raising=False)
    with running(TAKE, str(fake_driver)) as other:
        assert said(other) == A
        with pytest.raises(UserError, match=rf"GPU {A}: another job has it \(process {other.pid}\); wait for its end"):
            take_own_gpu(0, fake_driver)
        take_own_gpu(1, fake_driver)
        assert holder(fake_driver / f"sdetr-gpu-{B}.lock") == os.getpid()
        monkeypatch.setenv(LAUNCHER, str(other.pid))
        take_own_gpu(0, fake_driver)


def test_two_jobs_on_a_machine_of_one_gpu_run_one_after_the_other(fake_driver: Path) -> None:
    (fake_driver / "bin/list").write_text(LISTED.splitlines()[0] + "\n")
    with running(TAKE, str(fake_driver)) as first:
        assert said(first) == A
        with running(TAKE, str(fake_driver)) as second:
            assert f"waiting for another process to end ({first.pid})" in warned(second)
            first.kill()
            assert said(second) == A


def test_what_is_visible_already_is_respected_under_any_of_its_names(fake_driver: Path) -> None:
    """Index 1, the UUID of that GPU and the start of it are one GPU."""
    locks = str(fake_driver)
    with running(TAKE, locks, CUDA_VISIBLE_DEVICES="1") as first:
        assert said(first) == "1"
        for other in (B, B[:10]):
            with running(TAKE, locks, CUDA_VISIBLE_DEVICES=other) as second:
                assert "waiting" in warned(second)
        with running(TAKE, locks) as third:
            assert said(third) == A


def test_a_job_that_may_see_no_gpu_takes_none(fake_driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert take_gpu(fake_driver) is None
        assert os.environ["CUDA_VISIBLE_DEVICES"] == hidden


def test_a_machine_without_a_driver_has_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list_gpus() == []


def test_lock_files_that_cannot_be_written_are_named(fake_driver: Path) -> None:
    with pytest.raises(UserError, match=r"list: cannot be locked \(File exists\)"):
        take_gpu(fake_driver / "bin/list")


@pytest.fixture
def for_all_users() -> Iterator[Path]:
    """A folder like /tmp: every user may write there. pytest's own folders are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o1777)
        yield Path(name)


def can_become(user: str, folder: Path) -> bool:
    """Whether a process here can be another user's, who reaches the folder."""
    tried = [sys.executable, "-c", f"{AS_USER}os.listdir(sys.argv[1])", str(folder), user]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


def test_every_user_can_take_a_gpu_that_another_one_had(for_all_users: Path) -> None:
    if not all(can_become(user, for_all_users) for user in ("65534", "65533")):
        pytest.skip("only root can become another user, and in some containers neither can")
    program, locks = AS_USER + TAKE, str(for_all_users)
    with running(program, locks, "65534", CUDA_VISIBLE_DEVICES=A) as first:
        assert said(first) == A
        assert next(for_all_users.iterdir()).stat().st_uid == 65534
        with running(program, locks, "65533", CUDA_VISIBLE_DEVICES=A) as second:
            assert warned(second) == f"GPU {A}: waiting for another process to end ({first.pid})"
            first.kill()
            assert said(second) == A


@pytest.mark.parametrize(("text", "uuids"), [(LISTED, [A, B]), (LISTED_WITH_MIG, [M1, M2, B]), ("", [])])
def test_the_drivers_list_is_read_with_mig_devices(text: str, uuids: list[str]) -> None:
    assert parse_gpu_list(text) == uuids


@pytest.mark.parametrize(
    ("visible", "known", "names"),
    [
        (None, [A, B], [A, B]),
        ("1, 0", [A, B], ["1", "0"]),
        (f"{B}", [A, B], [B]),
        ("MIG-GPU-1/0/0", [A], ["MIG-GPU-1/0/0"]),
        ("0,7,1", [A, B], ["0"]),
        ("0,-1,1", [A, B], ["0"]),
        ("", [A, B], []),
        ("3", [], ["3"]),
    ],
)
def test_visible_devices_are_read_as_cuda_does(visible: str | None, known: list[str], names: list[str]) -> None:
    assert candidates(visible, known) == names


def test_a_name_that_fits_two_gpus_stands_for_itself() -> None:
    assert identity("GPU-aaaa", [A, B]) == "GPU-aaaa"
    assert identity("GPU-aaaa1", [A, B]) == A
    assert identity("5", [A, B]) == "5"


def test_waiting_says_so_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdetr.engine.lock.SECONDS_BETWEEN_LINES", 0.0)
    lines: list[str] = []
    with running(LOCK, str(tmp_path / "lock")) as first:

        def hear(text: str, *values: str) -> None:
            lines.append(text % values)
            if len(lines) == 3:
                first.kill()

        said(first)
        monkeypatch.setattr("sdetr.engine.lock._log.info", hear)
        first_free([tmp_path / "lock"], "it")[1].release()
    assert lines[:3] == [f"it: waiting for another process to end ({first.pid})"] * 3


def test_fp32_is_fp32_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn, matmul, attention = torch.backends.cudnn, torch.backends.cuda.matmul, torch.backends.cuda
    before = cudnn.allow_tf32, matmul.allow_tf32, attention.cudnn_sdp_enabled()
    monkeypatch.setattr(device, "take_gpu", lambda: None)
    for name, value in (("is_initialized", False), ("is_available", True), ("device_count", 1), ("set_device", None)):
        monkeypatch.setattr(device.torch.cuda, name, lambda *_, value=value: value)
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = True
        assert device.prepare_device(1, torch.get_num_threads()) == torch.device("cuda", 0)
        assert (cudnn.allow_tf32, matmul.allow_tf32, attention.cudnn_sdp_enabled()) == (False, False, False)
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn_attention = before
        attention.enable_cudnn_sdp(cudnn_attention)


def test_a_gpu_is_taken_before_cuda_is_asked_for_any(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(device, "take_gpu", lambda: calls.append("take"))
    monkeypatch.setattr(device.torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: bool(calls.append("ask")))
    with pytest.raises(UserError, match="no CUDA GPU is visible"):
        device.prepare_device(1, 1)
    assert calls == ["take", "ask"]
    device.prepare_device(0, 1)
    assert calls == ["take", "ask"]
