"""`python -m redi_lab evaluate compare OLD NEW [NEW …]`: are the new results better on the same problems?

Takes results folders of evaluations and of training runs. Every new one is compared with the old one; the p-values of
several comparisons are adjusted together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import final

from redi_lab.config.compose import load_config
from redi_lab.errors import UserError
from redi_lab.evaluation.comparison import Comparison, Finding, compare, explain, holm
from redi_lab.evaluation.metrics import Estimate, average
from redi_lab.evaluation.results import EvaluationResult, load_result
from redi_lab.evaluation.scoring import verdicts_of

_USAGE = "evaluate compare OLD_FOLDER NEW_FOLDER [NEW_FOLDER ...]: results folders of evaluations or training runs"
_COLOURS = {Finding.BETTER: "#009E73", Finding.WORSE: "#D55E00", Finding.UNDECIDED: "#777777"}


@final
@dataclass(frozen=True)
class Judged:
    """A results folder.

    Attributes:
        name: Shown to people: what the run was called.
        folder: Where it lies.
        results: By name of the benchmark.
    """

    name: str
    folder: Path
    results: Mapping[str, EvaluationResult]


@final
@dataclass(frozen=True)
class Row:
    """One comparison, with its p-value adjusted for all that were made together."""

    new: str
    old: str
    benchmark: str
    comparison: Comparison
    holm: float

    @property
    def finding(self) -> Finding:
        """Better, worse or undecided, at a level that holds for all comparisons together."""
        return self.comparison.finding(self.holm)


def run_evaluation_compare(arguments: Sequence[str]) -> Path:
    """Compare, print the findings, and write a results folder with summary.json and comparison.png.

    Args:
        arguments: folders, the old one first, and KEY=VALUE of paths.

    Raises:
        UserError: a folder has no evaluation, or two are not on the same problems.
    """
    settings = [argument for argument in arguments if "=" in argument]
    folders = [Path(argument) for argument in arguments if "=" not in argument]
    other = [setting for setting in settings if not setting.startswith("paths.")]
    if len(folders) < 2 or other:
        raise UserError(f"{other[0]}: unknown key; usage: {_USAGE}" if other else f"usage: {_USAGE}")
    config = load_config("evaluate", ["checkpoint=.", "name=evaluate_compare", *settings], check_paths=False)
    judged = _told_apart([read_judged(folder) for folder in folders])
    rows = compare_all(judged[0], judged[1:])
    from redi_lab.run.record import results_folder, write_summary  # heavy: after all that can be refused

    averages = _averages(rows)
    content = {
        "name": "evaluate_compare",
        "verb": "evaluate compare",
        "folders": [str(folder.absolute()) for folder in folders],
        "comparisons": [asdict(row) | {"finding": row.finding} for row in rows],
        "averages": {name: asdict(estimate) for name, estimate in averages.items()},
    }
    with results_folder(config) as output_dir:
        picture = plot_comparisons(rows, averages, output_dir / "comparison.png")
        write_summary(output_dir, config, content)
    for line in _protocol_differences(judged):
        print(f"Note:       {line}")
    for row in rows:
        where = f"{row.benchmark}: " if len(judged[0].results) > 1 else ""
        print(where + explain(row.comparison, row.new, row.old, row.holm if len(rows) > 1 else None))
    for name, d in averages.items():
        print(f"average: {name} {d.value:+.3f} pass@1 (95 % CI {d.ci_low:+.3f} to {d.ci_high:+.3f})")
    print(f"Plot:       {picture}\nResults:    {output_dir}")
    return output_dir


def read_judged(folder: Path) -> Judged:
    """The evaluations behind a results folder.

    Raises:
        UserError: the folder has no summary, was not judged, or its evaluation is gone.
    """
    from redi_lab.run.record import read_summary

    summary = read_summary(folder)
    parts = summary.get("benchmarks") or {"": summary}
    keys = [part["evaluation"]["key"] for part in parts.values() if part.get("evaluation")]
    if not keys:
        raise UserError(f"{folder}: was not judged (eval=none, or no evaluation); evaluate its checkpoint first")
    cache = Path(summary["config"]["paths"]["cache_dir"]) / "evaluations"
    results: dict[str, EvaluationResult] = {}
    for key in keys:
        result = load_result(cache, key)
        if result is None:
            raise UserError(f"{folder}: its evaluation {cache / key}.json is gone; evaluate the checkpoint again")
        results[result.benchmark] = result
    return Judged(str(summary["name"]), folder.absolute(), results)


def _told_apart(judged: Sequence[Judged]) -> list[Judged]:
    """Named by their folders where runs share a name."""
    names = [one.name for one in judged]
    return [replace(one, name=one.folder.name) if names.count(one.name) > 1 else one for one in judged]


def compare_all(old: Judged, news: Sequence[Judged]) -> list[Row]:
    """Compare every new one with the old one on every benchmark.

    Raises:
        UserError: the benchmarks, or their problems, differ.
    """
    made = [
        (new.name, benchmark, compare(*(verdicts_of(judged.results[benchmark]) for judged in (new, old))))
        for new in news
        for benchmark in _shared(old, new)
    ]
    adjusted = zip(made, holm([comparison.p_value for _, _, comparison in made]), strict=True)
    return [Row(new, old.name, benchmark, comparison, p) for (new, benchmark, comparison), p in adjusted]


def _shared(old: Judged, new: Judged) -> list[str]:
    if old.results.keys() != new.results.keys():
        raise UserError(f"{old.name} was judged on {', '.join(old.results)}, {new.name} on {', '.join(new.results)}")
    for benchmark, result in old.results.items():
        if result.benchmark_digest != new.results[benchmark].benchmark_digest:
            raise UserError(
                f"{benchmark}: {old.name} and {new.name} were judged on different problems or golds; evaluate both on"
                " the same (another seed of the data group makes other problems)"
            )
    return list(old.results)


def _averages(rows: Sequence[Row]) -> dict[str, Estimate]:
    """Of each new run's differences over several benchmarks, each counted once."""
    by_run: dict[str, list[Estimate]] = {}
    for row in rows:
        by_run.setdefault(f"{row.new} − {row.old}", []).append(row.comparison.difference)
    return {name: average(differences) for name, differences in by_run.items() if len(differences) > 1}


