"""Each setting's type and range: a wrong value ends in one line with the key, the value, and what is allowed."""

from __future__ import annotations

import copy
import inspect
import re
from contextlib import nullcontext
from functools import cache
from typing import Any, get_args

import pytest
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from yaml import safe_load

from redi_lab.config.compose import CONFIG_DIR, check, load_config
from redi_lab.config.schema.callbacks import CALLBACKS
from redi_lab.config.schema.data import SOURCES
from redi_lab.config.schema.evaluation import ENGINES
from redi_lab.config.schema.losses import LOSSES
from redi_lab.config.schema.training import OPTIMIZERS, TrainerConfig
from redi_lab.config.schema.verifiers import VERIFIERS
from redi_lab.errors import UserError
from redi_lab.run.build import USED_BY_PIPELINE

# What no field can be: another type, null, or beyond its range. The message begins with the key and the value.
WRONG: dict[str, tuple[str, ...]] = {
    "train": (
        "loss.alpha=1.5 -0.1 .nan .inf high null true",
        "loss.alpha={a: 1}",
        "optimizer.lr=0 abc null",
        "optimizer.eps=-1 1",
        "optimizer.weight_decay=-1",
        "optimizer.fused=maybe 1",
        "optimizer.betas=0.9 [0.9]",
        "scheduler.warmup_ratio=10",
        "scheduler.name=liner",
        "seed=true -1 1.5 4294967296 x",
        "baseline=maybe",
        "resume=maybe",
        "init_from=[a]",
        "init_overrides=3",
        "rounds=0 x",
        "generate_overrides=3",
        "curate_overrides=x",
        "name=../../x /abs '' true",
        "paths.output_dir=''",
        "logger.experiment_name=null ' '",
        "logger.flush_seconds=0",
        "logger.tracking_uri=ftp://x sqlite:///rel.db x",
        "debug.traceback=maybe 1",
        "model.config=3",
        "model.config.hidden_size=x 0",
        "model.vocab_size=3 x",
        "model.dtype=float64",
        "model.attention=sparse",
        "model.gradient_checkpointing=2 true",
        "model.head_chunk_tokens=0",
        "model.lora=3",
        "data.batch_size=0 1.5 many",
        "data.prompt_template=x [1]",
        "data.num_development=-1",
        "data.max_prompt_tokens=0",
        "data.student_tokenizer=foo",
        "data.source=null 3",
        "data.source.num_problems=0 100000000",
        "data.source.num_heldout=x",
        "data.source.seed=x",
        "data.source.teacher.correction_rate=1.5",
        "data.source.teacher.errs_once=1",
        "data.negatives=closest null",
        "eval.seed=x",
        "eval.benchmark=maths",
        "eval.name=a/b",
        "eval.limit=0",
        "eval.offset=-1 x",
        "eval.top_p=0 1.1",
        "eval.temperature=-1",
        "eval.num_samples=1000000000000",
        "eval.chunk_completions=0",
        "eval.grader=3",
        "eval.grader.num_workers=1000000",
        "eval.grader.timeout_seconds=0",
        "eval.grader.memory_mb=-5",
        "eval.grader.answers=nowhere",
        "eval.grader.require_closed_thought=1",
        "engine.device=tpu",
        "engine.dtype=int8",
        "engine.max_batch_tokens=null 0",
        "trainer.max_epochs=0 -1 1.5",
        "trainer.max_steps=0",
        "trainer.devices=0 -1 1.5 all",
        "trainer.strategy=ddp fsdp fsdp2",
        "trainer.fsdp_offload=true perhaps",
        "trainer.accelerator=quantum",
        "trainer.precision=16-mixed",
        "trainer.deterministic=perhaps",
        "trainer.val_check_interval=-1 0",
        "trainer.limit_train_batches=1.5 true",
        "trainer.max_time=soon",
        "callbacks.collapse=3",
        "callbacks.collapse.action=explode",
        "callbacks.collapse.drifting_nats=-1 .inf",
        "callbacks.collapse.harm_share=1.5",
        "callbacks.collapse.lr_factor=0",
        "callbacks.collapse.max_rollbacks=-1",
        "callbacks.accuracy.every_n_steps=0",
        "callbacks.accuracy.temperature=-1",
        "callbacks.accuracy.max_new_tokens=0",
        "callbacks.accuracy.num_samples=null",
        "callbacks.probes.num_examples=0 true",
        "callbacks.probes.every_n_steps=null",
        "callbacks.gradient_conflict.every_n_steps=0",
        "callbacks.numerics.action=ignore",
        "callbacks.numerics.max_skips=0",
        "callbacks.numerics.explosion=1",
        "callbacks.state.keep_last=0 null",
        "callbacks.state.every_minutes=0",
        "callbacks.checkpoints.mode=best",
    ),
    "evaluate": (
        "sequential.width=0 0.6",
        "sequential.delta=1",
        "sequential.confidence=1",
        "launcher.address=auto ray://host:10001 host:port",
    ),
    "generate": ("stop.right=0 1.5", "stop.wrong=-1 x"),
    "curate": (
        "curation.unknown=x",
        "curation.pair_order=best",
        "curation.near_threshold=2",
        "curation.pairs_per_problem=0",
        "curation.num_workers=-1",
        "curation.benchmarks=a",
        "curation.grading.answers=x",
    ),
    "steps": (
        "steps.split=words",
        "steps.search=half",
        "steps.max_rollouts=0",
        "steps.confidence=0 1.1",
        "steps.recovery=0 1",
    ),
    "omega": ("omega.top_share=0 1.1 all",),
    "sweep": (
        "sweep.sampler=best",
        "sweep.mode=most",
        "sweep.num_trials=0",
        "sweep.num_workers=0",
        "sweep.gpus_per_trial=0 half",
        "sweep.lease_seconds=0",
        "sweep.seeds=3",
    ),
}
BASE = {
    "train": [],
    "evaluate": ["checkpoint=."],
    "generate": ["checkpoint=.", "eval=fresh"],
    "curate": ["data=openr1_math"],
    "steps": ["checkpoint=.", "data.path=."],
    "omega": ["checkpoint=.", "data.path=."],
    "sweep": ["name=study"],
}


