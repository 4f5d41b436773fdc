"""Does learning to reason backward help to reason forward, at equal tokens? And are inconsistent traces good negatives?

    python -m experiments.revthink.run              # goes on where it stopped
    python -m experiments.revthink.run --quick      # all of it on a few problems, to see that it works
    python -m experiments.revthink.run --report     # the tables of the rows that are there

A student of the embedded task learns from right forward traces alone, or from forward traces, backward questions and
backward traces (`curate revthink`) of the same problems, with as many completion tokens. From the latter REDI goes on
with pairs of consistent and inconsistent backward traces, or of right and wrong forward ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

from experiments import runner
from experiments.runner import COMMON, Results, arguments_of, places, train_once

SEED = 42
"""Of the problems and the traces, which all trainings share; those have seeds of their own."""
BATCH_SIZE = 16
FORWARD, TASKS = "forward_alone", "three_tasks"
PAIRS = {
    "backward_negatives": ("backward_pairs", "loss.alpha=0.5"),
    "backward_chosen_alone": ("backward_pairs", "loss.alpha=0"),
    "forward_negatives": ("forward_pairs", "loss.alpha=0.5"),
    "forward_chosen_alone": ("forward_pairs", "loss.alpha=0"),
}
"""By arm the file of pairs that REDI goes on with, and the weight of their negatives."""
ARMS = (FORWARD, TASKS, *PAIRS)
AGAINST = {
    TASKS: (FORWARD, *PAIRS),
    "backward_negatives": ("backward_chosen_alone", "forward_negatives"),
    "forward_negatives": ("forward_chosen_alone",),
}
"""Which arms are compared with which."""
JSONL = (
    "data=jsonl",
    "data.source.num_heldout=0",
    "data.prompt_template='{problem}'",
    "data.student_tokenizer=arithmetic",
    "data.max_new_tokens=96",
    "eval=none",
    *(f"callbacks.{name}=null" for name in ("accuracy", "probes", "gradient_conflict", "collapse")),
)
SCORES = ("pass_at_1", "greedy_pass_at_1", "haste", "columns")


@final
class Size(NamedTuple):
    """How much of everything."""

    problems: int
    epochs: int
    redi_epochs: int
    seeds: tuple[int, ...]
    asked: int
    samples: int


FULL = Size(problems=3500, epochs=4, redi_epochs=2, seeds=(42, 43, 44), asked=300, samples=4)
QUICK = Size(problems=100, epochs=1, redi_epochs=1, seeds=(42, 43), asked=8, samples=2)


def main() -> None:
    """Run what is missing, then tabulate what is there."""
    parser = arguments_of(__doc__.split("\n")[0], "revthink")
    parser.add_argument("--quick", action="store_true", help="few problems, below the folder of the runs")
    arguments = parser.parse_args()
    size, outputs = (QUICK if arguments.quick else FULL), arguments.outputs.absolute()
    if arguments.quick:
        outputs = outputs / "quick"
    results = Results(outputs / "results.json" if arguments.quick else arguments.results)
    if not arguments.report:
        run(results, outputs, size)
    print("\n".join([*table(results.content["runs"]), "", *comparisons(results.content.get("comparisons", {}))]))
    draw(results.content["runs"], results.path.parent / "accuracy.png")


def run(results: Results, outputs: Path, size: Size) -> None:
    """Train and evaluate what is missing, seed by seed, and compare whenever a seed is complete."""
    data = prepare(outputs, size)
    results.content["starts"]["data"] = data
    results.save()
    for number, seed in enumerate(size.seeds, start=1):
        for arm in ARMS:
            folder = outputs / "runs" / f"{arm}_s{seed}"
            train_once(folder, outputs, [*overrides_of(arm, seed, outputs, size, data), f"name={arm}", f"seed={seed}"])
            results.content["runs"][f"{arm}/{seed}"] = evaluate(folder, outputs, seed, size)
            results.save()
        if number > 1:
            results.content["comparisons"] = compare(outputs, size.seeds[:number])
            results.save()


def prepare(outputs: Path, size: Size) -> dict[str, Any]:
    """Write what is trained and evaluated on; returns what there is of it.

    The forward rows are repeated until they have as many completion tokens as the three tasks, and come in batches of
    as many tokens, so in as many steps.
    """
    from redi_lab.config.compose import load_config
    from redi_lab.data.arithmetic import build_tokenizer
    from redi_lab.data.teacher import ChainProblem
    from redi_lab.run.build import make_source

    build_tokenizer().save_pretrained(outputs / "tokenizer")
    task = ["data=arithmetic", f"data.source.num_problems={size.problems}", f"seed={SEED}"]
    asked = ["curate", "revthink", *task, f"curation.tokenizer={outputs / 'tokenizer'}"]
    made = runner.command(outputs / "tasks", outputs, [*asked, "backward_question_prompt={problem} so"])
    rows, backward = (read_rows(outputs / "tasks" / name) for name in ("sft.jsonl", "backward.jsonl"))
    corpus = make_source(load_config("train", task)).load()
    num_pairs = min(len(backward), len(corpus.pairs))
    forward, tokens = (
        [row for row in rows if row["task"] == "forward"],
        {k: v["tokens"] for k, v in made["tasks"].items()},
    )
    number = round(len(forward) * sum(tokens.values()) / tokens["forward"])
    repeated = [forward[n % len(forward)] | {"id": str(n), "weight": 1.0} for n in range(number)]
    pairs = [
        {"prompt": one.problem, "chosen": one.chosen, "rejected": one.rejected} for one in corpus.pairs[:num_pairs]
    ]
    turned = [ChainProblem.of_text(one.problem).turned_round() for one in corpus.held_out]
    test = [{"problem": one.text, "answer": str(one.answer)} for one in turned]
    files = {
        FORWARD: repeated,
        TASKS: rows,
        "forward_pairs": pairs,
        "backward_pairs": backward[:num_pairs],
        "test": test,
    }
    for name, lines in files.items():
        (outputs / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return {
        **{f"{name}_tokens": number for name, number in tokens.items()},
        "forward_rows": number,
        "forward_batch_size": round(BATCH_SIZE * number / len(rows)),
        "pairs": num_pairs,
        "filter": made["metrics"],
    }


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def overrides_of(arm: str, seed: int, outputs: Path, size: Size, data: dict[str, Any]) -> list[str]:
    """What an arm is trained with."""
    if arm in PAIRS:
        file, alpha = PAIRS[arm]
        start = outputs / "runs" / f"{TASKS}_s{seed}" / "checkpoints" / "last"
        own = ["+experiment=demo", f"init_from={start}", alpha, f"trainer.max_epochs={size.redi_epochs}"]
        return [*own, *JSONL, f"data.path={outputs / f'{file}.jsonl'}", f"data.batch_size={BATCH_SIZE}"]
    batch_size = data["forward_batch_size"] if arm == FORWARD else BATCH_SIZE
    own = ["+experiment=demo_sft", f"trainer.max_epochs={size.epochs}", f"data.batch_size={batch_size}"]
    return [*own, *JSONL, f"data.path={outputs / f'{arm}.jsonl'}"]


def evaluate(run: Path, outputs: Path, seed: int, size: Size) -> dict[str, Any]:
    """What is kept of a training: its scores on held-out problems, forward and turned round, and what it took."""
    test = ("eval=jsonl", f"eval.path={outputs / 'test.jsonl'}")
    forward = ask(run, outputs, "forward", ["eval=arithmetic", f"eval.num_samples={size.samples}"], seed, size)
    backward = ask(run, outputs, "backward", [*test, "eval.num_samples=1"], seed, size)
    training = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    scores = {name: round(forward[name]["value"], 5) for name in SCORES if name in forward}
    return scores | {
        "backward": round(backward["pass_at_1"]["value"], 5),
        "completion_tokens": training["data"]["batches"]["train_completion_tokens"],
        "steps": training["steps"],
        "seconds": training["seconds"],
    }


def ask(run: Path, outputs: Path, name: str, asked: Sequence[str], seed: int, size: Size) -> dict[str, Any]:
    """The metrics of an evaluation, in this process, unless its summary is there."""
    from redi_lab.config.compose import load_config
    from redi_lab.verbs.evaluate.command import run_evaluation

    folder = scores_of(outputs, name, run.name)
    if not (folder / "summary.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        given = [f"checkpoint={run / 'checkpoints' / 'last'}", f"eval.limit={size.asked}", COMMON[0]]
        seeds = [f"seed={SEED}", f"eval.seed={seed}"]
        run_evaluation(load_config("evaluate", [*given, *seeds, *asked, *places(outputs, folder)]))
    metrics: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["metrics"]
    return metrics


def scores_of(outputs: Path, name: str, run: str) -> Path:
    """Where an evaluation lies."""
    return outputs / f"asked_{name}" / run


def compare(outputs: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Every arm with those that `AGAINST` sets it against, over seeds and problems."""
    from redi_lab.verbs.evaluate.over_seeds import run_seed_comparison

    found = {}
    for old, news in AGAINST.items():
        folder = outputs / "compared" / f"{old}_{len(seeds)}"
        if not (folder / "summary.json").exists():
            runs = [str(scores_of(outputs, "forward", f"{arm}_s{seed}")) for arm in (old, *news) for seed in seeds]
            run_seed_comparison([*runs, *places(outputs, folder)])
        for one in json.loads((folder / "summary.json").read_text(encoding="utf-8"))["comparisons"]:
            estimate = one["comparison"]["estimate"]
            found[f"{one['new']} against {old}"] = {
                **{key: round(estimate[key], 4) for key in ("value", "ci_low", "ci_high")},
                "adjusted_p": round(one["holm"], 4),
                "seeds": len(seeds),
            }
    return found


