"""`redi-lab plan`: its page and its advice; what it refuses before torch is imported is in tests/test_cli.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from redi_lab.cli import main
from redi_lab.config.compose import load_config
from redi_lab.planning.footprint import Layers
from redi_lab.run import plan
from tests.modules.tiny_runs import make_backbone, make_data

SMALL = {"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "vocab_size": 500}
MORE = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True, "eos_token_id": 0}
ASSUMED = ["examples=1000", "median=100", "longest=700"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder without weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMALL | MORE))
    return folder


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers hold a megabyte: what they do hold is measured in tests/planning, and of the demo here."""
    monkeypatch.setattr(plan, "measure_layers", lambda *_, **__: Layers(10**6, 10**6))


@pytest.mark.usefixtures("unmeasured")
def test_a_plan_of_two_stages_without_weights_and_data(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    common = ["+experiment=redi_1p5b", f"model.path={model}", f"paths.outputs_dir={tmp_path / 'outputs'}"]
    main(["plan", *common, *ASSUMED, "gpu=a100", "devices=2", "nodes=2", "price=1.5"])
    text = capsys.readouterr().out
    rows = {line[:28].strip(): line[28:].split() for line in text.splitlines() if line.strip()}
    assert "4 × NVIDIA A100, 80 GB" in text
    layer = 64 * 64 * 2 + 2 * 64 * 32 + 64 + 2 * 32 + 3 * 64 * 128 + 2 * 64
    assert rows["parameters"] == [f"{500 * 64 + 3 * layer + 64:,}"] * 2
    assert rows["steps"] == ["40", "32"]  # 5 × 1000 / 128, rounded up for each epoch, and 1000 / 32
    assert rows["tokens: longest sequence"] == ["700", "700"]
    assert "TFLOP/s, assumed" in text
    assert "redi_1p5b as it is fits" in text
    command = " ".join(text.split("a device:")[1].split())
    assert command.startswith(f"redi-lab {common[0]}")
    assert "model.gradient_checkpointing=none" in command
    assert "trainer.devices=2 trainer.num_nodes=2" in command  # what was planned, not what the defaults say
    assert not (tmp_path / "outputs").exists()  # nothing is written


@pytest.mark.usefixtures("unmeasured")
def test_sharding_divides_what_a_device_holds(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """573,696 bytes of weights by 4; gathered: 128,000 of the embeddings, and 2 × 2 × 148,565 of layers."""
    monkeypatch.setenv("COLUMNS", "120")
    sharded = ["+experiment=redi_1p5b", f"model.path={model}", "trainer.devices=4", "trainer.strategy=fsdp2"]
    main(["plan", *sharded, *ASSUMED, "gpu=a100"])
    rows = {line[:28].strip(): line[28:].split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["weights"] == ["143", "kB"] * 2
    assert rows["optimizer"] == ["287", "kB"] * 2
    assert rows["gathered"] == ["722", "kB"] * 2
    with pytest.raises(SystemExit) as ended:
        main(["plan", *sharded, *ASSUMED, "gpu=a100", "trainer.fsdp_offload=true"])
    assert ended.value.code == 2
    assert "trainer.fsdp_offload=true: offloading cannot be planned" in capsys.readouterr().err


@pytest.mark.usefixtures("unmeasured")
def test_a_model_that_does_not_fit_gets_the_settings_that_do(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = SMALL | MORE | {"hidden_size": 4096, "num_attention_heads": 16, "intermediate_size": 32_768}
    (model / "config.json").write_text(json.dumps(wide | {"num_hidden_layers": 4, "vocab_size": 32_000}))
    one_row = "data.micro_batch_tokens=700"
    main(["plan", "+experiment=redi_1p5b", f"model.path={model}", *ASSUMED, "gpu=rtx4090", one_row])
    text = " ".join(capsys.readouterr().out.split())
    assert "redi_1p5b as it is does not fit" in text
    assert "model/lora=default" in text.split("a device:")[1]


def test_the_demo_is_planned_from_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["data.source.num_problems=60", "data.source.num_heldout=4", "data.num_development=0"]
    main(["plan", *few, "gpu=cpu", f"paths.outputs_dir={tmp_path}"])
    text = capsys.readouterr().out
    assert "371,424" in text
    assert "demo as it is fits" in text


def test_a_training_goes_on_without_a_plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a model's code raises, with a message or without."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(plan, "plan_stage", fail)
    config = load_config("train", ["trainer.accelerator=cpu"])
    assert plan.plan_run(config, make_data("redi"), make_backbone(), torch.device("cpu")) is None
    assert "cannot be planned: RuntimeError" in capsys.readouterr().out


def test_no_model_and_no_hub_is_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as ended:
        main(["plan", "+experiment=redi_1p5b", "model.path=nobody/nothing", *ASSUMED, "gpu=h100"])
    assert ended.value.code == 2
    assert "model.path=nobody/nothing: cannot load its config" in capsys.readouterr().err
