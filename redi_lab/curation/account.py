"""The account of a curation: where every row and every generation went, adding up to the input exactly.

account = Account()
account.add(result)  # of each row
account.as_dict()    # report.json
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
        self.rows = self.rows_used = self.num_generations = 0
        self.demonstrations = self.pairs = self.negatives = self.rows_paired = 0
        self.rows_dropped: Counter[str] = Counter()
        self.without_pair: Counter[str] = Counter()
        self.generations: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.unknown_negatives: Counter[str] = Counter()
        self.matches: list[Match] = []
        self._prefixes, self._ratios = array("q"), array("d")

    def add(self, result: RowResult) -> None:
        """Count one row."""
        self.rows += 1
        self.num_generations += result.num_generations
        self.generations += result.generations
        self.verdicts += result.verdicts
        self.unknown_negatives += result.unknown_negatives
        if result.match is not None:
            self.matches.append(result.match)
        if result.row_reason is not None:
            self.rows_dropped[result.row_reason] += 1
            return
        self.rows_used += 1
        self.demonstrations += len(result.demonstrations)
        self.pairs += len(result.pairs)
        self.negatives += len(result.negatives)
        if result.no_pair_reason is not None:
            self.without_pair[result.no_pair_reason] += 1
        else:
            self.rows_paired += 1
        self._prefixes.extend(pair["common_prefix"] for pair in result.pairs)
        self._ratios.extend(pair["length_ratio"] for pair in result.pairs)

    def check(self) -> None:
        """Check that every row and every generation is counted exactly once.

        Raises:
            ValueError: if the numbers do not add up; this is a defect of the code that counted, never of the data.
        """
        sums = {
            "rows": (self.rows, self.rows_used + self.rows_dropped.total()),
            "rows in use": (self.rows_used, self.rows_paired + self.without_pair.total()),
            "generations": (self.num_generations, self.generations.total()),
            "matches": (len(self.matches), self.rows_dropped[CONTAMINATED]),
        }
        wrong = {name: numbers for name, numbers in sums.items() if numbers[0] != numbers[1]}
        if wrong:
            raise ValueError(f"counted and accounted for differ: {wrong}")

    def as_dict(self, prefix_unit: str) -> dict[str, Any]:
        """Everything as plain numbers, ready for JSON, reasons by falling count.

        Args:
            prefix_unit: what `common_prefix` and lengths were measured in.

        Raises:
            ValueError: see `check`.
        """
        self.check()
        unused = {name: number for name, number in self.generations.items() if name != USED}
        unknown = {name: number for name, number in self.verdicts.items() if name not in (RIGHT, WRONG)}
        return {
            "rows": {
                "read": self.rows,
                "used": self.rows_used,
                "dropped": _by_count(self.rows_dropped),
                "used_with_pair": self.rows_paired,
                "used_without_pair": _by_count(self.without_pair),
            },
            "generations": {
                "read": self.num_generations,
                "used": self.generations[USED],
                "not_used": _by_count(unused),
            },
            "verdicts": {
                "right": self.verdicts[RIGHT],
                "wrong": self.verdicts[WRONG],
                "unknown": _by_count(unknown),
                "unknown_used_as_negative": _by_count(self.unknown_negatives),
            },
            "written": {"demonstrations": self.demonstrations, "pairs": self.pairs, "negatives": self.negatives},
            "pairs": {
                f"common_prefix_{prefix_unit}": _distribution(self._prefixes),
                "length_ratio": _distribution(self._ratios),
            },
            "benchmark_matches": [asdict(match) for match in self.matches],
        }


def _by_count(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(((k, v) for k, v in counts.items() if v), key=lambda item: (-item[1], item[0])))


def _distribution(values: Iterable[float]) -> dict[str, float] | None:
    numbers = np.array(values, dtype=np.float64)
    if not len(numbers):
        return None
    named = {f"p{100 * q:.0f}": float(np.quantile(numbers, q)) for q in _QUANTILES}
    return {"mean": float(numbers.mean()), "min": float(numbers.min()), **named, "max": float(numbers.max())}
