"""What a person sees of a run: stages as they come, the table at the end, the curves, and what to try next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.traces import TraceCorpus
from redi_lab.evaluation.comparison import compare, explain
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.evaluation.scoring import verdicts_of
from redi_lab.pipeline.plots import DIAGNOSTICS, plot_curves

if TYPE_CHECKING:
    from redi_lab.pipeline.train import Outcome

_NEXT = {
    "demo": ("+experiment=demo_symmetric", "loss.alpha=0.8", "loss=dpo optimizer.lr=1e-4"),
    "*": ("loss=simpo optimizer.lr=1e-4", "+experiment=demo_sft_continued", "+experiment=demo_dpo"),
}
_EMBEDDED = {"greedy": "greedy_pass_at_1", "haste": "haste", "columns": "columns"}
"""What only the embedded task has, heading to metric; see `redi_lab.data.arithmetic.describe_work`."""
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


def finish(config: DictConfig, output_dir: Path, outcomes: Sequence[Outcome]) -> None:
    """The table, the curves, the next commands and the results folder."""
    if outcomes[-1].result is not None:
        CONSOLE.print(score_table(outcomes))
        for line in verdicts(outcomes):
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


def score_table(outcomes: Sequence[Outcome]) -> Table:
    """Scores with 95 % intervals, one row a stage."""
    judged = [o for o in outcomes if o.result is not None]
    first = judged[0].result
    assert first is not None
    samples = int(first.metrics["num_samples"])
    problems = int(first.metrics["num_problems"])
    table = Table(title=f"{first.benchmark}: {problems} problems × {samples} samples", title_justify="left")
    is_embedded = "haste" in first.metrics
    further = _EMBEDDED if is_embedded else {"SEM": "pass_at_1_sem"}
    if is_embedded:  # narrow enough for 80 columns
        table.box, table.pad_edge, table.collapse_padding, table.caption_justify = SIMPLE_HEAD, False, True, "left"
        table.caption = "haste: answers with an addition done in the head; columns: additions by columns that are right"
    for heading in ("stage", "objective", "pass@1 (95 % CI)", f"pass@{samples}", *further, "truncated"):
        is_text, width = heading in ("stage", "objective"), 13 if heading.startswith("pass@1 (") else None
        table.add_column(heading, justify="left" if is_text else "right", min_width=width)
    for outcome in judged:
        assert outcome.result is not None
        cells = _cells(outcome.result, samples, further.values())
        table.add_row(outcome.stage.name, describe_loss(outcome.stage.config), *cells)
    return table


def _cells(result: EvaluationResult, samples: int, further: Iterable[str]) -> list[str]:
    m = result.metrics
    return [
        f"{m['pass_at_1']:.3f} ({m['pass_at_1_ci_low']:.3f}–{m['pass_at_1_ci_high']:.3f})",
        f"{m.get(f'pass_at_{samples}', m['pass_at_1']):.3f}",
        *(f"{m[name]:.3f}" if name in m else "–" for name in further),
        f"{m['truncation_rate']:.1%}",
    ]


def verdicts(outcomes: Sequence[Outcome]) -> list[str]:
    """In words: how each stage compares with the one before, and whether a score says anything at all."""
    lines = []
    judged = [o for o in outcomes if o.result is not None]
    for before, after in pairwise(judged):
        assert before.result is not None
        assert after.result is not None
        comparison = compare(verdicts_of(after.result), verdicts_of(before.result))
        lines.append(explain(comparison, after.stage.name, before.stage.name))
    last = judged[-1].result
    assert last is not None
    if last.metrics["pass_at_1"] < 0.02:
        lines.append(
            f"[yellow]A score of {last.metrics['pass_at_1']:.3f} says that this model does not solve these problems:"
            " the run shows that data and training work, and says nothing about the method.[/yellow]"
        )
    return lines
