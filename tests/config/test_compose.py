"""A mistake in a configuration ends in one line that names the key, the value and what is allowed."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from redi_lab.config.compose import experiment_names, is_hub_id, load_config
from redi_lab.config.schema import LOSSES, TRAINER_ARGUMENTS, known_metrics
from redi_lab.errors import UserError

MISTAKES = {
    "loss.alhpa=0.3": r"unknown key loss.alhpa: loss has alpha, log_entropy \(did you mean alpha\?\)",
    "+loss.gamma=0.3": r"unknown key loss.gamma: loss has log_entropy, alpha",
    "init_overrides=[a=1]": r"init_overrides=\[a=1\]: cannot be read as KEY=VALUE .*; quote what holds =",
    "lr=0.1": r"unknown key lr: the configuration has .*",
    "+foo=1": r"unknown key foo: the configuration has name, seed",
    "trainer.max_epoch=3": r"unknown key trainer.max_epoch: .*\(did you mean max_epochs\?\)",
    "+trainer.foo=3": r"unknown key trainer.foo: trainer has accelerator",
    "loss=foo": r"loss=foo: no such option; choose dpo, mild_redi, redi, sft, simpo, symmetric_redi",
    "loss=rdi": r"loss=rdi: .*\(did you mean redi\?\)",
    "model=3": r".*model.*3|.*string.*",
    "experiment=demo": r".*write \+experiment=NAME with one of .*demo",
    "+experiment=redi_9b": r"experiment=redi_9b: no such option; .*\(did you mean redi_1p5b\?\)",
    "loss.alpha=1.5": r"loss.alpha=1.5: must be in \[0, 1\]",
    "loss.alpha=-0.1": r"loss.alpha=-0.1: must be in \[0, 1\]",
    "loss.alpha=nan": r"loss.alpha=nan: must be in \[0, 1\]",
    "loss.alpha=high": r"loss.alpha=high: must be a number",
    "optimizer.lr=0": r"optimizer.lr=0: must be a number above 0",
    "optimizer.lr=abc": r"optimizer.lr=abc: must be a number above 0",
    "scheduler.warmup_ratio=10": r"scheduler.warmup_ratio=10.0: must be in \[0, 1\]",
    "scheduler.name=liner": r"scheduler.name=liner: must be one of linear, cosine",
    "data.batch_size=0": r"data.batch_size=0: must be a whole number of at least 1",
    "data.batch_size=1.5": r"data.batch_size=1.5: must be a whole number",
    "data.prompt_template=x": r"data.prompt_template=x: must be a text with \{problem\} in it",
    "eval.prompt_file=/nowhere": r"eval.prompt_file=/nowhere: no such file; give a text file in UTF-8",
    f"eval.prompt_file={__file__}": r"eval.prompt_file=.*test_compose.py: has no \{problem\} in it; write that",
    "eval.grader.require_closed_thought=1": r"eval.grader.require_closed_thought=1: must be true or false",
    "callbacks.accuracy.max_new_tokens=0": r"callbacks.accuracy.max_new_tokens=0: must be a whole number of at least 1",
    "eval.top_p=0": r"eval.top_p=0.0: must be in \(0, 1\]",
    "eval.benchmark=maths": r"eval.benchmark=maths: must be one of null, heldout, arithmetic, jsonl, hub, suite",
    "eval.chunk_completions=0": r"eval.chunk_completions=0: must be a whole number of at least 1",
    "eval=aime25": r"eval=aime25: no such option; choose aime24, .*\(did you mean aime24\?\)",
    "protocol=papr": r"protocol=papr: no such option; choose as_trained, paper, quick \(did you mean paper\?\)",
    "eval=paper_suite": r"eval=paper_suite: training is judged on one benchmark; .* evaluate checkpoint=FOLDER",
    "trainer.devices=2": r"trainer.devices=2: must be 1: training on several devices is not wired up yet",
    "trainer.precision=16-mixed": r"trainer.precision=16-mixed: must be one of 32-true, bf16-mixed",
    "seed=x": r"seed=x: must be a whole number from 0 to 4294967295",
    "seed=-1": r"seed=-1: must be a whole number from 0",
    "data=jsonl": r"data.path is required and has no default: add data.path=VALUE",
    "data.num_development=-1": r"data.num_development=-1: must be a whole number of at least 0",
    "data.development_path=/nowhere": r"data.development_path=/nowhere: no such file; give a JSONL file",
    "callbacks.accuracy.every_n_steps=0": r"callbacks.accuracy.every_n_steps=0: must be a whole number of at least 1",
    "callbacks.accuracy.temperature=-1": r"callbacks.accuracy.temperature=-1: must be a number of at least 0",
    "callbacks.probes.num_examples=0": r"callbacks.probes.num_examples=0: must be a whole number of at least 1",
    "callbacks.checkpoints.monitor=val/loss": r".*monitor=val/loss: no such metric \(val/ metrics need data.num_valid",
    "callbacks.checkpoints.monitor=train/los": r".*choose .*\(did you mean train/loss\?\)",
    "init_from=demo_stf": r"init_from=demo_stf: neither a Hugging Face folder .*\(did you mean demo_sft\?\)",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_told_in_one_line(override: str) -> None:
    with pytest.raises(UserError, match=f"^{MISTAKES[override]}") as caught:
        load_config("train", [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss=dpo", "loss.reference=null"], "loss.reference=null: DPO needs a reference; choose init"),
        (["loss=dpo", "init_from=null"], "loss.reference=init: DPO needs a trained reference"),
        (["loss=dpo", "loss.reference=/nowhere"], "loss.reference=/nowhere: no Hugging Face folder there"),
        (["loss=dpo", "loss.beta=0"], "loss.beta=0.0: must be a number above 0"),
        (["loss=simpo", "loss.gamma=-1"], "loss.gamma=-1.0: must be a number of at least 0"),
        (["model=hf", "model.path=a/b"], "model.path=a/b: name=demo has the settings of a small student"),
        (["+experiment=demo_sft", "model=hf", "model.path=a/b"], "add +experiment=own_model"),
        (["baseline=maybe"], "baseline=maybe: must be true or false"),
        (
            ["model=hf", "model.path=/nowhere", "name=own"],
            "model.path=/nowhere: no such Hugging Face folder, and not a hub id",
        ),
        (["data=jsonl", "data.path=/nowhere"], "data.path=/nowhere: no such file or folder"),
        (["eval=jsonl", "eval.path=/nowhere"], "eval.path=/nowhere: no such file"),
        (["eval=aime24", "eval.path=/nowhere"], "eval.path=/nowhere: no such file, and neither a hub id (OWNER/NAME)"),
        (["eval=aime24", "eval.benchmark=suite"], "eval=aime24: training is judged on one benchmark"),
        (["+eval.members.a={}"], "eval.members: heldout is no suite and has no members"),
        (["+experiment=demo_sft", "callbacks.checkpoints.monitor=train/logps/rejected"], "no such metric"),
        (
            ["data.num_development=0", "callbacks.accuracy.every_n_steps=10"],
            "callbacks.accuracy.every_n_steps=10: there are no problems to measure accuracy on; set data.num_dev",
        ),
        (["data.num_development=0", "callbacks.checkpoints.monitor=val/pass_at_1"], "no such metric"),
        (
            ["callbacks.checkpoints.monitor=val/pass_at_1", "callbacks.checkpoints.every_n_steps=10"],
            "give callbacks.checkpoints.every_n_steps and callbacks.accuracy.every_n_steps the same number",
        ),
        (["callbacks.checkpoints.monitor=train/grad_cosine"], "no such metric"),
        (["data=openr1_math"], "data.batch_size is required and has no default"),
        (["model.dtype=bfloat16"], "model.dtype=bfloat16: small steps would be rounded away; keep float32 weights"),
        (["loss=simpo", "loss.head_gradient=none"], "loss.head_gradient=none: must be one of accumulate, recompute"),
        (["model.head_chunk_tokens=0"], "model.head_chunk_tokens=0: must be a whole number of at least 1"),
    ],
)
def test_choices_that_do_not_fit_together_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config("train", overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_evaluate_needs_a_checkpoint_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checkpoint is required"):
        load_config("evaluate", [])
    with pytest.raises(UserError, match="no Hugging Face folder there"):
        load_config("evaluate", [f"checkpoint={tmp_path}"])


def test_the_default_is_the_demo() -> None:
    default, demo = (load_config("train", o) for o in ([], ["+experiment=demo"]))
    assert {k: v for k, v in default.items() if k != "paths"} == {k: v for k, v in demo.items() if k != "paths"}
    assert default.loss.alpha == 0.5
    assert default.optimizer.lr == 2e-4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sequential.width=0.1", "sequential.better_than=."], "sequential.width=0.1: ask one question, width or"),
        (["sequential.delta=0.1"], "sequential.delta=0.1: better than what? add sequential.better_than=FOLDER"),
        (["sequential.width=0.1", "eval=paper_suite"], "eval=paper_suite is a suite; choose one of it"),
        (["sequential.width=0"], "sequential.width=0.0: must be above 0 and at most 0.5"),
        (["sequential.better_than=.", "sequential.delta=1"], "sequential.delta=1.0: must be above -1 and below 1"),
        (["sequential.confidence=1"], "sequential.confidence=1.0: must be above 0 and below 1"),
        (["sequential.wdith=1"], "unknown key sequential.wdith: sequential has width, better_than, delta, confidence"),
    ],
)
def test_sequential_questions_that_make_no_sense_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config("evaluate", ["checkpoint=.", *overrides], check_paths=False)
    assert message in str(caught.value)


def test_a_rival_must_be_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    overrides = [f"checkpoint={tmp_path}", "sequential.better_than=/nowhere"]
    with pytest.raises(UserError, match=r"sequential\.better_than=/nowhere: no Hugging Face folder there"):
        load_config("evaluate", overrides)


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_composes(name: str) -> None:
    own = ["model.path=OWNER/MODEL", "data.path=OWNER/TRACES"] if name.startswith("own_model") else []
    config = load_config("train", [f"+experiment={name}", *own])
    assert config.name == name


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
        config = load_config("train", [f"+experiment={name}"])
        assert (config.init_from, config.optimizer.lr) == (start, lr), name
        assert {k: config.loss[k] for k in loss} == loss
        assert config.model.path == "Qwen/Qwen2.5-Math-1.5B"
        assert config.model.config_overrides == {"max_position_embeddings": 32768, "rope_theta": 300000}
        assert (config.optimizer.betas, config.optimizer.eps, config.optimizer.weight_decay) == (
            [0.9, 0.999],
            1e-8,
            1e-4,
        )
        assert config.optimizer.max_grad_norm == 1.0
        assert (config.scheduler.name, config.scheduler.warmup_ratio, config.seed) == ("linear", 0.1, 42)
        assert config.trainer.precision == "bf16-mixed"
        assert config.trainer.max_epochs == {"sft_1p5b": 5, "sft_3ep_1p5b": 3}.get(name, 1)
        assert config.data.batch_size == (128 if start is None else 32)
        assert config.data.max_prompt_tokens == (None if start is None else 800)
        assert config.data.max_completion_tokens == (None if start is None else 19000)


@pytest.mark.parametrize("name", [name for name in experiment_names() if name.endswith("_1p5b")])
def test_experiments_of_1p5b_look_at_what_they_do_not_train_on(name: str) -> None:
    config = load_config("train", [f"+experiment={name}"])
    assert config.data.num_validation == config.callbacks.probes.num_examples == 32
    assert config.data.num_development == config.data.source.num_heldout == 64
    assert config.callbacks.accuracy.temperature == config.eval.temperature
    checkpoints, accuracy = config.callbacks.checkpoints, config.callbacks.accuracy
    expected = (None, None) if config.init_from is None else (200, "val/pass_at_1")
    assert (checkpoints.every_n_steps, checkpoints.monitor) == expected
    assert accuracy.every_n_steps == checkpoints.every_n_steps
    longest = 800 + accuracy.max_new_tokens
    assert accuracy.max_batch_tokens >= config.data.num_development * longest  # one batch


@pytest.mark.parametrize(("model", "factor"), [("hf", 1), ("hf_lora", 10)])
def test_a_pretrained_model_has_rates_of_its_own(model: str, factor: int) -> None:
    own = [f"model={model}", "model.path=OWNER/MODEL", "data.path=OWNER/TRACES"]
    sft, redi = (load_config("train", [f"+experiment={name}", *own]) for name in ("own_model_sft", "own_model"))
    assert [sft.optimizer.lr, redi.optimizer.lr] == pytest.approx([2e-5 * factor, 1e-6 * factor])
    assert (redi.init_from, sft.init_from) == ("own_model_sft", None)
    assert (sft.model.lora is None) == (model == "hf")
    assert load_config("train", ["+experiment=own_model", *own, "optimizer.lr=3e-6"]).optimizer.lr == 3e-6
    if model == "hf_lora":
        assert load_config("train", ["+experiment=own_model", *own, "model.lora.r=4"]).model.lora["r"] == 4


def test_a_group_on_the_command_line_beats_the_experiments() -> None:
    config = load_config("train", ["+experiment=demo", "loss=dpo", "optimizer.lr=1e-4"])
    assert config.loss._target_.endswith("DPOModule")
    assert config.optimizer.lr == 1e-4
    assert config.init_from == "demo_sft"


def test_trainer_arguments_are_lightnings() -> None:
    import pytorch_lightning as pl

    assert set(inspect.signature(pl.Trainer.__init__).parameters) >= TRAINER_ARGUMENTS


def test_loss_schemas_name_modules_that_exist() -> None:
    from hydra.utils import get_class

    assert {get_class(target).__name__ for target in LOSSES} == {
        "SFTModule",
        "REDIModule",
        "UnpairedREDIModule",
        "DPOModule",
        "SimPOModule",
    }


def test_metrics_of_sft_have_no_rejected_side() -> None:
    names = known_metrics("x.SFTModule", has_validation=True)
    assert "val/loss" in names
    assert not [name for name in names if "rejected" in name]


def test_hub_ids_are_told_from_paths() -> None:
    assert is_hub_id("Qwen/Qwen2.5-Math-1.5B")
    assert not any(is_hub_id(p) for p in ("/a/b", "./a", "../a", "a", "~/a", "a/b/c"))
