"""What came of stages, and what a person sees of it: the table at the end, and the curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, final

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.traces import TraceCorpus
from redi_lab.evaluation.comparison import compare, explain
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.evaluation.scoring import explain_zero, verdicts_of
from redi_lab.figures.curves import plot_curves
from redi_lab.figures.panels import DIAGNOSTICS
from redi_lab.run.evaluation import BASE_MODEL, nested_metrics
from redi_lab.run.naming import run_label
from redi_lab.run.screen import CONSOLE, say, say_path
from redi_lab.run.stages import Stage, StageRecord
from redi_lab.tracking.journal import read_curves

_EMBEDDED = {"greedy": "greedy_pass_at_1", "haste": "haste", "columns": "columns"}
"""What only the embedded task has, heading to metric; see `redi_lab.data.teacher.describe_work`."""
CURVES = "curves.png"
_ENDS = {
    **dict.fromkeys(("probe/chosen_mean_logps", "probe/rejected_mean_logps", "probe/displacement_per_nat"), 1),
    **dict.fromkeys(("train/mean_logps/chosen", "train/mean_logps/rejected", "train/rewards/slope"), 10),
}
"""Curves of which a summary says where they begin and end, and over how many values: single batches are noisy."""


def metrics_of(result: EvaluationResult | None) -> dict[str, Any]:
    """Scores with their intervals, for a summary."""
    return {} if result is None else nested_metrics(result.metrics)


def ends_of_curves(folder: Path) -> dict[str, dict[str, float]]:
    """Where the curves that describe a training begin and end, those of `_ENDS` that the journal in a folder has."""
    curves = read_curves(folder / "metrics.jsonl")
    known = {name: (curves[name].values, number) for name, number in _ENDS.items() if name in curves}
    return {name: {"start": fmean(v[:number]), "end": fmean(v[-number:])} for name, (v, number) in known.items()}


@final
@dataclass(frozen=True)
class Best:
    """The checkpoint that `callbacks.checkpoints.monitor` chose during training, evaluated as the last one is.

    `note` says at which step and by which value it was chosen.
    """

    checkpoint: Path
    note: Mapping[str, float]
    result: EvaluationResult | None

    def as_dict(self) -> dict[str, Any]:
        """For a summary."""
        return {
            "checkpoint": str(self.checkpoint),
            "chosen": dict(self.note),
            "metrics": metrics_of(self.result),
            "evaluation_key": self.result and self.result.key,
        }


@final
@dataclass(frozen=True)
class Outcome:
    """A stage that is trained and evaluated: its last checkpoint and, where one was chosen, its best."""

    stage: Stage
    record: StageRecord
    result: EvaluationResult | None
    best: Best | None
    is_reused: bool

    def as_dict(self) -> dict[str, Any]:
        """For a summary."""
        return {
            "name": self.stage.name,
            "fingerprint": self.stage.fingerprint,
            "checkpoint": str(self.record.checkpoint),
            "output_dir": str(self.record.output_dir),
            "is_reused": self.is_reused,
            "metrics": metrics_of(self.result),
            "evaluation_key": self.result and self.result.key,
            "best": self.best and self.best.as_dict(),
        }


def announce(config: DictConfig, number: int, total: int) -> None:
    """Say which stage begins."""
    say(f"\n[bold]Stage {number}/{total}: {config.name}[/bold]  ({run_label(config)})")


def describe_data(corpus: TraceCorpus, data: TraceDataModule) -> None:
    """Say what is trained on, and account for every row that is not."""
    counts = corpus.counts
    say(
        f"{corpus.source}: {counts.rows_read:,} rows read → {counts.demonstrations:,} demonstrations,"
        f" {counts.pairs:,} pairs, {counts.held_out:,} held out; training on {len(data.train_examples):,}"
    )
    for reason, number in {**counts.dropped, **data.dropped}.items():
        say(f"  dropped: {number:,} × {reason}")
    for name in data.unused_columns:
        say(f"  not used: the {name} of traces, which data.token_weights does not ask for")


def describe_room(data: TraceDataModule, config: DictConfig) -> None:
    """Say where answers as long as those trained on would be cut at evaluation."""
    longest = max(s.completion_length for example in data.train_examples for s in example if s.is_chosen)
    if config.eval.benchmark is not None and longest > config.eval.max_new_tokens:
        say(
            f"[yellow]The longest right trace has {longest:,} tokens, and an evaluation stops after"
            f" eval.max_new_tokens={config.eval.max_new_tokens}: raise data.max_new_tokens for longer answers[/yellow]"
        )


def finish(output_dir: Path, outcomes: Sequence[Outcome], baseline: EvaluationResult | None = None) -> None:
    """The table, and where curves, samples and checkpoint lie."""
    if outcomes[-1].result is not None:
        CONSOLE.print(score_table(outcomes, baseline))
        for line in verdicts(outcomes, baseline):
            say(line)
    say("")
    say_path("Curves", output_dir / CURVES)
    for page in sorted(output_dir.glob("samples_*.html"))[:1]:
        say_path("Samples", page)
    say_path("Checkpoint", outcomes[-1].record.checkpoint)
    say("Compare runs in the browser: redi-lab ui, or as a page: redi-lab compare")


def draw_curves(config: DictConfig, folder: Path) -> list[Path]:
    """The paper's four curves of a stage and what explains them, beside its metrics."""
    run = {run_label(config): folder / "metrics.jsonl"}
    return [plot_curves(run, folder / CURVES), plot_curves(run, folder / "diagnostics.png", DIAGNOSTICS)]


