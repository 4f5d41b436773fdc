"""Do the weights of a token reward model (OREAL's ω) find a planted wrong step, and is a training better for them?

    python -m experiments.token_reward.run              # all of it; goes on where it was stopped
    python -m experiments.token_reward.run --quick      # everything once, in small
    python -m experiments.token_reward.run --report     # the tables of the rows that are there

The reward model learns from the verdicts on whole traces of the second embedded task's teacher. Each of its wrong
traces has one wrong column, which is where ω should be large. Then OREAL trains the student with ω, and with ω = 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runner import Results, arguments_of, command
from experiments.steps.run import first_wrong_line

SEED = 42
SEEDS = (42, 43, 44)
SLIPS = ("data.source.teacher.slip_reach=4", "data.source.teacher.correction_rate=0.25")
STUDENT = ("data.source.num_problems=3000", "data.source.take_share=0.35", *SLIPS)
"""A student that gets 96 % of the columns right, so that there is something in it that can tell a wrong one."""
ADDING = "data.source.take_share=0"
"""All problems add: those that take have right traces alone, so that their word would tell the verdict."""
OFF = tuple(f"callbacks.{name}=null" for name in ("accuracy", "probes", "gradient_conflict", "collapse"))
COMMON = ("logger=none", "trainer.accelerator=cpu")
SFT = ("+experiment=chains_sft", *STUDENT, "eval=none", *OFF, *COMMON, f"seed={SEED}")
ROWS = (
    *("data=jsonl", "data.source.num_heldout=0", "data.num_development=0", "data.batch_size=8"),
    *('data.prompt_template="{problem}"', "trainer.max_epochs=3", *COMMON),
)
REWARD = ("+experiment=token_reward", *ROWS)
OREAL = ("+experiment=chains", "loss=oreal", *ROWS, "eval=none", *OFF)
ARMS = {"SFT": None, "OREAL, ω = 1": "none", "OREAL, ω": "spans"}
SCORES = ("pass_at_1", "greedy_pass_at_1", "columns")
MEASURES = {
    "omega": "ω⁻",
    "mean": "−c, the mean of the scores so far, which ω⁻ is a function of",
    "score": "−s, the score alone",
    "later": "−s, one token later, where the token has been read",
    "logp": "−log π of the SFT student",
    "position": "the place in the trace",
}
PARTS = ("judged", "oreal", "reward")
KINDS = {"steps": "wrong step, others", "paired": "wrong step, the right trace's", "tokens": "wrong tokens, others"}
FULL = {"judged": 300, "oreal": 1000, "reward": 3000, "limit": 200, "seeds": SEEDS, "more": ()}
QUICK = {"judged": 12, "oreal": 24, "reward": 24, "limit": 4, "seeds": SEEDS[:1], "more": ("trainer.max_steps=4",)}
"""Pairs of a right and a wrong trace, one a problem: to look at, to train the student on, and for reward models."""


def main() -> None:
    """Run what is missing, then tabulate what is there."""
    parser = arguments_of(__doc__.split("\n")[0], "token_reward")
    parser.add_argument("--quick", action="store_true", help="everything once, in small, below --outputs")
    parser.add_argument("--sft", type=Path, help="a checkpoint of +experiment=chains_sft, instead of training one")
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
    write_rows(outputs / "oreal.jsonl", pairs[len(judged) : -sizes["reward"]])
    write_rows(outputs / "reward.jsonl", pairs[-sizes["reward"] :])
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
    """Pairs of the task's teacher on problems that neither the student nor its evaluation has."""
    from redi_lab.config.compose import load_config
    from redi_lab.run.build import make_source

    corpus = make_source(load_config("train", ["+experiment=chains", *STUDENT, f"seed={SEED}"])).load()
    known = {row.problem for rows in (corpus.demonstrations, corpus.held_out) for row in rows}
    source: Any = make_source(load_config("train", ["+experiment=chains", *SLIPS, ADDING, f"seed={SEED}"]))
    return list(source.further(0, number, known)[1])


def write_rows(file: Path, pairs: Sequence[Any]) -> None:
    """As problems with two generations each."""
    rows = []
    for pair in pairs:
        generations = [{"text": pair.chosen, "correct": True}, {"text": pair.rejected, "correct": False}]
        answer = re.findall(r"\d+", pair.chosen)[-1]
        rows.append({"id": pair.id, "problem": pair.problem, "answer": answer, "generations": generations})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def wrong_result(trace: str) -> tuple[int, int]:
    """Where, in characters, the result of the only column stands that is wrong and was not put right."""
    for column in re.finditer(r"([\d+-]+)=(\d+)(?! Wait)(?!\d)", trace):
        terms = re.findall(r"[+-]?\d+", column[1])
        if sum(map(int, terms)) != int(column[2]):
            return column.span(2)
    raise ValueError(f"no wrong column in {trace!r}")


