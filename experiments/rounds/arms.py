"""The arms of the study: where their traces come from, how they are trained, and what is measured of them.

train_arm(outputs, FULL, 101, "NSR", FRESH)  # its row; what is there already is not made again
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.collapse_edges import trainings
from experiments.runner import COMMON, SFT, places, train_once
from redi_lab.data.teacher import ChainProblem

TEACHER, ONCE, FRESH = "teacher's", "own, once", "own, fresh"
SOURCES = (TEACHER, ONCE, FRESH)
OBJECTIVES: Mapping[str, tuple[str, ...]] = {
    "NSR": ("loss=nsr",),
    "W-REINFORCE": ("loss=w_reinforce",),
    "REDI, α 0.8": ("loss=redi",),
    "REDI, α 1": ("loss=symmetric_redi",),
}
MOST_TRIES = 8
"""Traces of a problem, whoever writes them, until one is right and one wrong."""
PROMPT = "data.prompt_template='{problem}'"
CURATION = ("curation=strict", "curation.num_workers=0")


class Scope(NamedTuple):
    """How much is run.

    Attributes:
        objectives: of `OBJECTIVES`.
        seeds: each with its own problems, teacher's traces, student and order.
        rounds: trainings of an arm, one after the other.
        steps: of each, over 16 pairs, or as many traces of the larger side.
        problems: new ones of each round.
        rate: learning rate, constant after each round's warm-up.
        smaller: overrides that make a tiny student; none for the study itself.
    """

    objectives: tuple[str, ...] = tuple(OBJECTIVES)
    seeds: tuple[int, ...] = (101, 102, 103, 104, 105)
    rounds: int = 8
    steps: int = 12
    problems: int = 200
    rate: float = 1e-4
    smaller: tuple[str, ...] = ()

    def training(self, objective: str, seed: int) -> list[str]:
        """What the trainings of an arm have in common."""
        steps = (f"trainer.max_steps={self.steps}", "trainer.max_epochs=-1", "scheduler=constant")
        off = (f"callbacks.{name}=null" for name in ("accuracy", "probes", "gradient_conflict", "collapse"))
        return [*OBJECTIVES[objective], *steps, f"optimizer.lr={self.rate}", f"seed={seed}", "eval=none", *off]

    def sampling(self, number: int) -> list[str]:
        """How traces of a round's problems are drawn, at the temperature at which staleness is exact."""
        size = (f"eval.limit={self.problems}", f"eval.offset={(number - 1) * self.problems}")
        drawn = (f"eval.num_samples={MOST_TRIES}", "eval.temperature=1", "eval.top_p=1")
        return [*size, *drawn, "stop.right=1", "stop.wrong=1"]

    def task(self, seed: int) -> list[str]:
        """Which problems there are."""
        return [*self.of("data"), f"seed={seed}"]

    def of(self, group: str) -> list[str]:
        """What `smaller` says of a group."""
        return [one for one in self.smaller if one.startswith(f"{group}.")]


def folder_of(outputs: Path, scope: Scope, *names: object) -> Path:
    """Where a part of the study lies; parts of another size or rate lie elsewhere."""
    size = f"{scope.rounds}x{scope.steps}x{scope.problems}_lr{scope.rate:g}"
    return outputs.joinpath(size, *(re.sub(r"[^\w.]+", "_", str(name)) for name in names))


def prepare(outputs: Path, scope: Scope, seed: int) -> dict[str, Any]:
    """Train a seed's start, and write the traces that do not depend on an arm; returns what the start scores."""
    start = trainings.start_folder(outputs, seed)
    train_once(start.parents[1], outputs, [*SFT, *scope.smaller, f"seed={seed}"])
    for number in range(1, scope.rounds + 1):
        drawn = sample(outputs, scope, seed, number)
        write_teachers(drawn, folder_of(outputs, scope, TEACHER, seed, number), scope.task(seed))
    keep_right(sample(outputs, scope, seed, scope.rounds + 1), folder_of(outputs, scope, "watched", seed))
    return trainings.evaluate(outputs, start, f"sft_s{seed}", seed, scope.of("eval"))