def score_table(outcomes: Sequence[Outcome], baseline: EvaluationResult | None = None) -> Table:
    """Scores with 95 % intervals: of the base model, of each stage's last checkpoint and of its best, if there are."""
    scored = [o for o in outcomes if o.result is not None]
    first = scored[0].result
    assert first is not None
    samples = int(first.metrics["num_samples"])
    problems = int(first.metrics["num_problems"])
    table = Table(title=f"{first.benchmark}: {problems} problems × {samples} samples", title_justify="left")
    # Narrow enough for 80 columns.
    table.box, table.show_edge, table.padding = SIMPLE_HEAD, False, 0
    table.caption_justify = "left"
    further = {"SEM": "pass_at_1_sem"}
    if "haste" in first.metrics:
        further = _EMBEDDED
        table.caption = "haste: answers with an addition done in the head; columns: additions by columns that are right"
    scores = ("pass@1 (95 % CI)", f"pass@{samples}", *further, "truncated", "unknown")
    for heading in ("stage", "objective", *scores):
        if heading in ("stage", "objective"):
            table.add_column(heading, overflow="fold")
        elif heading.startswith("pass@1 ("):
            table.add_column(heading, justify="right", width=13)
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    if baseline is not None:
        table.add_row(BASE_MODEL, "–", *_cells(baseline, samples, further.values()))
    for outcome in scored:
        assert outcome.result is not None
        name = outcome.stage.name
        table.add_row(name, run_label(outcome.stage.config), *_cells(outcome.result, samples, further.values()))
        if outcome.best is not None and outcome.best.result is not None:
            step = int(outcome.best.note["step"])
            table.add_row(f"{name} best", f"at step {step:,}", *_cells(outcome.best.result, samples, further.values()))
    return table


def _cells(result: EvaluationResult, samples: int, further: Iterable[str]) -> list[str]:
    m = result.metrics
    return [
        f"{m['pass_at_1']:.3f} ({m['pass_at_1_ci_low']:.3f}–{m['pass_at_1_ci_high']:.3f})",
        f"{m.get(f'pass_at_{samples}', m['pass_at_1']):.3f}",
        *(f"{m[name]:.3f}" if name in m else "–" for name in further),
        f"{m['truncation_rate']:.1%}",
        f"{m['unknown_rate']:.1%}",
    ]


def verdicts(outcomes: Sequence[Outcome], baseline: EvaluationResult | None = None) -> list[str]:
    """In words: how each stage compares with the one before, the best checkpoint with the last, what explains a 0."""
    scored = [] if baseline is None else [(BASE_MODEL, baseline)]
    scored += [(outcome.stage.name, outcome.result) for outcome in outcomes if outcome.result is not None]
    lines = [
        explain(compare(verdicts_of(after), verdicts_of(before)), new, old)
        for (old, before), (new, after) in pairwise(scored)
    ]
    (name, last), best = scored[-1], outcomes[-1].best
    if best is not None and best.result is not None and best.result.key != last.key:
        lines.append(explain(compare(verdicts_of(best.result), verdicts_of(last)), f"{name} best", name))
    reason = explain_zero(last)
    return lines if reason is None else [*lines, f"[yellow]{escape(f'{name}: {reason}')}[/yellow]"]
