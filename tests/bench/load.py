"""The load: fio, one thread, on a file, a device or an NBD server."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .processes import Failed, cpu_seconds


@dataclass(frozen=True)
class Workload:
    """One kind of access."""

    name: str
    pattern: str
    block: str
    depth: int


WORKLOADS = (
    Workload("4k random reads, depth 16", "randread", "4k", 16),
    Workload("4k random writes, depth 16", "randwrite", "4k", 16),
    Workload("4k random reads, depth 1", "randread", "4k", 1),
    Workload("4k random reads, depth 32", "randread", "4k", 32),
    Workload("256k sequential reads, depth 8", "read", "256k", 8),
    Workload("256k sequential writes, depth 8", "write", "256k", 8),
)
FILL = Workload("fill", "write", "1M", 4)


@dataclass(frozen=True)
class Figures:
    """What one run measured."""

    iops: float
    mib_per_s: float
    p50_us: float
    p99_us: float
    # Of the processes that serve, in user mode and kernel.
    serving_cpu_us: float
    # Of fio itself, to see where the load is the limit: 1.0 is one core.
    load_cpu: float


def run(address: str, workload: Workload, size_bytes: int, seconds: float | None,
        pids: Sequence[int]) -> Figures:
    """Put `workload` on `address` for `seconds`, or once over all of it."""
    is_server = address.startswith("nbd")
    where = ["--ioengine=nbd", f"--uri={address}"] if is_server else [
        f"--filename={address}", "--ioengine=libaio", "--direct=1"]
    time = [] if seconds is None else ["--time_based", f"--runtime={round(seconds * 1000)}ms"]
    command = [
        "fio", "--name=bench", "--thread", "--output-format=json", "--randrepeat=0",
        "--norandommap", "--clat_percentiles=0", "--lat_percentiles=1",
        "--percentile_list=50:99", f"--rw={workload.pattern}", f"--bs={workload.block}",
        f"--iodepth={workload.depth}", f"--size={size_bytes}", *where, *time]
    before = cpu_seconds(pids)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    used = cpu_seconds(pids) - before
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise Failed(f"{' '.join(command)}: {words[-1] if words else done.returncode}")
    return _figures(json.loads(done.stdout[done.stdout.index("{"):]), used)


def _figures(said: dict[str, Any], cpu_s: float) -> Figures:
    job = said["jobs"][0]
    way = max(job["read"], job["write"], key=lambda side: side["total_ios"])
    if job["error"] or not way["total_ios"]:
        raise Failed(f"fio: error {job['error']} after {way['total_ios']} requests")
    percentile = way["lat_ns"]["percentile"]
    return Figures(
        iops=way["iops"],
        mib_per_s=way["bw_bytes"] / (1 << 20),
        p50_us=percentile["50.000000"] / 1000,
        p99_us=percentile["99.000000"] / 1000,
        serving_cpu_us=cpu_s * 1e6 / way["total_ios"],
        load_cpu=(job["usr_cpu"] + job["sys_cpu"]) / 100,
    )