def sample(outputs: Path, scope: Scope, seed: int, number: int) -> Path:
    """The start's own traces of a round's problems."""
    from redi_lab.config.compose import load_config
    from redi_lab.verbs.generate import run_generation

    folder = folder_of(outputs, scope, ONCE, seed, number)
    if not (folder / "summary.json").exists():
        asked = [f"checkpoint={trainings.start_folder(outputs, seed)}", "eval=fresh", *scope.sampling(number)]
        run_generation(load_config("generate", [*asked, *scope.task(seed), *places(outputs, folder)]))
    return folder


def write_teachers(drawn: Path, folder: Path, task: Sequence[str]) -> None:
    """The teacher's traces of the same problems, which it tries as often as the student may."""
    from redi_lab.config.compose import load_config
    from redi_lab.data.rows import read_parquet
    from redi_lab.files import write_text
    from redi_lab.run.build import make_source

    source: Any = make_source(load_config("train", task))
    rng, rows = random.Random(str(folder.name) + "/".join(task)), []
    for _, row in read_parquet(drawn / "traces.parquet", ["id", "problem", "answer"]):
        problem, generations = problem_of(str(row["problem"])), list[dict[str, Any]]()
        while len(generations) < MOST_TRIES and len({one["correct"] for one in generations}) < 2:
            attempt = source.teacher.solve(problem, rng)
            generations.append({"text": attempt.text, "correct": attempt.answer == problem.answer})
        rows.append(json.dumps({**row, "generations": generations}))
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "traces.jsonl", "\n".join(rows) + "\n")


def problem_of(text: str) -> ChainProblem:
    """A problem of the embedded task, from its prompt."""
    first, *others = map(int, re.findall(r"\d+", text))
    return ChainProblem(first, tuple(others))


def keep_right(drawn: Path, folder: Path) -> None:
    """Those of a sampler's traces that are right: what their log-prob loses is watched."""
    import pyarrow.parquet as pq

    traces, tokens = (pq.read_table(drawn / name) for name in ("traces.parquet", "tokens/tokens.parquet"))
    right = {(row["id"], one["sample"]) for row in traces.to_pylist() for one in row["generations"] if one["correct"]}
    places_of = zip(tokens["id"].to_pylist(), tokens["sample"].to_pylist(), strict=True)
    (folder / "tokens").mkdir(parents=True, exist_ok=True)
    pq.write_table(traces, folder / "traces.parquet")
    pq.write_table(tokens.filter([place in right for place in places_of]), folder / "tokens/tokens.parquet")


def train_arm(outputs: Path, scope: Scope, seed: int, objective: str, source: str) -> dict[str, Any]:
    """Train the rounds of an arm, and measure the policy after each; returns its row."""
    begun, folder = time.process_time(), folder_of(outputs, scope, objective, source, seed)
    train = train_fresh if source == FRESH else train_offline
    stopped = train(outputs, scope, seed, objective, source)
    row = {"objective": objective, "source": source, "seed": seed, "steps": scope.steps, "stopped": stopped}
    row |= measure(outputs, scope, seed, source, folder)
    return row | {"seconds": round(time.process_time() - begun, 1)}


def train_offline(outputs: Path, scope: Scope, seed: int, objective: str, source: str) -> None:
    """All rounds on traces that are there beforehand."""
    from redi_lab.config.compose import load_config
    from redi_lab.verbs.curate.command import run_curation

    policy = trainings.start_folder(outputs, seed)
    for number in range(1, scope.rounds + 1):
        traces = folder_of(outputs, scope, source, seed, number)
        made = traces / f"curated_{seed}"
        if not (made / "summary.json").exists():
            file = traces / f"traces.{'jsonl' if source == TEACHER else 'parquet'}"
            asked = ["data=jsonl", f"data.path={file}", PROMPT, *CURATION, f"seed={seed}", *places(outputs, made)]
            run_curation(load_config("curate", asked))
        training = folder_of(outputs, scope, objective, source, seed, f"round_{number}") / "training"
        read = ["data=curated", f"data.path={made}", "data.source.num_heldout=0", PROMPT, "data.batch_size=16"]
        train_once(training, outputs, [*scope.training(objective, seed), *read, f"init_from={policy}"])
        policy = training / "checkpoints" / "last"