def judge(folder: Path, sft: Path, pairs: Sequence[Any]) -> dict[str, Any]:
    """What a reward model makes of pairs of a right and a wrong trace.

    Returns:
        lists over pairs: the AUCs of each measure, of each kind; the share of both traces whose score has the sign of
        their verdict; and whether the right one's is larger.
    """
    import torch

    from redi_lab.backbone.loading import load_backbone
    from redi_lab.curation.omega import score_traces
    from redi_lab.data.tokenization import TraceEncoder
    from redi_lab.verbs.curate.omega import load_reward_model

    model, policy = load_reward_model(folder / "checkpoints" / "last"), load_backbone(path=str(sft)).eval()
    encoder = TraceEncoder(model.tokenizer)
    sides = [(pair.id, pair.problem, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    texts, sequences = [text for *_, text in sides], encoder.encode_all(sides)
    scores = list(score_traces(model, sequences, 8192))
    logps = list(score_policy(policy, sequences))
    places = encoder.last_characters(texts)
    measured = [measures(s, p) for s, p in zip(scores, logps, strict=True)]
    rows: dict[str, list[float]] = {f"{kind} {name}": [] for kind in KINDS for name in MEASURES}
    for number, pair in enumerate(pairs):
        right, wrong = measured[2 * number : 2 * number + 2]
        lines = [
            np.array([texts[at].count("\n", 0, place) for place in places[at][:-1]])
            for at in (2 * number, 2 * number + 1)
        ]
        line, (start, end) = first_wrong_line(pair.problem, pair.rejected) - 1, wrong_result(pair.rejected)
        last = np.array(places[2 * number + 1][:-1])
        is_wrong = (last >= start) & (last < end)
        for name in MEASURES:
            steps, of_right = by_line(wrong[name], lines[1]), by_line(right[name], lines[0])
            others = np.delete(steps, line)
            rows[f"steps {name}"].append(auc(steps[[line]], others))
            rows[f"paired {name}"].append(auc(steps[[line]], of_right[[line]]))
            rows[f"tokens {name}"].append(auc(wrong[name][is_wrong], wrong[name][~is_wrong]))
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


def auc(positives: np.ndarray[Any, Any], negatives: np.ndarray[Any, Any]) -> float:
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
    asked = [f"checkpoint={checkpoint}", "eval=chains", f"eval.limit={sizes['limit']}", f"seed={SEED}"]
    more = [f"eval.seed={seed}", 'eval.prompt_template="{problem}"', "eval.max_new_tokens=400"]
    metrics = command(outputs / f"scores_{name}", outputs, ["evaluate", *asked, *more])["metrics"]
    return {key: metrics[key]["value"] for key in SCORES if key in metrics}


def found_table(starts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """AUCs, averaged over reward models and then over traces, with intervals over traces."""
    if not starts:
        return ["no reward model was judged yet"]
    number = len(next(iter(starts.values()))["agreed"])
    lines = [
        f"| {len(starts)} reward models, {number} wrong traces | {' | '.join(KINDS.values())} |",
        "|---|---:|---:|---:|",
    ]
    for name, title in MEASURES.items():
        lines.append(f"| {title} | {' | '.join(estimate(starts, f'{kind} {name}') for kind in KINDS)} |")
    agreed, ranked = (estimate(starts, name) for name in ("agreed", "ranked"))
    return [*lines, "", f"Sign of a trace's score: right for {agreed} of them; the right trace's is larger in {ranked}"]


def estimate(starts: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Mean over reward models and traces, its interval over traces, and the spread over reward models."""
    from redi_lab.evaluation.metrics import interval

    values = np.array([row[name] for row in starts.values()])
    low, high = interval(values.mean(axis=0))
    seeds = values.mean(axis=1)
    spread = "" if len(seeds) == 1 or np.ptp(seeds) < 5e-4 else f", {seeds.min():.2f} to {seeds.max():.2f}"
    return f"{values.mean():.3f} ({low:.3f}–{high:.3f}){spread}"


def training_table(runs: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Means over seeds, and of ω against ω = 1 the mean difference with its interval over seeds."""
    from redi_lab.evaluation.metrics import t_quantile

    lines = ["| arm | seeds | pass@1 | greedy | columns | pass@1 against ω = 1 |", "|---|---:|---:|---:|---:|---:|"]
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
