"""Does `curate steps` find a planted wrong step, what does that cost, and what is it worth to a training?

    python -m experiments.steps.run              # all of it; goes on where it was stopped
    python -m experiments.steps.run --report     # the tables of the rows that are there

A student of the second embedded task rolls out from the beginnings of its teacher's wrong traces, each of which has one
wrong column, on problems that it was not trained on. Then it is trained on those whose step was found, with the
negatives weighed in five ways.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.runner import Results, arguments_of, command, write_pairs

SEED = 42
NUM_TRACES = 200
ROLLOUTS = (16, 8, 4, 2)
"""The most first: the others are among them."""
SEARCHES = ("all", "binary")
CHAINS = (
    "data.source.num_problems=2500",
    "data.source.take_share=0.2",
    "data.source.teacher.slip_reach=1",
    "data.source.teacher.correction_rate=0.5",
)
"""The task as it was when the study began: its student gets a quarter of the steps wrong."""
SFT = (
    "+experiment=chains_sft",
    *CHAINS,
    "eval=none",
    *(f"callbacks.{name}=null" for name in ("accuracy", "probes", "gradient_conflict", "collapse")),
)
ARMS: Mapping[str, tuple[str, ...]] = {
    "whole traces": (),
    "cut after the first wrong step": ("data.token_weights=spans",),
    "from the first wrong step on": ("data.token_weights=after_first_error",),
    "by advantages": ("data.token_weights=step_advantages",),
    "shared beginning masked": ("loss.prefix_weight=0",),
}
TRAINING_SEEDS = (42, 43, 44)
MARKED = "all_8"
"""The search whose result is trained on."""


def main() -> None:
    """Run what is missing, then tabulate what is there."""
    parser = arguments_of(__doc__.split("\n")[0], "steps")
    parser.add_argument("--part", choices=["search", "training", "both"], default="both")
    arguments = parser.parse_args()
    results, outputs = Results(arguments.results), arguments.outputs.absolute()
    if not arguments.report:
        command(outputs / "sft", outputs, [*SFT, f"seed={SEED}", "logger=none", "trainer.accelerator=cpu"])
    if not arguments.report and arguments.part != "training":
        search_all(results, outputs)
    if not arguments.report and arguments.part != "search":
        train_all(results, outputs)
    print("\n".join([*search_table(results.content["starts"]), "", *training_table(results.content["runs"])]))


def write_traces(file: Path) -> None:
    """Pairs of the task's teacher on problems beyond the corpus, as problems with two generations."""
    from redi_lab.config.compose import load_config
    from redi_lab.run.build import make_source

    source: Any = make_source(load_config("train", ["+experiment=chains", *CHAINS, f"seed={SEED}"]))
    corpus = source.load()
    known = {row.problem for rows in (corpus.demonstrations, corpus.held_out) for row in rows}
    _, pairs = source.further(0, NUM_TRACES, known)
    write_pairs(file, pairs)


def first_wrong_line(problem: str, trace: str) -> int:
    """The number, from 1, of the first line whose result does not follow from the result before it."""
    total = int(re.findall(r"so (\d+) \?", problem)[0])
    for number, line in enumerate(trace.splitlines(), start=1):
        step = re.match(r"\w+ (add|take) (\d+) :.* (\d+) \.$", line)
        if step is None:
            break
        expected = total + int(step[2]) * (1 if step[1] == "add" else -1)
        total = int(step[3])
        if total != expected:
            return number
    raise ValueError(f"no wrong line in {trace!r}")


def search_all(results: Results, outputs: Path) -> None:
    """Look for the wrong step with each number of rollouts, after every step and by halves."""
    import pyarrow.parquet as pq

    traces = outputs / "traces.jsonl"
    if not traces.exists():
        write_traces(traces)
    truth = {}
    for row in map(json.loads, traces.read_text(encoding="utf-8").splitlines()):
        text = row["generations"][1]["text"]
        truth[row["id"]] = (first_wrong_line(row["problem"], text), len(text.splitlines()))
    for search in SEARCHES:
        for number in ROLLOUTS:
            name = f"{search}_{number}"
            if name in results.content["starts"]:
                continue
            looked = [f"steps.search={search}", f"eval.num_samples={number}", f"seed={SEED}"]
            given = [f"checkpoint={outputs / 'sft' / 'checkpoints' / 'last'}", f"data.path={traces}"]
            command(outputs / name, outputs, ["curate", "steps", *given, *looked])
            rows = pq.read_table(outputs / name / "steps.parquet").to_pylist()
            results.content["starts"][name] = judge(rows, truth)
            results.save()


