"""Tables and figures of the comparison, from its rows.

Methods are compared over seeds and problems: on a seed all methods answer the same problems, so the seeds' mean
differences are paired; each seed has its own problems, so the interval over seeds holds both. p-values are adjusted by
Holm over all pairs of methods, for the last and for the best checkpoints each.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.equal_budget.plan import SFT, TITLES, Scope
from redi_lab.evaluation.comparison import SeedComparison, compare_over_seeds, holm
from redi_lab.verbs.sweep.results import seed_interval

Row = Mapping[str, Any]
Content = Mapping[str, Mapping[str, Row]]
WHICH = {"last": "last checkpoint", "best": "best on development problems"}
LEVEL = 0.05
_RESAMPLES = 1000
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Pair(NamedTuple):
    """Two methods, the first less the second, with the p-value adjusted for all pairs."""

    new: str
    old: str
    found: SeedComparison
    adjusted_p: float


def write_report(scope: Scope, content: Content, folder: Path, kind: str) -> str:
    """Write tables and figures of a kind (`arithmetic`, `chains_quick`, …) into a folder; returns the tables."""
    trials = {name: rows for name in TITLES if (rows := trials_of(content, name))}
    parts = [f"# {kind}: tables of `run.py`", "## Searches", "\n".join(search_table(scope, trials))]
    for which, title in WHICH.items():
        runs = runs_of(content, which)
        if len(runs) > 1 and len(next(iter(runs.values()))) > 1:
            pairs = compare_all(runs, scope.final_samples)
            parts += [f"## Winners on fresh seeds, {title}", "\n".join(finals_table(runs, pairs))]
            parts += ["\n".join(pairs_table(pairs))]
    text = "\n\n".join(parts) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"tables_{kind}.md").write_text(text, encoding="utf-8")
    if trials:
        draw_best_of_n(trials, folder / f"best_of_n_{kind}.png")
        draw_haste_and_skill(trials, content, folder / f"haste_and_skill_{kind}.png")
    return text


def trials_of(content: Content, method: str) -> list[Row]:
    """In the order in which they were drawn."""
    return sorted((r for r in content["trials"].values() if r["method"] == method), key=lambda r: int(r["trial"]))


def runs_of(content: Content, which: str) -> dict[str, dict[int, Row]]:
    """Method to seed to the evaluation of a checkpoint; only seeds that all methods have. SFT has one checkpoint."""
    found: dict[str, dict[int, Row]] = {}
    for row in (*content["starts"].values(), *content["runs"].values()):
        found.setdefault(row["method"], {})[row["seed"]] = row.get(which) or row["last"]
    shared = set.intersection(*map(set, found.values())) if found else set()
    return {name: {seed: found[name][seed] for seed in sorted(shared)} for name in TITLES if name in found}


def rates(row: Row, num_samples: int) -> NDArray[np.float64]:
    """Share of right samples of each problem."""
    return np.array([_DIGITS.index(character) for character in row["right"]]) / num_samples


def compare_all(runs: Mapping[str, Mapping[int, Row]], num_samples: int) -> list[Pair]:
    """All pairs of methods, the better one first."""
    order = sorted(runs, key=lambda name: -_mean(runs[name], "pass_at_1"))
    made = []
    for new, old in combinations(order, 2):
        gaps = [rates(runs[new][s], num_samples) - rates(runs[old][s], num_samples) for s in runs[new]]
        made.append((new, old, compare_over_seeds(np.stack(gaps), num_samples, has_same_problems=False)))
    adjusted = holm([found.p_value for *_, found in made])
    return [Pair(*one, p) for one, p in zip(made, adjusted, strict=True)]


def _mean(rows: Mapping[int, Row], key: str) -> float:
    return statistics.fmean(row[key] for row in rows.values())


def search_table(scope: Scope, trials: Mapping[str, Sequence[Row]]) -> list[str]:
    """What each search found, and how its trials spread."""
    lines = ["| method | trials | best score | by seed | at | median trial | expected best of 4 |"]
    lines += ["|---|---:|---:|---|---|---:|---:|"]
    for name, rows in trials.items():
        best = max(rows, key=lambda row: (row["score"], -row["trial"]))
        at = ", ".join(f"{path.partition('.')[2]} {value:.3g}" for path, value in best["values"].items())
        scores = [row["score"] for row in rows]
        seeds = ", ".join(f"{score:.3f}" for score in best["by_seed"])
        four = expected_best(np.array(scores), min(4, len(scores)))
        cells = [f"{len(rows)}/{scope.num_trials}", f"{best['score']:.3f}", seeds, at]
        lines.append(f"| {TITLES[name]} | {' | '.join(cells)} | {statistics.median(scores):.3f} | {four:.3f} |")
    return lines


def finals_table(runs: Mapping[str, Mapping[int, Row]], pairs: Sequence[Pair]) -> list[str]:
    """Scores on the problems that no search saw, best first."""
    seeds = next(iter(runs.values()))
    others = [key for key in ("greedy_pass_at_1", "haste", "columns") if key in next(iter(seeds.values()))]
    lines = [f"{len(seeds)} seeds, each with {len(next(iter(seeds.values()))['right'])} problems of its own.\n"]
    lines += [f"| method | pass@1 (95 % CI) | {' | '.join(others)} | established better than |"]
    lines += ["|---|---|" + "---:|" * len(others) + "---|"]
    for name in sorted(runs, key=lambda name: -_mean(runs[name], "pass_at_1")):
        values = [row["pass_at_1"] for row in runs[name].values()]
        low, high = seed_interval(values) or (float("nan"),) * 2
        worse = [pair.old for pair in pairs if pair.new == name and pair.adjusted_p < LEVEL]
        cells = [f"{statistics.fmean(values):.3f} ({low:.3f} to {high:.3f})"]
        cells += [f"{_mean(runs[name], key):.3f}" for key in others]
        lines.append(f"| {TITLES[name]} | {' | '.join(cells)} | {', '.join(TITLES[one] for one in worse) or '–'} |")
    return lines


def pairs_table(pairs: Sequence[Pair]) -> list[str]:
    """Every difference with its interval, and the p-value after Holm's adjustment for all of them."""
    lines = ["| difference | pass@1 (95 % CI, of this pair alone) | p, adjusted |", "|---|---|---:|"]
    for pair in pairs:
        e = pair.found.estimate
        said = f"{e.value:+.3f} ({e.ci_low:+.3f} to {e.ci_high:+.3f})"
        lines.append(f"| {TITLES[pair.new]} − {TITLES[pair.old]} | {said} | {pair.adjusted_p:.2g} |")
    return lines


