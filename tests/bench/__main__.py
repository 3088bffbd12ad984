"""Compare pydisk with its peers.

    make bench                                     all that this host can do
    make bench BENCH='--group file --rounds 3'     some of it
    make bench BENCH='--in COMMAND --group ublk'   in a guest that COMMAND runs a program in
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

from . import report
from .alone import PARTS, Places
from .contenders import Contender, Served, Stage, peers, pydisk
from .load import FILL, WORKLOADS, Figures, Workload, run
from .processes import Failed, kernel_workers_alike
from .ratios import Row, row

# Depth 32 is what a block device of its own is asked for; a file and a socket are asked at 16.
DEPTHS = {"ublk": (1, 8, 32), "nbd-kernel": (1, 8, 32)}


def main() -> int:
    options = _options()
    if options.inside:
        return _inside(options)
    results: dict[str, dict[str, list[Row]]] = {}
    for group in options.group or report.GROUPS:
        if group not in report.GROUPS:
            continue
        try:
            results[group] = _compare(group, options)
        except Failed as error:
            print(f"{report.GROUPS[group]}: left out: {error}", flush=True)
    alone = _alone(options)
    measured = {group: rows for group, rows in results.items() if rows}
    section = report.section(measured, alone, report.facts(
        options.command or shlex.join(["make", "bench"]), options.rounds, options.seconds))
    print(f"\n{section}")
    if options.output:
        options.output.write_text(section + "\n")
    if options.document:
        report.write(options.document, [section, *(path.read_text() for path in options.add)])
    return 0


def _alone(options: argparse.Namespace) -> dict[str, str]:
    """What pydisk is measured for by itself, by title."""
    said = {}
    for name in options.group or PARTS:
        if name not in PARTS:
            continue
        title, part = PARTS[name]
        with tempfile.TemporaryDirectory(prefix="bench-") as top:
            Path(top).chmod(0o755)
            try:
                said[title] = part(options.pydisk.absolute(), Places(Path(top)), options.rounds,
                                   options.seconds)
            except Failed as error:
                print(f"{title}: left out: {error}", flush=True)
                continue
        print(f"\n{title}: {said[title]}", flush=True)
    return said


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench BENCH=...")
    parser.add_argument("--pydisk", type=Path, default=Path("target/release/pydisk"))
    parser.add_argument("--against", type=Path, metavar="PYDISK", action="append", default=[],
                        help="another build of pydisk to compare with")
    parser.add_argument("--group", action="append", choices=[*report.GROUPS, *PARTS])
    parser.add_argument("--workload", action="append", default=[], metavar="WORD",
                        help="only workloads whose name contains it")
    parser.add_argument("--peer", action="append", metavar="WORD",
                        help="only peers whose name contains it; `none` for none")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--size", type=int, default=128, help="of the disk, in MiB")
    parser.add_argument("--in", dest="inside", metavar="COMMAND",
                        help="run the whole comparison by this command, such as a virtual machine's")
    parser.add_argument("--output", type=Path, help="write the table to this file")
    parser.add_argument("--document", type=Path, help="put the table into this document")
    parser.add_argument("--add", type=Path, action="append", default=[],
                        help="a table that another run wrote, for the same document")
    parser.add_argument("--json", type=Path, help="write every single figure to this file")
    parser.add_argument("--command", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.command is None:
        options.command = "make bench" + (
            f" BENCH={shlex.quote(shlex.join(sys.argv[1:]))}" if sys.argv[1:] else "")
    return options


def _inside(options: argparse.Namespace) -> int:
    """The same with one option less, in another place that sees the same files."""
    given = sys.argv[1:]
    at = next(index for index, word in enumerate(given) if word.startswith("--in"))
    rest = given[:at] + given[at + (1 if "=" in given[at] else 2):]
    shown = "make bench BENCH=" + shlex.quote(shlex.join(["--in", "COMMAND", *rest]))
    command = [*shlex.split(options.inside), "env", f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}",
               sys.executable, "-B", "-m", "bench", *rest, "--command", shown]
    return subprocess.run(command, check=False).returncode


@contextmanager
def _in_service(contender: Contender, stage: Stage) -> Iterator[Served]:
    """The contender's disk, filled once, so that nobody gains by memory that was never touched."""
    stage.folder.mkdir()
    generator = contender.start(stage)
    try:
        served = next(generator)
        run(served.address, FILL, stage.size_bytes, None, served.pids)
        yield served
    finally:
        generator.close()


