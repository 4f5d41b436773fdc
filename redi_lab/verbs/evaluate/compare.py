"""`python -m redi_lab evaluate compare OLD NEW [NEW …]`: are the new results better on the same problems?

Takes results folders of evaluations and of training runs. Every new one is compared with the old one; the p-values of
several comparisons are adjusted together, those of pass@1, of pass@k and of averages each for themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

from omegaconf import DictConfig

from redi_lab.config.compose import load_config
from redi_lab.errors import UserError
from redi_lab.evaluation.comparison import Comparison, Finding, compare, explain, holm, swap_test
from redi_lab.evaluation.metrics import Estimate, Verdicts, average, mean_difference, solved_within
from redi_lab.evaluation.results import EvaluationResult, load_result
from redi_lab.evaluation.scoring import verdicts_of
from redi_lab.figures.scores import plot_scores

PICTURE = "comparison.png"
_USAGE = (
    "evaluate compare [--over-seeds] OLD_FOLDER NEW_FOLDER [NEW_FOLDER ...]: results folders of evaluations or training"
    " runs"
)


@final
@dataclass(frozen=True)
class Difference:
    """Of another score than one run's pass@1, with the p-value of `swap_test` and that adjusted for all of its kind."""

    estimate: Estimate
    p_value: float
    holm: float = 1.0

    def __str__(self) -> str:
        d = self.estimate
        adjusted = "" if self.holm == self.p_value else f", adjusted {self.holm:.2g}"
        return f"{d.value:+.3f} (95 % CI {d.ci_low:+.3f} to {d.ci_high:+.3f}, p = {self.p_value:.2g}{adjusted})"


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
    pass_at_k: Difference | None
    """With k the number of samples; None where that is 1."""
    holm: float = 1.0

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
    folders, config = read_arguments(arguments)
    old, *news = runs = _with_distinct_names([read_run(folder) for folder in folders])
    comparisons = compare_all(old, news)
    is_suite = len(old.results) > 1
    averages = _averages(old, news, comparisons) if is_suite else {}
    content = {
        "verb": "evaluate compare",
        "comparisons": [asdict(made) | {"finding": made.finding} for made in comparisons],
        "averages": {name: asdict(difference) for name, difference in averages.items()},
    }
    labels = [f"{made.new}, {made.benchmark}" if is_suite else made.new for made in comparisons]
    lines = {label: made.comparison.difference for label, made in zip(labels, comparisons, strict=True)}
    lines |= {f"average of {name}": difference.estimate for name, difference in averages.items()}
    output_dir = write_results(config, folders, content, lines, f"against {old.name}")
    print_protocols(runs)
    for made in comparisons:
        where = f"{made.benchmark}: " if is_suite else ""
        print(where + explain(made.comparison, made.new, made.old, made.holm if len(comparisons) > 1 else None))
        if made.pass_at_k is not None:
            print(f"{where}{made.new} − {made.old}, pass@{made.pass_at_k.estimate.num_samples}: {made.pass_at_k}")
    for name, difference in averages.items():
        print(f"average: {name}, pass@1: {difference}")
    print(f"Plot:       {output_dir / PICTURE}\nResults:    {output_dir}")
    return output_dir


def write_results(
    config: DictConfig, folders: Sequence[Path], content: Mapping[str, Any], lines: Mapping[str, Estimate], title: str
) -> Path:
    """Write a results folder with summary.json and a picture of differences."""
    from redi_lab.run.record import results_folder, write_summary  # heavy: after everything that can be refused

    about = {"name": "evaluate_compare", "folders": [str(folder.absolute()) for folder in folders]}
    with results_folder(config) as output_dir:
        plot_scores(lines, title, output_dir / PICTURE, is_difference=True)
        write_summary(output_dir, config, about | dict(content))
    return output_dir


