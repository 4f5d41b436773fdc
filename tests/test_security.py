"""What comes from outside runs no code, secrets stay where they are, pages escape it, names stay in their folder."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from redi_lab.backbone.hub import load_tokenizer
from redi_lab.backbone.loading import load_backbone
from redi_lab.cli import main
from redi_lab.config.compose import load_config
from redi_lab.errors import RunInterruptedError, UserError
from redi_lab.evaluation.results import content_digest
from redi_lab.generation.engines import SamplingParams
from redi_lab.generation.transformers_engine import TransformersEngine
from redi_lab.redaction import redact, redacted, secret_in
from redi_lab.run.interrupted import running
from redi_lab.tracking.server import ui_command
from redi_lab.verbs.sweep.driver import _publishable, compose_sweep
from redi_lab.verbs.sweep.report import write_report
from redi_lab.verbs.sweep.study import Report, RunResult, RunSpec, open_study
from tests.conftest import REPOSITORY, TINY_TASK, qwen_folder  # noqa: F401
from tests.generation.drawing import generate
from tests.verbs.sweep import fakes
from tests.verbs.sweep.fakes import work
from tests.verbs.sweep.test_study import planned
from tests.verbs.train.conftest import undrawn

CODE = "import pathlib\npathlib.Path({marker!r}).touch()\n"


class _Touch:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.path,)


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _with_code(folder: Path, marker: Path, model_type: str) -> None:
    (folder / "mine.py").write_text(CODE.format(marker=str(marker)))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(CODE.format(marker=str(marker)))
    classes = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    _edit(folder / "config.json", model_type=model_type, auto_map=classes, architectures=["MineForCausalLM"])
    _edit(
        folder / "tokenizer_config.json", tokenizer_class="Mine", auto_map={"AutoTokenizer": ["mine.Tok", "mine.Tok"]}
    )


def _with_pickles(folder: Path, marker: Path, keeps_weights: bool) -> None:
    payload = pickle.dumps(_Touch(marker))
    for name in ("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt"):
        (folder / name).write_bytes(payload)
    if not keeps_weights:
        (folder / "model.safetensors").write_bytes(payload)


SPOILT: dict[str, Callable[[Path, Path], None]] = {
    "code beside a known architecture": lambda folder, marker: _with_code(folder, marker, "qwen2"),
    "code for an unknown architecture": lambda folder, marker: _with_code(folder, marker, "mine"),
    "pickles beside safetensors": lambda folder, marker: _with_pickles(folder, marker, keeps_weights=True),
    "pickles instead of safetensors": lambda folder, marker: _with_pickles(folder, marker, keeps_weights=False),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_model_folder_runs_no_code(kind: str, qwen_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    marker = tmp_path / "ran"
    folder = Path(shutil.copytree(qwen_folder, tmp_path / "model"))
    SPOILT[kind](folder, marker)
    engine = TransformersEngine(dtype="float32", device="cpu")
    for load in (
        lambda: load_tokenizer(str(folder)),
        lambda: load_backbone(path=str(folder)),
        lambda: generate(engine, folder, [[3, 4]], SamplingParams(0.0, 1.0, 2, 1, 0)),
    ):
        with suppress(UserError):
            load()
        assert not marker.exists()


def test_the_markers_would_be_seen(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(_Touch(tmp_path / "ran")))
    exec(CODE.format(marker=str(tmp_path / "too")))
    assert (tmp_path / "ran").exists()
    assert (tmp_path / "too").exists()


@cache
def _calls() -> list[tuple[Path, str, dict[str, Any]]]:
    """Every call in the package: file, name and constant options."""
    return [
        (
            file,
            _dotted(node.func),
            {k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)},
        )
        for file in (REPOSITORY / "redi_lab").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


FORBIDDEN = ("pickle.load", "pickle.loads", "cPickle.load", "dill.load", "joblib.load", "marshal.loads",
             "eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "runpy.run_path")  # fmt: skip


def test_the_source_calls_nothing_that_runs_foreign_code() -> None:
    found = []
    for file, name, options in _calls():
        risks = {k: v for k, v in options.items() if k in ("trust_remote_code", "shell", "allow_pickle") and v}
        is_pickle = name == "torch.load" and options.get("weights_only") is not True
        if name in FORBIDDEN or risks or is_pickle:
            found.append(f"{file.relative_to(REPOSITORY)}: {name} {risks}")
    assert found == []


def test_transformers_is_always_told_to_run_no_code() -> None:
    told = 0
    for file, name, options in _calls():
        is_remote = name.startswith("Auto") or name == "loader.from_pretrained"
        if name.endswith(".from_pretrained") and is_remote:
            assert options.get("trust_remote_code") is False, f"{file.name}: {name}"
            told += 1
    assert told >= 3


def test_servers_listen_on_this_machine_alone() -> None:
    command = ui_command("sqlite:////tmp/mlflow.db", 5000)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    for file in (*(REPOSITORY / "redi_lab").rglob("*.py"), REPOSITORY / "Makefile"):
        assert "0.0.0.0" not in file.read_text(encoding="utf-8"), file
    worker = (REPOSITORY / "redi_lab" / "generation" / "vllm_worker.py").read_text(encoding="utf-8")
    assert 'setdefault("VLLM_HOST_IP", "127.0.0.1")' in worker


SECRETS = {
    "HF_TOKEN": "hf_fuRtiveTokenOfNobody",
    "MLFLOW_TRACKING_PASSWORD": "furtive-mlflow-password",
    "MLFLOW_TRACKING_TOKEN": "furtive-mlflow-token",
    "AWS_SECRET_ACCESS_KEY": "furtive/aws+secret",
    "AWS_ACCESS_KEY_ID": "AKIAFURTIVE",
    "PGPASSWORD": "furtive-database-password",
    "OPENAI_API_KEY": "sk-furtive",
    "STUDY_URL": "postgresql://me:furtive-url-password@host/db",
}


def _leaks(content: bytes) -> list[str]:
    values = [*SECRETS.values(), "furtive-url-password", PHRASE, WORD]
    return [value for value in values if value.encode() in content]


def _answers(folder: Path) -> Path:
    path = folder / "answers.jsonl"
    path.write_text('{"prediction": "2", "gold": "2"}\n')
    return path


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "logger.tracking_uri=https://me:furtive-url-password@host",
            r"^logger.tracking_uri=https://me:\*\*\*@host: holds",
        ),
        (
            "logger.tracking_uri=${oc.env:STUDY_URL}",
            r"^logger.tracking_uri=postgresql://me:\*\*\*@host/db: holds a pass",
        ),
        ("model.revision=${oc.env:HF_TOKEN}", r"^model.revision=<HF_TOKEN>: holds the value of .* HF_TOKEN"),
        ("data.thinking_prefix=hf_fuRtiveTokenOfNobody", r"^data.thinking_prefix=<HF_TOKEN>: holds the value of"),
        ("name='x=furtive/aws+secret'", r"x=<AWS_SECRET_ACCESS_KEY>: holds the value of .* AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_secret_in_a_configuration_is_refused_unseen(
    override: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as caught:
        load_config("train", [override])
    assert _leaks(str(caught.value).encode()) == []


@pytest.mark.parametrize("name", ["APIKEY", "OPENAI_APIKEY", "DBPASSWORD", "GHTOKEN", "DB_PASS", "SMTP_PASSPHRASE"])
@pytest.mark.parametrize("value", ["furtive-value-of-nobody", "fv9"])
def test_the_name_of_a_secret_needs_no_underscore(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"^data\.thinking_prefix=<{name}>: holds the value of .* {name}") as caught:
        load_config("train", [f"data.thinking_prefix=${{oc.env:{name}}}"])
    assert value not in str(caught.value)


PHRASE, WORD = "a furtive phrase", "fw_9z"


@pytest.fixture
def interpolated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides that read variables whose names say nothing."""
    monkeypatch.setenv("MY_PHRASE", PHRASE)
    monkeypatch.setenv("MY_WORD", WORD)
    template = "'{problem} ${oc.env:MY_PHRASE}'"
    return [f"data.prompt_template={template}", f"eval.prompt_template={template}"]


