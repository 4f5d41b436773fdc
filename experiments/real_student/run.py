"""A pretrained model as its own teacher: its traces, cleaned, curated and trained on by seven objectives, then judged.

    python -m experiments.real_student.run --model FOLDER             # hours; goes on where it was stopped
    python -m experiments.real_student.run --model FOLDER --report    # table and figure of the rows that are there

Every stage is a command of the lab, which goes on by itself after a kill; every model that was judged is a row of the
results. All objectives start from one rejection-sampling SFT a seed and take equally many optimizer steps over the
same pairs. With `--train FILE --heldout FILE` (JSONL of {problem, answer}) and `--prompt FILE` the task is yours. Other
sizes need another `--outputs` and `--results`. report.py tabulates.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.equal_budget.run import DIGITS
from experiments.real_student import problems
from experiments.runner import ENVIRONMENT, Results, arguments_of, command

ADVISED = "REDI, advised α"
ARMS: Mapping[str, tuple[str, ...]] = {
    "SFT continued": ("loss=redi", "loss.alpha=0"),
    ADVISED: ("loss=redi",),
    "REDI, α 0.8": ("loss=redi", "loss.alpha=0.8"),
    "symmetric REDI": ("loss=symmetric_redi",),
    "DPO": ("loss=dpo", "loss.beta=0.1"),
    "SimPO": ("loss=simpo", "loss.beta=2", "loss.gamma=1"),
    "bounded REDI": ("loss=bounded_redi", "loss.alpha=1", "loss.gamma=1"),
}
BASE, SFT = "base model", "rejection-sampling SFT"
SCORES = ("pass_at_1", "mean_tokens", "tokens_p10", "tokens_p50", "tokens_p90", "truncation_rate", "unknown_rate")
CURVES = {"chosen": "probe/chosen_mean_logps", "rejected": "probe/rejected_mean_logps"}
STATES = ("healthy", "drifting", "collapsed")


class Sizes(NamedTuple):
    """How much is run; each is an option of the command.

    Attributes:
        problems: to draw traces of.
        heldout: problems to judge on.
        samples: most traces of a problem, until two are right and two wrong.
        eval_samples: of each held-out problem.
        sft_steps: optimizer steps of the rejection-sampling SFT, of 16 traces each.
        steps: of every objective, of 8 pairs each.
        max_new_tokens: of a trace.
        seeds: of sampling, adapters and order.
    """

    problems: int = 450
    heldout: int = 300
    samples: int = 6
    eval_samples: int = 4
    sft_steps: int = 40
    steps: int = 40
    max_new_tokens: int = 64
    seeds: int = 2


class Study(NamedTuple):
    """What the stages need: the model's folder, files of problems, prompt, sizes, folder and file of results."""

    model: Path
    train: Path
    heldout: Path
    prompt: str
    sizes: Sizes
    outputs: Path
    results: Results

    def stage(self, name: str, seed: int, overrides: list[str]) -> dict[str, Any]:
        """The summary of a stage; how long it took is kept beside the rows."""
        begun, place = time.monotonic(), f"{name}_s{seed}".replace(" ", "_").replace(",", "")
        is_there = (self.outputs / place / "summary.json").exists()
        summary = command(self.outputs / place, self.outputs, [*overrides, f"seed={seed}"])
        if not is_there:
            self.results.content["starts"][place] = {"seconds": round(time.monotonic() - begun, 1)}
            self.results.save()
        return {**summary, "folder": self.outputs / place}

    def asked(self) -> list[str]:
        """How problems are put, and answers drawn and read."""
        from redi_lab.config.overrides import quoted

        drawn = ("eval.temperature=0.7", "eval.top_p=0.95", f"eval.max_new_tokens={self.sizes.max_new_tokens}")
        return [f"eval.prompt_template={quoted(self.prompt)}", "eval.grader.answers=last_number", *drawn]

    def data(self, curated: Path) -> list[str]:
        """Model and data of a training."""
        from redi_lab.config.overrides import quoted

        model = [f"model.path={self.model}", "model/lora=default", "baseline=false", "eval=none", "logger=none"]
        read = ["data=curated", f"data.path={curated}", "data.source.num_heldout=0", "data.num_validation=16"]
        off = [f"callbacks.{name}=null" for name in ("accuracy", "gradient_conflict")]
        return [*model, *read, *off, f"data.prompt_template={quoted(self.prompt)}"]