def read_arguments(arguments: Sequence[str]) -> tuple[list[Path], DictConfig]:
    """Folders, and where to write.

    Raises:
        UserError: fewer than two folders, or a key that is not one of paths.
    """
    settings = [argument for argument in arguments if "=" in argument]
    folders = [Path(argument) for argument in arguments if "=" not in argument]
    other = [setting for setting in settings if not setting.startswith("paths.")]
    if len(folders) < 2 or other:
        raise UserError(f"{other[0]}: unknown key; usage: {_USAGE}" if other else f"usage: {_USAGE}")
    return folders, load_config("evaluate", ["checkpoint=.", "name=evaluate_compare", *settings], check_paths=False)


def read_run(folder: Path) -> EvaluatedRun:
    """The evaluations behind a results folder.

    Raises:
        UserError: the folder has no summary, was not evaluated, or its evaluation is gone.
    """
    from redi_lab.run.record import read_summary

    summary = read_summary(folder)
    parts = summary.get("benchmarks") or {"": summary}
    keys = {name: part["evaluation"]["key"] for name, part in parts.items() if part.get("evaluation")}
    if not keys:
        raise UserError(f"{folder}: was not evaluated (eval=none, or interrupted); evaluate its checkpoint first")
    cache = Path(summary["config"]["paths"]["cache_dir"]) / "evaluations"
    results: dict[str, EvaluationResult] = {}
    for name, key in keys.items():
        result = load_result(cache, key)
        if result is None:
            raise UserError(f"{folder}: its evaluation {cache / key}.json is gone; evaluate the checkpoint again")
        results[name or result.benchmark] = result
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
        check_same_problems(old, new)
        for name, result in old.results.items():
            pair = paired_verdicts(new.results[name], result)
            made.append(RunComparison(new.name, old.name, name, compare(*pair), _pass_at_k(*pair)))
    at_k = iter(_adjusted([one.pass_at_k for one in made if one.pass_at_k is not None]))
    corrected = zip(made, holm([one.comparison.p_value for one in made]), strict=True)
    return [replace(one, holm=p, pass_at_k=one.pass_at_k and next(at_k)) for one, p in corrected]


def paired_verdicts(new: EvaluationResult, old: EvaluationResult) -> tuple[Verdicts, Verdicts]:
    """Those of the first samples of both runs, as many as both have."""
    ours, theirs = verdicts_of(new), verdicts_of(old)
    number = min(ours.shape[1], theirs.shape[1])
    return ours[:, :number], theirs[:, :number]


def _pass_at_k(new: Verdicts, old: Verdicts) -> Difference | None:
    k = new.shape[1]
    differences = solved_within(new, k) - solved_within(old, k)
    return Difference(mean_difference(differences, k), swap_test([differences])) if k > 1 else None


def _adjusted(differences: Sequence[Difference]) -> list[Difference]:
    p_values = holm([difference.p_value for difference in differences])
    return [replace(difference, holm=p) for difference, p in zip(differences, p_values, strict=True)]


def check_same_problems(old: EvaluatedRun, new: EvaluatedRun) -> None:
    """Refuse runs that were evaluated on different problems.

    Raises:
        UserError: the benchmarks, or their problems, differ.
    """
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


def _averages(
    old: EvaluatedRun, news: Sequence[EvaluatedRun], comparisons: Sequence[RunComparison]
) -> dict[str, Difference]:
    """For each new run, the mean of its differences over the benchmarks, each counted once."""
    made = iter(comparisons)
    found = []
    for new in news:
        pairs = [paired_verdicts(new.results[name], result) for name, result in old.results.items()]
        estimates = [next(made).comparison.difference for _ in pairs]
        differences = [ours.mean(axis=1) - theirs.mean(axis=1) for ours, theirs in pairs]
        found.append(Difference(average(estimates), swap_test(differences)))
    return dict(zip([f"{new.name} − {old.name}" for new in news], _adjusted(found), strict=True))


def print_protocols(runs: Sequence[EvaluatedRun]) -> None:
    """Say what differs between runs beside their checkpoints: a comparison includes it."""
    old, *news = runs
    for new in news:
        for benchmark, result in old.results.items():
            mine, other = result.protocol, new.results[benchmark].protocol
            if keys := sorted(key for key in mine.keys() | other.keys() if mine.get(key) != other.get(key)):
                also = f"{old.name} and {new.name} differ in more than weights: {', '.join(keys)} ({benchmark})"
                print(f"Note:       {also}")
