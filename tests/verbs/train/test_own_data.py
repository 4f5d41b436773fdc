"""A user's traces, and the paper's experiments on local folders, take the same path as the demo."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from redi_lab.cli import main
from redi_lab.config.compose import experiment_names, load_config
from redi_lab.tracking.journal import read_curves
from tests.conftest import CHAT_TEMPLATE
from tests.verbs.train.test_command import run


def own_data(tmp_path: Path, *more: str) -> list[str]:
    """Overrides for a very small student on a user's file."""
    return [
        "data=jsonl",
        "model.vocab_size=300",
        "model.config.hidden_size=24",
        "model.config.num_hidden_layers=1",
        "model.config.intermediate_size=32",
        "trainer.max_steps=2",
        "init_overrides=['trainer.max_steps=2']",
        "eval.num_samples=1",
        "eval.max_new_tokens=16",
        "logger=none",
        f"paths.outputs_dir={tmp_path / 'outputs'}",
        *more,
    ]


@pytest.mark.slow
def test_gsm8k_traces_train_both_stages_and_say_what_the_score_is_worth(
    tmp_path: Path, shared_data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = shared_data("gsm8k/gsm8k_model_solutions.jsonl")
    summary = run(own_data(tmp_path, f"data.path={path}", "data.source.num_heldout=8"), tmp_path / "run")
    screen = " ".join(capsys.readouterr().out.split())
    selection = summary["data"]["selection"]
    assert selection["rows_read"] == 1319
    assert selection["held_out"] == 8
    assert 720 <= selection["pairs"] <= 731  # 731 questions have both kinds; some may be held out
    assert selection["demonstrations"] + 8 + sum(selection["dropped"].values()) == 1319
    assert summary["metrics"]["pass_at_1"]["value"] == 0
    assert summary["metrics"]["pass_at_1"]["ci_high"] > 0.2  # 8 problems say little
    assert "were cut off at 16 tokens: raise eval.max_new_tokens" in screen


@pytest.mark.slow
def test_ready_pairs_train_without_evaluation(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}+1?", "chosen": f"It is {n + 1}.", "rejected": f"It is {n}."} for n in range(12)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = own_data(tmp_path, f"data.path={path}", "data.source.num_heldout=0", "eval=none")
    summary = run([a for a in arguments if not a.startswith("eval.")], tmp_path / "run")
    assert summary["data"]["selection"]["pairs"] == 12
    assert summary["metrics"] == {}


def test_no_held_out_problems_is_told_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "1+1?", "chosen": "2", "rejected": "3"}) + "\n")
    with pytest.raises(SystemExit):
        main(own_data(tmp_path, f"data.path={path}", "data.source.num_heldout=0"))
    message = capsys.readouterr().err
    assert "eval=none" in message
    assert message.count("\n") == 1


@pytest.fixture(scope="module")
def papers_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One outputs folder for the paper's experiments: what several start from is trained once."""
    return tmp_path_factory.mktemp("papers")


@pytest.mark.parametrize(
    "name",
    [
        name if name == "redi_1p5b" else pytest.param(name, marks=pytest.mark.slow)
        for name in experiment_names()
        if name.endswith("_1p5b")
    ],
)
def test_the_papers_experiments_run_on_local_folders(
    name: str,
    tmp_path: Path,
    qwen_folder: Path,
    papers_outputs: Path,
    shared_data: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = shared_data("openr1/SYNTHETIC_openr1_math_raw.jsonl")
    problems = papers_outputs / "problems.jsonl"
    problems.write_text(json.dumps({"problem": "What is $3+4$?", "answer": "7"}) + "\n")
    folders = [f"model.path={qwen_folder}", f"data.path={rows}"]
    small = ["eval=jsonl", f"eval.path={problems}", "eval.max_new_tokens=8", "eval.num_samples=1"]
    small += ["data.num_validation=1", "data.source.num_heldout=2", "data.num_development=2"]
    small += ["logger=none", "model.config_overrides.max_position_embeddings=1024", "trainer.max_epochs=1"]
    small += [f"paths.outputs_dir={papers_outputs}"]
    start = load_config("train", [f"+experiment={name}"]).init_from
    if start is not None:
        small += ["init_overrides=['trainer.max_epochs=1']"]
        small += ["callbacks.accuracy.every_n_steps=1", "callbacks.checkpoints.every_n_steps=1"]
    summary = run([f"+experiment={name}", *folders, *small], tmp_path / "run")
    assert [stage["name"] for stage in summary["stages"]] == [*([] if start is None else [start]), name]
    assert (summary["best"] is None) == (start is None)  # of stage 2 the best checkpoint is kept, too
    assert summary["data"]["batches"]["validation"] == 1
    screen = capsys.readouterr().out
    assert "sequences of validation examples" in screen
    assert "sequences of the training set" not in screen
    saved = json.loads((Path(summary["checkpoint"]) / "config.json").read_text())
    assert saved["max_position_embeddings"] == 1024
    assert saved["rope_parameters"]["rope_theta"] == 300000
    curves = read_curves(tmp_path / "run" / "metrics.jsonl")
    assert curves["train/loss"].steps == [0]
    assert curves["val/pass_at_1"].steps == [0, 1]


def test_without_the_hub_an_evaluation_says_at_once_what_is_missing(
    tmp_path: Path, qwen_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit):
        main(["evaluate", f"checkpoint={qwen_folder}", "eval=math500", "logger=none", f"paths.outputs_dir={tmp_path}"])
    message = capsys.readouterr().err
    assert "eval.path=HuggingFaceH4/MATH-500: not on this disk" in message
    assert "give local copies: eval.path=FILE.jsonl" in message


def test_without_the_hub_the_paper_says_at_once_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit) as ended:
        main(["+experiment=redi_1p5b", "logger=none", f"paths.outputs_dir={tmp_path}"])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    for wanted in ("model.path=Qwen/Qwen2.5-Math-1.5B", "data.path=open-r1/OpenR1-Math-Raw", "eval.path=HuggingFaceH4"):
        assert wanted in message
    assert "give local copies: data.path=FOLDER_OR_FILE model.path=FOLDER eval.path=FILE.jsonl" in message
    assert message.count("\n") == 1


