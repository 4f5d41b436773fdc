"""How often do the 95 % intervals hold the truth? 1,000 simulated benchmarks for each of many kinds of problems.

    python experiments/sequential_evaluation/coverage.py        # about two minutes; writes coverage.json, coverage.png

The accuracies p of a kind of problems follow a Beta distribution: `mean` is the true pass@1, `spread` = a + b says how
alike the problems are (0.5: nearly always or nearly never solved; 10: much alike).
"""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import special

from redi_lab.evaluation.metrics import Estimate, average, paired_difference, pass_at_1, pass_at_k

HERE = Path(__file__).parent
BENCHMARKS = 1000
BOOTSTRAPPED = 200
MEANS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98)
SPREADS = (0.5, 2.0, 10.0)
SIZES = ((30, 1), (30, 4), (30, 16), (100, 4), (500, 4), (500, 16))
TRIES = (4, 8)


def main() -> None:
    """Simulate, write the numbers, draw the picture."""
    generator = np.random.default_rng(0)
    results: dict[str, Any] = {
        "pass_at_1": [_pass_at_1(generator, *case) for case in product(MEANS, SPREADS, SIZES)],
        "pass_at_k": [_pass_at_k(generator, *case) for case in product(MEANS[3:9], SPREADS, (30, 100, 500), TRIES)],
        "difference": [
            _difference(generator, *case) for case in product((0.1, 0.5, 0.9), (0.5, 2.0), (30, 100, 500), (1, 16))
        ],
        "average": _average(generator),
    }
    (HERE / "coverage.json").write_text(json.dumps(results) + "\n")
    _draw(results, HERE / "coverage.png")
    for name in ("pass_at_1", "pass_at_k", "difference"):
        for method in ("ours", "other"):
            print(name, method, _spread([row[method] for row in results[name]]))
    print("average", results["average"])


def _verdicts(generator: np.random.Generator, mean: float, spread: float, size: tuple[int, int]) -> NDArray[np.bool_]:
    accuracies = generator.beta(mean * spread, (1 - mean) * spread, size=(BENCHMARKS, size[0], 1))
    return generator.random((BENCHMARKS, *size), dtype=np.float32) < accuracies


def _covered(estimates: list[Estimate], truth: float) -> float:
    return float(np.mean([estimate.ci_low <= truth <= estimate.ci_high for estimate in estimates]))


def _pass_at_1(generator: np.random.Generator, mean: float, spread: float, size: tuple[int, int]) -> dict[str, Any]:
    """Beside it Wald's interval that takes all samples for independent, as is still often done."""
    verdicts = _verdicts(generator, mean, spread, size)
    rates = verdicts.mean(axis=(1, 2))
    half = 1.96 * np.sqrt(rates * (1 - rates) / math.prod(size))
    case = {"mean": mean, "spread": spread, "num_problems": size[0], "num_samples": size[1]}
    ours = _covered([pass_at_1(correct) for correct in verdicts], mean)
    return case | {"ours": ours, "other": float(np.mean(np.abs(rates - mean) <= half))}


def _pass_at_k(generator: np.random.Generator, mean: float, spread: float, num_problems: int, k: int) -> dict[str, Any]:
    """Of 16 samples; beside it the t-interval over problems."""
    a, b = mean * spread, (1 - mean) * spread
    truth = 1 - math.exp(special.betaln(a, b + k) - special.betaln(a, b))
    verdicts = _verdicts(generator, mean, spread, (num_problems, 16))
    estimates = [pass_at_k(correct, k) for correct in verdicts]
    counts = verdicts.sum(axis=2)
    values = np.array([1 - math.comb(16 - c, k) / math.comb(16, k) for c in range(17)])[counts]
    half = special.stdtrit(num_problems - 1, 0.975) * values.std(axis=1, ddof=1) / math.sqrt(num_problems)
    case = {"mean": mean, "spread": spread, "num_problems": num_problems, "k": k, "truth": truth}
    other = float(np.mean(np.abs(values.mean(axis=1) - truth) <= half))
    return case | {"ours": _covered(estimates, truth), "other": other}


