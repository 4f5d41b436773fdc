"""Do the weights of a token reward model (OREAL's ω) find a planted wrong step, and is a training better for them?

    python -m experiments.token_reward.run              # all of it; goes on where it was stopped
    python -m experiments.token_reward.run --quick      # everything once, in small
    python -m experiments.token_reward.run --report     # the tables of the rows that are there

The reward model learns from the verdicts on whole traces of the embedded task's teacher. Each wrong one has one wrong
step of two, done in the head or with a slip in a column, and ω should be large there. Then OREAL trains with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runner import Results, arguments_of, command, write_pairs

SEED = 42
SEEDS = (42, 43, 44)
TEACHER = tuple(
    f"data.source.teacher.{name}" for name in ("errs_once=true", "haste_last=0.3", "haste_before=0.3", "slip_rate=0.06")
)
"""One error a trace, in either step alike, so that its place does not tell it."""
OFF = tuple(f"callbacks.{name}=null" for name in ("accuracy", "probes", "gradient_conflict", "collapse"))
COMMON = ("logger=none", "trainer.accelerator=cpu")
SFT = ("+experiment=demo_sft", "eval=none", *OFF, *COMMON, f"seed={SEED}")
ROWS = (
    *("data=jsonl", "data.source.num_heldout=0", "data.num_development=0", 'data.prompt_template="{problem}"'),
    *("data.max_new_tokens=96", "trainer.max_epochs=3", *COMMON),
)
REWARD = ("+experiment=token_reward", *ROWS)
OREAL = ("+experiment=demo", "loss=oreal", *ROWS, "eval=none", *OFF)
ARMS = {"SFT": None, "OREAL, ω = 1": "none", "OREAL, ω": "spans"}
SCORES = ("pass_at_1", "greedy_pass_at_1", "haste", "columns")
MEASURES = {
    "omega": "ω⁻",
    "mean": "−c, mean of the scores so far",
    "score": "−s, the score",
    "later": "−s, one token later",
    "logp": "−log π of the SFT student",
    "position": "place in the trace",
}
PARTS = ("judged", "oreal", "reward")
ERRORS = ("haste", "slip")
KINDS = {
    **{f"steps {error} {step}": f"{error}, step {step}" for error in ERRORS for step in (1, 2)},
    **{f"places {error}": f"{error}, same place" for error in ERRORS},
    **{f"tokens {error}": f"{error}, tokens" for error in ERRORS},
}
"""What is told apart, by the kind of error: the wrong step from the other one of its trace; from the step in the same
place of those wrong traces where it is right; the tokens of the wrong number from all others of the trace."""
FULL = {"judged": 600, "oreal": 1000, "reward": 3000, "limit": 200, "seeds": SEEDS, "more": ()}
QUICK = {"judged": 40, "oreal": 24, "reward": 24, "limit": 4, "seeds": SEEDS[:1], "more": ("trainer.max_steps=4",)}
"""Pairs of a right and a wrong trace, one a problem: to look at, to train the student on, and for reward models."""


def main() -> None:
    """Run what is missing, then tabulate what is there."""
    parser = arguments_of(__doc__.split("\n")[0], "token_reward")
    parser.add_argument("--quick", action="store_true", help="everything once, in small, below --outputs")
    parser.add_argument("--sft", type=Path, help="a checkpoint of +experiment=demo_sft, instead of training one")
    arguments = parser.parse_args()
    outputs, sizes = arguments.outputs.absolute(), FULL
    if arguments.quick:
        outputs, sizes = outputs / "quick", QUICK
        arguments.results = outputs / "results.json"
    results = Results(arguments.results)
    if not arguments.report:
        run(results, outputs, arguments.sft, sizes)
    print("\n".join([*found_table(results.content["starts"]), "", *training_table(results.content["runs"])]))


def run(results: Results, outputs: Path, sft: Path | None, sizes: Mapping[str, Any]) -> None:
    """Train the reward models, look where their ω is large, and train with it."""
    if sft is None:
        command(outputs / "sft", outputs, [*SFT, *sizes["more"]])
        sft = outputs / "sft" / "checkpoints" / "last"
    pairs = teacher_pairs(sum(sizes[part] for part in PARTS))
    judged = pairs[: sizes["judged"]]
    write_pairs(outputs / "oreal.jsonl", pairs[len(judged) : -sizes["reward"]])
    write_pairs(outputs / "reward.jsonl", pairs[-sizes["reward"] :])
    for seed in sizes["seeds"]:
        folder, own = outputs / f"reward_{seed}", [f"data.path={outputs / 'reward.jsonl'}", f"init_from={sft}"]
        command(folder, outputs, [*REWARD, *own, f"seed={seed}", *sizes["more"]])
        if str(seed) not in results.content["starts"]:
            results.content["starts"][str(seed)] = judge(folder, sft, judged)
            results.save()
    given = [
        f"checkpoint={outputs / f'reward_{SEED}' / 'checkpoints' / 'last'}",
        f"data.path={outputs / 'oreal.jsonl'}",
    ]
    command(outputs / "omega", outputs, ["curate", "omega", *given])
    for seed in sizes["seeds"]:
        for arm, weights in ARMS.items():
            if f"{arm}/{seed}" not in results.content["runs"]:
                results.content["runs"][f"{arm}/{seed}"] = score(outputs, sft, weights, seed, sizes)
                results.save()


def teacher_pairs(number: int) -> list[Any]:
    """Pairs of the task's teacher, of two steps each, on problems that neither the student nor its evaluation has."""
    from redi_lab.config.compose import load_config
    from redi_lab.run.build import make_source

    corpus = make_source(load_config("train", ["+experiment=demo_sft", f"seed={SEED}"])).load()
    known = {row.problem for rows in (corpus.demonstrations, corpus.held_out) for row in rows}
    source: Any = make_source(load_config("train", ["+experiment=demo_sft", *TEACHER, f"seed={SEED}"]))
    drawn = source.further(0, number + number // 2, known)[1]  # a fifth has one step
    return [pair for pair in drawn if pair.rejected.count("\n") == 2][:number]


def wrong_place(trace: str) -> tuple[int, int, int]:
    """The first step, from 1, whose result is wrong; and where its wrong number begins and ends, in characters.

    That is the result of the wrong column, or of a step in the head.
    """
    for number, line in enumerate(re.finditer(r"\w+ add (\d+) to (\d+) :.* (\d+) \.", trace), start=1):
        if int(line[1]) + int(line[2]) == int(line[3]):
            continue
        for column in re.finditer(r"([\d+]+)=(\d+)", line[0]):
            if sum(map(int, column[1].split("+"))) != int(column[2]):
                return number, line.start() + column.start(2), line.start() + column.end(2)
        return number, *line.span(3)
    raise ValueError(f"no wrong step in {trace!r}")


def judge(folder: Path, sft: Path, pairs: Sequence[Any]) -> dict[str, Any]:
    """What a reward model makes of pairs of a right and a wrong trace.

    Returns:
        lists over wrong traces: the AUCs of each measure, by kind; and over pairs: the share of both traces whose score
        has the sign of their verdict, and whether the right one's is larger.
    """
    import torch

    from redi_lab.backbone.loading import load_backbone
    from redi_lab.curation.omega import score_traces
    from redi_lab.data.tokenization import TraceEncoder
    from redi_lab.run.record import quieten_libraries
    from redi_lab.verbs.curate.omega import load_reward_model

    quieten_libraries()
    model, policy = load_reward_model(folder / "checkpoints" / "last"), load_backbone(path=str(sft)).eval()
    encoder = TraceEncoder(model.tokenizer)
    sides = [(pair.id, pair.problem, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    texts, sequences = [text for *_, text in sides], encoder.encode_all(sides)
    scores = list(score_traces(model, sequences, 8192))
    logps = list(score_policy(policy, sequences))
    places = encoder.last_characters(texts)
    rows: dict[str, list[float]] = {f"{kind} {name}": [] for kind in KINDS for name in MEASURES}
    found = [wrong_place(pair.rejected) for pair in pairs]
    measured = [measures(scores[at], logps[at]) for at in range(1, len(texts), 2)]
    last = [np.array(places[at][:-1]) for at in range(1, len(texts), 2)]
    lines = [np.array([pair.rejected.count("\n", 0, n) for n in at]) for pair, at in zip(pairs, last, strict=True)]
    wrong_steps = np.array([step for step, *_ in found]) - 1
    for name in MEASURES:
        steps = np.array([by_line(one[name], at)[:2] for one, at in zip(measured, lines, strict=True)])
        for row, (pair, (step, start, end)) in enumerate(zip(pairs, found, strict=True)):
            wrong, is_wrong = steps[row, step - 1], (last[row] >= start) & (last[row] < end)
            others = steps[wrong_steps != step - 1, step - 1]
            rows[f"steps {pair.error} {step} {name}"].append(auc(wrong, steps[row, 2 - step]))
            rows[f"places {pair.error} {name}"].append(auc(wrong, others))
            rows[f"tokens {pair.error} {name}"].append(
                auc(measured[row][name][is_wrong], measured[row][name][~is_wrong])
            )
    means = torch.stack([one.mean() for one in scores]).view(-1, 2)
    agreed = (means > 0) == torch.tensor([True, False])
    return {
        **{name: [round(value, 4) for value in values] for name, values in rows.items()},
        "agreed": agreed.double().mean(1).tolist(),
        "ranked": (means[:, 0] > means[:, 1]).double().tolist(),
    }


def score_policy(policy: Any, sequences: Sequence[Any]) -> Any:
    """Log-probs of the completion's tokens of each sequence, in order."""
    from redi_lab.data.packing import make_batch

    for one in sequences:
        ((_, logps),) = policy.token_logps(make_batch([(one,)], token_budget=8192, split_examples=True))
        yield logps


def measures(scores: Any, logps: Any) -> dict[str, np.ndarray[Any, Any]]:
    """What could mark a wrong token, larger where it is likelier, for each token but the end-of-turn one."""
    from redi_lab.losses.token_reward import omega

    s, count = scores.double().numpy(), np.arange(1, len(scores) + 1)
    found = {
        "omega": omega(scores, is_right=False).numpy(),
        "mean": -s.cumsum() / count,
        "score": -s,
        "logp": -logps.numpy(),
        "position": count.astype(float),
    }
    return {name: values[:-1] for name, values in found.items()} | {"later": -s[1:]}


def by_line(values: np.ndarray[Any, Any], lines: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Means over the tokens of each line."""
    return np.bincount(lines, weights=values) / np.bincount(lines)


def auc(positives: Any, negatives: Any) -> float:
    """The chance that a positive is larger than a negative, where equal ones count half."""
    difference = np.subtract.outer(positives, negatives)
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def score(outputs: Path, sft: Path, weights: str | None, seed: int, sizes: Mapping[str, Any]) -> dict[str, float]:
    """Train with these token weights, or not at all, and evaluate."""
    checkpoint, name = sft, f"{weights or 'sft'}_{seed}"
    if weights is not None:
        own = [f"init_from={sft}", f"data.path={outputs}/omega/traces.jsonl", f"data.token_weights={weights}"]
        command(outputs / name, outputs, [*OREAL, *own, f"seed={seed}", *sizes["more"]])
        checkpoint = outputs / name / "checkpoints" / "last"
    asked = [f"checkpoint={checkpoint}", "eval=arithmetic", f"eval.limit={sizes['limit']}", f"seed={SEED}"]
    more = [f"eval.seed={seed}", 'eval.prompt_template="{problem}"', "eval.max_new_tokens=96"]
    metrics = command(outputs / f"scores_{name}", outputs, ["evaluate", *asked, *more])["metrics"]
    return {key: metrics[key]["value"] for key in SCORES if key in metrics}


def found_table(starts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """AUCs, averaged over reward models and then over traces, with intervals over traces."""
    if not starts:
        return ["no reward model was judged yet"]
    first = next(iter(starts.values()))
    sizes = [len(first[f"{kind} omega"]) for kind in KINDS]
    titles = [f"{title} ({size})" for title, size in zip(KINDS.values(), sizes, strict=True)]
    lines = [f"| by {len(starts)} reward models | {' | '.join(titles)} |", "|---|---:|" + "---:|" * (len(KINDS) - 1)]
    for name, title in MEASURES.items():
        lines.append(f"| {title} | {' | '.join(estimate(starts, f'{kind} {name}') for kind in KINDS)} |")
    agreed, ranked = (estimate(starts, name) for name in ("agreed", "ranked"))
    return [*lines, "", f"Sign of a trace's score: right for {agreed} of them; the right trace's is larger in {ranked}"]


def estimate(starts: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Mean over reward models and traces, its interval over traces, and the spread over reward models."""
    from redi_lab.evaluation.metrics import interval

    values = np.array([row[name] for row in starts.values()])
    if not values.size:
        return "–"
    low, high = interval(values.mean(axis=0))
    seeds = values.mean(axis=1)
    spread = "" if len(seeds) == 1 or np.ptp(seeds) < 5e-4 else f", {seeds.min():.2f} to {seeds.max():.2f}"
    return f"{values.mean():.3f} ({low:.3f}–{high:.3f}){spread}"


def training_table(runs: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Means over seeds, and of ω against ω = 1 the mean difference with its interval over seeds."""
    from redi_lab.evaluation.metrics import t_quantile

    lines = ["| arm | seeds | pass@1 | greedy | haste | columns | pass@1 against ω = 1 |", "|---|" + "---:|" * 6]
    plain = "OREAL, ω = 1"
    for arm in ARMS:
        rows = {name.split("/")[1]: row for name, row in runs.items() if name.split("/")[0] == arm}
        if not rows:
            continue
        means = [f"{np.mean([row[key] for row in rows.values() if key in row]):.3f}" for key in SCORES]
        gaps = [
            row["pass_at_1"] - runs[f"{plain}/{s}"]["pass_at_1"] for s, row in rows.items() if f"{plain}/{s}" in runs
        ]
        shown = "–"
        if len(gaps) > 1 and arm != plain:
            half = t_quantile(len(gaps) - 1) * np.std(gaps, ddof=1) / len(gaps) ** 0.5
            shown = f"{np.mean(gaps):+.3f} ± {half:.3f}"
        lines.append(f"| {arm} | {len(rows)} | {' | '.join(means)} | {shown} |")
    return lines


if __name__ == "__main__":
    main()
