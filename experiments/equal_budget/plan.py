"""What the comparison trains: its methods, what is searched for each, and how much of it. Nothing runs here.

All methods have the same number of trials, from one Sobol sequence, and a trial is the same number of trainings on the
same seeds, each over the same pairs in as many steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

RATE: Mapping[str, Any] = {"optimizer.lr": {"low": 1e-5, "high": 1e-3, "log": True}}
ALPHA: Mapping[str, Any] = {"loss.alpha": {"low": 0.1, "high": 1.0}}


class Method(NamedTuple):
    """An objective: what it is called, how the command line chooses it, and what is searched."""

    name: str
    title: str
    overrides: tuple[str, ...]
    space: Mapping[str, Any]


METHODS = (
    Method("redi", "REDI", ("loss=redi",), {**ALPHA, **RATE}),
    Method("symmetric", "symmetric REDI", ("loss=symmetric_redi",), RATE),
    Method("dpo", "DPO", ("loss=dpo",), {"loss.beta": {"low": 0.03, "high": 10.0, "log": True}, **RATE}),
    Method(
        "simpo",
        "SimPO",
        ("loss=simpo",),
        {
            "loss.beta": {"low": 1.0, "high": 30.0, "log": True},
            "loss.gamma": {"low": 0.0, "high": 1.0, "times": "loss.beta"},
            **RATE,
        },
    ),
    Method("simper", "SimPER", ("loss=simper",), RATE),
    Method(
        "bounded_redi",
        "bounded REDI",
        ("loss=bounded_redi",),
        {**ALPHA, "loss.gamma": {"low": 0.25, "high": 4.0, "log": True}, **RATE},
    ),
    Method("sft_continued", "SFT continued", ("loss=redi", "loss.alpha=0"), RATE),
)
SFT = "sft"
"""SFT alone, the start of all: nothing is searched."""
TITLES = {method.name: method.title for method in METHODS} | {SFT: "SFT alone"}

EXPERIMENTS = {"arithmetic": "demo", "chains": "chains"}
INTERVALS = {"arithmetic": 26, "chains": 15}
"""Steps between two measurements on development problems, after each of which the checkpoint may be the best so far."""
CPU = "trainer.accelerator=cpu"
OBSERVERS = ("accuracy", "probes", "gradient_conflict", "collapse")


class Scope(NamedTuple):
    """How much is run.

    Attributes:
        methods: that are compared.
        num_trials: of each.
        tuning_seeds: over which a trial's score is averaged.
        final_seeds: fresh ones, for the winners.
        num_development: problems that a trial is scored on.
        tuning_samples: of each of them.
        final_samples: of each of the held-out problems, 600 unless `smaller` says otherwise.
        smaller: overrides that make a training short; none for the study itself.
        interval: of `INTERVALS`; None: the task's.
    """

    methods: tuple[Method, ...] = METHODS
    num_trials: int = 24
    tuning_seeds: tuple[int, ...] = (201, 202, 203)
    final_seeds: tuple[int, ...] = (301, 302, 303, 304, 305, 306, 307, 308)
    num_development: int = 200
    tuning_samples: int = 4
    final_samples: int = 16
    smaller: tuple[str, ...] = ()
    interval: int | None = None


FULL = Scope()
QUICK = Scope(
    methods=(METHODS[0], METHODS[3], METHODS[-1]),
    num_trials=2,
    tuning_seeds=(201, 202),
    final_seeds=(301, 302),
    num_development=20,
    tuning_samples=2,
    final_samples=4,
    smaller=(
        "data.source.num_problems=300",
        "data.source.num_heldout=30",
        "model.config.hidden_size=48",
        "model.config.num_hidden_layers=1",
        "model.config.intermediate_size=64",
        "trainer.max_steps=8",
        "eval.max_new_tokens=48",
    ),
    interval=4,
)


def shared(task: str, scope: Scope) -> list[str]:
    """What all trainings of a task have in common: the experiment, and an SFT that nothing looks at."""
    return [
        f"+experiment={EXPERIMENTS[task]}",
        *scope.smaller,
        f"data.num_development={scope.num_development}",
        "init_overrides=[" + ",".join(f"'{one}'" for one in _of_start(scope)) + "]",
        CPU,
    ]


def _of_start(scope: Scope) -> list[str]:
    off = [f"callbacks.{name}=null" for name in OBSERVERS]
    return [*off, *(one for one in scope.smaller if one.startswith("trainer.")), CPU]


def start_overrides(task: str, seed: int, scope: Scope) -> list[str]:
    """The command line of a seed's SFT alone."""
    return [f"+experiment={EXPERIMENTS[task]}_sft", *scope.smaller, *_of_start(scope), "eval=none", f"seed={seed}"]


def study_name(task: str, method: Method) -> str:
    """Of a method's sweep."""
    return f"equal_budget_{task}_{method.name}"


def sweep_arguments(task: str, method: Method, scope: Scope) -> list[str]:
    """The command line of a method's sweep."""
    return [
        f"name={study_name(task, method)}",
        "seed=1",
        *shared(task, scope),
        *method.overrides,
        *(f"callbacks.{name}=null" for name in OBSERVERS),
        f"eval.num_samples={scope.tuning_samples}",
        f"sweep.space={_as_hydra(method.space)}",
        f"sweep.seeds={list(scope.tuning_seeds)}",
        f"sweep.num_trials={scope.num_trials}",
        "sweep.metric=eval/pass_at_1",
        "sweep.sampler=sobol",
        "sweep.pruner=none",
    ]


def final_overrides(task: str, method: Method, values: Mapping[str, float], seed: int, scope: Scope) -> list[str]:
    """The command line of a winner's training, which is evaluated on held-out problems: last and best checkpoint."""
    interval = scope.interval or INTERVALS[task]
    return [
        *shared(task, scope),
        *method.overrides,
        *(f"{path}={value!r}" for path, value in values.items()),
        f"name={method.name}",
        f"seed={seed}",
        f"eval.num_samples={scope.final_samples}",
        *(f"callbacks.{name}=null" for name in OBSERVERS[1:]),
        f"callbacks.accuracy.every_n_steps={interval}",
        f"callbacks.accuracy.num_samples={scope.tuning_samples}",
        f"callbacks.checkpoints.every_n_steps={interval}",
        "callbacks.checkpoints.monitor=val/pass_at_1",
        "callbacks.checkpoints.mode=max",
    ]


def finals(scope: Scope) -> Iterator[tuple[Method, int]]:
    """The winners' trainings: one seed of all methods after the other, so that a study cut short is still paired."""
    for seed in scope.final_seeds:
        yield from ((method, seed) for method in scope.methods)


def _as_hydra(node: Any) -> str:
    """A mapping in Hydra's grammar."""
    if isinstance(node, Mapping):
        return "{" + ",".join(f"{key}:{_as_hydra(value)}" for key, value in node.items()) + "}"
    return str(node).lower() if isinstance(node, bool) else str(node)
