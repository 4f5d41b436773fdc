"""The presets of conf/loss, the classes of their settings, and the table of docs/objectives.md say the same."""

from __future__ import annotations

import re

from redi_lab.config.checks import options
from redi_lab.config.compose import CONFIG_DIR, _compose
from redi_lab.config.schema.losses import LOSSES

PRESETS = [name for name in options(CONFIG_DIR, "loss") if name != "mild_redi"]  # REDI with another alpha


def documented() -> dict[str, str]:
    """Class of each preset in the table."""
    text = (CONFIG_DIR.parent / "docs" / "objectives.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|.*\| (A|B|C1|C2|C3|D) \|", text, flags=re.MULTILINE)
    return {name: kind for names, kind in rows for name in re.findall(r"`(\w+)`", names)}


def test_the_table_has_every_preset_and_no_other() -> None:
    assert sorted(documented()) == PRESETS


def test_the_class_is_that_of_the_settings() -> None:
    composed = _compose(
        "train", [f"+loss@presets.{name}={name}" for name in PRESETS], CONFIG_DIR
    )  # all of them at once
    classes = {name: LOSSES[preset._target_].cost_class for name, preset in composed.presets.items()}
    assert classes == documented()
