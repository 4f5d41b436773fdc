"""Rounds of a model on its own traces: `python -m redi_lab +experiment=rounds rounds=3`.

Each round samples the last checkpoint on new problems, curates what it wrote, trains on that from that checkpoint,
evaluates, and measures how far the policy went from its sampler. All lies in one results folder, and the same command
goes on after a kill: a part that has its summary is done, and each part goes on by itself.
"""

from __future__ import annotations

import copy
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from redi_lab.backbone.attention import PADDED
from redi_lab.backbone.hub import load_tokenizer
from redi_lab.config.compose import PROTOCOL_FROM_TRAINING, check, load_config
from redi_lab.config.overrides import quoted
from redi_lab.data.batches import BatchDataset
from redi_lab.data.examples import Example
from redi_lab.data.rows import read_parquet
from redi_lab.data.tokenization import TokenizedSequence, TraceEncoder
from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.evaluation.staleness import staleness
from redi_lab.figures.style import COLOURS, dress, new_figure, save_figure
from redi_lab.run.benchmarks import make_benchmark
from redi_lab.run.build import make_backbone
from redi_lab.run.evaluation import evaluate_checkpoint, nested_metrics
from redi_lab.run.interrupted import running
from redi_lab.run.record import SUMMARY, make_logger, quieten_libraries, read_summary, write_summary
from redi_lab.run.screen import say, say_path
from redi_lab.run.stages import Stage, resolve_chain
from redi_lab.tracking.logger import RunLogger
from redi_lab.verbs.curate.command import run_curation
from redi_lab.verbs.generate import TOKENS_FILE, TRACES_FILE, run_generation
from redi_lab.verbs.train.command import find_start, run_training
from redi_lab.verbs.train.stage import score

FIGURE = "rounds.png"
_SCORE = ("pass_at_1", "pass_at_1_ci_low", "pass_at_1_ci_high")
_CURVES = (
    ("Accuracy (95 % CI)", "pass@1", "pass_at_1"),
    ("KL(sampler ‖ policy)", "nats per token", "kl_per_token"),
    ("Effective sample size", "share of the traces", "ess_share"),
)


def run_rounds(config: DictConfig, overrides: Sequence[str]) -> Path:
    """Run what is missing of the rounds.

    Args:
        config: composed and checked, with `rounds`.
        overrides: those that made it.

    Returns:
        The results folder, with summary.json, rounds.png and a folder for each round.

    Raises:
        UserError: as the verbs that it consists of.
    """
    quieten_libraries()
    chain = resolve_chain(config, overrides)
    with running(config, overrides, chain) as run:
        logger = make_logger(config, run.folder, None, {"redi_lab.rounds": str(config.rounds)})
        try:
            figure, policy = _run(config, overrides, chain, run.folder, logger)
        except BaseException:
            logger.finalize("interrupted")  # the same command goes on with it
            raise
    say_path("Figure", figure)
    say_path("Checkpoint", policy)
    return run.folder


def _run(
    config: DictConfig, overrides: Sequence[str], chain: Sequence[Stage], results: Path, logger: RunLogger
) -> tuple[Path, Path]:
    """All rounds; returns the figure and the last checkpoint."""
    benchmark = make_benchmark(config, lambda: chain[-1].data.corpus)
    policy = find_start(chain, config, overrides, logger.version)
    rows: list[dict[str, Any]] = [{"round": 0, "checkpoint": str(policy), **_score(config, policy, benchmark, 0)}]
    for number in range(1, config.rounds + 1):
        say(f"\n[bold]Round {number}/{config.rounds}[/bold]")
        folder, sampler = results / f"round_{number}", policy
        traces = _generate(config, sampler, folder / "traces", number)
        curated = _curate(config, traces, folder / "curated")
        policy = _train(config, overrides, sampler, curated, folder / "training", number, logger.version)
        samples = read_summary(traces)["metrics"]
        row: dict[str, Any] = {
            "round": number,
            "checkpoint": str(policy),
            **{name: samples[name] for name in ("problems", "traces", "right", "wrong")},
            "pairs": read_summary(curated)["metrics"]["pairs"],
            **_score(config, policy, benchmark, number),
            **staleness_of(config, policy, traces),
        }
        rows.append(row)
        say(" ".join(f"{name} {value:.3g}" for name, value in row.items() if isinstance(value, float)))
    for row in rows:
        numbers = {f"rounds/{name}": float(value) for name, value in row.items() if not isinstance(value, str)}
        logger.log_metrics(numbers, step=row["round"])
    figure = _draw(rows, results / FIGURE)
    metrics = nested_metrics({name: rows[-1][name] for name in _SCORE if name in rows[-1]})
    about = {"name": config.name, "verb": "train", "metrics": metrics, "mlflow_run_id": logger.version}
    logger.log_artifact(figure)
    logger.log_artifact(write_summary(results, config, about | {"checkpoint": str(policy), "rounds": rows}))
    logger.finalize("success")
    return figure, policy


def _score(config: DictConfig, checkpoint: Path, benchmark: Benchmark | None, number: int) -> dict[str, float]:
    """pass@1 and its interval; nothing without a benchmark."""
    if benchmark is None:
        return {}
    metrics = evaluate_checkpoint(config, checkpoint, benchmark, f"round {number}").metrics
    return {name: metrics[name] for name in _SCORE}