def main() -> None:
    """Run what is missing, then tabulate what is there."""
    parser = arguments_of(__doc__.split("\n")[0], "real_student")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder")
    for name in ("train", "heldout", "prompt"):
        parser.add_argument(f"--{name}", type=Path, help="instead of the study's own word problems")
    for name, value in Sizes()._asdict().items():
        option = "--num-heldout" if name == "heldout" else f"--{name.replace('_', '-')}"
        parser.add_argument(option, dest=f"size_{name}", type=int, default=value)
    arguments = parser.parse_args()
    results = Results(arguments.results)
    if not arguments.report:
        os.environ.update({**ENVIRONMENT, "OMP_NUM_THREADS": str(arguments.workers)})  # stages are not run side by side
        run(study_of(arguments, results))
    from experiments.real_student.report import write_report

    print(write_report(results.content, results.path.parent))


def study_of(arguments: argparse.Namespace, results: Results) -> Study:
    """The study that the options describe.

    Raises:
        SystemExit: there is no model, the files do not go together, or the rows are of other sizes.
    """
    sizes = Sizes(*(getattr(arguments, f"size_{name}") for name in Sizes._fields))
    given = [arguments.train, arguments.heldout, arguments.prompt]
    if arguments.model is None or not (arguments.model / "config.json").is_file():
        raise SystemExit(f"--model {arguments.model}: give a Hugging Face folder")
    if any(given) and not all(given):
        raise SystemExit("--train, --heldout and --prompt: give all three, or none for the study's own problems")
    outputs = arguments.outputs.absolute()
    if arguments.prompt:
        train, heldout, prompt = arguments.train, arguments.heldout, arguments.prompt.read_text(encoding="utf-8")
    else:
        train, heldout = problems.write(outputs / "problems", sizes.problems, sizes.heldout)
        prompt = problems.PROMPT
    known = results.content["starts"].setdefault("sizes", sizes._asdict())
    if known != sizes._asdict():
        raise SystemExit(f"{results.path}: its rows are of other sizes ({known}); give another --outputs and --results")
    return Study(arguments.model.absolute(), train.absolute(), heldout.absolute(), prompt, sizes, outputs, results)


def run(study: Study) -> None:
    """One seed after the other: traces, hygiene, pairs, advice, SFT, and every objective with its scores."""
    for seed in range(1, study.sizes.seeds + 1):
        judge(study, BASE, seed, study.model, None)
        curated = make_pairs(study, seed)
        steps = [*steps_of(study.sizes.sft_steps), "data.batch_size=16"]
        sft = study.stage(SFT, seed, ["+experiment=own_model_sft", *study.data(curated), *steps])
        judge(study, SFT, seed, Path(sft["checkpoint"]), sft["folder"])
        alpha = advise(study, seed, curated)
        for arm, overrides in ARMS.items():
            if arm == ADVISED and alpha is None:
                continue  # nothing is advised, see the table
            own = [*overrides, f"loss.alpha={alpha}"] if arm == ADVISED else overrides
            steps = [*steps_of(study.sizes.steps), "data.batch_size=8", "optimizer.lr=2e-5"]
            more = [*study.data(curated), *steps, f"init_from={sft['checkpoint']}"]
            trained = study.stage(arm, seed, ["+experiment=own_model", *own, *more])
            judge(study, arm, seed, Path(trained["checkpoint"]), trained["folder"])