def train_fresh(outputs: Path, scope: Scope, seed: int, objective: str, source: str) -> str | None:
    """All rounds on the policy's own traces; why they ended early, if they did."""
    from redi_lab.config.compose import load_config
    from redi_lab.errors import UserError
    from redi_lab.verbs.rounds import run_rounds

    folder = folder_of(outputs, scope, objective, source, seed)
    if (folder / "summary.json").exists():
        return None
    lists = {"generate": scope.sampling(1), "curate": CURATION}
    quoted = [f"{verb}_overrides=[" + ",".join(f"'{one}'" for one in words) + "]" for verb, words in lists.items()]
    own = [f"init_from={trainings.start_folder(outputs, seed)}", *scope.task(seed), *COMMON, *places(outputs, folder)]
    command = ["+experiment=rounds", f"rounds={scope.rounds}", *quoted, *scope.training(objective, seed), *own]
    try:
        run_rounds(load_config("train", command), command)
    except UserError as error:  # a policy that is never right, or never wrong, leaves nothing to train on
        return str(error)
    return None


def measure(outputs: Path, scope: Scope, seed: int, source: str, folder: Path) -> dict[str, Any]:
    """What an arm came to.

    Returns:
        accuracy on development problems, and the fall of the log-prob of the start's right traces of other problems
        (nats per token), from the start on and after each round; what the collapse rule says of them, since which
        step; pairs of each round; staleness of its data, where their sampler has log-probs; scores on fresh problems.
    """
    from redi_lab.callbacks import collapse_rule
    from redi_lab.config.compose import load_config
    from redi_lab.run.record import read_summary
    from redi_lab.verbs.rounds import staleness_of

    config, watched = load_config("train", scope.task(seed)), folder_of(outputs, scope, "watched", seed)
    memory, row = collapse_rule.Memory(), {key: list[Any]() for key in ("accuracy", "fall", "pairs", "stale")}
    policy, lost_before = trainings.start_folder(outputs, seed), 0.0
    for number in range(scope.rounds + 1):
        training = folder / f"round_{number}" / "training"
        if number > 0 and not (training / "summary.json").exists():
            break
        if number > 0:
            policy = training / "checkpoints" / "last"
            row["pairs"].append(read_summary(training)["data"]["selection"]["pairs"])
        traces = {ONCE: folder_of(outputs, scope, ONCE, seed, number), FRESH: training.parent / "traces"}.get(source)
        if number > 0 and traces is not None:
            found = staleness_of(config, policy, traces)
            row["stale"].append({key: round(found[key], 5) for key in ("kl_per_token", "ess_share")})
        lost = staleness_of(config, policy, watched)["kl_per_token"]
        lost_before = lost if number == 0 else lost_before
        row["fall"].append(round(lost - lost_before, 4))
        row["accuracy"].append(accuracy(outputs, scope, policy, seed))
        seen = {collapse_rule.CHOSEN_PROBE: -row["fall"][-1], collapse_rule.ACCURACY: row["accuracy"][-1]}
        memory = collapse_rule.observe(memory, number * scope.steps, seen, collapse_rule.Limits())
    state = {"state": memory.verdict.state.name.lower(), "state_step": memory.verdict.step}
    name = "_".join(folder.relative_to(outputs).parts)
    return {**row, **state, "fresh": trainings.evaluate(outputs, policy, name, seed, scope.of("eval"))}


def accuracy(outputs: Path, scope: Scope, policy: Path, seed: int) -> float:
    """pass@1 on the 100 development problems, 4 samples each."""
    from redi_lab.config.compose import load_config
    from redi_lab.run.benchmarks import make_benchmark
    from redi_lab.run.build import make_source
    from redi_lab.run.evaluation import evaluate_checkpoint

    given = [
        "eval=development",
        "eval.num_samples=4",
        "eval.max_new_tokens=96",
        *scope.task(seed),
        f"paths.outputs_dir={outputs}",
    ]
    config = load_config("train", given)
    benchmark = make_benchmark(config, lambda: make_source(config).load())
    assert benchmark is not None
    return round(evaluate_checkpoint(config, policy, benchmark, "development").metrics["pass_at_1"], 4)
