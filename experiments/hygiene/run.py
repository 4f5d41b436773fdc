"""What does each kind of bad negative cost, and does dropping it bring that back? On the embedded task.

    python -m experiments.hygiene.run --quick     # one seed, two flaws
    python -m experiments.hygiene.run             # all of it: three quarters of an hour of one free core
    python -m experiments.hygiene.run --report    # the table of the rows that are there

In a fifth of the teacher's pairs the wrong trace is replaced by one with a flaw that `curate hygiene` knows. From one
SFT start a seed, REDI is then trained in as many steps each on the pairs as they were, on those with the flaw, and on
what `curation.drop_negatives` leaves of the latter. Every finished training is a row of the results, so the same
command goes on where it was stopped.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import random
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from experiments.collapse_edges import trainings
from experiments.collapse_edges.report import spread
from experiments.rounds.arms import PROMPT, problem_of
from experiments.runner import ENVIRONMENT, SFT, Results, arguments_of, be_quiet, places, train_once
from redi_lab.data.teacher import Teacher
from redi_lab.data.traces import Pair

SHARE = 0.2
FLAWS: Mapping[str, str] = {
    "cut_off": "another try of the teacher, right or wrong, cut off in its second half",
    "no_answer": "the wrong trace without its answer",
    "unknown": "another try of the teacher, right or wrong, without a verdict",
    "regraded_right": "another right trace, labelled wrong",
    "near_positive": "the right trace with another answer",
    "loop": "the wrong trace, whose last step is repeated ten times",
}
"""Name of `curate hygiene` to what is planted."""
CLEAN, PLANTED, DROPPED = "clean", "planted", "dropped"


class Scope(NamedTuple):
    """How much is run; `smaller` has overrides that make a tiny student, none for the study itself."""

    flaws: tuple[str, ...] = tuple(FLAWS)
    seeds: tuple[int, ...] = (101, 102, 103)
    steps: int = 131
    smaller: tuple[str, ...] = ()

    def of(self, group: str) -> list[str]:
        """What `smaller` says of a group."""
        return [one for one in self.smaller if one.startswith(f"{group}.")]

    @property
    def arms(self) -> tuple[tuple[str, str], ...]:
        """State of the pairs, and flaw."""
        return ((CLEAN, "none"), *((state, flaw) for flaw in self.flaws for state in (PLANTED, DROPPED)))


FULL = Scope()
QUICK = Scope(flaws=("regraded_right", "loop"), seeds=(101,))


def main() -> None:
    """Run what is missing, then tabulate what is there."""
    parser = arguments_of(__doc__.split("\n")[0], "hygiene")
    parser.add_argument("--quick", action="store_true", help="one seed, two flaws")
    arguments = parser.parse_args()
    results = Results(arguments.results)
    if not arguments.report:
        run(QUICK if arguments.quick else FULL, results, arguments.outputs.absolute(), arguments.workers)
    print("\n".join(table(results.content)))


def run(scope: Scope, results: Results, outputs: Path, workers: int) -> None:
    """Train and score what has no row, one seed after the other."""
    os.environ.update(ENVIRONMENT)
    runs, starts, spawned = results.content["runs"], results.content["starts"], multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawned, be_quiet, (outputs,)) as pool:
        for seed in scope.seeds:
            missing = [arm for arm in scope.arms if f"{'/'.join(arm)}/{seed}" not in runs]
            if missing and str(seed) not in starts:
                starts[str(seed)] = pool.submit(train_start, outputs, scope, seed).result()
            arms = pool.map(functools.partial(train_arm, outputs, scope, seed), missing)
            for arm, row in zip(missing, arms, strict=True):
                runs[f"{'/'.join(arm)}/{seed}"] = row
                print(f"{' '.join(arm)}, seed {seed}: {row['fresh']['pass_at_1']:.3f}", flush=True)
                results.save()


def train_start(outputs: Path, scope: Scope, seed: int) -> dict[str, float]:
    """A seed's SFT, unless it is there; its scores."""
    start = trainings.start_folder(outputs, seed)
    train_once(start.parents[1], outputs, [*SFT, *scope.smaller, f"seed={seed}"])
    return trainings.evaluate(outputs, start, f"sft_s{seed}", seed, scope.of("eval"))


def train_arm(outputs: Path, scope: Scope, seed: int, arm: tuple[str, str]) -> dict[str, Any]:
    """Plant, curate, train and score; returns the row."""
    import pyarrow.parquet as pq

    from redi_lab.config.compose import load_config
    from redi_lab.verbs.curate.command import run_curation

    (state, flaw), name = arm, "_".join((*arm, str(seed)))
    curated = outputs / "curated" / name
    traces = outputs / "traces" / f"{flaw}_{seed}.jsonl"
    planted = write_traces(traces, flaw, [*scope.of("data"), f"seed={seed}"])
    if not (curated / "summary.json").exists():
        asked = [f"data.path={traces}", *rules_of(state, flaw), f"seed={seed}", *places(outputs, curated)]
        run_curation(load_config("curate", asked))
    errors = pq.read_table(curated / "pairs.parquet", columns=["rejected_error"])["rejected_error"].to_pylist()
    folder, start = outputs / "runs" / name, trainings.start_folder(outputs, seed)
    read = ["data=curated", f"data.path={curated}", "data.source.num_heldout=0", PROMPT, "data.batch_size=16"]
    off = [f"callbacks.{one}=null" for one in ("accuracy", "probes", "gradient_conflict", "collapse")]
    steps = [f"trainer.max_steps={scope.steps}", "trainer.max_epochs=-1", "eval=none", f"seed={seed}"]
    train_once(folder, outputs, [*read, *steps, *off, "data.num_development=0", f"init_from={start}"])
    fresh = trainings.evaluate(outputs, folder / "checkpoints" / "last", name, seed, scope.of("eval"))
    kept = {"pairs": len(errors), "planted": errors.count(PLANTED), "planted_before": planted}
    return {"state": state, "flaw": flaw, "seed": seed, **kept, "fresh": fresh}


