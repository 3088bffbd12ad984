"""The table, for the terminal and for a document, with what it was measured on."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from .ratios import Row

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

GROUPS = {
    "nbd": "NBD over a Unix socket",
    "file": "A file (FUSE)",
    "loop": "A loop device on the file",
    "ublk": "ublk",
    "nbd-kernel": "The kernel's NBD client",
}

HEAD = ("disk", "IOPS", "MiB/s", "p50 µs", "p99 µs", "CPU µs", "load's CPU",
        "pydisk: IOPS ×", "p50 ×", "CPU ×")


def table(rows: Sequence[Row]) -> str:
    """One workload."""
    return markdown(HEAD, [_cells(row) for row in rows])


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is words and whose others are numbers."""
    cells = [head, *rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    lines = ["| " + " | ".join(
        text.ljust(width) if column == 0 else text.rjust(width)
        for column, (text, width) in enumerate(zip(line, widths, strict=True))) + " |"
        for line in cells]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def _cells(row: Row) -> tuple[str, ...]:
    def times(ratio: float | None) -> str:
        return "" if ratio is None else f"{ratio:.2f}"
    return (row.name, f"{row.iops:.0f}", f"{row.mib_per_s:.0f}", f"{row.p50_us:.0f}",
            f"{row.p99_us:.0f}", f"{row.serving_cpu_us:.1f}", f"{row.load_cpu:.0%}",
            times(row.iops_ratio), times(row.p50_ratio), times(row.cpu_ratio))


def section(results: Mapping[str, Mapping[str, Sequence[Row]]], parts_alone: Mapping[str, str],
            facts: Sequence[str]) -> str:
    """Everything measured in one place: groups, in each of them workloads; and pydisk alone."""
    parts = ["\n".join(f"* {fact}" for fact in facts)]
    for group, workloads in results.items():
        parts.append(f"### {GROUPS[group]}")
        for workload, rows in workloads.items():
            parts.append(f"{workload}:\n\n{table(rows)}")
    for title, text in parts_alone.items():
        parts.append(f"### {title}\n\n{text}")
    return "\n\n".join(parts)


def write(path: Path, sections: Sequence[str]) -> None:
    """Put `sections` between the two marks in `path`."""
    text = path.read_text() if path.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: `{BEGIN}` and `{END}` are missing")
    path.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(sections) + f"\n\n{END}{after}")


def facts(command: str, rounds: int, seconds: float) -> list[str]:
    """The machine, the versions and the command."""
    priority = ", at real-time priority" if os.sched_getscheduler(0) else ""
    return [
        f"{date.today().isoformat()}, {_processor()}, {os.cpu_count()} cores, "
        f"Linux {platform.release()}",
        ", ".join(_versions()),
        f"{rounds} rounds of {seconds:g} s each{priority}: `{command}`",
    ]


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _versions() -> list[str]:
    asked = (["fio", "--version"], ["nbdkit", "--version"], ["qemu-nbd", "--version"],
             ["nbdfuse", "--version"], ["rublk", "--version"])
    said = []
    for command in asked:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        except FileNotFoundError:
            continue
        first = (done.stdout or done.stderr).strip().splitlines()[0]
        said.append(re.sub(r" \(.*", "", first))
    return said
