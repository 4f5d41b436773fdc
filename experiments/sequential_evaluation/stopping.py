"""Does sequential evaluation err as seldom as it says, and how many samples does it save against a fixed 16?

    python experiments/sequential_evaluation/stopping.py [--traces FOLDER] [--repetitions 400]

Writes stopping.json and two pictures. Truths are known: accuracies p_i are simulated, or are the shares of right
verdicts in pools of real ones (verdicts.npz: 48 samples of each of the demo's 600 problems by its SFT and its REDI
student; with --traces, published verdicts on MATH-500, AIME24 and MATH), and samples are drawn from them afresh.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from redi_lab.evaluation.sequential import confidence_sequence, looks, rules_out

HERE = Path(__file__).parent
MAX_SAMPLES = 16
WIDTHS = (0.05, 0.03, 0.02, 0.01)
AIME_LONG, AIME_SHORT = "AIME24 (15), Sky-T1 on long traces", "AIME24 (15), Sky-T1 on short traces"
DIFFERENCES = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
SIMULATED = ((0.5, 1000.0, 500), (0.5, 1.0, 500), (0.8, 1.0, 500), (0.9, 2.0, 100), (0.28, 1.0, 30), (0.05, 0.5, 30))

PROTOCOL: dict[str, Any] = {"max_samples": MAX_SAMPLES, "confidence": 0.95}

Rates = NDArray[np.float64]


def main() -> None:
    """Simulate, write the numbers, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--traces", type=Path, help="folder of the published verdicts (sky_math500.jsonl, …)")
    parser.add_argument("--repetitions", type=int, default=400)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    repetitions: int = arguments.repetitions
    students = _students()
    runs = {f"simulated, mean {m:g}, spread {s:g}, {n} problems": _beta(generator, m, s, n) for m, s, n in SIMULATED}
    runs |= {f"student {name}, 600 problems": rates for name, rates in students.items()}
    base = _beta(generator, 0.5, 1.0, 500)
    pairs = [("simulated, 500 problems", base + (1 - base) * d / (1 - base.mean()), base) for d in DIFFERENCES]
    pairs += [("students, REDI − SFT", students["REDI"], students["SFT"])]
    if arguments.traces is not None:
        published = _published(arguments.traces)
        runs |= published
        pairs.append(("AIME24 (15), long − short traces", published[AIME_LONG], published[AIME_SHORT]))
    results = {
        "errors": [_errors(generator, name, rates, 2 * repetitions) for name, rates in runs.items()],
        "known_to": [_known_to(generator, name, rates, repetitions // 20) for name, rates in runs.items()],
        "better_by": [_better_by(generator, *pair, repetitions) for pair in pairs],
    }
    (HERE / "stopping.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    _draw_rounds(np.random.default_rng(1), students["SFT"], students["REDI"], HERE / "rounds.png")
    _draw_savings(results["better_by"], HERE / "savings.png")
    print(_tables(results))


def _students() -> dict[str, Rates]:
    with np.load(HERE / "verdicts.npz") as file:
        shape = tuple(file["shape"])
        packed = {name: file[name] for name in file.files if name != "shape"}
    bits = {name: np.unpackbits(values, count=shape[0] * shape[1]) for name, values in packed.items()}
    return {name: values.reshape(shape).mean(axis=1) for name, values in bits.items()}


def _published(folder: Path) -> dict[str, Rates]:
    """Shares of right verdicts per problem; those on AIME24 over the checkpoints of two trainings of one model."""
    aime = folder / "sky_aime24.jsonl"
    return {
        "MATH-500 (250), nine models pooled": _rates(folder / "sky_math500.jsonl"),
        "MATH (50), Qwen2.5-Math": _rates(folder / "qwen_math_cot_100.jsonl"),
        AIME_LONG: _rates(aime, "32B-ckpts/"),
        AIME_SHORT: _rates(aime, "short-ckpts/"),
    }


def _rates(path: Path, part_of_run: str = "") -> Rates:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    verdicts = [[g["correct"] for g in row["generations"] if part_of_run in g["run"]] for row in rows]
    return np.array([np.mean(problem) for problem in verdicts])


def _beta(generator: np.random.Generator, mean: float, spread: float, count: int) -> Rates:
    return generator.beta(mean * spread, (1 - mean) * spread, size=count)


def _draw_verdicts(generator: np.random.Generator, rates: Rates) -> NDArray[np.bool_]:
    drawn: NDArray[np.bool_] = generator.random((len(rates), MAX_SAMPLES)) < rates[:, None]
    return drawn


def _excluded(outcomes: NDArray[np.float64], value: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether, after each round, the mean is known to be above the value, and below it."""
    return rules_out(outcomes, value, **PROTOCOL), rules_out(1 - outcomes, 1 - value, **PROTOCOL)


def _errors(generator: np.random.Generator, name: str, rates: Rates, repetitions: int) -> dict[str, Any]:
    """How often the truth is ever outside at any of 16 looks: our 95 % intervals, and the usual ones at every look."""
    truth, counts = float(rates.mean()), np.arange(1, MAX_SAMPLES + 1)
    noise = np.sqrt((rates * (1 - rates)).mean() / len(rates) / counts)
    missed = np.zeros(2, dtype=np.int64)
    for _ in range(repetitions):
        correct = _draw_verdicts(generator, rates)
        above, below = _excluded(correct.astype(np.float64), truth)
        means = correct.mean(axis=0).cumsum() / counts
        missed += bool(above[-1] or below[-1]), bool((np.abs(means - truth) > 1.96 * noise).any())
    ours, usual = (float(share) for share in missed / repetitions)
    bound = float(stats.binomtest(int(missed[0]), repetitions).proportion_ci().high)
    return {"name": name, "truth": truth, "ours": ours, "ours_at_most": bound, "usual": usual}


def _known_to(generator: np.random.Generator, name: str, rates: Rates, repetitions: int) -> dict[str, Any]:
    """Mean samples until the score is known to each width; None where 16 do not always suffice."""
    needed: dict[float, list[int | None]] = {width: [] for width in WIDTHS}
    for _ in range(repetitions):
        outcomes = _draw_verdicts(generator, rates).astype(np.float64)
        bounds = {count: confidence_sequence(outcomes[:, :count], **PROTOCOL) for count in looks(MAX_SAMPLES)}
        for width, counts in needed.items():
            counts.append(next((k for k, (low, high) in bounds.items() if high - low <= 2 * width), None))
    means = {str(w): None if None in found else float(np.mean([k for k in found if k])) for w, found in needed.items()}
    return {"name": name, "samples": means}


def _better_by(generator: np.random.Generator, name: str, new: Rates, old: Rates, repetitions: int) -> dict[str, Any]:
    """Is the new run better than the old one? Beside it 16 samples of both and one z-test with the true noise."""
    truth = float(new.mean() - old.mean())
    noise = np.sqrt((new * (1 - new) + old * (1 - old)).mean() / len(new) / MAX_SAMPLES)
    schedule = np.array(looks(MAX_SAMPLES))
    samples, answers, fixed = [], [], []
    for _ in range(repetitions):
        differences = _draw_verdicts(generator, new).astype(np.float64) - _draw_verdicts(generator, old)
        above, below = _excluded((differences + 1) / 2, 0.5)
        is_answered = (above | below)[schedule - 1]
        count = int(schedule[is_answered.argmax()]) if is_answered.any() else MAX_SAMPLES
        samples.append(count)
        answers.append(int(above[count - 1]) - int(below[count - 1]))
        fixed.append(abs(differences.mean()) > 1.96 * noise)
    found = np.array(answers)
    return {
        "name": name,
        "truth": truth,
        "answered": float(np.mean(found != 0)),
        "wrong": float(np.mean((found != 0) & (found != np.sign(truth)))),
        "mean_samples": float(np.mean(samples)),
        "saved": 1 - float(np.mean(samples)) / MAX_SAMPLES,
        "fixed_16_decides": float(np.mean(fixed)),
    }


def _tables(results: dict[str, Any]) -> str:
    lines = ["| run | truth | ever missed | at most (95 %) | usual interval |", "|---|---:|---:|---:|---:|"]
    for r in results["errors"]:
        lines.append(
            f"| {r['name']} | {r['truth']:.3f} | {r['ours']:.1%} | {r['ours_at_most']:.1%} | {r['usual']:.0%} |"
        )
    lines += ["", "| run | " + " | ".join(f"± {w:g}" for w in WIDTHS) + " |", "|---|" + "---:|" * len(WIDTHS)]
    for r in results["known_to"]:
        cells = ["–" if mean is None else f"{mean:.1f}" for mean in r["samples"].values()]
        lines.append(f"| {r['name']} | {' | '.join(cells)} |")
    lines += [
        "",
        "| new − old | truth | answered | wrong | samples | saved | fixed 16 decides |",
        "|---" + "|---:" * 6 + "|",
    ]
    for r in results["better_by"]:
        lines.append(
            f"| {r['name']} | {r['truth']:+.3f} | {r['answered']:.0%} | {r['wrong']:.1%} | {r['mean_samples']:.1f}"
            f" | {r['saved']:.0%} | {r['fixed_16_decides']:.0%} |"
        )
    return "\n".join(lines)


def _draw_rounds(generator: np.random.Generator, sft: Rates, redi: Rates, destination: Path) -> None:
    """One evaluation of each, as it unfolds."""
    figure, axis = _figure((7.5, 4.2))
    counts = np.arange(1, MAX_SAMPLES + 1)
    for name, rates, colour in (("SFT", sft, "#0072B2"), ("REDI, α = 0.8", redi, "#D55E00")):
        outcomes = _draw_verdicts(generator, rates).astype(np.float64)
        bounds = np.array([confidence_sequence(outcomes[:, :k], **PROTOCOL) for k in counts])
        axis.fill_between(counts, bounds[:, 0], bounds[:, 1], color=colour, alpha=0.25, linewidth=0)
        axis.plot(counts, outcomes.mean(axis=0).cumsum() / counts, color=colour, marker="o", markersize=4, label=name)
        axis.axhline(rates.mean(), color=colour, linestyle=":", linewidth=1)
    axis.set_xlabel("samples of each of 600 problems")
    axis.set_ylabel("pass@1, and where it may be (95 %, at all looks)")
    axis.legend(frameon=False)
    figure.savefig(destination, dpi=110)


def _draw_savings(rows: list[dict[str, Any]], destination: Path) -> None:
    figure, axis = _figure((7.5, 4.2))
    simulated = [r for r in rows if r["name"].startswith("simulated")]
    axis.plot(*_points(simulated), "o-", color="#0072B2", label="simulated, 500 problems")
    for colour, r in zip(("#D55E00", "#009E73"), [r for r in rows if r not in simulated], strict=False):
        axis.plot(*_points([r]), "D", color=colour, markersize=8, label=r["name"])
    axis.axhline(MAX_SAMPLES, color="#777777", linewidth=0.8, linestyle="--", label="fixed")
    axis.set_xlabel("true difference of pass@1")
    axis.set_ylabel("samples of each problem until it is answered")
    axis.set_ylim(0, MAX_SAMPLES + 1)
    axis.legend(frameon=False, loc="center right")
    figure.savefig(destination, dpi=110)


def _points(rows: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [r["truth"] for r in rows], [r["mean_samples"] for r in rows]


def _figure(size: tuple[float, float]) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#e6e6e6", linewidth=0.8)
    return figure, axis


if __name__ == "__main__":
    main()
