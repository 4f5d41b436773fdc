"""What a case of the corpus is, and the files that it needs: folders of a tiny model, rows, and what reads them."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

from omegaconf import DictConfig, OmegaConf

from redi_lab.config.compose import check, load_config
from redi_lab.run.build import make_source


@final
@dataclass(frozen=True)
class World:
    """A folder for each case, and a sound Hugging Face folder to spoil.

    Attributes:
        folder: empty.
        model: of a tiny Qwen2; not to be written to.
    """

    folder: Path
    model: Path

    def write(self, name: str, content: str | bytes) -> Path:
        """A file with this content."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def rows(self, name: str, *rows: object) -> Path:
        """A JSONL file."""
        return self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def copy_model(self) -> Path:
        """A copy of the sound folder."""
        return Path(shutil.copytree(self.model, self.folder / "model"))


Act = Callable[[World], Sequence[str] | None]
"""Makes what is needed. Gives the arguments of a command, or reads the input itself."""


@final
@dataclass(frozen=True)
class Case:
    """Input that must be refused in one line.

    Attributes:
        name: what is wrong, in words.
        act: feeds it to the lab.
        parts: what the line must name: file, row, key, value.
    """

    name: str
    act: Act
    parts: tuple[str, ...]


def given(*arguments: str) -> Act:
    """A command that needs no files."""
    return lambda _: arguments


def edit_json(path: Path, **changes: Any) -> None:
    """Change top-level fields of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes), encoding="utf-8")


SMALL = ("name=mine", "init_from=null", "loss=sft", "trainer.max_steps=1", "eval=none", "data.num_development=0")
"""A training that would be over at once if it were not refused."""


@cache
def _composed(data: str) -> DictConfig:
    paths = [] if data.startswith("openr1") else ["data.path=a/b"]
    return load_config("train", [*SMALL, "logger=none", f"data={data}", "data.batch_size=2", *paths], check_paths=False)


def load_corpus(path: Path, data: str = "jsonl", **source: Any) -> None:
    """Read a file or folder as training does, without a process or a composition for each."""
    config = copy.deepcopy(_composed(data))
    config.data.path = config.data.source.path = str(path)
    config.data.source.num_heldout = 0
    if source or not path.is_file():  # what the settings say may be wrong; of a file, only what it holds
        config.data.source = OmegaConf.merge(config.data.source, source)
        check(config, "train")
    source_of_traces = make_source(config)
    source_of_traces.digest()
    source_of_traces.load()
