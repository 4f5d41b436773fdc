"""Is the winner of a sweep good, or the luckiest of many? Both arms are trained anew on fresh seeds and compared.

The winner was chosen by accuracy on development problems; here both are evaluated on the problems of the final
evaluation. An arm is a separate study with one trial a seed, so it survives kills and is shared out among workers as
the sweep is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from redi_lab.config.schema.sweep import SweepConfig
from redi_lab.errors import UserError
from redi_lab.evaluation.comparison import Comparison, Finding, SeedComparison, compare, compare_over_seeds
from redi_lab.evaluation.metrics import Verdicts
from redi_lab.run.screen import say
from redi_lab.verbs.sweep.space import as_overrides
from redi_lab.verbs.sweep.study import RunTraining, Sweep, open_study
from redi_lab.verbs.sweep.workers import Claims, run_workers


@final
@dataclass(frozen=True)
class Confirmation:
    """The winner against the baseline on fresh seeds.

    Attributes:
        seeds: On which both were trained.
        winner: pass@1 of each seed.
        baseline: pass@1 of each seed.
        over_seeds: The mean difference over seeds and problems; None with a single seed.
        over_problems: Both on the same problems, with all these runs: other problems, but these very runs. Where all
            seeds have the same problems, the seeds' samples are samples of one problem.
    """

    seeds: tuple[int, ...]
    winner: tuple[float, ...]
    baseline: tuple[float, ...]
    over_seeds: SeedComparison | None
    over_problems: Comparison

    @property
    def difference(self) -> float:
        """Mean over seeds, winner − baseline."""
        return float(np.mean(np.subtract(self.winner, self.baseline)))

    def verdict(self) -> str:
        """In words; what generalises to another training is the interval over seeds."""
        e = self.over_problems.difference
        finding = (self.over_seeds or self.over_problems).finding()
        low, high = self.interval() or (e.ci_low, e.ci_high)
        word = "not told apart from" if finding is Finding.UNDECIDED else f"{finding} than"
        unit = f"{len(self.seeds)} fresh seeds" if self.over_seeds else f"{e.num_problems} problems of one fresh seed"
        return (
            f"On {unit} the winner is {word} the run without the sweep's values: {self.difference:+.3f} pass@1"
            f" (95 % CI {low:+.3f} to {high:+.3f}); paired over the {e.num_problems} problems of these runs"
            f" {e.value:+.3f} ({e.ci_low:+.3f} to {e.ci_high:+.3f})"
        )

    def interval(self) -> tuple[float, float] | None:
        """Over seeds and problems, 95 %; None with a single seed."""
        return self.over_seeds and (self.over_seeds.estimate.ci_low, self.over_seeds.estimate.ci_high)

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        e = self.over_problems.difference
        return {
            "seeds": list(self.seeds),
            "winner": list(self.winner),
            "baseline": list(self.baseline),
            "difference": self.difference,
            "over_seeds": self.interval(),
            "over_problems": {key: getattr(e, key) for key in ("value", "ci_low", "ci_high", "num_problems")},
            "verdict": self.verdict(),
        }


def confirm(sweep: Sweep, winner: FrozenTrial, run: RunTraining | None = None) -> Confirmation:
    """Train and evaluate both arms on `confirm_seeds`, as far as that is not done yet.

    Args:
        sweep: its overrides name a final evaluation, its local ones do not switch it off.
        winner: the best trial.
        run: trains once; None: as the verb train does.

    Raises:
        UserError: a run failed, or evaluated nothing.
    """
    seeds = tuple(sweep.settings.confirm_seeds)
    best = (*sweep.overrides, *as_overrides(winner.user_attrs["values"]))
    arms = {f"confirm-{winner.number}": best, "confirm-baseline": sweep.overrides}
    say(
        f"Confirming: trial {winner.number} and the run without the sweep's values,"
        f" on fresh seeds {', '.join(map(str, seeds))}"
    )
    runs = [_run_arm(sweep, label, overrides, run) for label, overrides in arms.items()]
    has_same_problems = len({digest for _, digests in runs for digest in digests}) == 1
    return compare_arms(seeds, runs[0][0], runs[1][0], has_same_problems=has_same_problems)


def compare_arms(
    seeds: tuple[int, ...], winner: Sequence[Verdicts], baseline: Sequence[Verdicts], *, has_same_problems: bool
) -> Confirmation:
    """Compare two arms.

    Args:
        seeds: in the order of the runs.
        winner: verdicts of each seed's run, shape (problems, samples).
        baseline: likewise.
        has_same_problems: whether all seeds are evaluated on the same problems, as on a published benchmark. A problem
            that several seeds answered is then still one problem.
    """
    scores = [tuple(float(verdicts.mean()) for verdicts in arm) for arm in (winner, baseline)]
    gaps = [w.mean(axis=1) - b.mean(axis=1) for w, b in zip(winner, baseline, strict=True)]
    joined = [np.concatenate(arm, axis=1 if has_same_problems else 0) for arm in (winner, baseline)]
    over_seeds = None
    if len(seeds) > 1:
        over_seeds = compare_over_seeds(np.stack(gaps), 1, has_same_problems=has_same_problems and len(gaps[0]) > 1)
    return Confirmation(
        seeds=seeds,
        winner=scores[0],
        baseline=scores[1],
        over_seeds=over_seeds,
        over_problems=compare(*joined),
    )


def _run_arm(
    sweep: Sweep, label: str, overrides: tuple[str, ...], run: RunTraining | None
) -> tuple[list[Verdicts], set[str]]:
    """Train on each seed; the verdicts in the order of the seeds, and the digests of their problems."""
    seeds = list(sweep.settings.confirm_seeds)
    by_seed_alone = {"space": {"seed": seeds}, "seeds": [], "sampler": "grid", "pruner": "none"}
    settings = SweepConfig(**{**vars(sweep.settings), **by_seed_alone})
    name, folder = f"{sweep.name}.{label}", sweep.folder / label
    arm = replace(sweep, name=name, folder=folder, settings=settings, overrides=overrides)
    study = open_study(arm)
    Claims(study, settings).plan(arm.budget())
    run_workers(arm, study, run)
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    by_seed = {trial.params["seed"]: trial.user_attrs["runs"][0]["details"] for trial in done}
    verdicts = []
    for seed in seeds:
        if "right" not in by_seed.get(seed, {}):
            raise UserError(f"{name}: no evaluated run with seed {seed}; see {folder} and start the command again")
        right, num_samples = np.array(by_seed[seed]["right"]), by_seed[seed]["num_samples"]
        verdicts.append(np.arange(num_samples) < right[:, None])
    return verdicts, {by_seed[seed].get("benchmark_digest", str(seed)) for seed in seeds}
