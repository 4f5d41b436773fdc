"""Fixtures shared by all tests."""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch is imported, as redi_lab.cli does
os.environ["OMP_NUM_THREADS"] = "1"  # the models are tiny, and tests run side by side

import copy
import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parents[1]
gc.disable()  # modules and tests are made to stay
_IN_MEMORY = Path("/dev/shm")
if _IN_MEMORY.is_dir() and os.access(_IN_MEMORY, os.W_OK) and shutil.disk_usage(_IN_MEMORY).free > 4e9:
    # Tests flush thousands of files and database pages, for each of which a disk takes milliseconds.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_IN_MEMORY))


def pytest_collection_finish() -> None:
    """Collect garbage from here on, of what the tests make alone, and rarely: tests are small, and libraries large."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def yaml_is_parsed_once() -> None:
    """A file of the configuration tree is parsed once a process, as long as it is what it was; Hydra gets copies."""
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    load, parsed = FileConfigSource.load_config, dict[tuple[object, ...], Any]()

    def load_once(source: FileConfigSource, config_path: str) -> Any:
        file = f"{source.path}/{source._normalize_file_name(config_path)}"
        if not os.path.isfile(file):
            return load(source, config_path)
        found = os.stat(file)
        key = (source.provider, file, found.st_mtime_ns, found.st_size, found.st_ino)
        if key not in parsed:
            parsed[key] = load(source, config_path)
        return copy.deepcopy(parsed[key])

    FileConfigSource.load_config = load_once  # type: ignore[assignment, method-assign]


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """A function from a path inside the shared data folder to its absolute path; skips where the data is absent."""
    root = Path(os.environ.get("REDI_LAB_TEST_DATA", REPOSITORY.parent / "shared" / "data"))

    def locate(relative: str) -> Path:
        path = root / relative
        if not path.exists():
            pytest.skip(f"real test data not found: {path} (set REDI_LAB_TEST_DATA to its folder)")
        return path

    return locate


TINY_TASK = (
    "data.source.num_problems=48",
    "data.source.num_heldout=6",
    "data.num_development=4",
    "model.config.hidden_size=24",
    "model.config.num_hidden_layers=1",
    "model.config.intermediate_size=32",
    "trainer.max_steps=3",
    "eval.num_samples=2",
    "eval.max_new_tokens=24",
)
"""Overrides that make the embedded task run in about a second a stage."""


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., list[str]]:
    """A function that adds the tiny task and a private outputs folder to overrides."""

    def overrides(*more: str, logger: str = "none") -> list[str]:
        earlier = "init_overrides=['trainer.max_steps=3']"
        return [*TINY_TASK, f"logger={logger}", f"paths.outputs_dir={tmp_path / 'outputs'}", earlier, *more]

    return overrides


@pytest.fixture(scope="session")
def new_mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Makes an MLflow database with the experiment redi_lab in a folder.

    Its migrations take seconds: of the workers of one run, the first makes them for all.
    """
    from redi_lab.tracking.store import MlflowStore

    root = tmp_path_factory.getbasetemp()
    migrated = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "migrated.db"
    with FileLock(migrated.with_suffix(".lock")):
        if not migrated.exists():
            unfinished = migrated.with_suffix(".part")
            MlflowStore(f"sqlite:///{unfinished}", "Default")
            unfinished.rename(migrated)

    def make(folder: Path) -> Path:
        database = Path(shutil.copy(migrated, folder / "mlflow.db"))
        MlflowStore(f"sqlite:///{database}", "redi_lab")  # here, since an experiment knows where its artifacts lie
        return database

    return make


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory, new_mlflow_database: Callable[[Path], Path]) -> Path:
    """A fresh MLflow database with the experiment redi_lab, to be copied and never written to."""
    return new_mlflow_database(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a tiny random Qwen2 with its own tokenizer."""
    # Imported here: the process that hands out tests to workers reads this file too, and needs no torch.
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from redi_lab.data.student_tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("qwen")
    tokenizer = train_tokenizer(
        ["[SYNTHETIC ROW] What is 3 + 4? <think> Okay </think> The value is $\\boxed{7}$."], 400
    )
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def own_rows(tmp_path: Path) -> Path:
    """A user's file: twelve problems as chats, a right and a wrong answer of each."""

    def row(n: int, text: str, correct: bool) -> str:
        messages = [{"role": "user", "content": f"What is {n} + 4?"}, {"role": "assistant", "content": text}]
        return json.dumps({"messages": messages, "correct": correct, "answer": str(n + 4)}) + "\n"

    path = tmp_path / "own.jsonl"
    path.write_text("".join(row(n, f"The value is {n + 4 + slip}.", not slip) for n in range(12) for slip in (0, 1)))
    return path