def expected_best(scores: NDArray[np.float64], number: int) -> float:
    """Mean of the highest of so many trials, drawn from those that there are.

    Source: Dodge et al. 2019, "Show Your Work", Eq. 7 (arXiv 1909.03004).

    Args:
        scores: of all trials, shape (trials,).
        number: of trials drawn.
    """
    shares = np.arange(len(scores) + 1) / len(scores)
    return float(np.sort(scores) @ np.diff(shares**number))


def band(scores: NDArray[np.float64], numbers: Sequence[int]) -> NDArray[np.float64]:
    """95 % interval of `expected_best` over trials drawn anew, shape (2, numbers)."""
    generator = np.random.default_rng(0)
    drawn = generator.choice(scores, (_RESAMPLES, len(scores)))
    curves = np.array([[expected_best(one, number) for number in numbers] for one in drawn])
    found: NDArray[np.float64] = np.quantile(curves, (0.025, 0.975), axis=0)
    return found


def draw_best_of_n(trials: Mapping[str, Sequence[Row]], destination: Path) -> None:
    """What a budget of n trials can be expected to find, for each method."""
    from redi_lab.figures.style import COLOURS, dress, new_figure, save_figure

    figure, ax = new_figure(8.2, 5.0)
    dress(ax, "Expected score of the best of n trials, with 95 % bands over trials")
    for (name, rows), colour in zip(trials.items(), COLOURS, strict=False):
        scores = np.array([row["score"] for row in rows])
        numbers = range(1, len(scores) + 1)
        ax.plot(numbers, [expected_best(scores, n) for n in numbers], color=colour, label=TITLES[name])
        ax.fill_between(numbers, *band(scores, numbers), color=colour, alpha=0.12, linewidth=0)
    ax.set_xlabel("trials")
    ax.set_ylabel("pass@1 on development problems, mean over tuning seeds")
    ax.legend(frameon=False, fontsize=9)
    save_figure(figure, destination)


def draw_haste_and_skill(trials: Mapping[str, Sequence[Row]], content: Content, destination: Path) -> None:
    """Of all trials: answers with a step done in the head, against steps by columns that are right."""
    from redi_lab.figures.style import COLOURS, dress, new_figure, save_figure

    figure, ax = new_figure(8.2, 5.0)
    dress(ax, "All trials: haste against skill; size: score")
    starts = [row["last"] for row in content["starts"].values()]
    for (name, rows), colour in zip({**trials, SFT: starts}.items(), COLOURS, strict=False):
        points = [(row["haste"], row["columns"], 10 + 60 * row.get("score", 1.0)) for row in rows if "columns" in row]
        x, y, sizes = zip(*points, strict=True) if points else ((), (), ())
        ax.scatter(x, y, s=sizes, color=colour, alpha=0.6, linewidths=0, label=TITLES[name])
    ax.set_xlabel("haste")
    ax.set_ylabel("columns that are right")
    ax.legend(frameon=False, fontsize=9)
    save_figure(figure, destination)