def rules_of(state: str, flaw: str) -> list[str]:
    """How traces are curated: as the paper does, for which whatever is not right is a negative."""
    drop = [f"curation.drop_negatives=[{flaw}]"] if state == DROPPED else []
    grade = ["curation.grader=always"] if state == DROPPED and flaw == "regraded_right" else []
    return ["data=jsonl", PROMPT, "curation=paper", "curation.num_workers=0", *drop, *grade]


def write_traces(file: Path, flaw: str, task: Sequence[str]) -> int:
    """Write the corpus's pairs, of which a fifth gets a wrong trace with a flaw; returns how many did."""
    from redi_lab.config.compose import load_config
    from redi_lab.files import write_text
    from redi_lab.run.build import make_source

    source: Any = make_source(load_config("train", task))
    rng, number, rows = random.Random(f"{flaw}/{task[-1]}"), 0, []
    for pair in source.load().pairs:
        wrong: dict[str, Any] = {"text": pair.rejected, "correct": False}
        is_chosen = random.Random(pair.problem).random() < SHARE  # the same problems whatever the flaw
        if flaw != "none" and is_chosen and (bad := flawed(flaw, pair, source.teacher, rng)) is not None:
            wrong, number = {"correct": False, **bad, "error": PLANTED}, number + 1
        answer = re.findall(r"\d+", pair.chosen)[-1]
        generations = [{"text": pair.chosen, "correct": True}, wrong]
        rows.append(json.dumps({"id": pair.id, "problem": pair.problem, "answer": answer, "generations": generations}))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "\n".join(rows) + "\n")
    return number


def flawed(flaw: str, pair: Pair, teacher: Teacher, rng: random.Random) -> dict[str, Any] | None:
    """A generation with a flaw of `FLAWS`; None where the teacher has no other trace to offer."""
    tries = [teacher.solve(problem_of(pair.problem), rng) for _ in range(8)]
    *steps, answer = pair.rejected.split("\n")
    if flaw == "cut_off":
        words = tries[0].text.split(" ")
        return {"text": " ".join(words[: rng.randint(len(words) // 2, len(words) - 1)]), "finish_reason": "length"}
    if flaw == "no_answer":
        return {"text": "\n".join(steps)}
    if flaw == "unknown":
        return next(({"text": one.text, "correct": None} for one in tries if one.text != pair.chosen), None)
    if flaw == "regraded_right":
        right = problem_of(pair.problem).answer
        return next(({"text": one.text} for one in tries if one.answer == right and one.text != pair.chosen), None)
    if flaw == "near_positive":
        *lines, last = pair.chosen.split("\n")
        return {"text": "\n".join([*lines, re.sub(r"\d+", lambda found: str(int(found[0]) + 1), last)])}
    return {"text": "\n".join([*steps, *steps[-1:] * 10, answer])}


def table(content: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What each flaw costs and what dropping it gives back, in pass@1 on fresh problems, paired over seeds."""
    scores: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for row in content["runs"].values():
        scores.setdefault((row["state"], row["flaw"]), {})[row["seed"]] = row
    clean = scores.get((CLEAN, "none"), {})
    yield "| flaw | seeds | planted | planted − clean | dropped − planted | dropped − clean | found | others dropped |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for flaw in FLAWS:
        planted, dropped = scores.get((PLANTED, flaw), {}), scores.get((DROPPED, flaw), {})
        gaps = [difference(*two) for two in ((planted, clean), (dropped, planted), (dropped, clean))]
        if planted:
            mean = spread([row["fresh"]["pass_at_1"] for row in planted.values()])
            cells = [flaw, str(len(planted)), mean, *gaps, *found(planted, dropped)]
            yield f"| {' | '.join(cells)} |"
    for title, rows in (("SFT", content["starts"]), ("clean", {s: row["fresh"] for s, row in clean.items()})):
        if rows:
            yield f"\n{title}: pass@1 {spread([row['pass_at_1'] for row in rows.values()])} over {len(rows)} seeds"


def difference(new: Mapping[int, Mapping[str, Any]], old: Mapping[int, Mapping[str, Any]]) -> str:
    """Mean ± half of the t-interval over the seeds that both have."""
    seeds = sorted(new.keys() & old.keys())
    gaps = [new[seed]["fresh"]["pass_at_1"] - old[seed]["fresh"]["pass_at_1"] for seed in seeds]
    return spread(gaps) if gaps else "–"


def found(planted: Mapping[int, Mapping[str, Any]], dropped: Mapping[int, Mapping[str, Any]]) -> tuple[str, str]:
    """Shares of what was planted, and of the other negatives, that the rule dropped."""
    shares = []
    for seed in planted.keys() & dropped.keys():
        before, after = planted[seed], dropped[seed]
        others = before["pairs"] - before["planted"]
        lost = others - (after["pairs"] - after["planted"])
        shares.append((1 - after["planted"] / before["planted"], lost / others))
    if not shares:
        return "–", "–"
    recall, wrongly = map(statistics.mean, zip(*shares, strict=True))
    return f"{recall:.0%}", f"{wrongly:.1%}"


if __name__ == "__main__":
    main()