def _generate(config: DictConfig, sampler: Path, folder: Path, number: int) -> Path:
    """Traces of problems that no earlier round had; they are asked for as the policy is trained and evaluated."""
    own = [
        f"checkpoint={quoted(str(sampler))}",
        "eval=fresh",
        f"name={config.name}_traces_{number}",
        f"seed={config.seed}",
        f"eval.grader.answers={config.eval.grader.answers}",
        f"eval.grader.require_closed_thought={config.eval.grader.require_closed_thought}",
    ]
    generating = load_config("generate", [*own, *config.generate_overrides])
    for group in ("data", "verifier", "engine", "debug"):
        generating[group] = config[group]
    for key in PROTOCOL_FROM_TRAINING:
        generating.eval[key] = config.eval[key] if generating.eval[key] is None else generating.eval[key]
    if generating.eval.limit is not None:
        generating.eval.offset += (number - 1) * generating.eval.limit
    return _once(generating, config, folder, run_generation)


def _curate(config: DictConfig, traces: Path, folder: Path) -> Path:
    own = [
        "data=jsonl",
        f"data.path={quoted(str(traces / TRACES_FILE))}",
        f"name={config.name}_curated",
        f"seed={config.seed}",
        f"curation.grading.answers={config.eval.grader.answers}",
    ]
    curating = load_config("curate", [*own, *config.curate_overrides])
    curating.verifier = config.verifier
    for key in ("prompt_template", "thinking_prefix"):
        curating.data[key] = config.data[key]
    return _once(curating, config, folder, run_curation)


def _train(
    config: DictConfig,
    overrides: Sequence[str],
    sampler: Path,
    curated: Path,
    folder: Path,
    number: int,
    parent_run_id: str | None,
) -> Path:
    """The checkpoint of one more stage, from the sampler and on its curated traces."""
    training = copy.deepcopy(config)
    training.rounds, training.generate_overrides, training.curate_overrides = None, [], []
    training.name, training.init_from, training.init_overrides = f"{config.name}_{number}", str(sampler), []
    training.eval.benchmark, training.data.num_development, training.data.path = None, 0, str(curated)
    training.data.source = {
        "_target_": "redi_lab.data.curated.CuratedSource",
        "path": str(curated),
        "num_heldout": 0,
        "seed": config.seed,
    }
    training.paths.output_dir = str(folder)
    if not (folder / SUMMARY).exists():
        check(training, "train")
        own = [override for override in overrides if not override.startswith("paths.output_dir=")]
        run_training(training, [*own, f"paths.output_dir={folder}"], parent_run_id=parent_run_id)
    return Path(read_summary(folder)["checkpoint"])


def _once(part: DictConfig, config: DictConfig, folder: Path, run: Callable[[DictConfig], Path]) -> Path:
    """The results folder of a part, which is run unless it has been."""
    part.paths = config.paths
    part.paths.output_dir = str(folder)
    return folder if (folder / SUMMARY).exists() else run(part)


def staleness_of(config: DictConfig, policy: Path, traces: Path) -> dict[str, float]:
    """Of a policy on the traces of its sampler, token by token as they were drawn."""
    tokenizer = load_tokenizer(str(policy))
    encoder = TraceEncoder(tokenizer, config.eval.prompt_template, config.eval.thinking_prefix)
    problems = {row["id"]: str(row["problem"]) for _, row in read_parquet(traces / TRACES_FILE, ["id", "problem"])}
    rows: list[dict[str, Any]] = [row for _, row in read_parquet(traces / TOKENS_FILE)]
    examples: list[Example] = []
    for row in rows:
        prompt = encoder.prompt_ids(problems[row["id"]])
        ids = array("i", [*prompt, *row["token_ids"]])
        examples.append((TokenizedSequence(str(row["id"]), ids, len(prompt)),))
    budget = max(config.data.micro_batch_tokens, *(len(sequence.input_ids) for (sequence,) in examples))
    dataset = BatchDataset(examples, budget, split_examples=True, is_padded=config.model.attention == PADDED)
    model = make_backbone(config, tokenizer, str(policy))
    scored = score(config, model, dataset, "Staleness", keeps_tokens=False)
    return staleness(
        [math.fsum(row["token_logps"]) for row in rows],
        [reference.logps for (reference,) in scored],
        [len(row["token_ids"]) for row in rows],
        [str(row["id"]) for row in rows],
    )


def _draw(rows: Sequence[Mapping[str, Any]], destination: Path) -> Path:
    """Accuracy and staleness over rounds; round 0 is the start."""
    figure, axes = new_figure(9, 2.8, columns=len(_CURVES))
    for ax, (title, unit, name) in zip(axes, _CURVES, strict=True):
        shown = [row for row in rows if name in row]
        rounds, values = [row["round"] for row in shown], [row[name] for row in shown]
        ax.plot(rounds, values, marker="o", color=COLOURS[0])
        if shown and f"{name}_ci_low" in shown[0]:
            ends = ([row[f"{name}_{end}"] for row in shown] for end in ("ci_low", "ci_high"))
            ax.fill_between(rounds, *ends, color=COLOURS[0], alpha=0.15)
        ax.set(xlabel="round", ylabel=unit, xticks=[row["round"] for row in rows])
        dress(ax, title)
    return save_figure(figure, destination)
