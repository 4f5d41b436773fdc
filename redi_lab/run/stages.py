"""Stages, their fingerprints, and the cache that keeps each from being trained twice.

A stage is one experiment's training. Its fingerprint covers all that decides its weights: the resolved configuration
of model, data, loss, optimizer, scheduler, trainer and seed, the content of the data, the stage or weights it starts
from, the source code that computes, and the versions of torch and transformers. It works as `make` does: same
fingerprint, same result, so a stage that others start from is trained once.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import filelock
from omegaconf import DictConfig, OmegaConf
from transformers import AutoConfig

from redi_lab.backbone.hub import from_hub
from redi_lab.backbone.weights import check_folder
from redi_lab.config.compose import earlier_overrides, experiment_names, load_earlier
from redi_lab.data.selection import with_far_negatives
from redi_lab.data.traces import TraceCorpus
from redi_lab.errors import UserError
from redi_lab.evaluation.results import checkpoint_hash, content_digest
from redi_lab.files import write_text
from redi_lab.run.arguments import check_arguments
from redi_lab.run.build import make_source
from redi_lab.run.devices import check_devices, settle_precision
from redi_lab.run.screen import waiting

_PACKAGE = Path(__file__).parents[1]
_CODE = ("backbone", "data", "losses", "modules")  # what computes the weights
_NO_EFFECT = {
    # A source counts by its content, not its name.
    "data": ("source", "path", "max_new_tokens", "num_development", "development_path"),
    # Ranks share the same batches, so that weights differ by rounding alone.
    "trainer": ("log_every_n_steps", "enable_model_summary", "profiler", "val_check_interval", "limit_val_batches",
                "check_val_every_n_epoch", "devices", "num_nodes", "strategy", "fsdp_offload"),
}  # fmt: skip


@final
class OpenedData:
    """The source that a configuration names: made, hashed and read once, whichever stages share it.

    Args:
        config: with the group data.

    Raises:
        UserError: as the source's constructor; `digest` and `corpus` raise what its methods do.
    """

    def __init__(self, config: DictConfig) -> None:
        self.source = make_source(config)
        self._name = str(config.name)
        self._negatives, self._seed = config.data.negatives, config.seed

    @cached_property
    def digest(self) -> str:
        """Of the content and of the options that shape the corpus."""
        return self.source.digest()

    @cached_property
    def corpus(self) -> TraceCorpus:
        """What the source gives."""
        with waiting(f"Reading traces of {self._name}") as on_progress:
            return with_far_negatives(self.source.load(on_progress), self._negatives, self._seed)


@final
@dataclass(frozen=True)
class Stage:
    """One training run of a chain: how it is configured, where it starts, and what identifies its result."""

    config: DictConfig
    data: OpenedData
    """What it trains on, shared with the other stages that name the same source."""
    identity: Mapping[str, Any]
    """All that decides its result: settings, data, start, code, versions."""
    init: Path | None
    """A folder that it starts from, where that is not the stage before."""

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the identity."""
        return content_digest(self.identity)[:32]

    @property
    def name(self) -> str:
        """Of the experiment."""
        return str(self.config.name)


@final
@dataclass(frozen=True)
class StageRecord:
    """Where a finished stage lies."""

    name: str
    output_dir: Path
    checkpoint: Path


def resolve_chain(config: DictConfig, overrides: Sequence[str]) -> list[Stage]:
    """The stages that end in `config`, first one first; `trainer.precision=auto` is settled in place.

    Raises:
        UserError: an earlier stage's configuration is wrong, its data or model is missing, or experiments start from
            each other in a circle.
    """
    configs = chain_configs(config, overrides)
    init = configs[0].init_from
    stages: list[Stage] = []
    opened: dict[str, OpenedData] = {}
    for one in configs:
        check_arguments(one)
        check_devices(one)
        settle_precision(one)
        source = OmegaConf.to_yaml(one.data.source, resolve=True) + one.data.negatives
        if source not in opened:
            opened[source] = OpenedData(one)
        data = opened[source]
        folder = None if stages or init is None else Path(init).absolute()
        start = stages[-1].fingerprint if stages else _start_identity(one, folder)
        stages.append(Stage(one, data, _identity(one, data, start), folder))
    return stages


def chain_configs(config: DictConfig, overrides: Sequence[str]) -> list[DictConfig]:
    """Those of the stages that end in `config`, first one first; see `resolve_chain`."""
    configs, init = [config], config.init_from
    while init is not None and init in experiment_names():
        names = [str(earlier.init_from) for earlier in configs]
        if init in names[:-1]:
            raise UserError(f"init_from={init}: experiments start from each other in a circle: {' → '.join(names)}")
        earlier = load_earlier(configs[-1], overrides)
        overrides = earlier_overrides(configs[-1], overrides)
        configs.append(earlier)
        init = earlier.init_from
    return configs[::-1]


