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
from redi_lab.figures.scores import plot_scores

_USAGE = "evaluate compare OLD_FOLDER NEW_FOLDER [NEW_FOLDER ...]: results folders of evaluations or training runs"


@final
@dataclass(frozen=True)
class EvaluatedRun:
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
class RunComparison:
    """Two runs on one benchmark, with the p-value adjusted for all comparisons that were made together."""

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
    old, *news = runs = _with_distinct_names([read_run(folder) for folder in folders])
    comparisons = compare_all(old, news)
    from redi_lab.run.record import results_folder, write_summary  # heavy: after everything that can be refused

    is_suite = len(old.results) > 1
    averages = _averages(comparisons) if is_suite else {}
    content = {
        "name": "evaluate_compare",
        "verb": "evaluate compare",
        "folders": [str(folder.absolute()) for folder in folders],
        "comparisons": [asdict(made) | {"finding": made.finding} for made in comparisons],
        "averages": {name: asdict(estimate) for name, estimate in averages.items()},
    }
    labels = [f"{made.new}, {made.benchmark}" if is_suite else made.new for made in comparisons]
    lines = {label: made.comparison.difference for label, made in zip(labels, comparisons, strict=True)}
    lines |= {f"average of {name}": estimate for name, estimate in averages.items()}
    with results_folder(config) as output_dir:
        picture = plot_scores(lines, f"against {old.name}", output_dir / "comparison.png", is_difference=True)
        write_summary(output_dir, config, content)
    for line in _protocol_differences(runs):
        print(f"Note:       {line}")
    for made in comparisons:
        where = f"{made.benchmark}: " if is_suite else ""
        print(where + explain(made.comparison, made.new, made.old, made.holm if len(comparisons) > 1 else None))
    for name, d in averages.items():
        print(f"average: {name} {d.value:+.3f} pass@1 (95 % CI {d.ci_low:+.3f} to {d.ci_high:+.3f})")
    print(f"Plot:       {picture}\nResults:    {output_dir}")
    return output_dir


def read_run(folder: Path) -> EvaluatedRun:
    """The evaluations behind a results folder.

    Raises:
        UserError: the folder has no summary, was not evaluated, or its evaluation is gone.
    """
    from redi_lab.run.record import read_summary

    summary = read_summary(folder)
    parts = summary.get("benchmarks") or {"": summary}
    keys = [part["evaluation"]["key"] for part in parts.values() if part.get("evaluation")]
    if not keys:
        raise UserError(f"{folder}: was not evaluated (eval=none, or interrupted); evaluate its checkpoint first")
    cache = Path(summary["config"]["paths"]["cache_dir"]) / "evaluations"
    results: dict[str, EvaluationResult] = {}
    for key in keys:
        result = load_result(cache, key)
        if result is None:
            raise UserError(f"{folder}: its evaluation {cache / key}.json is gone; evaluate the checkpoint again")
        results[result.benchmark] = result
    return EvaluatedRun(str(summary["name"]), folder.absolute(), results)


def _with_distinct_names(runs: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """Runs that share a name are called by their folders."""
    names = [run.name for run in runs]
    return [replace(run, name=run.folder.name) if names.count(run.name) > 1 else run for run in runs]


def compare_all(old: EvaluatedRun, news: Sequence[EvaluatedRun]) -> list[RunComparison]:
    """Compare every new one with the old one on every benchmark.

    Raises:
        UserError: the benchmarks, or their problems, differ.
    """
    made = []
    for new in news:
        _check_same_problems(old, new)
        for name, result in old.results.items():
            made.append((new.name, name, compare(verdicts_of(new.results[name]), verdicts_of(result))))
    adjusted = zip(made, holm([comparison.p_value for _, _, comparison in made]), strict=True)
    return [RunComparison(new, old.name, benchmark, comparison, p) for (new, benchmark, comparison), p in adjusted]


def _check_same_problems(old: EvaluatedRun, new: EvaluatedRun) -> None:
    if old.results.keys() != new.results.keys():
        raise UserError(
            f"{old.name} was evaluated on {', '.join(old.results)}, {new.name} on {', '.join(new.results)}; evaluate"
            " both on the same benchmarks"
        )
    for benchmark, result in old.results.items():
        if result.benchmark_digest != new.results[benchmark].benchmark_digest:
            raise UserError(
                f"{benchmark}: {old.name} and {new.name} were evaluated on different problems or accepted answers;"
                " evaluate both on the same (another seed of the data group makes other problems)"
            )


def _averages(comparisons: Sequence[RunComparison]) -> dict[str, Estimate]:
    """For each new run, the mean of its differences over the benchmarks, each counted once."""
    by_run: dict[str, list[Estimate]] = {}
    for made in comparisons:
        by_run.setdefault(f"{made.new} − {made.old}", []).append(made.comparison.difference)
    return {name: average(differences) for name, differences in by_run.items()}


def _protocol_differences(runs: Sequence[EvaluatedRun]) -> list[str]:
    """What differed between the runs beside their checkpoints: the comparison includes it."""
    old = runs[0]
    lines = []
    for new in runs[1:]:
        for benchmark, result in old.results.items():
            mine, other = result.protocol, new.results[benchmark].protocol
            keys = sorted(key for key in mine.keys() | other.keys() if mine.get(key) != other.get(key))
            if keys:
                lines.append(f"{old.name} and {new.name} differ in more than weights: {', '.join(keys)} ({benchmark})")
    return lines
