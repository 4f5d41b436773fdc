"""The problems that the eval group names: where they begin and end."""

from __future__ import annotations

import pytest

from redi_lab.config.compose import load_config
from redi_lab.errors import UserError
from redi_lab.run.benchmarks import make_benchmarks
from redi_lab.run.build import make_source


@pytest.mark.parametrize("words", [["eval=fresh"], ["eval=arithmetic"]])
def test_an_offset_leaves_out_the_first_problems(words: list[str]) -> None:
    def problems(*overrides: str) -> list[str]:
        config = load_config("generate", ["checkpoint=.", *words, *overrides], check_paths=False)
        config.data.source.num_problems, config.data.source.num_heldout = 50, 5
        [benchmark] = make_benchmarks(config, make_source(config).load)
        return [problem.id for problem in benchmark.problems]

    assert problems("eval.limit=6", "eval.offset=4") == problems("eval.limit=10")[4:]
    beyond = load_config("generate", ["checkpoint=.", "eval=arithmetic", "eval.offset=600"], check_paths=False)
    with pytest.raises(UserError, match=r"^eval\.offset=600: arithmetic has 600 problems; lower it"):
        make_benchmarks(beyond, lambda: pytest.fail("needs no corpus"))
