"""`redi-lab paper`: what its specification names is there, what it refuses, tables by hand; whole runs are slow."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig

from redi_lab.cli import main
from redi_lab.config.compose import CONFIG_DIR, load_config
from redi_lab.config.schema.paper import BENCHMARKS, PaperRun, load_paper, select
from redi_lab.evaluation.metrics import pass_at_1
from redi_lab.verbs.paper import runs
from redi_lab.verbs.paper.exhibits import _PANELS, _PAPERS, _course, difference, score
from redi_lab.verbs.paper.plan import PaperPlan
from redi_lab.verbs.paper.report import add_to_report
from redi_lab.verbs.train.command import run_training
from tests.conftest import REPOSITORY
from tests.notebooks import run_notebook

SCALES = ("embedded", "paper")


def plan_of(scale: str, *names: str, overrides: tuple[str, ...] = ()) -> PaperPlan:
    exhibits, found = load_paper(CONFIG_DIR, scale)
    chosen = select(list(names), exhibits)
    return PaperPlan(scale, found, {name: exhibits[name] for name in chosen}, tuple(found.seeds), overrides)


@cache
def training(scale: str, run: str) -> DictConfig:
    return load_config("train", plan_of(scale, "all").training(run, 42))


@pytest.mark.parametrize("scale", SCALES)
def test_whatever_an_exhibit_names_is_there(scale: str) -> None:
    plan = plan_of(scale, "all")
    assert [*plan.exhibits] == [*(f"table{n}" for n in range(1, 6)), *(f"figure{n}" for n in range(2, 11))]
    assert plan.scale.differs.keys() == plan.exhibits.keys()
    there = plan.scale.runs.keys()
    for run in plan.scale.runs.values():
        assert run.start is None or plan.scale.runs[run.start].start is None  # two waves are enough
    for name, exhibit in plan.exhibits.items():
        missing = {run.run for run in exhibit.runs} - there
        assert missing <= ({None, "distilled"} if exhibit.kind == "scores" else set()), name
        assert set(exhibit.panels) <= _PANELS.keys()
        if exhibit.kind == "scores":
            assert exhibit.baseline in {run.run for run in exhibit.runs}
            assert {len(run.scores) for run in exhibit.runs} <= {len(BENCHMARKS) - 1, len(BENCHMARKS)}
        assert (exhibit.kind == "settings") == all(run.hours is not None for run in exhibit.runs)


@pytest.mark.parametrize("scale", ["embedded", pytest.param("paper", marks=pytest.mark.slow)])
def test_every_training_and_evaluation_composes(scale: str) -> None:
    plan = plan_of(scale, "all")
    for run, own in plan.scale.runs.items():
        if own.checkpoint is not None:
            continue
        config = training(scale, run)
        assert (config.seed, config.eval.benchmark) == (42, None)
        assert config.callbacks.probes is not None
        chosen = (config.callbacks.checkpoints.monitor, config.callbacks.checkpoints.mode)
        assert chosen == (("val/pass_at_1", "max") if own.start else (None, "min")), run
    for run in ("redi", *(run for run, own in plan.scale.runs.items() if own.checkpoint)):
        evaluated = load_config("evaluate", ["checkpoint=.", *plan.evaluation(run, 42)], check_paths=False)
        assert (evaluated.seed, evaluated.eval.num_samples) == (42, 16)


def test_accuracy_at_the_papers_scale_is_asked_for_as_in_the_plain_experiment() -> None:
    for run, experiment in (("redi", "redi_3ep_1p5b"), ("sft_long", "sft_1p5b")):
        plain = load_config("train", [f"+experiment={experiment}"])
        assert runs.what_is_measured(training("paper", run)) == runs.what_is_measured(plain)


def test_the_settings_are_those_of_the_labels_and_the_embedded_ones_scaled() -> None:
    paper, embedded = (plan_of(scale, "all") for scale in SCALES[::-1])
    for run in {run.run: run for exhibit in paper.exhibits.values() for run in exhibit.runs}.values():
        if run.run not in embedded.scale.runs:
            continue
        there, here = training("paper", str(run.run)), training("embedded", str(run.run))
        stated = dict(re.findall(r"(α|β|γ|lr) ([\d.e-]+)", run.label))
        keys = {"α": "alpha", "β": "beta", "γ": "gamma"}
        for symbol, number in stated.items():
            value = there.optimizer.lr if symbol == "lr" else there.loss[keys[symbol]]
            assert value == float(number), run.label
        if run.label.startswith("SFT") or run.run == "redi_waits":
            continue
        is_dpo = run.label.startswith("DPO")
        assert here.optimizer.lr == pytest.approx(there.optimizer.lr * (500 if is_dpo else 200))
        for key in ("alpha", "beta", "gamma"):
            factor = 1000 if is_dpo and key == "beta" else 1
            assert here.loss.get(key, 0.0) == pytest.approx(factor * there.loss.get(key, 0.0)), run.label


def test_matched_dpo_has_one_product_of_rate_and_beta() -> None:
    for scale in SCALES:
        plan = plan_of(scale, "figure3")
        configs = [training(scale, str(run.run)) for run in plan.exhibits["figure3"].runs]
        assert len({round(config.optimizer.lr * config.loss.beta, 15) for config in configs}) == 1
        assert len({config.loss.beta for config in configs}) == 3


def test_starts_come_first_are_shared_and_only_tables_have_more_seeds() -> None:
    needed = plan_of("embedded", "table2", "table3", "figure3").needed()
    assert [*needed][:3] == [("sft", 42), ("sft", 43), ("sft", 44)]
    assert needed["dpo", 43] is True
    assert needed["dpo_b1", 42] is False
    assert ("dpo_b1", 43) not in needed
    assert len(needed) == 3 * 5 + 3
    assert plan_of("embedded", "figure10").needed()["sft", 42] is False
    assert plan_of("embedded", "table5").needed() == {}


def test_overrides_go_where_they_belong() -> None:
    plan = plan_of("embedded", "table2", overrides=("data.batch_size=4", "eval.limit=3", "paths.outputs_dir=x"))
    assert {"data.batch_size=4", "paths.outputs_dir=x"} < set(plan.training("dpo", 42))
    assert "eval.limit=3" not in plan.training("dpo", 42)
    assert {"eval.limit=3", "paths.outputs_dir=x"} < set(plan.evaluation("dpo", 42))
    assert "data.batch_size=4" not in plan.evaluation("dpo", 42)


def test_mistakes_end_in_one_line_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import contextlib, io, json, sys\nfrom redi_lab.cli import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.suppress(SystemExit):\n"
        "        main(['paper', *arguments])\n"
        "    print(json.dumps([said.getvalue(), 'torch' in sys.modules]))\n"
    )
    cases = {
        "paper tabel2: unknown; choose all, tables": ["tabel2"],
        "scale=huge: must be embedded or paper": ["table2", "scale=huge"],
        "seeds=0: must be at least 1": ["table2", "seeds=0"],
        "paper seed=3: seeds are the scale's": ["table2", "seed=3"],
        "paper loss=dpo: name a table or figure": ["loss=dpo"],
        "distilled=x: nothing stands for that model": ["table1", "distilled=x"],
        "distilled=x: not on this disk": ["table1", "scale=paper", "distilled=x"],
        "data.path=gone.jsonl: no such file": ["figure2", "scale=paper", "data.path=gone.jsonl"],
        "eval.members.aime24.path=gone.json: no such file": [
            "table2",
            "scale=paper",
            "eval.members.aime24.path=gone.json",
        ],
    }
    at_hand = [f"model.path={tmp_path}", f"data.path={tmp_path / 'rows.jsonl'}"]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").touch()
    lines = [line + at_hand if "scale=paper" in line and "figure2" not in line else line for line in cases.values()]
    command = [sys.executable, "-c", code, json.dumps(lines)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for expected, line in zip(cases, done.stdout.splitlines(), strict=True):
        said, has_torch = json.loads(line)
        assert said.startswith(f"redi_lab: {expected}"), said
        assert said.count("\n") == 1
        assert not has_torch


@pytest.mark.parametrize("arguments", [[], ["--list"]])
def test_without_a_name_it_lists_them(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["paper", *arguments])
    screen = capsys.readouterr().out
    assert "table2    pass@1 of objectives" in screen
    assert screen.count("\n") == 14


def test_scores_over_seeds_and_over_problems() -> None:
    """Of two samples each: all, half or none are right."""
    kinds = np.array([[1, 1], [1, 0], [0, 0]], dtype=np.bool_)
    easy, hard, none = kinds[[0, 0, 1, 1]], kinds[[2, 1, 1, 2]], kinds[[2, 2, 2, 2]]
    over_seeds = score([[easy], [hard]], 1)
    assert over_seeds.value == pytest.approx(0.5)
    assert over_seeds.ci_high == 1.0  # two means, ± 12.7 × 0.25
    assert score([[easy], [hard]], 2).value == pytest.approx(0.75)
    suite = score([[easy, hard]], 1)
    assert suite.value == pytest.approx(0.5)
    assert 0 < suite.ci_low < 0.5 < suite.ci_high < 1
    assert suite.num_problems == 8
    assert score([[easy]], 1).ci_low == pass_at_1(easy).ci_low
    paired = difference([[easy], [easy], [hard]], [[hard], [none], [none]], 1)
    assert paired.value == pytest.approx((0.5 + 0.75 + 0.25) / 3)
    assert paired.ci_low == pytest.approx(0.5 - 4.3027 * 0.25 / 3**0.5, abs=1e-4)
    assert difference([[easy, hard]], [[hard, hard]], 1).value == pytest.approx(0.25)


def test_courses_of_curves() -> None:
    assert _course("val/pass_at_1", [0.5, 0.75, 0.625]) == "50.0 → 75.0 → 62.5"
    assert _course("train/mean_logps/chosen", [-1.0] * 10 + [-2.0] * 10) == "-1 → -2"
    assert _course("probe/entropy", [0.1, 0.2, 0.3]) == "0.1 → 0.3"
    assert _course("probe/entropy", []) == "–"
    assert set(_PAPERS.values()) <= PaperRun.model_fields.keys()


def content(**changes: Any) -> dict[str, Any]:
    plain = {"title": "a <b>", "differs": "All.", "made": "2026-01-02", "commit": "0123456789abcdef", "seeds": [1, 2]}
    rows = {"interval": "95 %", "heads": ["run", "x"], "rows": [["<i>", "<u>"]], "figure": None}
    return {**plain, **rows, **changes}


def test_a_report_of_recorded_rows(tmp_path: Path) -> None:
    add_to_report(tmp_path, "embedded", "figure10", content(rows=[["last", "3"]]))
    add_to_report(tmp_path, "embedded", "figure2", content())
    add_to_report(tmp_path, "embedded", "table2", content())
    add_to_report(tmp_path, "embedded", "figure2", content(title="again", seeds=[5], interval=""))
    page, tables = (tmp_path / "index.html").read_text(), (tmp_path / "tables.md").read_text()
    assert re.findall("<h2>(.*?)</h2>", page) == ["Table 2: a &lt;b&gt;", "Figure 2: again", "Figure 10: a &lt;b&gt;"]
    assert not {"<i>", "<u>"} & set(re.findall("<.*?>", page))
    assert "All. Made on 2026-01-02, commit 0123456789ab, seeds 1, 2; 95 %." in page
    assert "| run | x |\n| --- | --- |\n| last | 3 |" in tables
    assert "seed 5." in tables


SMALL = (
    "data.source.num_problems=60",
    "data.source.num_heldout=6",
    "data.num_development=4",
    "data.max_new_tokens=8",
    "model.config.hidden_size=24",
    "model.config.num_hidden_layers=1",
    "model.config.intermediate_size=32",
    "callbacks.probes.num_examples=4",
    "eval.num_samples=2",
    "eval.limit=4",
)


@pytest.mark.slow  # a dozen tiny trainings
def test_a_table_and_figures_share_trainings_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []

    def run(config: Any, overrides: list[str]) -> Path:
        trained.append(f"{config.name} {config.loss._target_.rpartition('.')[2]} s{config.seed}")
        if len(trained) == 3:
            raise KeyboardInterrupt
        return run_training(config, overrides)

    monkeypatch.setattr("redi_lab.verbs.paper.runs.run_training", run)
    common = [*SMALL, f"paths.outputs_dir={tmp_path}"]
    main(plan_of("embedded", "table2", overrides=tuple(common)).training("sft", 42))  # by the verb train
    with pytest.raises(SystemExit) as ended:
        main(["paper", "table2", "seeds=2", *common])
    assert ended.value.code == 130
    main(["paper", "table2", "table3", "figure10", "seeds=2", *common])
    assert trained[0] == "demo_sft SFTModule s43"
    assert len(trained) == 1 + 2 * 5 - 1 + 1  # one was interrupted, one was there; symmetric_fast is figure 10's alone
    main(["paper", "figure9", "table2", "seeds=1", *common])
    assert len(trained) == 11
    folder = tmp_path / "paper" / "embedded"
    made = json.loads((folder / "results.json").read_text())
    assert [*made] == ["table2", "table3", "figure9", "figure10"]
    assert made["table3"]["heads"][2] == "arithmetic, pass@2"
    assert [len(row) == len(made["table2"]["heads"]) for row in made["table2"]["rows"]] == [True] * 5
    assert (folder / "figure10.pdf").read_bytes().startswith(b"%PDF")
    assert "data:image/png" in (folder / "index.html").read_text()
    left, figures = run_notebook("paper.ipynb", monkeypatch, RESULTS=folder / "results.json")
    assert [*left["compared"]["table2"].index] == [row[0] for row in made["table2"]["rows"][1:]]
    assert len(figures) == 1 + 2
    capsys.readouterr()


@pytest.mark.slow  # six tiny trainings
def test_the_papers_scale_runs_to_its_end_on_stand_ins(tmp_path: Path, qwen_folder: Path) -> None:
    def row(n: int) -> dict[str, object]:
        verdicts = {"llama_verification": [True, False], "math_verify_reparsed_answer": [True, False]}
        texts = [f"The value is $\\boxed{{{n + 4}}}$.", f"The value is $\\boxed{{{n}}}$."]
        known = {"problem": f"What is {n} + 4?", "answer": str(n + 4), "problem_is_valid": "Yes", "source": "olympiads"}
        return {**known, "generations": texts, "correctness": verdicts}

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row(n)) + "\n" for n in range(40)))
    members = ("math500", "aime24", "amc23_paper", "minerva_paper", "olympiadbench_paper")
    for number, name in enumerate(members):  # equal problems would be one evaluation
        lines = ({"problem": f"{n} + {number}?", "answer": str(n + number)} for n in range(3))
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    overrides = [
        f"model.path={qwen_folder}",
        f"data.path={rows}",
        *(f"eval.members.{name}.path={tmp_path / name}.jsonl" for name in members),
        *(f"eval.members.{name}.{key}" for name in members for key in ("problem_key=problem", "answer_key=answer")),
        "eval.num_samples=2",
        "eval.max_new_tokens=8",
        "data.batch_size=8",
        "data.source.num_heldout=6",
        "data.num_development=4",
        "data.num_validation=4",
        "callbacks.accuracy.max_new_tokens=8",
        "callbacks.accuracy.max_batch_tokens=1024",
        "trainer.precision=32-true",
        "logger=none",
        f"paths.outputs_dir={tmp_path / 'outputs'}",
    ]
    main(["paper", "table1", "figure5", "scale=paper", f"distilled={qwen_folder}", *overrides])
    made = json.loads((tmp_path / "outputs" / "paper" / "paper" / "results.json").read_text())
    assert [*made] == ["table1", "figure5"]
    heads, cells = made["table1"]["heads"], made["table1"]["rows"]
    assert heads[2:8] == [*(f"{name}, pass@1" for name in members), "average"]
    assert [len(line) for line in cells] == [len(heads)] * 4
    assert cells[0][1] == "no counterpart"
    assert cells[1][1] == str(qwen_folder)
    assert cells[3][-1] == "+3.8"  # the paper's gain over SFT


@pytest.mark.slow  # two processes import torch
def test_trainings_by_two_workers(tmp_path: Path) -> None:
    main(["paper", "figure5", "workers=2", *SMALL, f"paths.outputs_dir={tmp_path}"])
    assert len(list((tmp_path / "paper" / "runs").glob("*/summary.json"))) == 3
    assert "SimPO" in (tmp_path / "paper" / "embedded" / "tables.md").read_text()


def test_select_takes_names_in_the_papers_order() -> None:
    exhibits = dict.fromkeys(("table1", "figure2", "figure10"))
    assert select(["figure10", "table1"], exhibits) == ["table1", "figure10"]
    assert select(["figures"], exhibits) == ["figure2", "figure10"]
    assert select(["all"], exhibits) == [*exhibits]
