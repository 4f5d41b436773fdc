"""What a run wants from the hub or the web is asked for before anything else."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from redi_lab.config.compose import load_config
from redi_lab.errors import UserError
from redi_lab.run import preflight


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text("{}")
    return f"checkpoint={tmp_path}"


def check(overrides: list[str], monkeypatch: pytest.MonkeyPatch, *, hub: bool, web: bool) -> str:
    """The complaint, empty where there is none."""
    monkeypatch.setattr(preflight, "is_hub_reachable", lambda: hub)
    monkeypatch.setattr(preflight, "_answers", lambda url: web)
    monkeypatch.setattr(preflight, "_is_at_hand", lambda key, path: False)
    try:
        preflight.check_hub(load_config("evaluate", overrides), overrides)
    except UserError as error:
        return str(error)
    return ""


def test_a_suite_names_every_member_that_lacks(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = [checkpoint, "eval=paper_suite", f"eval.members.aime24.path={__file__}"]
    message = check(suite, monkeypatch, hub=False, web=False)
    for wanted in ("math500.path=HuggingFaceH4/MATH-500", "minerva_paper.path=https://raw.githubusercontent.com/"):
        assert f"eval.members.{wanted}" in message
    assert "aime24" not in message
    assert "the Hugging Face hub cannot be reached; give local copies: eval.members.math500.path=FILE.jsonl" in message
    assert check(suite, monkeypatch, hub=True, web=True) == ""


def test_a_url_is_asked_for_on_its_own(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only = [checkpoint, "eval=minerva_paper"]
    message = check(only, monkeypatch, hub=True, web=False)
    assert message.startswith("eval.path=https://raw.githubusercontent.com/")
    assert message.endswith("and its server cannot be reached; give local copies: eval.path=FILE.jsonl")
    assert check(only, monkeypatch, hub=True, web=True) == ""
    assert check([checkpoint, "eval=math500"], monkeypatch, hub=True, web=False) == ""


def test_a_server_that_refuses_is_no_server() -> None:
    assert not preflight._answers("http://127.0.0.1:9/minerva.json")


def test_local_files_and_made_problems_want_nothing(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for overrides in (["eval=arithmetic"], ["eval=none"], ["eval=jsonl", f"eval.path={__file__}"]):
        assert check([checkpoint, *overrides], monkeypatch, hub=False, web=False) == ""


@pytest.mark.parametrize(
    ("missing", "option", "message"),
    [
        ("peft", "default", r"^model/lora: peft is not installed .*: pip install 'redi-lab\[peft\]'$"),
        ("bitsandbytes", "qlora", r"^model\.lora\.quantization=nf4: bitsandbytes is not installed .*\[qlora\]'"),
        ("bitsandbytes", "default", None),
        ("peft", "none", None),
    ],
)
def test_adapters_want_optional_packages(
    missing: str, option: str, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("train", [f"model/lora={option}", "init_from=.", "loss=sft"], check_paths=False)
    monkeypatch.setattr(preflight, "find_spec", lambda name: None if name == missing else True)
    with nullcontext() if message is None else pytest.raises(UserError, match=message):
        preflight.check_adapters(config)
