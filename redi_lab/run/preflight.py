"""What a run wants from the hub, the web, vLLM or optional packages, asked for before torch is imported."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.request import Request, urlopen

from hydra.utils import instantiate
from omegaconf import DictConfig

from redi_lab.config.compose import benchmarks, experiment_names, is_url, load_earlier
from redi_lab.errors import UserError
from redi_lab.hub import TIMEOUT_S, ask_hub, is_hub_id

_REMEDIES = {"model.path": "FOLDER", "data.path": "FOLDER_OR_FILE"}


def check_hub(config: DictConfig, overrides: Sequence[str]) -> None:
    """Check that hub ids and URLs of a training run or an evaluation are at hand, or their servers are.

    Raises:
        UserError: something is neither on disk nor in the hub's cache, and its server cannot be reached.
    """
    wanted = _wanted(config, overrides)
    missing = {key: path for key, path in wanted.items() if not _is_at_hand(key, path)}
    if missing and is_hub_reachable():
        missing = {key: path for key, path in missing.items() if is_url(path) and not _answers(path)}
    if not missing:
        return
    named = " ".join(f"{key}={path}" for key, path in missing.items())
    remedy = " ".join(f"{key}={_REMEDIES.get(key, 'FILE.jsonl')}" for key in missing)
    where = "its server" if all(is_url(path) for path in missing.values()) else "the Hugging Face hub"
    raise UserError(
        f"{named}: not on this disk, not in the hub's cache, and {where} cannot be reached; give local copies: {remedy}"
    )


def check_model(key: str, path: str) -> None:
    """Check that a model is on this disk, or that the hub can be asked for it.

    Raises:
        UserError: neither.
    """
    if not (_is_at_hand("model.path", path) or (is_hub_id(path) and is_hub_reachable())):
        raise UserError(
            f"{key}={path}: not on this disk, and the hub has it not or cannot be reached; give {key}=FOLDER"
        )


def check_engine(config: DictConfig) -> None:
    """Check that vLLM is installed where the engine is to run it, without importing it.

    Raises:
        UserError: it is not installed there.
    """
    engine = config.engine
    if engine._target_ != "redi_lab.generation.vllm_engine.VLLMEngine":
        return
    remedy = "`make install-vllm` makes .venv-vllm with its CPU build: then add engine.python=.venv-vllm/bin/python"
    if engine.python is None:
        if find_spec("vllm") is None:
            raise UserError(f"engine=vllm: vLLM is not installed in this environment; {remedy}")
        return
    question = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        answer = subprocess.run([engine.python, "-I", "-c", question], capture_output=True)
    except OSError as error:
        raise UserError(f"engine.python={engine.python} cannot be run ({error.strerror}); {remedy}") from error
    if answer.returncode:
        raise UserError(f"engine.python={engine.python}: vLLM is not installed in that environment; {remedy}")


def check_source(config: DictConfig) -> None:
    """Check that a procedural source of problems is installed, and that its settings are some.

    Raises:
        UserError: see `ReasoningGymSource.check`.
    """
    if config.data.source._target_ == "redi_lab.data.reasoning_gym.ReasoningGymSource":
        instantiate(config.data.source, _convert_="all").check()


def check_adapters(config: DictConfig) -> None:
    """Check that the optional packages that adapters need are installed, without importing them.

    Raises:
        UserError: one is not.
    """
    lora = config.model.lora
    if lora is None:
        return
    if find_spec("peft") is None:
        raise UserError("model/lora: peft is not installed in this environment: pip install 'redi-lab[peft]'")
    if lora.quantization is not None and find_spec("bitsandbytes") is None:
        raise UserError(
            f"model.lora.quantization={lora.quantization}: bitsandbytes is not installed in this environment:"
            " pip install 'redi-lab[qlora]', or choose model/lora=default"
        )


def _wanted(config: DictConfig, overrides: Sequence[str]) -> dict[str, str]:
    """Hub ids and URLs by key: the model of the first stage, the data, the benchmarks."""
    is_training = "model" in config
    wanted: dict[str, str | None] = {"data.path": None, "model.path": None}
    if is_training or any(settings.benchmark in ("heldout", "development") for settings in benchmarks(config).values()):
        wanted["data.path"] = config.data.path
    for key, settings in benchmarks(config).items():
        if settings.benchmark == "hub":
            wanted[f"{key}.path"] = settings.path
    if is_training and config.init_from is None:
        wanted["model.path"] = config.model.path
    elif is_training and config.init_from in experiment_names():
        wanted["model.path"] = load_earlier(config, overrides).model.path
    return {key: path for key, path in wanted.items() if path is not None and (is_hub_id(path) or is_url(path))}


def _is_at_hand(key: str, path: str) -> bool:
    if Path(path).exists():
        return True
    from huggingface_hub import constants, try_to_load_from_cache

    if key == "model.path":
        return isinstance(try_to_load_from_cache(path, "config.json"), str)
    if is_url(path):
        return False  # `datasets` asks the server whether the file has changed
    datasets = Path(constants.HF_HOME) / "datasets"  # a data set's own cache is looked into later, when it is read
    return any(folder.name.lower().startswith(path.replace("/", "___").lower()) for folder in datasets.glob("*___*"))


def _answers(url: str) -> bool:
    """Whether the server of a file has it."""
    try:
        with urlopen(Request(url, method="HEAD"), timeout=TIMEOUT_S):
            return True
    except OSError:
        return False


def is_hub_reachable() -> bool:
    """Whether the Hugging Face hub answers one short request; libraries would retry for half a minute each."""
    answer = ask_hub("model", "openai-community/gpt2", revision=None)  # any model will do
    return answer.commit is not None or answer.is_missing
