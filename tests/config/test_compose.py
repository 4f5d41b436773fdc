"""Configurations compose as they are meant to, and what contradicts itself is refused."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from redi_lab.config.compose import CONFIG_DIR, _compose, _composed, experiment_names, load_config
from redi_lab.config.metrics import known_metrics
from redi_lab.errors import UserError
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss=dpo", "init_from=null"], "loss.reference=init: the reference must be trained"),
        (["loss=dpo", "loss.reference=/nowhere"], "loss.reference=/nowhere: no Hugging Face folder there"),
        (["model=hf", "model.path=a/b"], "model.path=a/b: name=demo has the settings of a small student"),
        (
            ["model=hf", "model.path=/nowhere", "name=own"],
            "model.path=/nowhere: no such Hugging Face folder, and not a hub id",
        ),
        (["eval=jsonl", "eval.path=/nowhere"], "eval.path=/nowhere: no such file"),
        (["eval=aime24", "eval.path=/nowhere"], "eval.path=/nowhere: no such file, and neither a hub id (OWNER/NAME)"),
        (["eval=aime24", "eval.benchmark=suite"], "eval.members: the suite aime24 has no benchmark left"),
        (["eval=paper_suite"], "eval=paper_suite: training is evaluated on one benchmark"),
        (["eval.prompt_file=/nowhere"], "eval.prompt_file=/nowhere: no such file"),
        ([f"eval.prompt_file={REPOSITORY}/LICENSE"], f"eval.prompt_file={REPOSITORY}/LICENSE: has no {{problem}} in"),
        (
            ["+experiment=demo_sft", "callbacks.checkpoints.monitor=train/logps/rejected"],
            "callbacks.checkpoints.monitor=train/logps/rejected: no such metric",
        ),
        (
            ["callbacks.checkpoints.monitor=train/grad_cosine"],
            "callbacks.checkpoints.monitor=train/grad_cosine: no such",
        ),
        (
            ["data.num_development=0", "callbacks.accuracy.every_n_steps=10"],
            "callbacks.accuracy.every_n_steps=10: there are no problems to measure accuracy on",
        ),
        (
            ["callbacks.checkpoints.monitor=val/pass_at_1", "callbacks.checkpoints.every_n_steps=10"],
            "callbacks.checkpoints.monitor=val/pass_at_1: the best folder must hold the weights that were measured",
        ),
        (["data=openr1_math"], "data.batch_size is required and has no default"),
    ],
)
def test_choices_that_do_not_fit_together_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config("train", overrides)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sequential.width=0.1", "sequential.better_than=."], "sequential.width=0.1: ask one question"),
        (["sequential.delta=0.1"], "sequential.delta=0.1: better than what?"),
        (["sequential.width=0.1", "eval=paper_suite"], "sequential: asks about one benchmark, and eval=paper_suite"),
        (["sequential.width=0.1", "baseline=true"], "baseline=true: cannot be combined with sequential"),
    ],
)
def test_sequential_questions_that_make_no_sense_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config("evaluate", ["checkpoint=.", *overrides], check_paths=False)
    assert str(caught.value).startswith(message)


def test_a_rival_must_be_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    overrides = [f"checkpoint={tmp_path}", "sequential.better_than=/nowhere"]
    with pytest.raises(UserError, match=r"sequential\.better_than=/nowhere: no Hugging Face folder there"):
        load_config("evaluate", overrides)


@cache
def experiment(name: str) -> DictConfig:
    own = ["model.path=OWNER/MODEL", "data.path=OWNER/TRACES"] if name.startswith("own_model") else []
    return load_config("train", [f"+experiment={name}", *own])


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_composes(name: str) -> None:
    assert experiment(name).name == name


def test_the_default_is_the_demo() -> None:
    default, demo = load_config("train", []), experiment("demo")
    assert {k: v for k, v in default.items() if k != "paths"} == {k: v for k, v in demo.items() if k != "paths"}
    assert default.loss.alpha == 0.5
    assert default.optimizer.lr == 2e-4


def test_experiments_of_1p5b_hold_the_papers_hyperparameters() -> None:
    expected: dict[str, tuple[str | None, float, dict[str, Any]]] = {
        "sft_1p5b": (None, 5e-5, {}),
        "sft_3ep_1p5b": (None, 5e-5, {}),
        "redi_1p5b": ("sft_1p5b", 1e-6, {"alpha": 0.8}),
        "redi_3ep_1p5b": ("sft_3ep_1p5b", 1e-6, {"alpha": 0.8}),
        "symmetric_redi_1p5b": ("sft_3ep_1p5b", 2e-7, {"alpha": 1.0}),
        "dpo_1p5b": ("sft_3ep_1p5b", 2e-7, {"beta": 0.001, "reference": "init"}),
        "simpo_1p5b": ("sft_3ep_1p5b", 5e-7, {"beta": 2.0, "gamma": 1.0}),
        "simpo_b10_1p5b": ("sft_3ep_1p5b", 3e-7, {"beta": 10.0, "gamma": 5.0}),
    }
    assert set(expected) == {name for name in experiment_names() if name.endswith("_1p5b")}
    for name, (start, lr, loss) in expected.items():
        config = experiment(name)
        assert (config.init_from, config.optimizer.lr) == (start, lr), name
        assert {k: config.loss[k] for k in loss} == loss
        assert config.model.path == "Qwen/Qwen2.5-Math-1.5B"
        assert config.model.config_overrides == {"max_position_embeddings": 32768, "rope_theta": 300000}
        assert config.optimizer.betas == [0.9, 0.999]
        assert (config.optimizer.eps, config.optimizer.weight_decay) == (1e-8, 1e-4)
        assert config.optimizer.max_grad_norm == 1.0
        assert (config.scheduler.name, config.scheduler.warmup_ratio, config.seed) == ("linear", 0.1, 42)
        assert config.trainer.precision == "bf16-mixed"
        assert config.trainer.max_epochs == {"sft_1p5b": 5, "sft_3ep_1p5b": 3}.get(name, 1)
        assert config.data.batch_size == (128 if start is None else 32)
        assert config.data.max_prompt_tokens == (None if start is None else 800)
        assert config.data.max_completion_tokens == (None if start is None else 19000)


@pytest.mark.parametrize("name", [name for name in experiment_names() if name.endswith("_1p5b")])
def test_experiments_of_1p5b_look_at_what_they_do_not_train_on(name: str) -> None:
    config = experiment(name)
    assert config.data.num_validation == config.callbacks.probes.num_examples == 32
    assert config.data.num_development == config.data.source.num_heldout == 64
    assert config.callbacks.accuracy.temperature == config.eval.temperature
    checkpoints, accuracy = config.callbacks.checkpoints, config.callbacks.accuracy
    expected = (None, None) if config.init_from is None else (200, "val/pass_at_1")
    assert (checkpoints.every_n_steps, checkpoints.monitor) == expected
    assert accuracy.every_n_steps == checkpoints.every_n_steps
    longest = 800 + accuracy.max_new_tokens
    assert accuracy.max_batch_tokens >= config.data.num_development * longest  # one batch


def test_a_pretrained_model_has_its_own_rates() -> None:
    assert [experiment(name).optimizer.lr for name in ("own_model_sft", "own_model")] == pytest.approx([2e-5, 1e-6])
    assert (experiment("own_model").init_from, experiment("own_model_sft").init_from) == ("own_model_sft", None)
    adapters = ["model/lora=default", "model.path=OWNER/MODEL", "data.path=OWNER/TRACES", "model.lora.rank=4"]
    sft, redi = (load_config("train", [f"+experiment={name}", *adapters]) for name in ("own_model_sft", "own_model"))
    assert [sft.optimizer.lr, redi.optimizer.lr] == pytest.approx([2e-4, 1e-5])
    assert redi.model.lora.rank == 4
    assert load_config("train", ["+experiment=own_model", *adapters, "optimizer.lr=3e-6"]).optimizer.lr == 3e-6


def test_a_group_on_the_command_line_beats_the_experiments() -> None:
    config = load_config("train", ["+experiment=demo", "loss=dpo", "optimizer.lr=1e-4"])
    assert config.loss._target_.endswith("DPOModule")
    assert config.optimizer.lr == 1e-4
    assert config.init_from == "demo_sft"


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["+experiment=demo", "loss=dpo", "loss=simpo", "loss.beta=3"],
        ["trainer.max_epochs=2", "+experiment=demo_sft", "++loss.mine={a: [1]}", "eval.limit=${eval.num_samples}"],
        ["loss={alpha: 0.1}", "callbacks.collapse=null", "optimizer.betas=[0.1,0.2]", "seed=1", "seed=2"],
    ],
)
def test_values_after_composed_options_are_what_hydra_makes_of_all(overrides: list[str]) -> None:
    expected = _compose("train", overrides, CONFIG_DIR)
    for _ in range(2):  # also where the options were composed before
        assert _composed("train", overrides, CONFIG_DIR) == expected


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    conf = Path(shutil.copytree(CONFIG_DIR, tmp_path / "conf"))
    assert load_config("train", ["loss.alpha=0.1"], config_dir=conf).seed == 42
    main = conf / "train.yaml"
    main.write_text(main.read_text().replace("seed: 42", "seed: 43"))
    assert load_config("train", ["loss.alpha=0.2"], config_dir=conf).seed == 43


def test_metrics_of_sft_have_no_rejected_side() -> None:
    names = known_metrics("x.SFTModule", has_validation=True)
    assert "val/loss" in names
    assert not [name for name in names if "rejected" in name]


def test_curated_pairs_are_not_chosen_again(tmp_path: Path) -> None:
    def negatives(rule: str) -> str:
        given = ["data=curated", f"data.path={tmp_path}", f"data.negatives={rule}"]
        return str(load_config("train", given).data.negatives)

    assert negatives("shuffled_steps") == "shuffled_steps"
    with pytest.raises(UserError, match=r"data\.negatives=nearest.*curation\.pair_order=nearest"):
        negatives("nearest")
