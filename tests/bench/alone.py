"""What pydisk is measured by itself for: plugins that take their time, rest, and system calls.

Each part is a function that gives lines of a table, or raises Failed.
"""

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .contenders import DISK, Served, Stage, nbdkit_python, pydisk
from .load import Figures, Workload, run
from .processes import Failed, cpu_seconds
from .report import GROUPS, markdown

SLEEPY = str(DISK.with_name("sleepy.py"))
SLEEPY_SIZE = 64 << 20
SMALL = 1 << 20
DELAY_S = 0.01
LANES = 16

AT_16 = Workload("4k random reads, depth 16", "randread", "4k", 16)
AT_1 = Workload("4k random reads, depth 1", "randread", "4k", 1)
DEEP = Workload("4k random reads, depth 32", "randread", "4k", 32)


class Places:
    """Folders for disks, one after the other."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self._count = 0

    def stage(self, size_bytes: int) -> Stage:
        self._count += 1
        folder = self._top / f"bench-{os.getpid()}-alone{self._count}"
        folder.mkdir()
        return Stage(folder, size_bytes)


@contextmanager
def _attached(program: Path, group: str, stage: Stage, plugin: Sequence[str],
              options: Sequence[str] = ()) -> Iterator[Served]:
    contender = pydisk(program, "pydisk", group, plugin, options)
    reason = contender.missing()
    if reason is not None:
        raise Failed(reason)
    generator = contender.start(stage)
    try:
        yield next(generator)
    finally:
        generator.close()


def _rounds(program: Path, group: str, places: Places, workload: Workload, rounds: int,
            seconds: float, plugins: Sequence[Sequence[str]]) -> list[list[Figures]]:
    """Each plugin in each round, in turn; what each of them did."""
    figures: list[list[Figures]] = [[] for _ in plugins]
    for _ in range(rounds):
        for own, plugin in zip(figures, plugins, strict=True):
            stage = places.stage(SLEEPY_SIZE)
            with _attached(program, group, stage, (SLEEPY, *plugin)) as served:
                own.append(run(served.address, workload, SLEEPY_SIZE, seconds, served.pids))
    return figures


def _median(figures: Sequence[Figures], field: str) -> float:
    return statistics.median(getattr(one, field) for one in figures)


def _each(row: Callable[[str], Sequence[str]]) -> list[Sequence[str]]:
    """The row of each front end that is here; the others are said."""
    rows = []
    for group in GROUPS:
        try:
            rows.append((GROUPS[group], *row(group)))
        except Failed as error:
            print(f"{GROUPS[group]}: left out: {error}", flush=True)
    return rows


def parallel(program: Path, places: Places, rounds: int, seconds: float) -> str:
    """A plugin that sleeps, one request at a time and with lanes."""
    delay = f"delay={DELAY_S}"

    def row(group: str) -> Sequence[str]:
        serial, lanes = _rounds(program, group, places, AT_16, rounds, seconds,
                                [[delay], [delay, "parallel=yes"]])
        ratios = [many.iops / one.iops for one, many in zip(serial, lanes, strict=True)]
        return (f"{_median(serial, 'iops'):.0f}", f"{_median(lanes, 'iops'):.0f}",
                f"{statistics.median(ratios):.1f}")
    head = ("front end", "one at a time: IOPS", f"{LANES} lanes: IOPS", "×")
    return (f"A plugin that sleeps {DELAY_S * 1000:.0f} ms in each read, {AT_16.name}:\n\n"
            + markdown(head, _each(row)))


def busy(program: Path, places: Places, rounds: int, seconds: float) -> str:
    """A plugin with a thread that computes."""
    def row(group: str) -> Sequence[str]:
        alone, beside = _rounds(program, group, places, AT_1, rounds, seconds,
                                [[], ["compute=yes"]])
        return tuple(f"{_median(own, field):.0f}" for own in (alone, beside)
                     for field in ("p50_us", "p99_us"))
    head = ("front end", "alone: p50 µs", "p99 µs", "beside the thread: p50 µs", "p99 µs")
    return (f"A plugin with a thread that computes all the time, {AT_1.name}:\n\n"
            + markdown(head, _each(row)))


def rest(program: Path, places: Places, rounds: int, seconds: float) -> str:
    """Attaching, and a disk that nobody uses."""
    # The plugin itself imports nothing but nbdkit, which is part of pydisk.
    interpreter = statistics.median(_took([sys.executable, "-c", ""]) for _ in range(rounds))
    lines = [("the interpreter's own start", f"{interpreter * 1000:.0f} ms")]
    for group, target in (("file", "disk.img"), ("nbd", "nbd+unix:///")):
        took = statistics.median(_attach(program, places, target) for _ in range(rounds))
        lines.append((f"`attach` until the disk is usable: {GROUPS[group]}",
                      f"{took * 1000:.0f} ms"))
    for group in ("file", "nbd"):
        with _attached(program, group, places.stage(SMALL), ()) as served:
            time.sleep(0.5)
            before = cpu_seconds(served.pids)
            time.sleep(3)
            used = cpu_seconds(served.pids) - before
            lines.append((f"processor time in 3 s of rest: {GROUPS[group]}", f"{used * 1000:.0f} ms"))
            lines += [(f"memory: {name}: {GROUPS[group]}", said)
                      for name, said in _memory(served.pids)]
    try:
        generator = nbdkit_python(places.stage(SMALL))
        try:
            served = next(generator)
            time.sleep(0.5)
            lines += [(f"memory: {name}", said) for name, said in _memory(served.pids)]
        finally:
            generator.close()
    except Failed as error:
        print(f"nbdkit: left out: {error}", flush=True)
    return ("A disk that nobody uses; of a process's memory, `own` is what no other process has, too "
            "(the rest is files that all of them map):\n\n" + markdown(("what", "measured"), lines))


def _took(command: Sequence[str]) -> float:
    start = time.monotonic()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    return time.monotonic() - start


def _attach(program: Path, places: Places, target: str) -> float:
    """How long `attach` takes, which returns once the disk can be used."""
    stage = places.stage(SMALL)
    where = target if target.startswith("nbd") else str(stage.folder / target)
    name = stage.folder.name
    try:
        return _took([str(program), "attach", "--name", name, str(DISK), where,
                      f"size={SMALL}"])
    except subprocess.CalledProcessError as error:
        raise Failed(error.stderr.decode().strip()) from error
    finally:
        subprocess.run([str(program), "detach", name], check=False, capture_output=True, timeout=60)


def _memory(pids: Sequence[int]) -> Iterator[tuple[str, str]]:
    for pid in pids:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        command = [Path(word.decode()).name for word in words[:2] if word]
        sizes = dict.fromkeys(("Rss", "Pss", "Private_Clean", "Private_Dirty"), 0)
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            found = re.match(r"(\w+): +(\d+) kB", line)
            if found and found[1] in sizes:
                sizes[found[1]] = int(found[2])
        mib = {key: kib / 1024 for key, kib in sizes.items()}
        own = mib["Private_Clean"] + mib["Private_Dirty"]
        role = " ".join(command)
        yield role, f"{mib['Rss']:.1f} MiB resident, {mib['Pss']:.1f} proportional, {own:.1f} own"


def calls(program: Path, places: Places, rounds: int, seconds: float) -> str:
    """System calls of the worker under load: what strace counts, and on ublk what the worker does,
    because it has one kind only and a tracer would make it slow beyond use in a guest."""
    def row(group: str) -> Sequence[str]:
        stage = places.stage(SLEEPY_SIZE)
        is_ublk = group == "ublk"
        with _attached(program, group, stage, (), ("--verbose",) if is_ublk else ()) as served:
            if is_ublk:
                run(served.address, DEEP, SLEEPY_SIZE, seconds, served.pids)
            else:
                counted, requests = _counted(served, seconds)
        if is_ublk:
            said = re.search(r"ublk: (\d+) requests in (\d+) system calls", stage.log.read_text())
            if said is None:
                raise Failed("the worker has not said what it counted")
            requests, counted = int(said[1]), {"io_uring_enter": int(said[2])}
        if not requests or not counted:
            raise Failed("nothing was counted")
        most = sorted(counted.items(), key=lambda item: -item[1])[:3]
        return (f"{requests}", f"{sum(counted.values()) / requests:.2f}",
                ", ".join(f"{name} {count / requests:.2f}" for name, count in most))
    head = ("front end", "requests", "system calls per request", "most of them")
    return (f"System calls of the worker, {DEEP.name}, counted by strace, which slows each of them "
            "down so that batches get longer, and on ublk by the worker itself:\n\n"
            + markdown(head, _each(row)))


def _counted(served: Served, seconds: float) -> tuple[dict[str, int], int]:
    worker = next(pid for pid in served.pids
                  if b"worker-process" in Path(f"/proc/{pid}/cmdline").read_bytes())
    tracer = subprocess.Popen(["strace", "-f", "-c", "-U", "calls,name", "-p", str(worker)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True)
    try:
        # strace says when it has attached to each thread; the load begins after that.
        time.sleep(1)
        figures = run(served.address, DEEP, SLEEPY_SIZE, seconds, served.pids)
    finally:
        tracer.send_signal(signal.SIGINT)
        said = tracer.communicate(timeout=60)[1]
    counted = {name: int(count) for count, name in re.findall(r"^ *(\d+) (\w+)$", said, re.MULTILINE)
               if name != "total"}
    return counted, round(figures.iops * seconds)


PARTS: dict[str, tuple[str, Callable[[Path, Places, int, float], str]]] = {
    "parallel": ("Parallel plugins", parallel),
    "busy": ("A thread that computes", busy),
    "rest": ("Attaching and rest", rest),
    "calls": ("System calls", calls),
}