def _difference(
    generator: np.random.Generator, mean: float, spread: float, num_problems: int, num_samples: int
) -> dict[str, Any]:
    """The new run solves a problem of accuracy p with p^0.8; beside the t-interval the bootstrap, on fewer pairs."""
    a, b = mean * spread, (1 - mean) * spread
    truth = math.exp(special.betaln(a + 0.8, b) - special.betaln(a, b)) - mean
    old = generator.beta(a, b, size=(BENCHMARKS, num_problems, 1))
    runs = [generator.random((BENCHMARKS, num_problems, num_samples)) < p for p in (old**0.8, old)]
    pairs = list(zip(*runs, strict=True))
    bootstrapped = [_bootstrap(new.mean(axis=1) - old.mean(axis=1)) for new, old in pairs[:BOOTSTRAPPED]]
    case = {"mean": mean, "spread": spread, "num_problems": num_problems, "num_samples": num_samples, "truth": truth}
    other = float(np.mean([low <= truth <= high for low, high in bootstrapped]))
    return case | {"ours": _covered([paired_difference(*pair) for pair in pairs], truth), "other": other}


def _bootstrap(per_problem: NDArray[np.float64]) -> tuple[float, float]:
    """Percentile interval of the mean over resampled problems; only how often each value is drawn matters."""
    values, counts = np.unique(per_problem, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(per_problem), counts / len(per_problem), size=10_000)
    low, high = np.quantile(drawn @ values / len(per_problem), [0.025, 0.975])
    return float(low), float(high)


def _average(generator: np.random.Generator) -> float:
    """Five benchmarks of the paper's sizes, with scores near those of its table 1."""
    sizes, means = (500, 30, 83, 272, 675), (0.83, 0.28, 0.62, 0.29, 0.45)
    parts = [_verdicts(generator, m, 1.0, (n, 4)) for m, n in zip(means, sizes, strict=True)]
    estimates = [average([pass_at_1(part[index]) for part in parts]) for index in range(BENCHMARKS)]
    return _covered(estimates, float(np.mean(means)))


def _spread(rates: list[float]) -> str:
    inside = float(np.mean([0.93 <= rate <= 0.97 for rate in rates]))
    low = float(np.mean([rate < 0.93 for rate in rates]))
    return (
        f"{len(rates)} cases: {min(rates):.3f} to {max(rates):.3f}, median {np.median(rates):.3f};"
        f" {inside:.0%} within 93–97 %, {low:.0%} below"
    )


def _draw(results: dict[str, Any], destination: Path) -> None:
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, 3, sharey=True)
    panels = (
        ("pass_at_1", "pass@1", "mean", "samples taken for independent"),
        ("pass_at_k", "pass@4 and pass@8 of 16", "truth", "t-interval over problems"),
        ("difference", "paired difference (t-interval)", "mean", "paired bootstrap"),
    )
    for axis, (name, title, key, other) in zip(axes, panels, strict=True):
        rows = results[name]
        axis.axhspan(0.93, 0.97, color="#009E73", alpha=0.15)
        axis.axhline(0.95, color="#009E73", linewidth=0.8)
        truths = [row[key] for row in rows]
        shown = np.maximum([row["other"] for row in rows], 0.6)
        axis.plot(truths, shown, "x", color="#D55E00", markersize=4, label=other)
        sizes = [14 + 40 * (row["num_problems"] == 30) for row in rows]
        axis.scatter(truths, [row["ours"] for row in rows], sizes, color="#0072B2", alpha=0.7, label="ours")
        axis.set_title(title, loc="left", fontweight="bold", fontsize=11)
        axis.set_xlabel("true value" if key == "truth" else "true pass@1")
        axis.set_ylim(0.5, 1.01)
        axis.legend(frameon=False, fontsize=8, loc="lower center", title="large: 30 problems; × at 0.6: or below")
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("share of 95 % intervals that hold the truth")
    figure.savefig(destination, dpi=110)


if __name__ == "__main__":
    main()