def _start_identity(config: DictConfig, folder: Path | None) -> str:
    """What a first stage starts from: a folder's content, a hub id at its commit, or "new" weights."""
    if folder is not None:
        check_folder(folder, "init_from")
        return checkpoint_hash(folder)
    path = config.model.path
    if path is None:
        return "new"
    if Path(path).is_dir():
        check_folder(Path(path), "model.path")
        return checkpoint_hash(Path(path))
    found = from_hub(AutoConfig, path, config.model.revision)  # also says at once that the hub cannot be reached
    return f"{path}@{getattr(found, '_commit_hash', None)}"


def _identity(config: DictConfig, data: OpenedData, start: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"seed": config.seed}
    for group in ("model", "data", "loss", "optimizer", "scheduler", "trainer"):
        node = OmegaConf.to_container(config[group])
        assert isinstance(node, dict)
        settings[group] = {str(k): v for k, v in node.items() if k not in _NO_EFFECT.get(group, ())}
    reference = settings["loss"].get("reference")
    if reference not in (None, "init"):
        check_folder(Path(reference), "loss.reference")
        settings["loss"]["reference"] = checkpoint_hash(Path(reference))
    return {
        "settings": settings,
        "data": data.digest,
        "init": start,
        "code": code_digest(*_CODE),
        "versions": {package: version(package) for package in ("torch", "transformers")},
    }


@cache
def code_digest(*folders: str, package: Path = _PACKAGE) -> str:
    """The code's share of a fingerprint, which ignores comments and docstrings: SHA-256 over names and syntax trees.

    Args:
        folders: whose modules count.
        package: where these are.
    """
    digest = hashlib.sha256()
    for file in sorted(file for folder in folders for file in (package / folder).glob("*.py")):
        tree = _WithoutProse().visit(ast.parse(file.read_bytes()))
        digest.update(f"{file.relative_to(package)}\0{ast.dump(tree)}\0".encode())
    return digest.hexdigest()


@final
class _WithoutProse(ast.NodeTransformer):
    """Takes out strings that stand alone: docstrings, also those under fields."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_prose = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_prose else node


@final
class StageCache:
    """Finished stages by fingerprint, safe under concurrent runs.

    Args:
        cache_dir: holds `stages/<fingerprint>.json` (where a finished stage lies) and, for stages trained on the way to
            another, `stages/<fingerprint>/` (its output folder).
    """

    def __init__(self, cache_dir: Path) -> None:
        self._folder = cache_dir / "stages"
        self._folder.mkdir(parents=True, exist_ok=True)

    def find(self, fingerprint: str) -> StageRecord | None:
        """The finished stage, if its checkpoint is there with the content that it had when it was finished."""
        try:
            stored = json.loads((self._folder / f"{fingerprint}.json").read_text(encoding="utf-8"))
            record = StageRecord(stored["name"], self._place(stored["output_dir"]), self._place(stored["checkpoint"]))
            expected = stored["checkpoint_hash"]
        except (OSError, ValueError, KeyError, TypeError):  # never finished, or a torn record: train it
            return None
        try:
            if checkpoint_hash(record.checkpoint) == expected:
                return record
            state = "has changed since"
        except (OSError, UserError):
            state = "is gone"
        print(f"{record.name} was trained before, but {record.checkpoint} {state}: it is trained again")
        return None

    def add(self, fingerprint: str, record: StageRecord) -> None:
        """Record a finished stage; the last one to finish wins."""
        content = {
            "name": record.name,
            "output_dir": self._stored(record.output_dir),
            "checkpoint": self._stored(record.checkpoint),
            "checkpoint_hash": checkpoint_hash(record.checkpoint),
        }
        write_text(self._folder / f"{fingerprint}.json", json.dumps(content, indent=2) + "\n")

    def _stored(self, path: Path) -> str:
        """Relative to the record where both lie in one outputs folder, so that the folder can be moved or renamed."""
        outputs, path = self._folder.absolute().parents[1], path.absolute()
        return os.path.relpath(path, self._folder.absolute()) if path.is_relative_to(outputs) else str(path)

    def _place(self, stored: str) -> Path:
        return Path(os.path.normpath(self._folder.absolute() / stored))

    @contextmanager
    def place_for(self, fingerprint: str) -> Iterator[Path]:
        """The output folder of the one process that trains this stage; others wait until it is done.

        It is empty, or holds an interrupted attempt to go on with.
        """
        with filelock.FileLock(self._folder / f"{fingerprint}.lock"):
            folder = self._folder / fingerprint
            if (folder / "summary.json").exists() and self.find(fingerprint) is None:
                shutil.rmtree(folder)  # finished, but stopped early or damaged since
            yield folder
