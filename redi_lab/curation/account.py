"""The account of a curation: where every row and every generation went, adding up to the input exactly.

account = Account()
account.add(result)  # of each row
account.as_dict("tokens")  # report.json
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, final

import numpy as np

from redi_lab.curation.curator import CONTAMINATED, USED, Match, RowResult
from redi_lab.data.verdicts import RIGHT, WRONG

_QUANTILES = (0.1, 0.5, 0.9)


@final
class Account:
    """Running totals over `RowResult`s. Memory: two numbers a pair, and the matches with benchmarks."""

    def __init__(self) -> None:
        self.rows = self._rows_used = self._rows_paired = self._num_generations = 0
        self._written = Counter(demonstrations=0, pairs=0, negatives=0)
        self._rows_dropped: Counter[str] = Counter()
        self._without_pair: Counter[str] = Counter()
        self._generations: Counter[str] = Counter()
        self._verdicts: Counter[str] = Counter()
        self._unknown_negatives: Counter[str] = Counter()
        self._matches: list[Match] = []
        self._prefixes, self._ratios = array("q"), array("d")

    def add(self, result: RowResult) -> None:
        """Count one row."""
        self.rows += 1
        self._num_generations += result.num_generations
        self._generations += result.generations
        self._verdicts += result.verdicts
        self._unknown_negatives += result.unknown_negatives
        if result.match is not None:
            self._matches.append(result.match)
        if result.row_reason is not None:
            self._rows_dropped[result.row_reason] += 1
            return
        self._rows_used += 1
        if result.no_pair_reason is None:
            self._rows_paired += 1
        else:
            self._without_pair[result.no_pair_reason] += 1
        for name in self._written:
            self._written[name] += len(getattr(result, name))
        self._prefixes.extend(pair["common_prefix"] for pair in result.pairs)
        self._ratios.extend(pair["length_ratio"] for pair in result.pairs)

    def as_dict(self, prefix_unit: str) -> dict[str, Any]:
        """Everything as plain numbers, ready for JSON, reasons by falling count.

        Args:
            prefix_unit: what `common_prefix` and lengths were measured in.

        Raises:
            ValueError: a row or generation is not counted exactly once: a defect of the code, never of the data.
        """
        self._check()
        unused = {name: number for name, number in self._generations.items() if name != USED}
        unknown = {name: number for name, number in self._verdicts.items() if name not in (RIGHT, WRONG)}
        return {
            "rows": {
                "read": self.rows,
                "used": self._rows_used,
                "dropped": _by_count(self._rows_dropped),
                "used_with_pair": self._rows_paired,
                "used_without_pair": _by_count(self._without_pair),
            },
            "generations": {
                "read": self._num_generations,
                "used": self._generations[USED],
                "not_used": _by_count(unused),
            },
            "verdicts": {
                "right": self._verdicts[RIGHT],
                "wrong": self._verdicts[WRONG],
                "unknown": _by_count(unknown),
                "unknown_used_as_negative": _by_count(self._unknown_negatives),
            },
            "written": dict(self._written),
            "pairs": {
                f"common_prefix_{prefix_unit}": _distribution(self._prefixes),
                "length_ratio": _distribution(self._ratios),
            },
            "benchmark_matches": [asdict(match) for match in self._matches],
        }

    def _check(self) -> None:
        sums = {
            "rows": (self.rows, self._rows_used + self._rows_dropped.total()),
            "rows in use": (self._rows_used, self._rows_paired + self._without_pair.total()),
            "generations": (self._num_generations, self._generations.total()),
            "matches": (len(self._matches), self._rows_dropped[CONTAMINATED]),
        }
        wrong = {name: numbers for name, numbers in sums.items() if numbers[0] != numbers[1]}
        if wrong:
            raise ValueError(f"counted and accounted for differ: {wrong}")


def _by_count(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(((k, v) for k, v in counts.items() if v), key=lambda item: (-item[1], item[0])))


def _distribution(values: Iterable[float]) -> dict[str, float] | None:
    numbers = np.array(values, dtype=np.float64)
    if not len(numbers):
        return None
    named = {f"p{100 * q:.0f}": float(np.quantile(numbers, q)) for q in _QUANTILES}
    return {"mean": float(numbers.mean()), "min": float(numbers.min()), **named, "max": float(numbers.max())}
