"""The command line: quick about mistakes, at home in any folder, also from an installed wheel."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from redi_lab.cli import _SUBVERBS, _VERBS, main
from tests.conftest import REPOSITORY


def command(*arguments: str, cwd: Path, path: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    """Run `python -m redi_lab` from a folder, with the package of `path`."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    line = [sys.executable, "-m", "redi_lab", *arguments]
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


LIGHT = """
import contextlib, io, json, sys
from redi_lab.cli import main
heavy = {"torch", "transformers", "pytorch_lightning", "mlflow", "optuna", "sympy", "math_verify"}
for arguments in json.loads(sys.argv[1]):
    status, said, shown = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
        try:
            main(arguments)
        except SystemExit as ended:
            status = ended.code
    print(json.dumps([status, said.getvalue(), shown.getvalue(), sorted(heavy & set(sys.modules))]))
"""
MISTAKES = {
    "loss.alpha=2": "loss.alpha=2: must be at most 1",
    "+callbacks.collapse.foo=1": "unknown key callbacks.collapse.foo: ",
    "evaluate checkpoint=. verifier=coq verifier.coqc=/nowhere/coqc": "verifier.coqc=/nowhere/coqc: must",
    "generate checkpoint=. eval=coq_lemmas verifier.coqc=no_coqc": "verifier.coqc=no_coqc: must be",
    "evaluate checkpoint=. verifier=command verifier.command=[/nowhere,x]": "verifier.command=['/nowhere",
    "plan gpu=h1000": "gpu=h1000: unknown; choose one of h100, h200, a100, l40s, rtx4090, cpu (did you mean h100?)",
    "plan devices=0": "devices=0: must be at least 1",
    "plan nodes=x": "nodes=x: must be a whole number",
    "plan price=-1": "price=-1: must be at least 0",
    "plan examples=5": "examples, median and longest describe lengths together",
    "plan examples=5 median=9 longest=8": "median=9: is more than longest=8",
    "plan modle=hf": "modle",
    "plan what": "plan what: plan takes KEY=VALUE",
}


