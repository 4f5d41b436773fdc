"""Does a student see where a trace goes wrong, and does it put it right? On the embedded task, and a model on champ.

    python -m experiments.critique.run                                # the embedded student; goes on where it stopped
    python -m experiments.critique.run --model FOLDER --champ FOLDER  # any model, on steps that people marked
    python -m experiments.critique.run --report                       # the table of the rows that are there

The embedded student has never seen a critique: what it gets at first is a floor. Then it learns from traces with one
planted slip or none, each with the number of the wrong line and a right trace after it, on problems of its own.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.runner import ON_ROWS, Results, arguments_of, command
from redi_lab.config.compose import load_config
from redi_lab.data.arithmetic import ArithmeticSource
from redi_lab.data.marked import planted
from redi_lab.evaluation.conditions import conditions_of

SEED = 42
NUM_CRITIQUES = 2000
ASKED = ("protocol=embedded_critique", "eval=arithmetic", "eval.limit=200", "eval.num_samples=1")
ON_CRITIQUES = ("+experiment=demo_sft", *ON_ROWS, "optimizer.lr=1e-3", "trainer.max_epochs=1")
CHAMP = (
    "protocol=critique",
    "eval=jsonl",
    "eval.limit=60",
    "eval.num_samples=1",
    "eval.temperature=0",
    "eval.max_new_tokens=64",
    "eval.chunk_completions=8",  # of these long prompts, between two saves
    "eval.grader.answers=last_number",
    "eval.prompt_template='{problem}'",
)


def main() -> None:
    """Run what is missing, then tabulate what is there."""
    parser = arguments_of(__doc__.split("\n")[0], "critique")
    parser.add_argument("--sft", type=Path, help="a checkpoint of +experiment=demo_sft, instead of training one")
    parser.add_argument("--model", type=Path, help="a model to ask about the traces of --champ")
    parser.add_argument("--champ", type=Path, help="folder of first_wrong_steps.jsonl and problems.jsonl")
    arguments = parser.parse_args()
    results, outputs = Results(arguments.results), arguments.outputs.absolute()
    outputs.mkdir(parents=True, exist_ok=True)
    if arguments.model and not arguments.report:
        file = outputs / "champ.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in champ_rows(arguments.champ)), encoding="utf-8")
        asked = evaluated(outputs / "champ", [f"checkpoint={arguments.model}", f"eval.path={file}", *CHAMP])
        keep(results, f"{arguments.model.name} on champ", asked)
    elif not arguments.report:
        run(results, outputs, arguments.sft)
    print("\n".join(table(results.content["runs"])))


def run(results: Results, outputs: Path, sft: Path | None) -> None:
    """Ask the embedded student before and after it is trained on critiques."""
    start = sft or trained(outputs / "sft", ["+experiment=demo_sft", "eval=none"])
    keep(results, "SFT", evaluated(outputs / "sft_asked", [f"checkpoint={start}", *ASKED]))
    file = outputs / "critiques.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in critique_rows(NUM_CRITIQUES)), encoding="utf-8")
    taught = trained(outputs / "taught", [*ON_CRITIQUES, f"data.path={file}", f"init_from={start}"])
    keep(results, "SFT on critiques", evaluated(outputs / "taught_asked", [f"checkpoint={taught}", *ASKED]))


def critique_rows(number: int) -> list[dict[str, Any]]:
    """Two rows a problem: a trace with the number of its first wrong line, and a right trace after that."""
    rng, source = random.Random(SEED), ArithmeticSource(num_problems=0, seed=SEED)
    kept_out = {problem.problem for problem in source.load().held_out}
    eval_config = load_config("evaluate", ["checkpoint=.", *ASKED], check_paths=False).eval
    criticised, corrected = conditions_of(eval_config.conditions, {})
    rows: list[dict[str, Any]] = []
    while len(rows) < 2 * number:
        problem = source.draw(rng)
        if problem.text in kept_out:
            continue
        answers = (str(problem.answer),)
        trace = planted("", problem.text, answers, is_wrong=len(rows) % 4 == 0)
        right = planted("", problem.text, answers, is_wrong=False)
        prompt, verdict = criticised.put(trace.shown(criticised.steps or "")), f"\\boxed {{ {trace.first_wrong} }}"
        rows.append({"prompt": prompt, "completion": verdict, "label": True})
        dialogue = corrected.go_on(prompt, verdict, problem.text)
        rows.append({"prompt": dialogue.messages, "completion": "\n".join(right.steps), "label": True})
    return rows


def champ_rows(folder: Path) -> list[dict[str, Any]]:
    """Of each problem a model's trace whose first wrong step has a place, and the reference solution as a right one.

    In the lab's form: a step is a line.
    """
    marked: dict[str, dict[str, Any]] = {}
    for row in read_jsonl(folder / "first_wrong_steps.jsonl"):
        if row["start"] is not None:
            marked.setdefault(row["id"], row)
    rows = []
    for problem in read_jsonl(folder / "problems.jsonl"):
        if problem["id"] in marked:
            row = marked[problem["id"]]
            generations = [as_generation(row["text"], row["start"]), as_generation(problem["solution"], None)]
            rows.append({key: problem[key] for key in ("id", "problem", "answer")} | {"generations": generations})
    return rows


def as_generation(text: str, wrong_at: int | None) -> dict[str, Any]:
    """A trace whose steps are its lines, right up to the one that holds the character `wrong_at`."""
    steps: list[dict[str, Any]] = []
    for line in re.finditer(r"\S.*", text):
        is_before = wrong_at is None or line.end() <= wrong_at
        right = True if is_before else None if False in (step["right"] for step in steps) else False
        steps.append({"start": line.start(), "end": line.end(), "right": right})
    return {"text": text, "correct": wrong_at is None, "steps": steps}


def read_jsonl(file: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    return list(map(json.loads, file.read_text(encoding="utf-8").splitlines()))


def trained(folder: Path, overrides: Sequence[str]) -> Path:
    """The checkpoint of a training."""
    return Path(command(folder, folder.parent, [*overrides, f"seed={SEED}", "logger=none"])["checkpoint"])


def evaluated(folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The summary of an evaluation."""
    return command(folder, folder.parent, ["evaluate", *overrides, f"seed={SEED}", "logger=none"])


def keep(results: Results, name: str, summary: Mapping[str, Any]) -> None:
    """Keep the measures of an evaluation, each with its interval."""
    measures = summary["critiques"]["criticised"] | summary["changes"]["corrected"]
    row = {key: [round(e[part], 4) for part in ("value", "ci_low", "ci_high")] for key, e in measures.items()}
    results.content["runs"][name] = row | {"problems": summary["critiques"]["criticised"]["unread"]["num_problems"]}
    results.save()


def table(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A column for each run."""
    kinds = list(dict.fromkeys(key for row in runs.values() for key in row))
    lines = [f"| | {' | '.join(runs)} |", "|---" * (1 + len(runs)) + "|"]
    for kind in kinds:
        lines.append(f"| {kind.replace('_', ' ')} | {' | '.join(_cell(row.get(kind)) for row in runs.values())} |")
    return lines


def _cell(value: list[float] | int | None) -> str:
    if isinstance(value, list):
        return f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"
    return "–" if value is None else str(value)


if __name__ == "__main__":
    main()