def steps_of(number: int) -> list[str]:
    """So many optimizer steps, in as many epochs as they take."""
    return [f"trainer.max_steps={number}", "trainer.max_epochs=-1"]


def make_pairs(study: Study, seed: int) -> Path:
    """The model's own traces, what hygiene says of them, and the folder of their curation."""
    from redi_lab.config.overrides import quoted

    drawn = [f"eval.num_samples={study.sizes.samples}", "stop.right=2", "stop.wrong=2"]
    asked = [f"checkpoint={study.model}", "eval=jsonl", f"eval.path={study.train}", *study.asked(), *drawn]
    traces = study.stage("traces", seed, ["generate", *asked])
    read = ["data=jsonl", f"data.path={traces['folder'] / 'traces.parquet'}", "curation.num_workers=0"]
    read += [f"data.prompt_template={quoted(study.prompt)}", "curation.grading.answers=last_number"]
    flaws = study.stage("hygiene", seed, ["curate", "hygiene", *read, "curation.grader=never"])
    rules = ["curation=strict", "curation.demonstrations=all", "curation.pairs_per_problem=2"]
    curated = study.stage("curated", seed, ["curate", *read, *rules, "curation.drop_negatives=[loop,long]"])
    kept = {"traces": traces["metrics"], "hygiene": flaws["metrics"], "curated": curated["metrics"]}
    study.results.content["starts"][f"data_s{seed}"] = kept
    study.results.save()
    folder: Path = curated["folder"]
    return folder


def advise(study: Study, seed: int, curated: Path) -> float | None:
    """The α that counting advises for these pairs, if any."""
    found = study.stage("advice", seed, ["curate", "advise", "+experiment=own_model", *study.data(curated)])
    study.results.content["starts"][f"advice_s{seed}"] = {key: found[key] for key in ("tells", "advised_alpha")}
    study.results.save()
    alpha: float | None = found["advised_alpha"]
    return alpha


def judge(study: Study, arm: str, seed: int, checkpoint: Path, training: Path | None) -> None:
    """Score on the held-out problems, and keep the row: scores, right samples of each problem, and training curves."""
    from redi_lab.evaluation.results import load_result
    from redi_lab.evaluation.scoring import verdicts_of

    drawn = ["logger=none", f"eval.num_samples={study.sizes.eval_samples}", f"eval.limit={study.sizes.heldout}"]
    asked = [f"checkpoint={checkpoint}", "eval=jsonl", f"eval.path={study.heldout}", *study.asked(), *drawn]
    summary = study.stage(f"{arm} judged", seed, ["evaluate", *asked])
    kept = (*SCORES, f"pass_at_{study.sizes.eval_samples}")
    row = {key: round(summary["metrics"][key]["value"], 5) for key in dict.fromkeys(kept) if key in summary["metrics"]}
    result = load_result(study.outputs / "cache" / "evaluations", summary["evaluation"]["key"])
    assert result is not None
    right = "".join(DIGITS[count] for count in verdicts_of(result).sum(axis=1))
    row |= {"arm": arm, "seed": seed, "samples": study.sizes.eval_samples, "right": right}
    study.results.content["runs"][f"{arm}/{seed}"] = row | ({} if training is None else curves_of(training))
    study.results.save()


def curves_of(training: Path) -> dict[str, Any]:
    """Mean log-probs of the held-back traces over steps, and the worst that the collapse rule says."""
    from redi_lab.tracking.journal import read_curves

    curves = read_curves(training / "metrics.jsonl")
    found = {side: curves[name] for side, name in CURVES.items() if name in curves}
    kept = {
        side: [[step, round(value, 4)] for step, value in zip(one.steps, one.values, strict=True)]
        for side, one in found.items()
    }
    return {**kept, "state": STATES[int(max(curves["collapse/state"].values))]}


if __name__ == "__main__":
    main()
