"""Every YAML that is shipped composes, fits the schema, and becomes the object that it names."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import get_class, instantiate

from redi_lab.config import CONFIG_DIR, load_config
from redi_lab.data.arithmetic import build_tokenizer
from redi_lab.modules.base import CausalLMModule
from redi_lab.pipeline import build

OPTIONS = sorted(
    (file.parent.name, file.stem) for file in CONFIG_DIR.glob("*/*.yaml") if file.parent.name != "experiment"
)
NEEDED = {
    ("model", "hf"): ["model.path=Qwen/Qwen2.5-0.5B"],
    ("data", "jsonl"): ["data.path=someone/some-data"],
    ("data", "openr1_math"): ["data.batch_size=4"],
}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_becomes_an_object(group: str, option: str, tmp_path: Path) -> None:
    more = list(NEEDED.get((group, option), []))
    if (group, option) == ("eval", "jsonl"):
        (tmp_path / "b.jsonl").write_text('{"problem": "1+1?", "answer": "2"}\n')
        more.append(f"eval.path={tmp_path / 'b.jsonl'}")
    config = load_config("train", [f"{group}={option}", *more])
    if group == "model" and config.model.path is None:
        backbone = build.make_backbone(config, build_tokenizer(), None)
        assert 3e5 < sum(p.numel() for p in backbone.parameters()) < 4e5
    elif group == "data":
        assert len(build.make_source(config).digest()) == 64 if option == "arithmetic" else True
        get_class(config.data.source._target_)
    elif group == "loss":
        assert issubclass(build.objective_class(config), CausalLMModule)
        module = instantiate({k: v for k, v in config.loss.items() if k != "reference"})(backbone=torch.nn.Linear(1, 1))
        assert all(getattr(module, k) == config.loss[k] for k in ("alpha", "beta", "gamma") if k in config.loss)
    elif group == "optimizer":
        settings = {k: v for k, v in config.optimizer.items() if k != "max_grad_norm"}
        optimizer = instantiate(settings)([torch.nn.Parameter(torch.zeros(2))])
        assert optimizer.param_groups[0]["lr"] == 2e-4
    elif group == "scheduler":
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=1.0)
        schedule = build._schedule(config.scheduler.name, config.scheduler.warmup_ratio)(optimizer, 100)
        assert schedule.get_last_lr() == [0.0]
    elif group == "trainer":
        assert isinstance(build.make_trainer(config, [], False), pl.Trainer)
    elif group == "callbacks":
        assert len(build.make_callbacks(config, tmp_path, 0)) == 2
    elif group == "engine":
        assert build.make_engine(config).name == option
    elif group == "eval" and option == "jsonl":
        benchmark = build.make_benchmark(config, pytest.fail)
        assert benchmark is not None
        assert len(benchmark.problems) == 1
    elif group == "eval" and option == "none":
        assert build.make_benchmark(config, pytest.fail) is None
    if group == "eval" and option != "none":
        assert build.make_sampling(config).num_samples == 4
        with build.make_grader(config) as grader:
            assert not grader.has_workers


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
