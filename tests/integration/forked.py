"""Run work in forked process trees that are ended whatever happens."""

import contextlib
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path


def run_forked(work: Callable[[], None], log_path: Path, timeout: float = 120) -> None:
    """Run ``work`` in a fork with a process group of its own; raise if it fails or hangs."""
    pid = start_forked(work, log_path)
    deadline = time.monotonic() + timeout
    try:
        while time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                assert status == 0, log_path.read_text()[-4000:]
                return
            time.sleep(0.01)
        raise AssertionError(f"still running after {timeout} s:\n{log_path.read_text()[-4000:]}")
    finally:
        end_group(pid)


def start_forked(work: Callable[[], None], log_path: Path) -> int:
    """Start ``work`` in a fork that leads a process group; return its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of forks with threads; these forks are ours
        pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        warnings.simplefilter("ignore")
        work()
        code = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def end_group(pid: int) -> None:
    """Kill what is left of a process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
