"""Samples to look at: HTML pages with filters, which need no network.

    pages = write_pages(folder, result, benchmark)  # samples_math500.html, ..., every sample is on one of them

A page holds its samples as JSON, and its script (samples.js) shows a few at a time, always as text and never as HTML.
So a page of 16 MB opens at once; what goes beyond is on further pages, which the first links to.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem
from redi_lab.evaluation.results import EvaluationResult, ResultRow
from redi_lab.figures.page import render_page

PAGE_CHARACTERS = 16_000_000

_SCRIPT = Path(__file__).with_name("samples.js")
_CONTROLS = """<nav>
<select id="verdict" aria-label="verdict"><option value="">all verdicts</option><option>right</option>\
<option>wrong</option><option>unknown</option></select>
<select id="problems" aria-label="problems"><option value="">all problems</option>\
<option value="mixed">right and wrong samples</option><option value="never">never right</option>\
<option value="always">always right</option></select>
<label><input type="checkbox" id="cut"> truncated only</label>
<select id="order" aria-label="order"><option value="">by problem</option>\
<option value="longest">longest first</option>\
<option value="shortest">shortest first</option></select>
<input type="search" id="search" placeholder="search problems, answers and completions">
<span id="count"></span>
</nav>
<main></main>
<button id="more" hidden>Show more</button>
<noscript><p>This page needs JavaScript; everything that it runs is in this file.</p></noscript>"""
_Samples = tuple[EvalProblem, Sequence[ResultRow]]


def write_pages(
    folder: Path, result: EvaluationResult, benchmark: Benchmark, page_characters: int = PAGE_CHARACTERS
) -> list[Path]:
    """Write every sample of a result into HTML pages, all samples of a problem into the same one.

    Args:
        folder: Where to.
        result: The samples.
        benchmark: Their problems.
        page_characters: Text after which a further page begins.

    Returns:
        The pages, the first one first.
    """
    parts = list(_parts(_by_problem(result, benchmark), page_characters))
    stem, title = "samples_" + re.sub(r"[^\w.-]", "_", benchmark.name), f"Samples on {benchmark.name}"
    paths = [folder / f"{stem}{'' if number == 1 else f'_{number}'}.html" for number in range(1, len(parts) + 1)]
    first = 1
    for number, (path, part) in enumerate(zip(paths, parts, strict=True)):
        last = first + len(part) - 1
        where = f"Problems {first:,} to {last:,} of {len(benchmark.problems):,}, all their samples."
        body = f"""<h1>{html.escape(title)}</h1>
<p class="sub">{html.escape(_subtitle(result))}</p>
<p class="sub">{where}{_links(paths, number)}</p>
{_CONTROLS}
<script type="application/json" id="data">{_embedded(part)}</script>"""
        path.write_text(render_page(title, body, _SCRIPT.read_text(encoding="utf-8")), encoding="utf-8")
        first = last + 1
    return paths


def log_samples(
    logger: Any, folder: Path, results: Sequence[EvaluationResult], benchmarks: Sequence[Benchmark]
) -> Path:
    """Write the samples of a run (one result of each benchmark) as pages, and log them; the first page."""
    pairs = zip(results, benchmarks, strict=True)
    pages = [page for result, benchmark in pairs for page in write_pages(folder, result, benchmark)]
    for page in pages:
        logger.log_artifact(page)
    return pages[0]


def _by_problem(result: EvaluationResult, benchmark: Benchmark) -> list[_Samples]:
    problems = {problem.id: problem for problem in benchmark.problems}
    return [(problems[key], list(rows)) for key, rows in groupby(result.rows, key=lambda row: row.id)]


def _parts(samples: Sequence[_Samples], page_characters: int) -> Iterator[list[_Samples]]:
    part: list[_Samples] = []
    size = 0
    for problem, rows in samples:
        added = len(problem.problem) + sum(len(row.text) for row in rows)
        if part and size + added > page_characters:
            yield part
            part, size = [], 0
        part.append((problem, rows))
        size += added
    yield part


def _embedded(part: Sequence[_Samples]) -> str:
    """JSON that can stand in an HTML script element: no "<" can end it, whatever a model wrote."""
    problems = [{"id": p.id, "problem": p.problem, "answers": p.answers} for p, _ in part]
    names = ("sample", "verdict", "reason", "answer", "finish_reason", "num_tokens", "text")
    samples = [
        {"problem": number, **{name: getattr(row, name) for name in names}}
        for number, (_, rows) in enumerate(part)
        for row in rows
    ]
    return json.dumps({"problems": problems, "samples": samples}).replace("<", "\\u003c")


def _subtitle(result: EvaluationResult) -> str:
    m = result.metrics
    return (
        f"pass@1 {m['pass_at_1']:.3f} (95 % CI {m['pass_at_1_ci_low']:.3f}–{m['pass_at_1_ci_high']:.3f}),"
        f" {int(m['num_samples'])} samples each; {m['truncation_rate']:.1%} truncated, {m['unknown_rate']:.1%} unknown"
        f" · checkpoint {result.checkpoint_hash[:12]} · result {result.key}"
    )


def _links(paths: Sequence[Path], current: int) -> str:
    if len(paths) == 1:
        return ""
    pages = (
        f"<b>{number + 1}</b>" if number == current else f'<a href="{html.escape(path.name)}">{number + 1}</a>'
        for number, path in enumerate(paths)
    )
    return f" Filters and search look at this page alone. Page {' '.join(pages)}"
