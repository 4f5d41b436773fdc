"""What a case of the corpus is, and the files that it needs: folders of a tiny model, rows, and a command to refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final


@final
@dataclass(frozen=True)
class World:
    """A folder of its own for each case, and a sound Hugging Face folder to spoil.

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


Command = Callable[[World], Sequence[str]]
"""Makes what is needed and gives the arguments."""


@final
@dataclass(frozen=True)
class Case:
    """A command that must end with one line.

    Attributes:
        name: what is wrong, in words.
        command: makes the input and gives the arguments of `redi-lab`.
        message: a pattern for the whole line, behind `redi_lab: `.
    """

    name: str
    command: Command
    message: str


def given(*arguments: str) -> Command:
    """A command that needs no files."""
    return lambda _: arguments


def edit_json(path: Path, **changes: Any) -> None:
    """Change top-level fields of a JSON file; ... removes one."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in content.items() if value is not ...}
    path.write_text(json.dumps(kept), encoding="utf-8")


SMALL = (
    "name=mine",
    "init_from=null",
    "loss=sft",
    "trainer.max_steps=1",
    "eval=none",
    "data.num_development=0",
)
"""A training that would be over at once if it were not refused."""