@cache
def _composed(verb: str) -> DictConfig:
    return load_config(verb, BASE[verb], check_paths=False)


def changed(verb: str, key: str, value: Any) -> DictConfig:
    """The default configuration with another value, unchecked."""
    config = copy.deepcopy(_composed(verb))
    OmegaConf.update(config, key, value, merge=False, force_add=True)
    return config


def values(line: str) -> list[tuple[str, Any, str]]:
    """Key, value, and how a message shows it."""
    key, _, text = line.partition("=")
    parts = [text] if text[0] in "[{" else text.replace("' '", "'_'").split()
    return [(key, " " if part == "'_'" else safe_load(part), part) for part in parts]


@pytest.mark.parametrize(("verb", "line"), [(verb, line) for verb, lines in WRONG.items() for line in lines])
def test_a_wrong_value_ends_in_one_line_with_key_and_value(verb: str, line: str) -> None:
    for key, value, text in values(line):
        with pytest.raises(UserError) as caught:
            check(changed(verb, key, value), verb, check_paths=False)
        message = str(caught.value)
        assert message.startswith(f"{key}={'' if isinstance(value, dict | list | str | float) else text}"), message
        assert "must be" in message
        assert "\n" not in message


ADAPTERS = ("model/lora=qlora", "init_from=.", "loss=sft")


@pytest.mark.parametrize(
    "line",
    ["rank=0 1025 1.5 null", "alpha=0 null", "dropout=-0.1 1", "targets=q_proj null [] [1]", "quantization=int8 fp4"],
)
def test_a_wrong_value_of_adapters_ends_in_one_line(line: str) -> None:
    config = load_config("train", ADAPTERS, check_paths=False)
    for key, value, text in values(f"model.lora.{line}"):
        wrong = copy.deepcopy(config)
        OmegaConf.update(wrong, key, value, merge=False)
        with pytest.raises(UserError, match=rf"^{re.escape(f'{key}={text}')}: must be "):
            check(wrong, "train", check_paths=False)


@pytest.mark.parametrize(("strategy", "is_taken"), [("auto", True), ("ddp", True), ("fsdp2", False)])
def test_4_bit_weights_are_not_sharded(strategy: str, is_taken: bool) -> None:
    overrides = [*ADAPTERS, "trainer.devices=2", f"trainer.strategy={strategy}"]
    with nullcontext() if is_taken else pytest.raises(UserError, match=rf"quantization=nf4: .*strategy={strategy}"):
        load_config("train", overrides, check_paths=False)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_several_machines_are_several_devices(strategy: str) -> None:
    load_config("train", ["trainer.num_nodes=2", f"trainer.strategy={strategy}"])
    with pytest.raises(UserError, match=rf"^trainer\.strategy={strategy}: must be auto on one device; add"):
        load_config("train", [f"trainer.strategy={strategy}"])


