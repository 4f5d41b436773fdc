"""What a run wants from the hub, asked before torch is imported; all that is missing is told in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from redi_lab.config import experiment_names, is_hub_id, load_config
from redi_lab.errors import UserError
from redi_lab.pipeline.inheritance import earlier_overrides

TIMEOUT_S = 5.0
_REMEDIES = {"model.path": "FOLDER", "data.path": "FOLDER_OR_FILE", "eval.path": "FILE.jsonl"}


def check_hub(config: DictConfig, overrides: Sequence[str]) -> None:
    """Check that the hub ids of a training run or an evaluation can be had, if the hub cannot be reached.

    Raises:
        UserError: the hub cannot be reached, and something is neither on disk nor in its cache.
    """
    wanted = _wanted(config, overrides)
    missing = {key: path for key, path in wanted.items() if not _is_at_hand(key, path)}
    if not missing or _is_reachable():
        return
    named = " ".join(f"{key}={path}" for key, path in missing.items())
    remedy = " ".join(f"{key}={_REMEDIES[key]}" for key in missing)
    raise UserError(
        f"{named}: not on this disk, not in the hub's cache, and the Hugging Face hub cannot be reached;"
        f" give local copies: {remedy}"
    )


def _wanted(config: DictConfig, overrides: Sequence[str]) -> dict[str, str]:
    """Hub ids by key: the model of the first stage, the data, the benchmark."""
    is_training = "model" in config
    wanted: dict[str, str | None] = {"data.path": None, "model.path": None, "eval.path": None}
    if is_training or config.eval.benchmark == "heldout":
        wanted["data.path"] = config.data.path
    if config.eval.benchmark == "hub":
        wanted["eval.path"] = config.eval.path
    if is_training and config.init_from is None:
        wanted["model.path"] = config.model.path
    elif is_training and config.init_from in experiment_names():
        wanted["model.path"] = load_config("train", earlier_overrides(config, overrides)).model.path
    return {key: path for key, path in wanted.items() if path is not None and is_hub_id(path)}


def _is_at_hand(key: str, path: str) -> bool:
    if Path(path).exists():
        return True
    from huggingface_hub import constants, try_to_load_from_cache

    if key == "model.path":
        return isinstance(try_to_load_from_cache(path, "config.json"), str)
    datasets = Path(constants.HF_HOME) / "datasets"  # a data set's own cache is looked into later, when it is read
    return any(folder.name.lower().startswith(path.replace("/", "___").lower()) for folder in datasets.glob("*___*"))


def _is_reachable() -> bool:
    """One short request; transformers and datasets would retry for half a minute each."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().model_info("openai-community/gpt2", timeout=TIMEOUT_S)  # any model will do
    except HfHubHTTPError:
        return True  # it answered
    except Exception:  # name resolution, proxy, TLS, time-out, offline mode: each HTTP library has its own
        return False
    return True
