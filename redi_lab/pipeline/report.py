"""What a person sees of a run: stages as they come, the table at the end, the curves, and what to try next."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.traces import TraceCorpus
from redi_lab.evaluation.comparison import compare, explain
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.evaluation.scoring import explain_zero, verdicts_of
from redi_lab.pipeline.evaluate import BASE_MODEL
from redi_lab.pipeline.plots import DIAGNOSTICS, plot_curves

if TYPE_CHECKING:
    from redi_lab.pipeline.train import Outcome

_NEXT = {
    "demo": ("+experiment=demo_symmetric", "loss.alpha=0.5 optimizer.lr=3e-4", "loss=dpo optimizer.lr=1e-4"),
    "*": ("loss=simpo optimizer.lr=1e-4", "+experiment=demo_sft_continued", "+experiment=demo_dpo"),
}
CONSOLE = Console()
CURVES = "curves.png"


def say(text: str) -> None:
    """Print one line; rich markup."""
    CONSOLE.print(text, highlight=False)


def describe_loss(config: DictConfig) -> str:
    """E.g. ``redi alpha=0.8 lr=0.0002``."""
    name = config.loss._target_.rsplit(".", 1)[-1].removesuffix("Module").lower()
    options = [f"{k}={v:g}" for k, v in config.loss.items() if isinstance(v, float)]
    return " ".join([name, *options, f"lr={config.optimizer.lr:g}"])


def announce(config: DictConfig, number: int, total: int) -> None:
    """Say which stage begins."""
    say(f"\n[bold]Stage {number}/{total}: {config.name}[/bold]  ({describe_loss(config)}, seed {config.seed})")


def describe_data(corpus: TraceCorpus, data: TraceDataModule) -> None:
    """Say what is trained on, and account for every row that is not."""
    counts = corpus.counts
    say(
        f"{corpus.source}: {counts.rows_read:,} rows read → {counts.demonstrations:,} demonstrations,"
        f" {counts.pairs:,} pairs, {counts.held_out:,} held out; training on {len(data.train_examples):,}"
    )
    for reason, number in {**counts.dropped, **data.dropped}.items():
        say(f"  dropped: {number:,} × {reason}")


def describe_room(data: TraceDataModule, config: DictConfig) -> None:
    """Say where answers as long as those trained on would be cut at evaluation."""
    longest = max(s.completion_length for example in data.train_examples for s in example if s.is_chosen)
    if config.eval.benchmark is not None and longest > config.eval.max_new_tokens:
        say(
            f"[yellow]The longest right trace has {longest:,} tokens, and an evaluation stops after"
            f" eval.max_new_tokens={config.eval.max_new_tokens}: raise data.max_new_tokens for longer answers[/yellow]"
        )


def finish(
    config: DictConfig, output_dir: Path, outcomes: Sequence[Outcome], baseline: EvaluationResult | None = None
) -> None:
    """The table, the curves, the next commands and the results folder."""
    if outcomes[-1].result is not None:
        CONSOLE.print(score_table(outcomes, baseline))
        for line in verdicts(outcomes, baseline):
            say(line)
    say(f"\nCurves:     {output_dir / CURVES}")
    for page in sorted(output_dir.glob("samples_*.html"))[:1]:
        say(f"Samples:    {page}")
    say(f"Checkpoint: {outcomes[-1].record.checkpoint}")
    say("Compare runs in the browser: redi-lab ui, or as a page: redi-lab compare")
    if config.name.startswith("demo"):
        say("Try next:")
        for arguments in _NEXT.get(config.name, _NEXT["*"]):
            say(f"  python -m redi_lab {arguments}")


def draw_curves(config: DictConfig, folder: Path) -> list[Path]:
    """The paper's four curves of a stage and what explains them, beside its metrics."""
    run = {f"{config.name} ({describe_loss(config)})": folder / "metrics.jsonl"}
    return [plot_curves(run, folder / CURVES), plot_curves(run, folder / "diagnostics.png", DIAGNOSTICS)]


def score_table(outcomes: Sequence[Outcome], baseline: EvaluationResult | None = None) -> Table:
    """Scores with 95 % intervals, one row a stage, and one for the base model where it was evaluated."""
    judged = [o for o in outcomes if o.result is not None]
    first = judged[0].result
    assert first is not None
    samples = int(first.metrics["num_samples"])
    problems = int(first.metrics["num_problems"])
    table = Table(title=f"{first.benchmark}: {problems} problems × {samples} samples", title_justify="left")
    for heading in ("stage", "objective", "pass@1 (95 % CI)", "SEM", f"pass@{samples}", "truncated", "unknown"):
        table.add_column(heading, justify="left" if heading in ("stage", "objective") else "right", overflow="fold")
    if baseline is not None:
        table.add_row(BASE_MODEL, "–", *_cells(baseline, samples))
    for outcome in judged:
        assert outcome.result is not None
        table.add_row(outcome.stage.name, describe_loss(outcome.stage.config), *_cells(outcome.result, samples))
    return table


def _cells(result: EvaluationResult, samples: int) -> list[str]:
    m = result.metrics
    sem = m.get("pass_at_1_sem")
    return [
        f"{m['pass_at_1']:.3f} ({m['pass_at_1_ci_low']:.3f}–{m['pass_at_1_ci_high']:.3f})",
        "–" if sem is None else f"{sem:.3f}",
        f"{m.get(f'pass_at_{samples}', m['pass_at_1']):.3f}",
        f"{m['truncation_rate']:.1%}",
        f"{m['unknown_rate']:.1%}",
    ]


def verdicts(outcomes: Sequence[Outcome], baseline: EvaluationResult | None = None) -> list[str]:
    """In words: how each stage compares with the one before, and what explains scores of nothing."""
    scored = [] if baseline is None else [(BASE_MODEL, baseline)]
    scored += [(outcome.stage.name, outcome.result) for outcome in outcomes if outcome.result is not None]
    lines = []
    for (old, before), (new, after) in pairwise(scored):
        lines.append(explain(compare(verdicts_of(after), verdicts_of(before)), new, old))
    reason = explain_zero(scored[-1][1])
    return lines if reason is None else [*lines, f"[yellow]{escape(f'{scored[-1][0]}: {reason}')}[/yellow]"]
