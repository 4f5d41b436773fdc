"""Look at the wrong traces of a corpus: `python -m redi_lab curate hygiene data=jsonl data.path=FILE [examples=3]`.

Counts how many have each flaw (`redi_lab.curation.hygiene`) and writes a page with examples. Our grader judges every
generation as one more verifier, unless `curation.grader` says otherwise. Nothing is dropped: that is for
`curation.drop_negatives` when curating.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, final

from rich.table import Table

from redi_lab.config.compose import load_config
from redi_lab.config.schema.curation import Flaw
from redi_lab.config.schema.words import HygieneWords, split_words
from redi_lab.curation.hygiene import FLAWS
from redi_lab.curation.parallel import map_ordered
from redi_lab.data.traces import Dropped, Problem
from redi_lab.figures.page import render_page, table
from redi_lab.verbs.curate.command import Recipe, make_recipe, work_of
from redi_lab.verbs.curate.worker import Chunk, WorkerPlan

PAGE = "hygiene.html"
_EXCERPT = 400
_MEANINGS: dict[Flaw, str] = {
    "cut_off": "no end: a thought never closed, or another finish reason than stop",
    "no_answer": "no final answer where answers are looked for",
    "unknown": "not known to be wrong",
    "disputed": "one verifier accepts it, another does not",
    "regraded_right": "our grader accepts it, the corpus does not",
    "near_positive": "nearly the text of a right trace",
    "loop": "ends in repetition",
    "other_language": "in another script than its problem",
    "long": "over three times as long as the problem's right traces",
}


class Row(NamedTuple):
    """A row: why it was dropped, and (place, flaws, excerpt) of each generation that is not known to be right."""

    id: str
    reason: str | None
    num_generations: int
    negatives: tuple[tuple[int, tuple[Flaw, ...], str], ...] = ()


@final
@dataclass
class Findings:
    """Counts over rows, and the first examples of each flaw.

    Attributes:
        examples: flaw → (id of the row, place of the generation, its text).
    """

    most_examples: int
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    generations: int = 0
    negatives: int = 0
    with_a_flaw: int = 0
    flaws: Counter[Flaw] = field(default_factory=Counter)
    examples: dict[Flaw, list[tuple[str, int, str]]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Count one row."""
        self.rows += 1
        if row.reason is not None:
            self.dropped[row.reason] += 1
        self.generations += row.num_generations
        self.negatives += len(row.negatives)
        for place, flaws, text in row.negatives:
            self.with_a_flaw += bool(flaws)
            self.flaws.update(flaws)
            for flaw in flaws:
                shown = self.examples.setdefault(flaw, [])
                if len(shown) < self.most_examples:
                    shown.append((row.id, place, text))

    def lines(self) -> list[tuple[str, str, str, str]]:
        """Flaw, number, share of the negatives, meaning."""
        each = [
            *((str(flaw), self.flaws[flaw], _MEANINGS[flaw]) for flaw in FLAWS),
            ("any of them", self.with_a_flaw, ""),
        ]
        return [(name, f"{n:,}", f"{n / max(1, self.negatives):.1%}", meaning) for name, n, meaning in each]


def _judging(plan: WorkerPlan) -> Callable[[Chunk], list[Row]]:
    """Makes the function that looks at a chunk of rows; for `map_ordered`."""
    curator, grade = plan.curator(), plan.grade()

    def judge(problem: Problem | Dropped) -> Row:
        if isinstance(problem, Dropped):
            return Row(problem.id, problem.reason, problem.num_generations)
        found = tuple((place, flaws, _excerpt(one.text)) for place, one, flaws in curator.judge(problem))
        return Row(problem.id, None, len(problem.generations), found)

    return lambda chunk: [judge(problem) for _, problem in grade(chunk)]


def run_hygiene(arguments: Sequence[str]) -> Path:
    """The verb.

    Returns:
        The results folder, with summary.json and hygiene.html.

    Raises:
        UserError: as `curate`, before it begins.
    """
    words, overrides = split_words(HygieneWords, arguments)
    config = load_config("curate", ["name=hygiene", "curation.grader=always", *overrides])
    from redi_lab.run.record import quieten_libraries, results_folder, write_summary
    from redi_lab.run.screen import CONSOLE

    quieten_libraries()
    recipe = make_recipe(config)
    with results_folder(config) as folder:
        findings = _look(recipe, words.examples)
        source = recipe.source.table().source
        (folder / PAGE).write_text(_page(source, findings), encoding="utf-8")
        counts = {name: getattr(findings, name) for name in ("rows", "generations", "negatives", "with_a_flaw")}
        flaws = {str(flaw): findings.flaws[flaw] for flaw in FLAWS}
        content = {
            "name": config.name,
            "verb": "curate hygiene",
            "source": source,
            "metrics": {**counts, **flaws},
            "rows_dropped": dict(findings.dropped),
        }
        write_summary(folder, config, content)
    shown = Table(title=_title(source, findings), title_justify="left", box=None, pad_edge=False)
    for heading, side in (("flaw", "left"), ("negatives", "right"), ("share", "right"), ("meaning", "left")):
        shown.add_column(heading, justify="right" if side == "right" else "left")
    for line in findings.lines():
        shown.add_row(*line)
    CONSOLE.print(shown, highlight=False)
    print(f"Page:       {folder / PAGE}\nResults:    {folder}")
    return folder


def _look(recipe: Recipe, most_examples: int) -> Findings:
    from redi_lab.run.screen import progress_bar

    settings, findings = recipe.config.curation, Findings(most_examples)
    plan, chunks = work_of(recipe)
    with progress_bar() as progress:
        task = progress.add_task("Looking at negatives", total=recipe.source.table().num_rows())
        for rows in map_ordered(partial(_judging, plan), chunks, settings.num_workers, recipe.config.launcher.address):
            for row in rows:
                findings.add(row)
            progress.update(task, completed=findings.rows)
    return findings


def _excerpt(text: str) -> str:
    """Beginning and end: a loop or a cut shows at the end."""
    return text if len(text) <= 2 * _EXCERPT else f"{text[:_EXCERPT]}\n[…]\n{text[-_EXCERPT:]}"


def _title(source: str, findings: Findings) -> str:
    dropped = f", {findings.dropped.total():,} of them not usable" if findings.dropped else ""
    return (
        f"{source}: {findings.negatives:,} of {findings.generations:,} generations in {findings.rows:,} rows{dropped},"
        " are not known to be right"
    )


def _page(source: str, findings: Findings) -> str:
    parts = [f"<h1>{html.escape(_title(source, findings))}</h1>"]
    parts.append(table(("flaw", "negatives", "share", "meaning"), findings.lines()))
    for flaw in FLAWS:
        for name, place, text in findings.examples.get(flaw, []):
            parts.append(f"<h2>{flaw}: row {html.escape(name)}, generation {place}</h2><pre>{html.escape(text)}</pre>")
    parts.append("<p>Drop some when curating: <code>curation.drop_negatives=[cut_off,loop]</code></p>")
    return render_page("Hygiene of negatives", "\n".join(parts))