def _protocol_differences(judged: Sequence[Judged]) -> list[str]:
    """What was not the same beside the checkpoints: it is compared along with them."""
    old = judged[0]
    lines = []
    for new in judged[1:]:
        for benchmark, result in old.results.items():
            mine, other = result.protocol, new.results[benchmark].protocol
            keys = sorted(key for key in mine.keys() | other.keys() if mine.get(key) != other.get(key))
            if keys:
                lines.append(f"{old.name} and {new.name} were not judged alike: {', '.join(keys)} differ ({benchmark})")
    return lines


def plot_comparisons(rows: Sequence[Row], averages: Mapping[str, Estimate], destination: Path) -> Path:
    """Draw the differences with their intervals; a pale bar is what so many problems and samples can find.

    Args:
        rows: one line each, the first on top.
        averages: further lines, by name.
        destination: a PNG.
    """
    from matplotlib.figure import Figure

    several = len({row.benchmark for row in rows}) > 1
    names = [f"{row.new}, {row.benchmark}" if several else row.new for row in rows]
    lines = [(name, row.comparison.difference, row.finding) for name, row in zip(names, rows, strict=True)]
    lines += [(f"average of {name}", estimate, Finding.UNDECIDED) for name, estimate in averages.items()]
    figure = Figure(figsize=(9, 1.2 + 0.5 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, d, finding) in enumerate(lines):
        error = [[d.value - d.ci_low], [d.ci_high - d.value]]
        axes.errorbar(d.value, place, xerr=error, fmt="o", color=_COLOURS[finding], capsize=4)
    for place, row in enumerate(rows):
        if row.comparison.detectable is not None:
            axes.barh(place, 2 * row.comparison.detectable, 0.5, -row.comparison.detectable, color="#dddddd", zorder=0)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(lines)), [label for label, _, _ in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlabel("difference of pass@1, 95 % CI over problems\npale: true differences that are mostly not found")
    axes.set_title(f"against {rows[0].old}", loc="left")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(destination, dpi=150)
    return destination
