"""Every YAML that is shipped composes, fits the schema, and becomes the object that it names."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from redi_lab.backbone.adapters import Adapters
from redi_lab.config.compose import CONFIG_DIR, _compose, check, load_config
from redi_lab.data.arithmetic import build_tokenizer
from redi_lab.data.tokenization import TokenizedSequence, TraceEncoder
from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem
from redi_lab.generation.vllm_engine import VLLMEngine
from redi_lab.run import build
from redi_lab.run.benchmarks import make_benchmark
from redi_lab.verbs.curate.command import make_recipe

NEEDED = {
    ("model", "hf"): ["model.path=Qwen/Qwen2.5-0.5B", "name=own"],
    ("model", "qwen2_5_math_1p5b"): ["name=own"],
    ("data", "arithmetic"): ["data.source.num_problems=9"],
    ("data", "jsonl"): ["data.path=someone/some-data"],
    ("data", "openr1_math"): ["data.batch_size=4"],
    ("data", "openr1_220k"): ["data.batch_size=4"],
    ("data", "curated"): ["data.path=someone/some-data"],
    ("verifier", "coq"): ["verifier.coqc=cat"],
    ("verifier", "command"): ["verifier.command=[cat]"],
}


def _options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONFIG_DIR / group).glob("[!_]*.yaml"))


CHOICES = {
    group: [option for option in _options(group) if option != "reasoning_gym"]  # tests/data/test_reasoning_gym.py
    for group in ("model", "data", "optimizer", "scheduler", "trainer", "callbacks", "engine", "verifier")
}
_SEVERAL = ("paper_suite", "lm_eval")  # tested with the verb evaluate, as no training takes them
TOGETHER = {"loss": _options("loss"), "eval": [name for name in _options("eval") if name not in _SEVERAL]}
"""Groups with many options."""
ALONE = {"protocol": "train", "curation": "curate"}
"""Groups whose options change what others say, and the verbs that read them."""
NOT_OBJECTS = ("debug", "experiment", "launcher", "logger", "paper", "paths")


def _model(config: DictConfig, folder: Path) -> None:
    if config.model.path is None:
        backbone = build.make_backbone(config, build_tokenizer(), None)
        assert 3e5 < sum(p.numel() for p in backbone.parameters()) < 4e5
    else:
        assert config.model.config is None


def _data(config: DictConfig, folder: Path) -> None:
    assert isinstance(build.make_source(config), get_class(config.data.source._target_))


def _loss(config: DictConfig, folder: Path) -> None:
    settings = {k: v for k, v in config.loss.items() if k not in ("reference", "prefix_weight", "tail_weight")}
    module = instantiate(settings)(backbone=MagicMock())
    assert isinstance(module, build.objective_class(config))
    assert all(getattr(module, k) == config.loss[k] for k in ("alpha", "beta", "gamma") if k in config.loss)


def _optimizer(config: DictConfig, folder: Path) -> None:
    settings = {k: v for k, v in config.optimizer.items() if k != "max_grad_norm"}
    optimizer = instantiate(settings)([torch.nn.Parameter(torch.zeros(2))])
    assert optimizer.param_groups[0]["lr"] == 2e-4


def _scheduler(config: DictConfig, folder: Path) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=1.0)
    schedule = build._schedule(config.scheduler.name, config.scheduler.warmup_ratio)(optimizer, 100)
    assert schedule.get_last_lr() == [0.0]


def _trainer(config: DictConfig, folder: Path) -> None:
    assert build.make_trainer(config, [], False).max_epochs == 1


def _callbacks(config: DictConfig, folder: Path) -> None:
    probe = TokenizedSequence("probe", (1, 2), 1)
    needs: dict[str, dict[str, Any]] = {
        "accuracy": {"measure": lambda policy: {}},
        "probes": {"probes": [probe], "token_budget": 8},
    }
    assert len(build.make_callbacks(config, folder, 0, needs)) == len(config.callbacks)
    without = build.make_callbacks(config, folder, 0, {**needs, "accuracy": None})
    assert len(without) == len(config.callbacks) - 1


def _engine(config: DictConfig, folder: Path) -> None:
    assert build.make_engine(config).name in config.engine._target_.lower()


def _eval(config: DictConfig, folder: Path) -> None:
    if config.eval.benchmark is None:
        assert make_benchmark(config, pytest.fail) is None
    elif config.eval.benchmark in ("heldout", "arithmetic"):
        benchmark = make_benchmark(config, build.make_source(config).load)
        assert benchmark is not None
        assert (benchmark.name, len(benchmark.problems)) == (config.eval.name, 600)
    assert build.make_sampling(config).num_samples == 4
    with build.make_grader(config) as grader:
        assert grader.settings["answers"] == config.eval.grader.answers


def _verifier(config: DictConfig, folder: Path) -> None:
    config.eval.grader.timeout_seconds = 7.0
    with pickle.loads(pickle.dumps(build.grader_maker(config)))() as grader:
        if "coqc" not in config.verifier:
            assert grader.settings["timeout_seconds"] == 7.0
        assert isinstance(grader, get_class(config.verifier._target_))


def _protocol(config: DictConfig, folder: Path) -> None:
    assert build.make_sampling(config).num_samples == (16 if config.eval.max_new_tokens == 32768 else 4)
    is_final = config.eval.num_samples == 16
    assert (config.eval.thinking_prefix == "<think>\n") == config.eval.grader.require_closed_thought == is_final
    assert config.eval.fit_context == (config.eval.max_new_tokens >= 32000)


def _curation(config: DictConfig, folder: Path) -> None:
    config.data.source.path = str(folder / "raw.jsonl")
    (folder / "raw.jsonl").write_text('{"problem": "1+1?"}\n')
    rules = make_recipe(config).plan.rules
    assert (rules.unknown, rules.require_complete) in (("negative", False), ("unused", True))


CHECKS: dict[str, Callable[[DictConfig, Path], None]] = {
    "model": _model,
    "data": _data,
    "optimizer": _optimizer,
    "scheduler": _scheduler,
    "trainer": _trainer,
    "callbacks": _callbacks,
    "engine": _engine,
    "verifier": _verifier,
    "protocol": _protocol,
    "curation": _curation,
}


@pytest.mark.parametrize("number", range(max(map(len, CHOICES.values()))))
def test_every_option_becomes_an_object(number: int, tmp_path: Path) -> None:
    """Each composition takes the next option of every group: together they take all."""
    chosen = {group: options[number % len(options)] for group, options in CHOICES.items()}
    needed = [override for choice in chosen.items() for override in NEEDED.get(choice, [])]
    config = load_config("train", [*(f"{group}={option}" for group, option in chosen.items()), *dict.fromkeys(needed)])
    for group in chosen:
        CHECKS[group](config, tmp_path)


@pytest.mark.parametrize("option", _options("model/lora"))
def test_every_option_of_adapters_is_what_the_backbone_takes(option: str) -> None:
    lora = load_config("train", [f"model/lora={option}", "init_from=.", "loss=sft"], check_paths=False).model.lora
    assert (lora is None) == (option == "none")
    if lora is not None:
        assert bool(Adapters(**lora).loading_options()) == (option == "qlora")


@cache
def _together() -> tuple[DictConfig, DictConfig]:
    """The default configuration, and all losses and benchmarks: Hydra composes them at once, each under its name."""
    names = [f"+{group}@all.{group}.{name}={name}" for group, options in TOGETHER.items() for name in options]
    return load_config("train", ["data.source.num_problems=9"]), _compose("train", names, CONFIG_DIR)["all"]


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, names in TOGETHER.items() for name in names])
def test_every_option_of_a_large_group_becomes_an_object(group: str, name: str, tmp_path: Path) -> None:
    default, options = _together()
    config = copy.deepcopy(default)
    option = options[group][name]
    config[group] = OmegaConf.merge(config.eval, option) if group == "eval" else option  # which protocol adds to, too
    if name == "token_reward":  # refuses what asks a policy
        config = load_config("train", ["+experiment=token_reward"])
    if name == "jsonl":
        config.eval.path = __file__
    check(config, "train")
    {"loss": _loss, "eval": _eval}[group](config, tmp_path)


_OPTIONS = {"protocol": ["as_trained", "paper", "quick"], "curation": _options("curation")}
"""The other protocols ask in several ways: tests/verbs/evaluate/test_conditions.py."""


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in ALONE for option in _OPTIONS[group]])
def test_every_option_that_speaks_for_other_groups_becomes_an_object(group: str, option: str, tmp_path: Path) -> None:
    needed = ["data=openr1_math"] if group == "curation" else []
    CHECKS[group](load_config(ALONE[group], [f"{group}={option}", *needed]), tmp_path)


def test_every_option_that_is_no_object_composes() -> None:
    groups = {group: _options(group) for group in ("debug", "logger", "paths")}
    for number in range(max(map(len, groups.values()))):
        chosen = [f"{group}={options[number % len(options)]}" for group, options in groups.items()]
        config = load_config("train", chosen)
        assert all(config[group] is not None for group in groups)


def test_every_group_is_covered() -> None:
    assert {path.name for path in CONFIG_DIR.iterdir() if path.is_dir()} == {*CHOICES, *ALONE, *NOT_OBJECTS, *TOGETHER}


def test_the_problems_of_the_embedded_task_are_the_same_whichever_group_names_them() -> None:
    few = "data.source.num_problems=9"
    configs = [load_config("train", [few]), load_config("train", [few, "eval=arithmetic"])]
    first, second = (make_benchmark(config, build.make_source(config).load) for config in configs)
    assert first is not None
    assert second is not None
    assert first.digest == second.digest


def test_the_warm_up_lasts_the_first_tenth_and_the_decay_ends_at_zero() -> None:
    config = load_config("train", [])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=1.0)
    schedule = build._schedule(config.scheduler.name, config.scheduler.warmup_ratio)(optimizer, 100)
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:3] == pytest.approx([0.0, 0.1, 0.2])
    assert max(rates) == rates[10] == 1.0
    assert schedule.get_last_lr()[0] == 0.0


def test_accuracy_during_training_follows_the_evaluation_and_is_never_longer() -> None:
    def made(*overrides: str) -> Any:
        config = load_config("train", list(overrides))
        encoder = TraceEncoder(build_tokenizer())
        benchmark = Benchmark.of("one", [EvalProblem("a", "1 + 1 ?", ("2",))])
        return build.make_accuracy(config, config, benchmark, encoder, build.make_grader(config))

    assert made().sampling.max_new_tokens == 96
    assert made("callbacks.accuracy.max_new_tokens=8").sampling.max_new_tokens == 8
    assert made("callbacks.accuracy.max_new_tokens=200").sampling.max_new_tokens == 96
    assert [made(f"protocol={name}").require_closed_thought for name in ("quick", "paper")] == [False, True]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (0.6, 0.95, 96, 1, 42)),
        (["protocol=paper", "seed=7"], (0.6, 0.95, 32768, 1, 7)),
        (["eval.temperature=1.0", "eval.top_p=0.9", "callbacks.accuracy.num_samples=4"], (1.0, 0.9, 96, 4, 42)),
        (["callbacks.accuracy.temperature=0"], (0.0, 0.95, 96, 1, 42)),
    ],
)
def test_accuracy_during_training_is_decoded_as_the_final_score(
    overrides: list[str], expected: tuple[float, float, int, int, int]
) -> None:
    config = load_config("train", overrides)
    s = build.accuracy_sampling(config, config)
    assert (s.temperature, s.top_p, s.max_new_tokens, s.num_samples, s.seed) == expected


def test_replicas_learn_where_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redi_lab.config.schema.surroundings.find_spec", lambda name: name)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    there = ["launcher=ray", "launcher.address=head:1"]
    for overrides, cluster in (([], None), (["launcher=ray"], "127.0.0.1:6379"), (there, "head:1")):
        config = load_config("evaluate", ["checkpoint=.", "engine=vllm", *overrides], check_paths=False)
        engine = build.make_engine(config)
        assert isinstance(engine, VLLMEngine)
        assert engine._cluster == cluster
        assert engine.settings == {"dtype": "auto", "tensor_parallel_size": 1, "options": {}}  # whatever the place


@pytest.mark.parametrize("is_launched", [False, True])
def test_lightning_does_not_requeue_slurm_jobs_by_itself(is_launched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "redi")
    if is_launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    trainer = build.make_trainer(load_config("train", ["trainer.accelerator=cpu"]), [], False)
    environment = trainer._accelerator_connector.cluster_environment
    assert not getattr(environment, "auto_requeue", False)
    assert isinstance(environment, TorchElasticEnvironment if is_launched else SLURMEnvironment)
