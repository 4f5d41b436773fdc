"""Does pushing down alone collapse on a teacher's wrong traces, and not on fresh ones of one's own?

    python -m experiments.rounds.run --quick     # one seed, two objectives, three rounds
    python -m experiments.rounds.run             # all of it
    python -m experiments.rounds.run --report    # tables and figure of the rows that are there

Every objective is trained from one SFT start a seed in rounds of a few steps, each on right and wrong traces of new
problems, which are those of one of three: the teacher; the start, drawn before training; or the policy as the round
begins (`+experiment=rounds`). Problems, steps, curation and restarts of the optimizer are the same. Every finished arm
is a row of the results, and a part of an arm that is there is not made again, so the same command goes on where it was
stopped. arms.py has what an arm is, report.py writes tables and a figure beside the rows.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from experiments.rounds.arms import SOURCES, Scope, prepare, train_arm
from experiments.runner import ENVIRONMENT, Results, arguments_of, be_quiet

FULL = Scope()
QUICK = Scope(objectives=("NSR", "REDI, α 1"), seeds=(101,), rounds=3)


def main() -> None:
    """Run what is missing, then tabulate what is there."""
    parser = arguments_of(__doc__.split("\n")[0], "rounds")
    parser.add_argument("--quick", action="store_true", help="one seed, two objectives, three rounds")
    arguments = parser.parse_args()
    scope, outputs, results = FULL, arguments.outputs.absolute(), Results(arguments.results)
    if arguments.quick:  # other arms under the same names, which nobody wants in the repository
        scope, results = QUICK, Results(outputs / "quick" / "results.json")
    if not arguments.report:
        run(scope, results, outputs, arguments.workers)
    from experiments.rounds.report import write_report

    print(write_report(results.content, results.path.parent))


def run(scope: Scope, results: Results, outputs: Path, workers: int) -> None:
    """Train and measure the arms that have no row, one seed after the other, so that a study cut short is paired."""
    os.environ.update(ENVIRONMENT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves the pool, which waits for what is under way
    runs, starts, spawned = results.content["runs"], results.content["starts"], multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawned, be_quiet, (outputs,)) as pool:
        for seed in scope.seeds:
            arms = ((objective, source) for objective in scope.objectives for source in SOURCES)
            missing = {arm: name for arm in arms if (name := f"{'/'.join(arm)}/{seed}") not in runs}
            if missing:
                starts[str(seed)] = pool.submit(prepare, outputs, scope, seed).result()
            waiting = {pool.submit(train_arm, outputs, scope, seed, *arm): name for arm, name in missing.items()}
            try:
                for future in as_completed(waiting):
                    name = waiting[future]
                    runs[name] = row = future.result()
                    print(f"{name}: {row['state']}, {row['accuracy'][-1]:.3f} on development problems", flush=True)
                    results.save()
            finally:  # else the pool would first run all others
                for future in waiting:
                    future.cancel()


if __name__ == "__main__":
    main()
