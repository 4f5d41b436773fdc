"""Gradings a second on pairs of an answer and a gold: `python -m benchmarks.grading PAIRS.jsonl [WORKERS]`.

Each line holds `prediction` and `gold`. The clock starts before the first worker does. Prints the rate, processor
seconds of this process, and the share that needed no worker.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from pathlib import Path

from redi_lab.data.jsonl import read_jsonl
from redi_lab.grading.equivalence import Outcome, compare_answers
from redi_lab.grading.grader import Grader


def main(file: str, workers: str = "2") -> None:
    """Grade every pair once and print what it took."""
    pairs = [(str(row["prediction"]), str(row["gold"])) for _, row in read_jsonl(Path(file))]
    began, processor = time.perf_counter(), time.process_time()
    with Grader(int(workers), timeout_seconds=60.0) as grader:
        verdicts = Counter(made.verdict.value for made in grader.grade_stream((rf"\boxed{{{a}}}", g) for a, g in pairs))
    wall, processor = time.perf_counter() - began, time.process_time() - processor
    undecided = sum(compare_answers(*pair) is Outcome.ALGEBRA for pair in pairs)
    print(f"{len(pairs)} gradings in {wall:.1f} s: {len(pairs) / wall:.0f} a second; load {os.getloadavg()[0]:.1f}")
    print(f"{1 - undecided / len(pairs):.1%} decided here, in {processor:.2f} s of the processor; {dict(verdicts)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
