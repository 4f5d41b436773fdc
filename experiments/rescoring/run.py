"""Does our grader agree with the verdicts that benchmark harnesses published, and where not, who is right?

    python experiments/rescoring/run.py --traces ../shared/data/traces --output outputs/rescoring

Grades every generation of `sky_*.jsonl` (rows of problem, answer and generations with a published verdict, `correct`)
from its full text. Prints the tables of README.md and writes disagreements.csv, one row a disagreement.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections import Counter
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from rich.progress import track

from redi_lab.grading.grader import Grade, Grader, Verdict

_SCIENTIFIC = re.compile(r"^-?\d+\.?\d*e-?\d+$")
_SEVERAL = re.compile(r"\\text\{[^}]*\b(and|or)\b[^}]*\}|\\pm|\\quad")


@dataclass(frozen=True)
class Generation:
    """A published generation: where it is from, what was accepted, and the harness's verdict and reading."""

    benchmark: str
    problem: str
    run: str
    gold: str
    published: bool
    published_answer: str | None
    is_closed: bool | None
    text: str


@dataclass(frozen=True)
class Disagreement:
    """One generation on which the two verdicts differ; unknown against wrong is none."""

    benchmark: str
    problem: str
    run: str
    gold: str
    published: str
    published_answer: str | None
    ours: str
    our_answer: str | None
    reason: str
    kind: str


def main() -> None:
    """Grade, tabulate and explain."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("outputs/rescoring"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    generations = [g for file in sorted(arguments.traces.glob("sky_*.jsonl")) for g in read(file)]
    with Grader(num_workers=arguments.workers) as grader:
        stream = grader.grade_stream((g.text, g.gold) for g in generations)
        grades = list(track(stream, "Grading", total=len(generations)))
    print(agreement_table(generations, grades))
    found = [
        disagreement(g, grade)
        for g, grade in zip(generations, grades, strict=True)
        if g.published != (grade.verdict is Verdict.RIGHT)
    ]
    counts = Counter((d.published, d.ours, d.kind) for d in found)
    print("\n| published | here | why | generations |\n|---|---|---|---:|")
    for (published, ours, kind), count in sorted(counts.items(), key=lambda item: (item[0][:2], -item[1])):
        print(f"| {published} | {ours} | {kind} | {count} |")
    arguments.output.mkdir(parents=True, exist_ok=True)
    with (arguments.output / "disagreements.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Disagreement)])
        writer.writerows(astuple(d) for d in found)
    print(f"\n{len(found)} disagreements: {arguments.output / 'disagreements.csv'}")


def read(file: Path) -> list[Generation]:
    """The generations of a file."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    return [
        Generation(
            benchmark=row["dataset"],
            problem=row["id"],
            run=generation["run"],
            gold=row["answer"],
            published=generation["correct"],
            published_answer=generation["pred"],
            is_closed=generation["closed"],
            text=generation["text"],
        )
        for row in rows
        for generation in row["generations"]
    ]


def agreement_table(generations: list[Generation], grades: list[Grade]) -> str:
    """One line a benchmark: how our verdicts split the published ones."""
    lines = [
        "| benchmark | generations | agree | published right: right / unknown / wrong here"
        " | published wrong: right / unknown / wrong here |",
        "|---|---:|---:|---:|---:|",
    ]
    pairs = list(zip(generations, grades, strict=True))
    for name in [*dict.fromkeys(g.benchmark for g in generations), "all"]:
        counts = Counter((g.published, grade.verdict) for g, grade in pairs if name in (g.benchmark, "all"))
        total = sum(counts.values())
        agree = sum(n for (published, verdict), n in counts.items() if published == (verdict is Verdict.RIGHT))
        order = (Verdict.RIGHT, Verdict.UNKNOWN, Verdict.WRONG)
        split = [" / ".join(str(counts[right, v]) for v in order) for right in (True, False)]
        lines.append(f"| {name} | {total:,} | {agree / total:.1%} | {' | '.join(split)} |")
    return "\n".join(lines)


def disagreement(generation: Generation, grade: Grade) -> Disagreement:
    """A disagreement with its kind."""
    g = generation
    kind = _missed_here(g, grade) if g.published else _missed_there(g, grade)
    published = "right" if g.published else "wrong"
    return Disagreement(
        g.benchmark, g.problem, g.run, g.gold, published, g.published_answer, grade.verdict, grade.answer,
        grade.reason, kind,
    )  # fmt: skip


def _missed_here(g: Generation, grade: Grade) -> str:
    if grade.verdict is Verdict.UNKNOWN:
        return "no final answer; cut off" if g.is_closed is False else "no final answer; the harness took a number"
    return "another answer, or a part of it, or more than it"


def _missed_there(g: Generation, grade: Grade) -> str:
    """Why the harness missed a right answer, the first that fits."""
    answer = grade.answer or ""
    kinds = (
        ("gold in scientific notation not read", bool(_SCIENTIFIC.match(g.gold))),
        ("gold in Python notation not read", "np." in g.gold or "\\exp{" in g.gold),
        ("Unicode √, π not read", bool(re.search("[√π]", answer))),
        ("several values, joined by words, ± or boxes", bool(re.search(r",|\\pm", g.gold) or _SEVERAL.search(answer))),
        ("one side has a label: f(x) = …", ("=" in answer) != ("=" in g.gold)),
    )  # fmt: skip
    return next((kind for kind, fits in kinds if fits), "other notation, units or rounding")


if __name__ == "__main__":
    main()