def own_model(tmp_path: Path, folder: Path, rows: Path, *more: str) -> list[str]:
    """A pretrained model on a user's chats, in a few steps."""
    template = tmp_path / "chat.jinja"
    template.write_text(CHAT_TEMPLATE)
    return [
        "+experiment=own_model",
        f"model.path={folder}",
        f"model.chat_template={template}",
        f"data.path={rows}",
        "data.source.num_heldout=3",
        "data.max_new_tokens=7",
        "data.batch_size=4",  # nine pairs: three steps an epoch
        "trainer.max_steps=2",
        "init_overrides=['trainer.max_steps=2']",
        "logger=none",
        f"paths.outputs_dir={tmp_path / 'outputs'}",
        *more,
    ]


def test_a_pretrained_model_is_trained_in_two_stages_and_asked_alike_ever_after(
    tmp_path: Path, qwen_folder: Path, own_rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run(own_model(tmp_path, qwen_folder, own_rows), tmp_path / "run")
    screen = " ".join(capsys.readouterr().out.split())
    assert [stage["name"] for stage in summary["stages"]] == ["own_model_sft", "own_model"]
    assert summary["config"]["trainer"]["precision"] in ("32-true", "bf16-mixed")
    assert summary["baseline"]["checkpoint"] == str(qwen_folder)
    assert summary["baseline"]["evaluation"]["protocol"] == summary["evaluation"]["protocol"]
    assert screen.count("2 steps in") == 2
    assert "base model" in screen
    assert "unknown" in screen
    assert "The longest right trace has" in screen

    checkpoint = Path(summary["checkpoint"])
    again = ["evaluate", f"checkpoint={checkpoint}", "data=jsonl", f"data.path={own_rows}"]
    again += ["data.source.num_heldout=3", "baseline=true", "logger=none", f"paths.outputs_dir={tmp_path / 'outputs'}"]
    evaluated = run(again, tmp_path / "evaluated")
    assert evaluated["evaluation"]["key"] == summary["evaluation"]["key"]  # the stored result itself
    assert evaluated["baseline"]["evaluation"]["key"] == summary["baseline"]["evaluation"]["key"]
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps({"problem": "What is 3 + 4?", "answer": "7"}) + "\n")
    elsewhere = ["evaluate", f"checkpoint={checkpoint}", "eval=jsonl", f"eval.path={problems}", "eval.num_samples=1"]
    elsewhere += ["logger=none", f"paths.outputs_dir={tmp_path / 'outputs'}"]
    settings = run(elsewhere, tmp_path / "elsewhere")["config"]["eval"]
    assert (settings["prompt_template"], settings["max_new_tokens"]) == ("{problem}\n", 7)


def test_one_word_trains_adapters_and_the_checkpoint_is_whole(
    tmp_path: Path, qwen_folder: Path, own_rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    more = ("model/lora=default", "baseline=false", "eval=none", "init_from=null")
    summary = run(own_model(tmp_path, qwen_folder, own_rows, *more), tmp_path / "run")
    assert summary["config"]["optimizer"]["lr"] == pytest.approx(1e-5)
    assert summary["baseline"] is None
    assert not list(Path(summary["checkpoint"]).glob("adapter_*"))
    assert (Path(summary["checkpoint"]) / "adapter" / "adapter_model.safetensors").is_file()
    ((trained, total),) = re.findall(r"2 steps in \S+; ([\d,]+) of ([\d,]+) parameters", capsys.readouterr().out)
    assert int(trained.replace(",", "")) < int(total.replace(",", "")) / 2


def test_a_student_from_scratch_has_no_base_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["baseline=true", "logger=none", f"paths.outputs_dir={tmp_path}"])
    assert ended.value.code == 2
    assert "baseline=true" in capsys.readouterr().err


def test_a_folder_that_records_no_base_model_has_no_baseline(
    tmp_path: Path, qwen_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", f"checkpoint={qwen_folder}", "baseline=true", "logger=none", f"paths.outputs_dir={tmp_path}"])
    assert ended.value.code == 2
    assert "does not record which model it was trained from" in capsys.readouterr().err


def test_a_real_model(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    """Opt-in: any small instruct model, `REDI_LAB_TEST_MODEL=FOLDER`; minutes on a processor."""
    folder = os.environ.get("REDI_LAB_TEST_MODEL")
    if folder is None:
        pytest.skip("set REDI_LAB_TEST_MODEL to the folder of a small model")
    rows = shared_data("gsm8k/gsm8k_model_solutions.jsonl")
    few = ["debug=fast", "data.batch_size=2", "init_overrides=['data.batch_size=2']", "data.max_new_tokens=16"]
    places = ["logger=none", f"paths.outputs_dir={tmp_path / 'outputs'}"]
    own = ["+experiment=own_model", f"model.path={folder}", f"data.path={rows}"]
    summary = run([*own, *few, *places], tmp_path / "run")
    curves = read_curves(tmp_path / "run" / "metrics.jsonl")
    assert max(curves["train/grad_norm"].values) < 1e4
    assert summary["metrics"]["truncation_rate"]["value"] <= 1
    assert summary["baseline"]["metrics"]["pass_at_1"]["value"] <= 1
