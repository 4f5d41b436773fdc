"""`python -m redi_lab evaluate compare --over-seeds RUN RUN RUN RUN …`: is one way to train better than another?

Runs of one name are trainings of one kind, on a seed each; the kind of the first folder is the one that the others are
compared with. An evaluation stands for the training that its checkpoint lies in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from redi_lab.errors import UserError
from redi_lab.evaluation.comparison import Finding, SeedComparison, compare_over_seeds, holm
from redi_lab.evaluation.metrics import Values
from redi_lab.verbs.evaluate.compare import (
    PICTURE,
    EvaluatedRun,
    check_same_problems,
    paired_verdicts,
    print_protocols,
    read_arguments,
    read_run,
    write_results,
)

Kinds = Mapping[str, Mapping[int, EvaluatedRun]]
"""Runs by kind and seed."""


@final
@dataclass(frozen=True)
class KindComparison:
    """Two kinds of training on one benchmark; `holm` is the p-value adjusted for all that were compared together."""

    new: str
    old: str
    benchmark: str
    seeds: tuple[int, ...]
    comparison: SeedComparison
    holm: float = 1.0

    @property
    def finding(self) -> Finding:
        """Better, worse or undecided, at a level that holds for all comparisons together."""
        return self.comparison.finding(self.holm)

    def explain(self) -> str:
        """The finding as a sentence, with what would decide it where it is open."""
        d, c = self.comparison.estimate, self.comparison
        relation = "not told apart from" if self.finding is Finding.UNDECIDED else f"{self.finding} than"
        adjusted = "" if self.holm == c.p_value else f", adjusted {self.holm:.2g}"
        said = (
            f"{self.benchmark}: {self.new} is {relation} {self.old}: {d.value:+.3f} pass@1 (95 % CI {d.ci_low:+.3f} to"
            f" {d.ci_high:+.3f}, p = {c.p_value:.2g}{adjusted}, over {c.num_seeds} seeds and {d.num_problems} problems)"
        )
        if c.seed_deviation is not None:
            said += f"; between seeds the difference varies by ± {c.seed_deviation:.3f}"
        if self.finding is not Finding.UNDECIDED:
            return said
        if c.seeds_needed is None:
            return f"{said}. 1,000 seeds would not find a difference of this size: take more problems or samples."
        return f"{said}. A difference of this size takes {c.seeds_needed} seeds."


def run_seed_comparison(arguments: Sequence[str]) -> Path:
    """Compare, print the findings, and write a results folder with summary.json and comparison.png.

    Args:
        arguments: folders, and KEY=VALUE of paths.

    Raises:
        UserError: a folder was not evaluated, its seed is not known, or kinds differ in seeds or problems.
    """
    folders, config = read_arguments(arguments)
    kinds = read_kinds(folders)
    made = compare_kinds(kinds)
    old = next(iter(kinds))
    is_suite = len({one.benchmark for one in made}) > 1
    lines = {f"{one.new}, {one.benchmark}" if is_suite else one.new: one.comparison.estimate for one in made}
    found = [asdict(one) | {"finding": one.finding} for one in made]
    content = {"verb": "evaluate compare --over-seeds", "comparisons": found}
    output_dir = write_results(config, folders, content, lines, f"against {old}, over seeds")
    print_protocols([run for runs in kinds.values() for run in runs.values()])
    for one in made:
        print(one.explain())
    print(f"Plot:       {output_dir / PICTURE}\nResults:    {output_dir}")
    return output_dir


def read_kinds(folders: Sequence[Path]) -> Kinds:
    """The runs by kind and seed.

    Raises:
        UserError: there is one kind, one of its seeds occurs twice, or kinds have different seeds.
    """
    kinds: dict[str, dict[int, EvaluatedRun]] = {}
    for folder in folders:
        name, seed = _training_of(folder)
        runs = kinds.setdefault(name, {})
        if seed in runs:
            raise UserError(
                f"{folder}: seed {seed} of {name} was given already ({runs[seed].folder}); runs of different settings"
                " need different names (name=NAME)"
            )
        runs[seed] = read_run(folder)
    (old, first), *others = kinds.items()
    if not others:
        raise UserError(f"all runs are called {old}; --over-seeds compares trainings of two names at least (name=NAME)")
    for name, runs in others:
        if runs.keys() != first.keys():
            raise UserError(f"{old} has the seeds {_listed(first)}, {name} has {_listed(runs)}; give both the same")
    if len(first) < 2:
        raise UserError(f"{old}: has one seed; --over-seeds needs two of each name (train again with seed=N)")
    return kinds


def _training_of(folder: Path) -> tuple[str, int]:
    """Name and seed of a training, or of the one that the evaluated checkpoint lies in."""
    from redi_lab.run.record import read_summary

    summary: Mapping[str, Any] = read_summary(folder)
    if summary.get("verb") != "train":
        try:
            summary = read_summary(Path(summary["checkpoint"]).parent.parent)  # of FOLDER/checkpoints/last
        except (UserError, KeyError, TypeError) as error:
            raise UserError(f"{folder}: its checkpoint lies in no training's folder, so its seed is unknown") from error
    return str(summary["name"]), int(summary["config"]["seed"])


def _listed(runs: Mapping[int, EvaluatedRun]) -> str:
    return ", ".join(map(str, sorted(runs)))


def compare_kinds(kinds: Kinds) -> list[KindComparison]:
    """Compare every other kind with the first one on every benchmark.

    Raises:
        UserError: runs of a seed were evaluated on different problems.
    """
    (old, first), *others = kinds.items()
    seeds, made = tuple(sorted(first)), list[KindComparison]()
    for name, runs in others:
        for seed in seeds:
            check_same_problems(first[seed], runs[seed])
            if runs[seed].results.keys() != first[seeds[0]].results.keys():
                raise UserError(f"seeds {seeds[0]} and {seed} were evaluated on different benchmarks; use the same")
        for benchmark in first[seeds[0]].results:
            made.append(KindComparison(name, old, benchmark, seeds, _compare(runs, first, seeds, benchmark)))
    adjusted = holm([one.comparison.p_value for one in made])
    return [replace(one, holm=p) for one, p in zip(made, adjusted, strict=True)]


def _compare(
    new: Mapping[int, EvaluatedRun], old: Mapping[int, EvaluatedRun], seeds: Sequence[int], benchmark: str
) -> SeedComparison:
    pairs = [paired_verdicts(new[seed].results[benchmark], old[seed].results[benchmark]) for seed in seeds]
    differences: list[Values] = [ours.mean(axis=1) - theirs.mean(axis=1) for ours, theirs in pairs]
    number = min(map(len, differences))
    if any(len(one) != number for one in differences):
        raise UserError(f"{benchmark}: seeds were evaluated on different numbers of problems; evaluate all on as many")
    digests = {old[seed].results[benchmark].benchmark_digest for seed in seeds}
    num_samples = min(ours.shape[1] for ours, _ in pairs)
    return compare_over_seeds(np.stack(differences), num_samples, has_same_problems=len(digests) == 1)