def test_mistakes_and_verbs_that_read_files_import_nothing_heavy(tmp_path: Path) -> None:
    """One process for all of them: what one imports shows in all that follow."""
    rows = [{"prediction": "The answer is 150.", "gold": "150"}, {"prediction": "**18**", "gold": "18"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    verbs = {
        "0 folders": ["runs", "clean", f"paths.outputs_dir={tmp_path}"],
        "2 right, 0 wrong, 0 unknown": ["grade", f"{tmp_path}/rows.jsonl", f"paths.output_dir={tmp_path}/out"],
    }
    asked = [*(words.split() for words in MISTAKES), *verbs.values()]
    line = [sys.executable, "-c", LIGHT, json.dumps(asked)]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [heavy for *_, heavy in found] == [[]] * len(asked)
    for message, (status, said, _, _) in zip(MISTAKES.values(), found, strict=False):
        assert (status, said.count("\n")) == (2, 1)
        assert said.startswith("redi_lab: ")
        assert message in said
    for words, (status, said, shown, _) in zip(verbs, found[len(MISTAKES) :], strict=True):
        assert (status, said) == (0, "")
        assert words in shown


def test_an_unknown_verb_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trian"])
    assert ended.value.code == 2
    assert "unknown verb trian; choose one of train, evaluate, generate, curate, sweep" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [("chat",), ("compare",), ("doctor",), ("grade",), ("merge",), ("runs",), *_SUBVERBS])
def test_a_verb_that_is_imported_when_it_is_called_is_there(
    verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*verb, "nonsense=1"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("redi_lab: ")


def test_help_shows_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    screen = capsys.readouterr().out
    assert "evaluate" in screen
    assert "+experiment=NAME" in screen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "foo=1"], "unknown key foo: there are last, port"),
        (["compare", "last=x"], "last=x: must be a whole number"),
        (["curate", "data.source.num_heldout=3"], "curate keeps every problem; hold problems out when training"),
        (["upload"], "upload takes one results folder"),
        (["ui", "logger=none"], "unknown key logger"),
    ],
)
def test_verbs_refuse_what_they_do_not_know(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_compare_without_runs_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", f"paths.outputs_dir={tmp_path}"])
    assert capsys.readouterr().err.count("\n") == 1


def test_hydras_flags_work_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["--cfg", "job", "loss.alpha=0.3"])
    assert "alpha: 0.3" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_multirun_starts_a_process_for_each_value(
    tiny: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("redi_lab.cli.subprocess.run", lambda line, check: started.append(line))
    monkeypatch.chdir(tmp_path)
    main(["-m", "loss.alpha=0.2,0.5", *tiny("eval=none")])
    assert [line[1:3] for line in started] == [["-m", "redi_lab"]] * 2
    assert [[a for a in line if a.startswith("loss.alpha=")] for line in started] == [
        ["loss.alpha=0.2"],
        ["loss.alpha=0.5"],
    ]
    folders = [line[-1] for line in started]
    assert folders[0].startswith("paths.output_dir=")
    assert [folder[-2:] for folder in folders] == ["-0", "-1"]


def test_compare_writes_a_page_of_the_last_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for alpha in (0.1, 0.2, 0.8):
        run = tmp_path / "outputs" / "runs" / f"a{alpha}"
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text(
            '{"step": 0, "time": 1.0, "train/loss": 2.0, "train/mean_logps/chosen": -0.5}\n'
        )
        (run / "config.yaml").write_text(f"loss: {{_target_: m.redi.REDI, alpha: {alpha}}}\noptimizer: {{lr: 0.1}}\n")
        (run / "summary.json").write_text('{"name": "demo"}')
        os.utime(run / "summary.json", (alpha, alpha))
    folder = tmp_path / "comparison"
    main(["compare", f"paths.outputs_dir={tmp_path / 'outputs'}", f"paths.output_dir={folder}"])
    page = (folder / "index.html").read_text()
    compared = json.loads((folder / "summary.json").read_text())["runs"]
    assert [Path(run).name for run in compared] == ["a0.2", "a0.8"]
    assert "<th>loss.alpha</th>" in page
    assert "<th>optimizer.lr</th>" not in page  # the same in both
    assert f"Results:    {folder}" in capsys.readouterr().out


@pytest.mark.slow
def test_multirun_runs_each_value(tiny: Callable[..., list[str]], tmp_path: Path) -> None:
    done = command("-m", "loss.alpha=0.2,0.5", *tiny("eval=none"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summaries = [json.loads(p.read_text()) for p in (tmp_path / "outputs" / "runs").glob("*/summary.json")]
    assert sorted(summary["loss"]["alpha"] for summary in summaries) == [0.2, 0.5]
    assert sorted(s["stages"][0]["is_reused"] for s in summaries) == [False, True]


def test_a_mistake_behind_hydras_flags_is_one_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["-m", "loss.alpha=7,0.2", "paths.outputs_dir=outputs", "logger=none", "debug=none"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "loss.alpha=7" in said


@pytest.mark.slow
def test_an_installed_wheel_brings_its_configuration(tmp_path: Path) -> None:
    build = f"from hatchling.build import build_wheel; print(build_wheel({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", build], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    zipfile.ZipFile(tmp_path / done.stdout.split()[-1]).extractall(site)
    script = (
        "import redi_lab.config.compose as c\nfrom redi_lab.cli import main\nprint(c.CONFIG_DIR)\n"
        "main(['--cfg', 'job', '+experiment=redi_1p5b'])\nmain(['loss=foo'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    shown = subprocess.run(
        [sys.executable, "-c", script], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
    )
    assert shown.stdout.startswith(f"{site / 'redi_lab' / 'conf'}\n"), shown.stderr
    assert "name: redi_1p5b" in shown.stdout
    assert shown.returncode == 2
    assert "loss=foo: no such option; choose a_star_po, " in shown.stderr


def test_the_version_is_that_of_redi_lab(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out.startswith("redi-lab ")


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("verb", list(_VERBS))
def test_every_verb_explains_itself(verb: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([verb, flag])
    page = capsys.readouterr().out
    assert page.startswith(f"{verb}: ")
    assert f"redi-lab {'[train]' if verb == 'train' else verb}" in page
    main(["--help"])
    assert f"\n  {verb} " in capsys.readouterr().out


def test_a_busy_port_is_refused_with_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            main(["ui", f"port={port}", f"paths.outputs_dir={tmp_path}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"port={port}:" in said
    assert "redi-lab ui port=" in said