def test_secrets_and_interpolated_variables_are_in_no_output(
    interpolated: list[str],
    tmp_path: Path,
    mlflow_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    shutil.copy(mlflow_database, outputs / "mlflow.db")
    small = [*TINY_TASK, "init_from=null", "loss=sft", "trainer.max_steps=1", "eval.limit=1"]
    small += ["logger.experiment_name=another"]  # whose artifacts lie below outputs
    with undrawn():
        main([*small, *interpolated[:2], f"paths.outputs_dir={outputs}"])
    main(["grade", str(_answers(tmp_path)), f"paths.outputs_dir={outputs}"])
    files = [path for path in outputs.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"mlflow.db", "summary.json", "run.json", "config.yaml", "environment.txt", "metrics.jsonl"} <= names
    assert {path.name: found for path in files if (found := _leaks(path.read_bytes()))} == {}
    screen = "".join(capfd.readouterr())
    assert _leaks(screen.encode()) == []
    assert PHRASE not in screen
    for config in outputs.rglob("config.yaml"):
        assert "${oc.env:MY_PHRASE}" in config.read_text()


def test_what_is_recorded_of_a_variable_resolves_again(interpolated: list[str]) -> None:
    config = load_config("train", interpolated[:1])
    recorded = redacted(config.data.prompt_template)
    assert recorded == "{problem} ${oc.env:MY_PHRASE}"
    assert load_config("train", [f"data.prompt_template='{recorded}'"]).data.prompt_template.endswith(PHRASE)
    assert redacted({"a": [WORD, f"x {WORD}!", f"{WORD}x"]}) == {"a": [WORD, f"x {WORD}!", f"{WORD}x"]}
    with pytest.raises(UserError, match=r"^seed=") as caught:
        load_config("train", ["seed=${oc.env:MY_WORD}"])
    assert redact(str(caught.value)).startswith("seed=${oc.env:MY_WORD}: must be")  # as the command line shows it
    assert redacted({"a": [WORD, f"x {WORD}!", f"{WORD}x"]}) == {
        "a": ["${oc.env:MY_WORD}", "x ${oc.env:MY_WORD}!", f"{WORD}x"]
    }


def test_trials_of_a_sweep_interpolate_for_themselves(interpolated: list[str]) -> None:
    overrides = f'sweep.overrides=["{interpolated[0]}"]'
    _, sweep = compose_sweep(["name=s", "sweep.space={loss.alpha:[0.5]}", "sweep.num_trials=1", overrides])
    assert PHRASE not in str(sweep)
    assert load_config("train", sweep.overrides).data.prompt_template.endswith(PHRASE)


@pytest.mark.parametrize("key", ["name", "paths.outputs_dir", "logger.experiment_name"])
def test_what_names_files_and_runs_is_not_hidden_but_refused(
    key: str, interpolated: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=rf"^{key}=.*names what is written.*REDI_LAB_") as caught:
        load_config("train", [f"{key}=${{oc.env:MY_WORD}}"])
    assert WORD not in str(caught.value)
    monkeypatch.setenv("REDI_LAB_WORD", "w")
    monkeypatch.setenv("MY_FOLDER", str(tmp_path))
    for harmless in ("${oc.env:REDI_LAB_WORD}", *(["${oc.env:MY_FOLDER}/x"] if key.startswith("paths") else [])):
        assert load_config("train", [f"{key}={harmless}"])


def test_an_interrupted_run_goes_on_while_its_variables_keep_their_values(
    interpolated: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*interpolated[:1], f"paths.outputs_dir={tmp_path}"]

    def run() -> Path:
        config = load_config("train", overrides)
        settings = {"prompt_template": config.data.prompt_template}
        stage: Any = SimpleNamespace(name="sft", identity=settings, fingerprint=content_digest(settings))
        with suppress(RunInterruptedError), running(config, overrides, [stage]) as begun:
            raise RunInterruptedError("SIGTERM")
        return begun.folder

    folder = run()
    assert PHRASE not in (folder / "run.json").read_text()
    assert run() == folder
    monkeypatch.setenv("MY_PHRASE", "another furtive phrase")
    assert run() != folder
    overrides.append(f"paths.output_dir={folder}")
    with pytest.raises(UserError, match="fingerprint"):
        run()


def test_error_messages_show_no_secret(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    space = "sweep.space={loss.alpha:[0.5]}"
    for arguments in (
        ["sweep", "name=s", space, "sweep.storage=postgresql://me:furtive-url-password@host/db?a=1,2"],
        ["sweep", "name=s", space, "sweep.storage=redis://me:furtive-url-password@host/db"],
        ["loss=hf_fuRtiveTokenOfNobody"],
        ["hf_fuRtiveTokenOfNobody"],
        ["compare", "furtive-mlflow-password=3"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        error = capsys.readouterr().err
        assert ended.value.code == 2
        assert error.count("\n") == 1
        assert _leaks(error.encode()) == []


def test_the_storage_of_a_study_is_published_without_its_password() -> None:
    config = load_config("sweep", ["name=s", "sweep.storage=postgresql://me:furtive-url-password@host/db"])
    assert _publishable(config).sweep.storage == "postgresql://me:***@host/db"


def test_what_is_no_secret_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT_KEY", "demo")
    monkeypatch.setenv("KEYBOARD", "a keyboard's layout")
    for text in ("sqlite:////tmp/a.db", "https://host:5000/x@y", "demo", "a keyboard's layout", os.getcwd()):
        assert redact(text) == text
        assert secret_in(text) is None


EVIL = "</script><script>alert('x')</script><img src=x onerror=\"alert(1)\">' onmouseover='alert(2)"


def test_the_page_of_a_study_escapes_what_runs_say(tmp_path: Path) -> None:
    """The other pages have the like beside their own tests: samples, comparison and preview."""

    def train(spec: RunSpec, report: Report) -> RunResult:
        return replace(fakes.train(spec, report), stopped_by="collapse", collapse_step=3, reason=EVIL)

    sweep = fakes.make_sweep(tmp_path, num_trials=8, pruner="none", sampler="random")
    planned(sweep)
    work(sweep, train)
    page = write_report(sweep, open_study(sweep), None)[-1].read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(" in page
    assert "<script>alert(" not in page
    assert 'onerror="alert' not in page
    assert "onmouseover='alert" not in page


def _quoted(name: str) -> str:
    return json.dumps(name).replace("\\u0000", "\0").replace("\\n", "\n").replace("\\\\", "\\")


@pytest.mark.parametrize("name", ["../../x", "/abs/x", "a/b", "..", ".hidden", "a\\b", "a\0b", "-rf", "x\ny"])
def test_names_stay_in_their_folder(name: str) -> None:
    with pytest.raises(UserError, match=r"name"):
        load_config("train", [f"name={_quoted(name)}"])


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("train", ["eval.name=../x"]),
        ("evaluate", ["checkpoint=.", "eval.name=../x"]),
        ("curate", ["name=../x", "data=jsonl", "data.path=."]),
        ("sweep", ["name=../x"]),
    ],
)
def test_names_of_every_verb_stay_in_their_folder(verb: str, arguments: list[str]) -> None:
    with pytest.raises(UserError, match=r"name"):
        load_config(verb, arguments)


@pytest.mark.parametrize("group", ["+experiment", "loss", "model", "eval", "protocol", "data"])
@pytest.mark.parametrize("path", ["../../x", "/tmp/x", "..", "x/../../y", "[../x]", "'../x'"])
def test_options_of_groups_are_no_paths(group: str, path: str) -> None:
    with pytest.raises(UserError, match="no such option; choose"):
        load_config("train", [f"{group}={path}"])