def _compare(group: str, options: argparse.Namespace) -> dict[str, list[Row]]:
    wanted = [pydisk(options.pydisk.absolute(), "pydisk", group)]
    wanted += [pydisk(path.absolute(), f"pydisk: {path}", group) for path in options.against]
    wanted += [peer for peer in peers() if peer.group == group and
               (options.peer is None or any(word in peer.name for word in options.peer))]
    workloads = [workload for workload in WORKLOADS if _is_wanted(group, workload, options)]
    figures: dict[str, list[list[Figures]]] = {
        workload.name: [[] for _ in wanted] for workload in workloads}
    taking_part = _able(group, wanted)
    # Everybody starts anew in each round, in changing order: of four equal servers that ran through
    # all of them, the first to be started had a fifth less IOPS than the last.
    order = list(taking_part)
    with tempfile.TemporaryDirectory(prefix="bench-") as top:
        Path(top).chmod(0o755)
        for number in range(options.rounds):
            served = _round(group, wanted, order, Path(top) / str(number), workloads, options, figures)
            taking_part = [index for index in taking_part if index in served]
            order = [index for index in order if index in served]
            # Nobody always follows the same one.
            order = order[1:] + order[:1] if number % 2 else order[::-1]
    results = {}
    for workload in workloads:
        measured = figures[workload.name]
        rows = [row(wanted[index].name, measured[index], measured[0] if index else None)
                for index in taking_part]
        print(f"\n{report.GROUPS[group]}, {workload.name}:\n{report.table(rows)}", flush=True)
        results[workload.name] = rows
        if options.json:
            with options.json.open("a") as file:
                for index in taking_part:
                    json.dump({"group": group, "workload": workload.name, "disk": wanted[index].name,
                               "rounds": [asdict(one) for one in measured[index]]}, file)
                    file.write("\n")
    return results


def _able(group: str, wanted: Sequence[Contender]) -> list[int]:
    """The numbers of those that this host has what they need for."""
    able = []
    for number, contender in enumerate(wanted):
        reason = contender.missing()
        if reason is None:
            able.append(number)
        elif number == 0:
            raise Failed(reason)
        else:
            print(f"{report.GROUPS[group]}: {contender.name}: left out: {reason}", flush=True)
    return able


def _round(group: str, wanted: Sequence[Contender], order: Sequence[int], top: Path,
           workloads: Sequence[Workload], options: argparse.Namespace,
           figures: dict[str, list[list[Figures]]]) -> dict[int, Served]:
    """Start everybody and measure everybody once, both in this order; whom that succeeded with."""
    size_bytes = options.size << 20
    top.mkdir(mode=0o755)
    served: dict[int, Served] = {}
    with ExitStack() as stack:
        for index in order:
            stage = Stage(top / f"bench-{os.getpid()}-{top.name}-{index}", size_bytes)
            try:
                served[index] = stack.enter_context(_in_service(wanted[index], stage))
            except Failed as error:
                if index == 0:
                    raise
                print(f"{report.GROUPS[group]}: {wanted[index].name}: left out: {error}", flush=True)
        for workload in workloads:
            for index, one in served.items():
                with kernel_workers_alike() if group == "loop" else nullcontext():
                    figures[workload.name][index].append(
                        run(one.address, workload, size_bytes, options.seconds, one.pids))
    return served


def _is_wanted(group: str, workload: Workload, options: argparse.Namespace) -> bool:
    if options.workload:
        return any(word in workload.name for word in options.workload)
    return workload.depth in DEPTHS.get(group, (1, 8, 16))


if __name__ == "__main__":
    sys.exit(main())
