"""Serve the same plugins by nbdkit and by pydisk, be the same clients of both, and compare.

    PYTHONPATH=tests/nbdkit /usr/bin/python3 -B -m differential              what `cargo test` runs
    ... --seed 7 --cases 5000                                         more, and others
    ... --only 'seed 7, number 12' --verbose                          one again, with all there is
    ... --nbdkit "$(tests/tools/newer-nbdkit)"                        with another nbdkit than the installed one

What is compared: whether the plugin is served, what each client learns and is told (result, errno,
data), and every callback with its arguments, request by request, to the end. A difference has to be in
intended.py. What is there and does not occur fails as well.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from . import cases, compare, fixed, hosts, intended

SEED = 1
CASES = 300


def main():
    options = _options()
    chosen = _chosen(options)
    version = hosts.Nbdkit(options.nbdkit).version()
    print(f"seed {options.seed}: {len(chosen)} plugins, nbdkit {'.'.join(map(str, version))}", flush=True)
    started = time.monotonic()
    entries = [entry for entry in intended.ENTRIES if entry.name not in options.ignore]
    wrong, occurred = [], Counter()
    with multiprocessing.Pool(options.jobs) as pool:
        work = [(case, options.nbdkit, options.pydisk, options.verbose) for case in chosen]
        for case, differences, logs in pool.imap(_compared, work):
            unlisted = _unlisted(case, differences, entries, occurred)
            if options.verbose:
                print(case.script, *logs, *differences, sep="\n")
            if unlisted:
                wrong.append(case)
                print(f"\n{case}", *unlisted, f"  once more: --seed {options.seed} --only '{case.name}'",
                      sep="\n", flush=True)
    stale = [entry.name for entry in entries if not occurred[entry.name] and version < entry.fixed_in]
    if options.only and not options.all_entries:
        stale = []
    for name in stale:
        print(f"intended.py: `{name}` does not occur any more")
    undocumented = intended.undocumented(options.docs.read_text())
    for name, words in undocumented:
        print(f"intended.py: `{name}`: docs/nbdkit.md does not say `{words}`")
    print(f"{len(chosen)} plugins, {sum(occurred.values())} intended differences, "
          f"{len(wrong)} plugins with others, {time.monotonic() - started:.0f} s")
    if options.verbose:
        print(*occurred.most_common(), sep="\n")
    return 1 if wrong or stale or undocumented else 0


def _unlisted(case, differences, entries, occurred):
    """The differences that are not intended; counts those that are."""
    unlisted = []
    for difference in differences:
        used = intended.explain(case, difference, entries)
        occurred.update(entry.name for entry in used)
        if not used:
            unlisted.append(difference)
        if any(entry.parts for entry in used) and difference.theirs.told != difference.ours.told:
            # What comes after this says nothing.
            break
    return unlisted


def _options():
    root = Path(__file__).resolve().parents[3]
    parser = argparse.ArgumentParser(prog="differential", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pydisk", type=Path, default=root / "target/debug/pydisk")
    parser.add_argument("--nbdkit", default="nbdkit", metavar="PROGRAM")
    parser.add_argument("--docs", type=Path, default=root / "docs/nbdkit.md")
    parser.add_argument("--seed", default=str(SEED))
    parser.add_argument("--cases", type=int, default=CASES, help="how many besides the fixed ones")
    parser.add_argument("--sweep", action="store_true", help="also every word that a callback can do, alone")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 4))
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="of a case")
    parser.add_argument("--ignore", action="append", default=[], metavar="ENTRY", help="of intended.py")
    parser.add_argument("--all-entries", action="store_true",
                        help="also with --only, each entry of intended.py has to occur")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


def _chosen(options):
    every = list(fixed.CASES)
    if options.sweep or options.only:
        every += fixed.sweep()
    every += [cases.generate(options.seed, number) for number in range(options.cases)]
    if not options.only:
        return every
    return [case for case in every if case.name in options.only]


def _compared(work):
    case, nbdkit, program, verbose = work
    pair = (hosts.Nbdkit(nbdkit), hosts.Pydisk(program.resolve()))
    with tempfile.TemporaryDirectory(prefix="differential-") as folder:
        servers = [host.serve(Path(folder) / host.name, case) for host in pair]
        seen = [compare.observe(server, case) for server in servers]
        logs = [f"--- {host.name}\n{server.log()}" for host, server in zip(pair, servers)] if verbose else []
    return case, compare.differences(*seen), logs


if __name__ == "__main__":
    sys.exit(main())
