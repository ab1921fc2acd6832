"""Runs under strace in tests/test_power_cut.py: kills an operation on a store at every writing system call's entry.

strace counts calls of each kind per process and sends SIGKILL at the entry of the AT-th. So a child makes AT - k calls
of one kind on something harmless, then works on the store, and dies at its k-th real call of that kind: one strace
serves all the cuts. Usage: python power_cutter.py PREPARED SCRATCH NAME OPERATION KEY; prints a line for every cut.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from edgefer import bundle as bundles
from edgefer.errors import EdgeferError
from edgefer.release import Keys
from edgefer.store import Store

AT = 30
"""more calls of a kind than any operation or this process itself makes"""
CALLS = ("write", "fsync", "rename", "symlink", "unlink", "unlinkat", "mkdir", "rmdir")


def waste(call: str, times: int, scratch: Path) -> None:
    fd = os.open(scratch, os.O_RDONLY)
    null = os.open(os.devnull, os.O_WRONLY)
    gone = str(scratch / "gone")
    acts: dict[str, Callable[[], object]] = {
        "write": lambda: os.write(null, b"x"),
        "fsync": lambda: os.fsync(fd),
        "rename": lambda: os.rename(gone, gone),
        "symlink": lambda: os.symlink("x", scratch),
        "unlink": lambda: os.unlink(gone),
        "unlinkat": lambda: os.unlink("gone", dir_fd=fd),
        "mkdir": lambda: os.mkdir(scratch),
        "rmdir": lambda: os.rmdir(gone),
    }
    for _ in range(times):
        with contextlib.suppress(OSError):
            acts[call]()


def in_child(act: Callable[[], object]) -> int:
    """The wait status of a child that does ``act``; 0 when it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException as e:
            print(f"{type(e).__name__}: {e}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


class Cutter:
    def __init__(self, prepared: Path, scratch: Path, name: str, operation: str, key: str) -> None:
        self.prepared, self.scratch, self.name, self.operation = prepared, scratch, name, operation
        self.keys = Keys([key])
        self.lines: list[str] = []

    def store(self) -> Store:
        return Store(self.scratch / "store", self.keys, lambda bundle: None)

    def operate(self) -> None:
        store = self.store()
        offered = self.scratch.parent / "offered"
        acts: dict[str, Callable[[], object]] = {
            "install": lambda: store.install(offered), "activate": lambda: store.activate(self.name),
            "confirm": lambda: store.confirm(self.name), "rollback": store.rollback,
        }  # fmt: skip
        acts[self.operation]()

    def fresh(self) -> None:
        shutil.rmtree(self.scratch / "store", ignore_errors=True)
        shutil.copytree(self.prepared, self.scratch / "store", symlinks=True)

    def cut(self, call: str, k: int) -> bool:
        """Whether the operation still had a k-th call of this kind to be killed at."""
        assert in_child(self.fresh) == 0
        status = in_child(lambda: (waste(call, AT - k, self.scratch), self.operate()))
        if status == 0:
            return False
        assert os.WIFSIGNALED(status), f"the operation failed with status {status}"
        assert os.WTERMSIG(status) == signal.SIGKILL
        after = self.state()
        again = in_child(self.operate)
        self.lines.append(f"{call} {k}: {after}; again: {'done' if again == 0 else again}; then {self.state()}")
        return True

    def state(self) -> str:
        """What serves now, the bar, and how many staged folders with a bundle's name do not open."""
        store = self.store()
        opened = [self.title(name) for name in store.candidates()]
        broken = sum(self.title(entry.name) == "broken" for entry in store.entries())
        return f"{'>'.join(opened) or 'ships'} bar {store.highest()} broken {broken}"

    def title(self, name: str) -> str:
        try:
            opened: bundles.Bundle = self.store().open(name)
        except EdgeferError:
            return "broken"
        return opened.manifest.version


if __name__ == "__main__":
    cutter = Cutter(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:6])
    for call in CALLS:
        k = 1
        while cutter.cut(call, k):
            k += 1
    print("\n".join(cutter.lines))
