"""Does learning when to keep and when to give up an answer need both kinds of pairs? On the embedded task.

    python -m experiments.persuasion.run              # about ten minutes on two free cores; goes on where it stopped
    python -m experiments.persuasion.run --report     # the table of the rows that are there

The student is asked the same question once more after each answer (protocol=asked_again). It learns that there are
second answers from a teacher who simply tries again. Pairs of its own second answers then train it with DPO: those that
keep a right answer, those that mend a wrong one, and half of each; all arms have equally many pairs and one start.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import runner
from experiments.runner import ON_ROWS, Results, arguments_of
from redi_lab.data.arithmetic import ArithmeticSource
from redi_lab.data.chats import Dialogue
from redi_lab.data.teacher import Teacher

SEED = 42
KINDS = {"both": ("resist", "accept"), "resist alone": ("resist",), "accept alone": ("accept",)}
TURNS = "SFT on second answers"
NUM_DIALOGUES = 3000
ASKED = ("protocol=asked_again", "eval=arithmetic", "eval.limit=300", "eval.num_samples=2")
DIALOGUES = ("protocol=asked_again", "eval=fresh", "eval.limit=400", "eval.num_samples=1", "eval.follow_ups=6")
SECOND = ("+experiment=demo_sft", *ON_ROWS, "optimizer.lr=1e-3", "trainer.max_epochs=2")
DPO = ("+experiment=demo_dpo", *ON_ROWS, "trainer.max_epochs=3")


def main() -> None:
    """Run what is missing, then tabulate what is there."""
    parser = arguments_of(__doc__.split("\n")[0], "persuasion")
    parser.add_argument("--sft", type=Path, help="a checkpoint of +experiment=demo_sft, instead of training one")
    arguments = parser.parse_args()
    results = Results(arguments.results)
    if not arguments.report:
        run(results, arguments.outputs.absolute(), arguments.sft)
    print("\n".join(table(results.content["runs"])))


def run(results: Results, outputs: Path, sft: Path | None) -> None:
    """Train what is missing, and evaluate it."""
    rows = results.content["runs"]
    first = sft or trained(outputs, "SFT", ["+experiment=demo_sft", "eval=none"])
    outputs.mkdir(parents=True, exist_ok=True)
    write_second_answers(outputs / "second_answers.jsonl")
    start = trained(outputs, TURNS, [*SECOND, f"data.path={outputs / 'second_answers.jsonl'}", f"init_from={first}"])
    arms = {TURNS: start}
    pairs = folder_of(outputs, "dialogues") / "pairs.jsonl"
    made = command(outputs, "dialogues", ["evaluate", f"checkpoint={start}", *DIALOGUES])["pairs"] // 2 * 2
    by_kind: dict[str, list[str]] = {"resist": [], "accept": []}
    for line in pairs.read_text(encoding="utf-8").splitlines():
        by_kind[json.loads(line)["kind"]].append(line)
    for name, kinds in KINDS.items():
        file = outputs / f"{folder_of(outputs, name).name}.jsonl"
        file.write_text("\n".join(line for kind in kinds for line in by_kind[kind][: made // len(kinds)]) + "\n")
        arms[name] = trained(outputs, name, [*DPO, f"data.path={file}", f"init_from={start}"])
    for name, checkpoint in arms.items():
        if name not in rows:
            rows[name] = row(command(outputs, f"{name} asked", ["evaluate", f"checkpoint={checkpoint}", *ASKED]))
            rows[name]["pairs"] = made if name in KINDS else 0
            results.save()


def write_second_answers(path: Path) -> None:
    """Dialogues of a teacher who tries twice, whatever came of the first try, and as many single answers."""
    rng, source, teacher = random.Random(SEED), ArithmeticSource(num_problems=0, seed=SEED), Teacher()
    kept_out = {problem.problem for problem in source.load().held_out}
    lines: list[str] = []
    while len(lines) < 2 * NUM_DIALOGUES:
        problem = source.draw(rng)
        if problem.text not in kept_out:
            first, second = (teacher.solve(problem, rng).text for _ in range(2))
            dialogue = Dialogue([problem.text, first, problem.text])
            for prompt, completion in ((problem.text, first), (dialogue.messages, second)):
                lines.append(json.dumps({"prompt": prompt, "completion": completion, "label": True}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def row(summary: dict[str, Any]) -> dict[str, Any]:
    """What is kept of an evaluation: scores and changes, each with its interval."""
    scores = {name: part["metrics"]["pass_at_1"] for name, part in summary["benchmarks"].items()}
    kept = (
        scores
        | summary["changes"]["again"]
        | {"difference": summary["comparisons"]["again"]["comparison"]["difference"]}
    )
    return {name: [round(e[key], 4) for key in ("value", "ci_low", "ci_high")] for name, e in kept.items()}


def trained(outputs: Path, name: str, overrides: Sequence[str]) -> Path:
    """The checkpoint of a training."""
    return Path(command(outputs, name, overrides)["checkpoint"])


def folder_of(outputs: Path, name: str) -> Path:
    """Where a command writes."""
    return outputs / "".join(one if one.isalnum() else "_" for one in name)


def command(outputs: Path, name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The summary of a command of the lab, which is run unless that is there."""
    return runner.command(folder_of(outputs, name), outputs, [*overrides, f"seed={SEED}", "logger=none"])


def table(rows: dict[str, Any]) -> list[str]:
    """A line for each arm."""
    columns = {"asked": "first answer", "again": "second", "difference": "second − first"}
    columns |= {"right_to_wrong": "right → wrong", "wrong_to_right": "wrong → right"}
    lines = [f"| | pairs | {' | '.join(columns.values())} |", "|---|---:|" + "---:|" * len(columns)]
    for name in (TURNS, *KINDS):
        if name in rows:
            cells = [f"{v:.3f} ({low:.3f} to {high:.3f})" for v, low, high in (rows[name][key] for key in columns)]
            lines.append(f"| {name} | {rows[name]['pairs']} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