def judge(rows: Sequence[Mapping[str, Any]], truth: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """What is kept of a search.

    Args:
        rows: of steps.parquet.
        truth: by trace its first wrong step, and how many steps it has.

    Returns:
        lists over traces: the true step, the number of steps, the likeliest step (0: no chance from the start) and how
        likely it is, and the rollouts that were asked for.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["id"], []).append(row)
    best = {name: max(of_trace, key=lambda row: row["first_wrong"]) for name, of_trace in found.items()}
    return {
        "truth": [truth[name][0] for name in found],
        "steps": [truth[name][1] for name in found],
        "found": [best[name]["step"] for name in found],
        "belief": [round(best[name]["first_wrong"], 3) for name in found],
        "rollouts": [sum(row["rollouts"] for row in of_trace) for of_trace in found.values()],
    }


def train_all(results: Results, outputs: Path) -> None:
    """Three epochs of REDI on the pairs whose wrong step was found, in each way of weighing, and scores."""
    curated = outputs / "curated"
    marked = f"data.path={outputs / MARKED / 'traces.jsonl'}"
    command(curated, outputs, ["curate", "data=jsonl", marked, 'data.prompt_template="{problem}"', "curation=strict"])
    start = outputs / "sft" / "checkpoints" / "last"
    arms: dict[str, tuple[str, ...] | None] = {"SFT": None, **ARMS}
    for seed in TRAINING_SEEDS:
        for arm, overrides in arms.items():
            name = f"{arm}/{seed}"
            if name in results.content["runs"]:
                continue
            checkpoint = start
            if overrides is not None:
                folder = outputs / "arms" / name.replace(" ", "_")
                shared = ["+experiment=chains", f"init_from={start}", "data=curated", f"data.path={curated}"]
                own = [
                    "data.source.num_heldout=0",
                    "data.batch_size=8",
                    "trainer.max_epochs=3",
                    'data.prompt_template="{problem}"',
                ]
                off = [f"callbacks.{one}=null" for one in ("accuracy", "probes", "gradient_conflict", "collapse")]
                more = [*off, "eval=none", "logger=none", "trainer.accelerator=cpu", f"seed={seed}"]
                command(folder, outputs, [*shared, *own, *more, *overrides])
                checkpoint = folder / "checkpoints" / "last"
            asked = [f"checkpoint={checkpoint}", "eval=chains", "eval.limit=200", f"seed={SEED}", f"eval.seed={seed}"]
            more = ['eval.prompt_template="{problem}"', "eval.max_new_tokens=400"]
            scores = command(outputs / "scores" / name.replace(" ", "_"), outputs, ["evaluate", *asked, *more])
            metrics = {key: scores["metrics"][key]["value"] for key in ("pass_at_1", "greedy_pass_at_1", "columns")}
            results.content["runs"][name] = metrics
            results.save()


def search_table(searches: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Precision among the traces that got a step, recall among all, and what it cost, by number of rollouts."""
    lines = [
        "| search | k | located | precision (95 % CI) | recall (95 % CI) | belief | rollouts a trace |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for search in SEARCHES:
        for number in sorted(ROLLOUTS):
            row = searches.get(f"{search}_{number}")
            if row is None:
                continue
            located = [
                (found, truth, belief)
                for found, truth, belief in zip(row["found"], row["truth"], row["belief"], strict=True)
                if found and belief >= 0.5
            ]
            total, right = len(row["truth"]), sum(found == truth for found, truth, _ in located)
            belief = sum(one for *_, one in located) / max(1, len(located))
            cost = sum(row["rollouts"]) / total
            cells = [
                search,
                str(number),
                f"{len(located) / total:.0%}",
                share(right, len(located)),
                share(right, total),
            ]
            lines.append(f"| {' | '.join([*cells, f'{belief:.2f}', f'{cost:.1f}'])} |")
    if row := searches.get("all_16"):
        by_chance = sum(1 / steps for steps in row["steps"]) / len(row["steps"])
        last = max(range(1, max(row["truth"]) + 1), key=row["truth"].count)
        constant = row["truth"].count(last) / len(row["truth"])
        lines += [
            "",
            f"By chance, a step drawn at random is the wrong one in {by_chance:.0%}; step {last} in {constant:.0%}",
        ]
    return lines


def share(part: int, whole: int) -> str:
    """A share with its Wilson interval."""
    if whole == 0:
        return "–"
    z, p = 1.959964, part / whole
    centre, half = p + z**2 / (2 * whole), z * (p * (1 - p) / whole + z**2 / (4 * whole**2)) ** 0.5
    low, high = ((centre + sign * half) / (1 + z**2 / whole) for sign in (-1, 1))
    return f"{p:.3f} ({low:.3f}–{high:.3f})"


def training_table(runs: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Means over seeds, and against whole traces the mean difference with its interval over seeds."""
    from scipy.stats import t

    lines = [
        "| negatives | seeds | pass@1 | greedy | columns | pass@1 against whole traces |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for arm in ("SFT", *ARMS):
        rows = {name.split("/")[1]: row for name, row in runs.items() if name.split("/")[0] == arm}
        if not rows:
            continue
        means = [f"{sum(row[key] for row in rows.values()) / len(rows):.3f}" for key in next(iter(rows.values()))]
        gaps = [
            row["pass_at_1"] - runs[f"whole traces/{seed}"]["pass_at_1"]
            for seed, row in rows.items()
            if f"whole traces/{seed}" in runs
        ]
        shown = "–"
        if len(gaps) > 1 and arm != "whole traces":
            mean = sum(gaps) / len(gaps)
            sem = (sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1) / len(gaps)) ** 0.5
            shown = f"{mean:+.3f} ± {sem * float(t.ppf(0.975, len(gaps) - 1)):.3f}"
        lines.append(f"| {arm} | {len(rows)} | {' | '.join(means)} | {shown} |")
    return lines


if __name__ == "__main__":
    main()