@pytest.mark.parametrize(
    ("key", "value", "start"),
    [
        ("optimizer.betas", [0.9, 2], "optimizer.betas[1]=2: must be below 1"),
        ("init_overrides", [3], "init_overrides[0]=3: must be a string"),
        ("loss._target_", "os.system", "loss._target_=os.system: must be an objective"),
        ("loss._partial_", False, "loss._partial_=false: must be true"),
        ("data.source._target_", None, "data.source._target_=null: must be"),
        ("loss.gamma", 1.0, "unknown key loss.gamma: loss has kl_weight"),
        ("loss.prefix_weight", -0.5, "loss.prefix_weight=-0.5: must be at least 0"),
        ("data.token_weights", "steps", "data.token_weights=steps: must be none, spans, after_first_error or"),
        ("model.foo", 1, "unknown key model.foo: model has path, tokenizer"),
        ("foo", 1, "unknown key foo: there are name, seed"),
        ("trainer.max_epoch", 3, "unknown key trainer.max_epoch: trainer has accelerator"),
        ("optimizer.amsgrda", True, "unknown key optimizer.amsgrda: optimizer has"),
        ("engine.foo", 1, "unknown key engine.foo: engine has max_batch_tokens"),
        ("data.source.foo", 1, "unknown key data.source.foo: data.source has num_problems"),
        ("eval.members", {"a/b": {}}, "eval.members.a/b"),
    ],
)
def test_the_place_of_a_mistake_is_named(key: str, value: Any, start: str) -> None:
    with pytest.raises(UserError) as caught:
        check(changed("train", key, value), "train")
    assert str(caught.value).startswith(start)


@pytest.mark.parametrize("name", ["collapse", "accuracy", "probes", "gradient_conflict", "numerics", "state"])
def test_an_unknown_setting_of_a_callback_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"^unknown key callbacks\.{name}\.foo: callbacks\.{name} has "):
        check(changed("train", f"callbacks.{name}.foo", 1), "train")


@pytest.mark.parametrize("key", ["callbacks.collapse", "callbacks.accuracy", "init_from", "logger.tracking_uri"])
def test_what_may_be_null_is_taken(key: str) -> None:
    config = changed("train", key, None)
    check(config, "train")
    assert OmegaConf.select(config, key) is None


@pytest.mark.parametrize(
    ("key", "value", "taken"),
    [
        ("loss.alpha", 1, 1.0),
        ("trainer.limit_train_batches", 1, 1),
        ("trainer.limit_train_batches", 1.0, 1.0),
        ("model.revision", 1234567, "1234567"),
        ("name", 3, "3"),
        ("optimizer", {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1, "momentum": 0.9}, ...),
        ("callbacks.mine", {"_target_": "mine.Callback", "anything": [1]}, ...),
        ("model.config.rope_theta", 3e5, 3e5),
    ],
)
def test_a_value_gets_the_type_of_its_field(key: str, value: Any, taken: Any) -> None:
    config = changed("train", key, value)
    check(config, "train")
    found = OmegaConf.select(config, key)
    assert found == (value if taken is ... else taken)
    assert type(found) is type(OmegaConf.create({"x": value if taken is ... else taken}).x)


def test_models_name_classes_and_their_arguments() -> None:
    """A field that its class does not take would be an option that ends in a traceback."""
    injected = {name for names in USED_BY_PIPELINE.values() for name in names} | {"max_grad_norm", "target", "partial"}
    for models in (SOURCES, CALLBACKS, ENGINES, OPTIMIZERS, VERIFIERS):
        for target, model in models.items():
            signature = inspect.signature(get_class(target))
            takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
            assert takes_any or set(model.model_fields) - injected <= set(signature.parameters), target


def test_trainer_arguments_are_lightnings() -> None:
    import pytorch_lightning as pl

    known = {*inspect.signature(pl.Trainer.__init__).parameters, "fsdp_offload"}  # which is the strategy's
    assert known >= set(TrainerConfig.model_fields)


def test_losses_are_modules_and_each_has_a_preset() -> None:
    assert [get_class(target).__name__ for target in LOSSES] == [target.rpartition(".")[2] for target in LOSSES]
    presets = [safe_load(path.read_text()).get("_target_") for path in (CONFIG_DIR / "loss").glob("*.yaml")]
    assert set(presets) - {None} == set(LOSSES)


def test_no_field_has_a_default_that_yaml_could_hold() -> None:
    """A default in two places becomes two defaults."""
    for models in (SOURCES, CALLBACKS, ENGINES, VERIFIERS):
        for model in models.values():
            assert all(field.is_required() for field in model.model_fields.values()), model
            assert get_args(model.model_fields["target"].annotation)


@pytest.mark.parametrize(
    ("verb", "overrides", "start"),
    [
        ("evaluate", [], "launcher=ray: this engine generates in one process; add engine=vllm"),
        ("sweep", [], "sweep.storage=sqlite:////"),
        ("curate", ["curation.num_workers=0"], "curation.num_workers=0: launcher=ray needs workers"),
    ],
)
def test_what_does_not_go_with_ray_is_told(
    verb: str, overrides: list[str], start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redi_lab.config.schema.surroundings.find_spec", lambda name: name)
    with pytest.raises(UserError) as caught:
        load_config(verb, [*BASE[verb], "launcher=ray", *overrides], check_paths=False)
    assert str(caught.value).startswith(start)
    monkeypatch.setattr("redi_lab.config.schema.surroundings.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^launcher=ray: Ray is not installed in this environment; pip install"):
        load_config(verb, [*BASE[verb], "launcher=ray", *overrides], check_paths=False)
