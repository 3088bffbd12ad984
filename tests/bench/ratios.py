"""Medians of pairwise ratios: what one round of one contender is to the same round of another.

Whatever else the machine does, it does to both halves of a pair, which are measured seconds apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .load import Figures


@dataclass(frozen=True)
class Row:
    """One contender's medians, and pydisk's figures as multiples of them."""

    name: str
    iops: float
    mib_per_s: float
    p50_us: float
    p99_us: float
    serving_cpu_us: float
    load_cpu: float
    iops_ratio: float | None
    p50_ratio: float | None
    cpu_ratio: float | None


def row(name: str, own: Sequence[Figures], pydisk: Sequence[Figures] | None) -> Row:
    """`own` rounds beside the same rounds of `pydisk`, unless it is pydisk itself."""
    def middle(field: str) -> float:
        return float(median(getattr(figures, field) for figures in own))

    def ratio(field: str) -> float | None:
        if pydisk is None:
            return None
        pairs = [(getattr(ours, field), getattr(theirs, field))
                 for ours, theirs in zip(pydisk, own, strict=True)]
        if not all(theirs > 0 for _, theirs in pairs):
            return None
        return float(median(ours / theirs for ours, theirs in pairs))

    return Row(name, middle("iops"), middle("mib_per_s"), middle("p50_us"), middle("p99_us"),
               middle("serving_cpu_us"), middle("load_cpu"), ratio("iops"), ratio("p50_us"),
               ratio("serving_cpu_us"))
