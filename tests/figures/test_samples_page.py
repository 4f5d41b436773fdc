from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem
from redi_lab.evaluation.results import EvaluationResult, ResultRow
from redi_lab.evaluation.scoring import score
from redi_lab.figures.samples_page import write_pages

HOSTILE = (
    "</script><script>document.title = 'run'</script><img src=x onerror=alert(1)> <!-- \u2028 \ud800 & @DATA@ done"
)


def judged(texts: dict[str, list[str]], verdict: str = "wrong") -> tuple[EvaluationResult, Benchmark]:
    """A result with the given completions by problem."""
    problems = [EvalProblem(name, f"What is <b>{name}</b>?", ("1", "one")) for name in texts]
    rows = tuple(
        ResultRow(
            name, index, text, "length" if index else "stop", verdict, "because", None if index else "2", len(text)
        )
        for name, said in texts.items()
        for index, text in enumerate(said)
    )
    benchmark = Benchmark.of("set/one", problems)
    metrics = score(rows, len(next(iter(texts.values()))))
    return EvaluationResult("k" * 32, {}, benchmark.name, benchmark.digest, "c" * 64, metrics, rows), benchmark


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.S
    )
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_every_sample_is_on_the_page_and_no_text_leaves_its_place(tmp_path: Path) -> None:
    result, benchmark = judged({"a": [HOSTILE, "short"], "b": ["x" * 5000, ""]})
    [page] = write_pages(tmp_path, result, benchmark)
    assert page.name == "samples_set_one.html"
    data = data_of(page)
    assert [(s["problem"], s["sample"], s["text"]) for s in data["samples"]] == [
        (0, 0, HOSTILE),
        (0, 1, "short"),
        (1, 0, "x" * 5000),
        (1, 1, ""),
    ]
    assert data["problems"][0] == {"id": "a", "problem": "What is <b>a</b>?", "answers": ["1", "one"]}
    html = page.read_text(encoding="utf-8")
    assert html.count("<script") == html.count("</script>") == 2
    assert "<img" not in html


def test_the_page_asks_for_nothing_and_allows_its_own_script_alone(tmp_path: Path) -> None:
    html = write_pages(tmp_path, *judged({"a": [HOSTILE]}))[0].read_text(encoding="utf-8")
    outside = re.sub(r'<script type="application/json".*?</script>', "", html, flags=re.S)
    assert "http" not in outside.replace("http-equiv", "")
    assert "src=" not in outside
    assert "innerHTML" not in outside
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-[A-Za-z0-9+/]{43}='",
        policy[1],
    )


def test_what_goes_beyond_a_page_is_on_the_next(tmp_path: Path) -> None:
    result, benchmark = judged({f"p{number}": ["y" * 60, "z" * 60] for number in range(5)})
    pages = write_pages(tmp_path, result, benchmark, page_characters=300)
    assert [page.name for page in pages] == ["samples_set_one.html", "samples_set_one_2.html", "samples_set_one_3.html"]
    shown = [problem["id"] for page in pages for problem in data_of(page)["problems"]]
    assert shown == ["p0", "p1", "p2", "p3", "p4"]
    assert sum(len(data_of(page)["samples"]) for page in pages) == 10
    second = pages[1].read_text(encoding="utf-8")
    assert "Problems 3 to 4 of 5, all their samples." in second
    assert 'Page <a href="samples_set_one.html">1</a> <b>2</b> <a href="samples_set_one_3.html">3</a>' in second


def shown(page: Path, *filters: dict[str, object]) -> list[dict[str, Any]]:
    """What the page shows under each of these filters, by its own script on a stub of the DOM."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("the script of the page runs in node, which is not installed")
    harness = Path(__file__).with_name("samples_page_dom.js")
    done = subprocess.run([node, harness, page, json.dumps(filters)], capture_output=True, text=True, check=True)
    seen: list[dict[str, Any]] = json.loads(done.stdout)
    return seen


FILTERS: list[tuple[dict[str, object], list[str]]] = [
    ({}, ["a0", "a1", "b0", "b1"]),
    ({"verdict": "unknown"}, ["b0", "b1"]),
    ({"problems": "mixed"}, ["a0", "a1"]),
    ({"problems": "never"}, ["b0", "b1"]),
    ({"problems": "always"}, []),
    ({"cut": True}, ["a1", "b1"]),
    ({"order": "longest"}, ["b0", "a0", "a1", "b1"]),
    ({"order": "shortest", "verdict": "unknown"}, ["b1", "b0"]),
    ({"search": "WAIT"}, ["b1"]),
    ({"search": "what is <b>a"}, ["a0", "a1"]),
]


def test_the_page_filters_sorts_and_shows_text_as_text(tmp_path: Path) -> None:
    result, benchmark = judged({"a": [HOSTILE, "short"], "b": ["x" * 5000, "Wait"]})
    verdicts = ["right", "wrong", "unknown", "unknown"]
    rows = tuple(replace(row, verdict=verdict) for row, verdict in zip(result.rows, verdicts, strict=True))
    [page] = write_pages(tmp_path, replace(result, rows=rows), benchmark)
    seen = shown(page, *(filters for filters, _ in FILTERS))
    titles = [[card["title"][0].replace(" · sample ", "") for card in view["cards"]] for view in seen]
    assert titles == [wanted for _, wanted in FILTERS]
    assert seen[0]["count"] == "4 of 4 samples, 4 shown"
    assert seen[0]["cards"][0] == {
        "title": ["a · sample 0", "right", f"{len(HOSTILE)} tokens", "1 of 2 right"],
        "completion": HOSTILE,
    }
    assert seen[0]["cards"][1]["title"] == ["a · sample 1", "wrong", "truncated", "5 tokens", "1 of 2 right"]
    assert seen[0]["cards"][2]["completion"].startswith("x" * 1200 + "3,000 characters not shown: show all")


def test_a_large_page_shows_a_few_samples_at_first(tmp_path: Path) -> None:
    [page] = write_pages(tmp_path, *judged({f"p{number}": ["y" * 20_000] * 4 for number in range(60)}))
    assert page.stat().st_size > 4_500_000
    [seen] = shown(page, {})
    assert (seen["count"], seen["has_more"]) == ("240 of 240 samples, 20 shown", True)
