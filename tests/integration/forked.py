"""Run work in process trees that are ended whatever happens.

The processes are forked from a server that has imported everything and done nothing: torch refuses
to fork after autograd threads or a CUDA check, and a worker that ran other tests has had both.
"""

import contextlib
import multiprocessing
import os
import signal
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

from_server = multiprocessing.get_context("forkserver")
from_server.set_forkserver_preload(["tests.integration.preloaded"])


def spawn_from_server() -> None:
    """Let what this process spawns come from the server: as empty-handed, but without imports."""
    multiprocessing.context._concrete_contexts["spawn"] = from_server


def run_forked(work: Callable[[], None], log_path: Path, timeout: float = 150) -> None:
    """Run picklable ``work`` in a process group of its own; raise if it fails or hangs."""
    process = start_forked(work, log_path)
    try:
        process.join(timeout)
        log = log_path.read_text()[-4000:] if log_path.exists() else ""
        assert process.exitcode is not None, f"still running after {timeout} s:\n{log}"
        assert process.exitcode == 0, log
    finally:
        end_group(process)


def start_forked(work: Callable[[], None], log_path: Path) -> Any:
    """Start picklable ``work`` in a process that leads a group; return the process."""
    process = from_server.Process(target=_enter, args=(work, log_path))
    process.start()
    return process


def _enter(work: Callable[[], None], log_path: Path) -> None:
    os.setpgid(0, 0)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    warnings.simplefilter("ignore")
    _call_and_exit(work)


def _call_and_exit(work: Callable[[], None]) -> None:
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def end_group(process: Any) -> None:
    """Kill what is left of a process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def run_ranks(work: Callable[[], None], num_ranks: int, num_nodes: int = 1) -> None:
    """Run ``work`` on ranks that are told of each other as torchrun tells them.

    Waits for all of them to end by themselves: a rank that hangs when another died runs into the
    caller's time limit.

    Raises:
        RuntimeError: If a rank failed, with what became of each.
    """
    # A store of this process, as torchrun's agent has one: it holds the port that it was given.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    local = num_ranks // num_nodes
    ranks = {}
    for rank in range(num_ranks):
        pid = os.fork()
        if pid:
            ranks[pid] = rank
            continue
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank % local),
            GROUP_RANK=str(rank // local),
            WORLD_SIZE=str(num_ranks),
            LOCAL_WORLD_SIZE=str(local),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(store.port),
            TORCHELASTIC_USE_AGENT_STORE="True",
            TORCHELASTIC_RUN_ID="test",
        )
        _call_and_exit(work)
    ended = {}
    while len(ended) < num_ranks:
        pid, status = os.wait()
        ended[ranks[pid]] = os.waitstatus_to_exitcode(status)
    if any(ended.values()):
        raise RuntimeError(f"exit codes by rank: {dict(sorted(ended.items()))}")
