"""Runs one command and ends it when asked to, or when the process that wanted it is gone.

``launcher.py LOCK_FD GRACE_S COMMAND...``, with a pipe from the owner as standard input. Runs by its path
with the standard library alone, so that it starts in milliseconds. It keeps the lock's descriptor, and hands
it to the command: the kernel frees the lock when the last of them has gone, however it went.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys

__all__ = ["main"]

PR_SET_PDEATHSIG = 1
POLL_S = 0.5


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status (128 + signal number where a signal ended it)."""
    owner = os.getppid()
    lock_fd, grace_s, command = int(argv[0]), float(argv[1]), argv[2:]
    asked = False

    def ask(_signal: int, _frame: object) -> None:
        nonlocal asked
        asked = True

    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)

    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def die_with_launcher() -> None:
        # For a launcher that is killed outright; a launcher that lives ends its command gently.
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    os.set_inheritable(lock_fd, True)
    # One thread here, so a function between fork and exec is safe.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False, preexec_fn=die_with_launcher)
    _write_lock(lock_fd, owner, child.pid)

    while child.poll() is None and not asked:
        ready, _, _ = select.select([0, woken], [], [], POLL_S)
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 512)
        # The pipe tells at once; the parent's id also where another process inherited the pipe's end.
        if (0 in ready and not os.read(0, 512)) or os.getppid() != owner:
            break
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    status = child.returncode
    return status if status >= 0 else 128 - status


def _write_lock(lock_fd: int, owner: int, pid: int) -> None:
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, json.dumps({"owner": owner, "pid": pid}).encode(), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