def table(runs: dict[str, Any]) -> list[str]:
    """Means over seeds, and the smallest and largest pass@1 among them."""
    columns = ("pass_at_1", "greedy_pass_at_1", "haste", "columns", "backward")
    lines = [
        "| arm | seeds | steps | pass@1 (least to most) | greedy | haste | columns right | backward pass@1 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for arm in ARMS:
        rows = [row for name, row in runs.items() if name.split("/")[0] == arm]
        if rows:
            means = [sum(row.get(key, 0.0) for row in rows) / len(rows) for key in columns]
            each = [row["pass_at_1"] for row in rows]
            first = f"{means[0]:.3f} ({min(each):.3f} to {max(each):.3f})"
            cells = [
                arm.replace("_", " "),
                str(len(rows)),
                str(rows[0]["steps"]),
                first,
                *(f"{m:.3f}" for m in means[1:]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def comparisons(found: dict[str, Any]) -> list[str]:
    """A line for each comparison."""
    lines = ["| pass@1, forward | difference (95 % CI) | adjusted p | seeds |", "|---|---:|---:|---:|"]
    for name, one in found.items():
        shown = f"{one['value']:+.3f} ({one['ci_low']:+.3f} to {one['ci_high']:+.3f})"
        lines.append(f"| {name.replace('_', ' ')} | {shown} | {one['adjusted_p']:.2g} | {one['seeds']} |")
    return lines


def draw(runs: dict[str, Any], destination: Path) -> None:
    """Forward accuracy of each training, a line an arm, and their mean."""
    from redi_lab.figures.style import BAD, GOOD, dress, new_figure, save_figure

    figure, axes = new_figure(7, 0.9 + 0.4 * len(ARMS))
    for place, arm in enumerate(ARMS):
        each = [row["pass_at_1"] for name, row in runs.items() if name.split("/")[0] == arm]
        axes.plot(each, [place] * len(each), "o", color=GOOD, alpha=0.5)
        if each:
            axes.plot(sum(each) / len(each), place, "|", color=BAD, markersize=18, markeredgewidth=2)
    axes.set_yticks(range(len(ARMS)), [arm.replace("_", " ") for arm in ARMS])
    axes.set_ylim(len(ARMS) - 0.5, -0.5)
    axes.set_xlabel("pass@1 on forward problems; a point is a seed, a bar the mean")
    dress(axes, "Forward accuracy", grid="x")
    save_figure(figure, destination)


if __name__ == "__main__":
    main()
