"""Processes that serve a disk: who they are, what they cost, and how they end."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PATIENCE_S = 20.0


class Failed(Exception):
    """Something that was started does not work; the text says what."""


class Server:
    """A program in the foreground with all its children, ended when the block is left."""

    def __init__(self, command: Sequence[str], log: Path, undo: Callable[[], None] | None = None,
                 environment: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._log = log
        self._undo = undo
        # What nbdkit's Python plugin prints at every request would not be its own cost.
        given = {**os.environ, **(environment or {})}
        given.pop("PYTHONUNBUFFERED", None)
        self._environment = given

    def __enter__(self) -> Self:
        out: IO[bytes]
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env=self._environment, start_new_session=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        try:
            if self._undo is not None:
                self._undo()
        finally:
            self._end()

    def _end(self) -> None:
        family = self.pids()
        for sent in (signal.SIGTERM, signal.SIGKILL):
            try:
                self._process.send_signal(sent)
                self._process.wait(PATIENCE_S)
                break
            except subprocess.TimeoutExpired:
                continue
        for pid in family:
            try:
                if os.getpgid(pid) == self._process.pid:
                    os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Return once `ready`; raise Failed if the program ends or takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{' '.join(self._command)}: {self._last_words()}")
            time.sleep(0.02)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it does not get ready"

    def pids(self) -> list[int]:
        """The program and all that it started."""
        return descendants(self._process.pid)


def descendants(root: int) -> list[int]:
    """`root` and every process below it that is alive."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    family = [root]
    for pid in family:
        family.extend(children.get(pid, []))
    return [pid for pid in family if _stat(pid)]


def cpu_seconds(pids: Sequence[int]) -> float:
    """What these processes used so far, all threads, in user mode and in the kernel."""
    used = 0
    for pid in pids:
        if fields := _stat(pid):
            used += int(fields[11]) + int(fields[12])
    return used / TICKS_PER_SECOND


@contextmanager
def kernel_workers_alike() -> Iterator[None]:
    """Where this runs at real-time priority, so do the kernel's unbound workers meanwhile, which carry
    the requests of a loop device: at a lower one they would wait for whatever else the machine
    computes, and that would be measured."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    if policy == os.SCHED_OTHER:
        yield
        return
    raised: set[int] = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and (entry / "comm").read_text().startswith("kworker/u"):
                pid = int(entry.name)
                if os.sched_getscheduler(pid) == os.SCHED_OTHER:
                    os.sched_setscheduler(pid, policy, parameters)
                    raised.add(pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    try:
        yield
    finally:
        for pid in raised:
            try:
                os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
            except ProcessLookupError:
                continue


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from the third field on; empty if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    # The second field is a name in brackets and may hold anything.
    return text.rpartition(")")[2].split()
