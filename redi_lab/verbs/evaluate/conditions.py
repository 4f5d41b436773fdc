"""`evaluate` where the protocol has several conditions: a table, what they change, and pairs to train on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

from omegaconf import DictConfig
from rich.markup import escape
from rich.table import Table

from redi_lab.evaluation.comparison import Comparison, compare, explain, holm
from redi_lab.evaluation.conditions import Spread, balanced_pairs, changes, length_ratio, spread
from redi_lab.evaluation.critique import correction, critique
from redi_lab.evaluation.metrics import Estimate, pass_at_1
from redi_lab.evaluation.results import content_digest
from redi_lab.evaluation.scoring import flatten, verdicts_of
from redi_lab.figures.samples_page import log_samples
from redi_lab.figures.scores import plot_scores
from redi_lab.files import write_text
from redi_lab.run.conditions import Asked, ask_all
from redi_lab.run.evaluation import estimate_of, nested_metrics, summary_of
from redi_lab.run.record import make_logger, results_folder, write_summary
from redi_lab.run.screen import CONSOLE

PAIRS_FILE = "pairs.jsonl"
_SHOWN = 12  # conditions that get a sentence and a page of samples each


@final
@dataclass(frozen=True)
class Compared:
    """A condition against another one: shares that are right, and lengths (None for a single problem)."""

    against: str
    comparison: Comparison
    length: Estimate | None
    holm: float = 1.0
    """The p-value, adjusted for all comparisons of the protocol."""


def run_conditions(config: DictConfig, checkpoint: Path) -> Path:
    """Evaluate a checkpoint under all conditions of the protocol and write a results folder.

    Raises:
        UserError: as `ask_all`.
    """
    with results_folder(config) as folder:
        asked, error = ask_all(config, checkpoint)
        compared = compare_all(asked)
        changed = {name: changes_of(asked, one) for name, one in asked.items() if one.condition.after is not None}
        critiques = {
            name: critique(one.result, one.traces) for name, one in asked.items() if one.condition.steps is not None
        }
        kinds = {name: by_kind(one) for name, one in asked.items() if any(row.kind for row in one.benchmark.problems)}
        found = spread_of(asked)
        pairs = write_pairs(folder / PAIRS_FILE, asked)
        logger = make_logger(config, folder, None, {"redi_lab.stage": "evaluate"})
        flat = {f"{name}/{key}": value for name, one in asked.items() for key, value in one.result.metrics.items()}
        for name, estimates in (*changed.items(), *critiques.items()):
            flat |= {f"{name}/{key}": value for kind, e in estimates.items() for key, value in flatten(kind, e).items()}
        logger.log_metrics({f"eval/{key}": value for key, value in flat.items()}, step=0)
        shown = list(asked.values())[:_SHOWN]
        page = log_samples(logger, folder, [one.result for one in shown], [one.benchmark for one in shown])
        scores = {name: estimate_of(one.result) for name, one in asked.items()}
        logger.log_artifact(plot_scores(scores, f"{checkpoint.name}, by condition", folder / "scores.png"))
        content = {
            "name": config.name,
            "verb": "evaluate",
            "checkpoint": str(checkpoint),
            "mlflow_run_id": logger.version,
            "metrics": nested_metrics(next(iter(asked.values())).result.metrics),
            "benchmarks": {name: summary_of(one.result) for name, one in asked.items()},
            "comparisons": {name: asdict(made) for name, made in compared.items()},
            "changes": {name: {k: asdict(e) for k, e in estimates.items()} for name, estimates in changed.items()},
            "critiques": {name: {k: asdict(e) for k, e in made.items()} for name, made in critiques.items()},
            "kinds": {name: {k: asdict(e) for k, e in made.items()} for name, made in kinds.items()},
            "attempts": {name: one.attempts for name, one in asked.items()},
            "spread": None if found is None else asdict(found),
            "pairs": pairs,
            "judge_error": {name: asdict(estimate) for name, estimate in error.items()},
            "fingerprint": content_digest([one.result.key for one in asked.values()])[:32],
        }
        logger.log_artifact(write_summary(folder, config, content))
        logger.finalize("success")
    CONSOLE.print(_table(asked, compared))
    for line in _sentences(asked, compared):
        print(line)
    for name, estimates in critiques.items():
        print(f"{name}: {_shares(estimates)}")
    for name, estimates in changed.items():
        after, attempts = asked[name].condition.after, asked[name].attempts
        print(f"{name}, after {after}: {_shares(estimates)}; {attempts:.2f} completions a sample so far")
    for name, estimates in kinds.items():
        print(f"{name}, by kind: {_shares(estimates)}")
    if config.eval.kind_key is not None and not kinds:
        print(f"eval.kind_key={config.eval.kind_key}: no row has it, so there are no scores by kind")
    if found is not None:
        print(_spread(found))
    if error:
        print(f"The judge, on answers marked by hand: {_shares(error)}")
    print(f"Plot:       {folder / 'scores.png'}\nSamples:    {page}")
    if pairs:
        print(f"Pairs:      {folder / PAIRS_FILE} ({pairs} of each kind; train with data=jsonl)")
    return folder


def compare_all(asked: Mapping[str, Asked]) -> dict[str, Compared]:
    """Each condition with the one that it names or follows, or else with the first of its kind."""
    found: dict[str, Compared] = {}
    firsts: dict[tuple[bool, bool], str] = {}
    for name, one in asked.items():
        first = firsts.setdefault((one.condition.is_judged, one.condition.steps is not None), name)
        against = one.condition.against or one.condition.after or first
        # Steps that are named and answers that are right are not compared.
        if against != name and (asked[against].condition.steps is None) == (one.condition.steps is None):
            old, new = verdicts_of(asked[against].result), verdicts_of(one.result)
            # Of several answers to a follow-up the first: as many in both, and each beside what it follows.
            made = compare(new[:, :: max(1, new.shape[1] // old.shape[1])], old)
            length = length_ratio(one.result, asked[against].result) if len(old) > 1 else None
            found[name] = Compared(against, made, length)
    adjusted = holm([made.comparison.p_value for made in found.values()])
    return {name: replace(made, holm=p) for (name, made), p in zip(found.items(), adjusted, strict=True)}


def changes_of(asked: Mapping[str, Asked], one: Asked) -> dict[str, Estimate]:
    """What became of the answers, or the traces, that a condition follows."""
    before = asked[one.condition.after or ""]
    if before.condition.steps is not None:
        return correction(one.result, one.traces)
    found = changes(before.result, one.result)
    return {kind: e for kind, e in found.items() if kind.startswith("wrong")} if one.condition.only_wrong else found


def by_kind(one: Asked) -> dict[str, Estimate]:
    """Pass@1 of the problems of each kind."""
    verdicts, kinds = verdicts_of(one.result), [problem.kind for problem in one.benchmark.problems]
    return {kind: pass_at_1(verdicts[[one == kind for one in kinds]]) for kind in sorted(filter(None, {*kinds}))}


def spread_of(asked: Mapping[str, Asked]) -> Spread | None:
    """Of the conditions that put the same problems in other words; None where there are fewer than three."""
    alone = {name: one for name, one in asked.items() if one.condition.after is None}
    if len(alone) < 3 or len({one.benchmark.digest for one in alone.values()}) > 1:
        return None
    matrices = [verdicts_of(one.result) for one in alone.values()]
    return spread(matrices) if len(matrices[0]) > 1 else None


def write_pairs(path: Path, asked: Mapping[str, Asked]) -> int:
    """Write pairs of what follows other answers, where there are any of both kinds; how many of each kind."""
    rows: list[dict[str, Any]] = []
    for name, one in asked.items():
        if one.condition.after is not None and not one.traces:
            pairs = balanced_pairs(asked[one.condition.after].result, one.result, one.prompts)
            rows += [pair | {"id": f"{name}/{pair['id']}"} for pair in pairs]
    if rows:
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return len(rows) // 2


def _table(asked: Mapping[str, Asked], compared: Mapping[str, Compared]) -> Table:
    first = next(iter(asked.values()))
    table = Table(title=f"{int(first.result.metrics['num_problems']):,} problems", title_justify="left")
    table.add_column("condition", overflow="fold")
    for heading in ("right (95 % CI)", "difference (95 % CI)", "adjusted p", "length", "truncated", "unknown"):
        table.add_column(heading, justify="right", overflow="fold")
    for name, one in asked.items():
        m, cells = one.result.metrics, ["–", "–", "–"]
        if (made := compared.get(name)) is not None:
            d = made.comparison.difference
            cells = [f"{d.value:+.3f} ({d.ci_low:+.3f} to {d.ci_high:+.3f})", f"{made.holm:.2g}"]
            cells.append("–" if made.length is None else f"× {made.length.value:.2f}")
        right = "finds fault" if one.condition.is_judged else one.condition.steps and "names the step"
        table.add_row(
            escape(f"{name} ({right})" if right else name),
            f"{m['pass_at_1']:.3f} ({m['pass_at_1_ci_low']:.3f}–{m['pass_at_1_ci_high']:.3f})",
            *cells,
            *(f"{m[rate]:.1%}" for rate in ("truncation_rate", "unknown_rate")),
        )
    return table


def _sentences(asked: Mapping[str, Asked], compared: Mapping[str, Compared]) -> Iterator[str]:
    """What each condition changes; where there are many, the table says it."""
    for name, made in compared.items() if len(compared) <= _SHOWN else ():
        said = explain(made.comparison, name, made.against, made.holm if len(compared) > 1 else None)
        yield said.replace("pass@1", "of answers that find fault") if asked[name].condition.is_judged else said


def _shares(estimates: Mapping[str, Estimate]) -> str:
    return "; ".join(
        f"{kind.replace('_', ' ')} {e.value:.1%} (95 % CI {e.ci_low:.1%} to {e.ci_high:.1%}, {e.num_problems} problems)"
        for kind, e in estimates.items()
    )


def _spread(found: Spread) -> str:
    d = found.deviation
    verdict = "differ" if found.p_value < 0.05 else "are not told apart"
    return (
        f"The conditions {verdict} (p = {found.p_value:.2g}): beyond chance their pass@1 has a standard deviation of"
        f" {d.value:.3f} (95 % CI {d.ci_low:.3f} to {d.ci_high:.3f}); chance alone gives {found.noise:.3f}, and the"
        f" lowest and the highest are {found.range:.3f} apart. {d.num_problems} problems find a difference of"
        f" {found.detectable:.3f} between two of them four times out of five."
    )
