"""`chat`: what it answers from a prompt, a pipe and a terminal, in which folders it finds a model, what it refuses."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from redi_lab.cli import main
from redi_lab.generation.engines import SamplingParams
from redi_lab.generation.transformers_engine import TransformersEngine
from redi_lab.verbs.chat import converse as converse_with
from tests.conftest import CHAT_TEMPLATE, REPOSITORY
from tests.generation.drawing import generate
from tests.generation.test_conversation import converse

RECORD = {"prompt_template": "Solve {problem}\n", "thinking_prefix": "", "max_new_tokens": 9}


@pytest.fixture
def results(qwen_folder: Path, tmp_path: Path) -> Path:
    """The results folder of a training."""
    last = tmp_path / "run" / "checkpoints" / "last"
    shutil.copytree(qwen_folder, last)
    (last / "redi_lab.json").write_text(json.dumps(RECORD))
    (last / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return tmp_path / "run"


@pytest.fixture
def expected(results: Path) -> Callable[..., str]:
    """What the engine makes of the prompt that training would have written, as it is shown."""

    def answer(problem: str, **changes: float) -> str:
        sampling = SamplingParams(**{"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 9, "num_samples": 1, "seed": 42} | changes)  # type: ignore[arg-type]  # fmt: skip  # noqa: E501
        folder, engine = results / "checkpoints" / "last", TransformersEngine()
        tokenizer = engine.load(folder)[1].tokenizer
        prompt = tokenizer(f"<user>Solve {problem}<|endoftext|>\n<assistant>", add_special_tokens=False)["input_ids"]
        [made] = generate(engine, folder, [prompt], sampling)
        return "".join(c for c in made.text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160)) + "\n"

    return answer


@pytest.mark.parametrize("changes", [{"temperature": 0}, {"seed": 7, "top_p": 0.8}, {"max_new_tokens": 4}])
def test_a_prompt_is_answered_as_training_asked(
    changes: dict[str, float], results: Path, expected: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{key}={value}" for key, value in changes.items()]
    main(["chat", f"checkpoint={results}", "prompt=3 + 4", *words])
    assert capsys.readouterr().out == expected("3 + 4", **changes)


def test_a_pipe_is_one_question(
    results: Path,
    expected: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("3 + 4\nis what ?\n"))
    main(["chat", f"checkpoint={results / 'checkpoints' / 'last'}"])
    assert capsys.readouterr().out == expected("3 + 4\nis what ?")


def test_a_folder_without_a_record_is_asked_plainly_and_says_so(
    qwen_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["chat", f"checkpoint={qwen_folder}", "prompt=3 + 4", "max_new_tokens=2"])
    screen = capsys.readouterr()
    assert "not recorded" in screen.err
    assert "recorded" not in screen.out


def test_a_terminal_goes_on_until_its_input_ends(qwen_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat, turns = converse(qwen_folder), list[int]()

    def script() -> Iterator[str]:
        for question in ("3 + 4", "and 5", "   "):
            yield question
            turns.append(len(chat.turns))
        chat.turns[0] = "3" * 600
        yield "and 6"  # is refused, and does not end the conversation
        yield "/new"
        yield "3 + 4"

    lines = script()

    def read() -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    converse_with(chat, SamplingParams(0.0, 1.0, 6, 1, 0), read)
    screen = capsys.readouterr()
    assert turns == [2, 4, 4]
    assert "tokens, as many as the model reads" in screen.err
    assert "/new begins another" in screen.err
    assert len(chat.turns) == 2
    assert "[cut off after 6 tokens]" in screen.out


def test_an_interrupted_answer_is_forgotten(qwen_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat, questions = converse(qwen_folder), iter(["3 + 4"])

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    chat._model.generate = interrupted
    converse_with(chat, SamplingParams(0.0, 1.0, 6, 1, 0), lambda: next(questions, None) or _end())
    assert "this question is forgotten" in capsys.readouterr().out
    assert chat.turns == []


def _end() -> str:
    raise EOFError


MISTAKES: tuple[tuple[list[str], str], ...] = (
    ([], "checkpoint=: neither a Hugging Face folder (config.json), an adapter"),
    (["checkpoint=nowhere"], "checkpoint=nowhere: neither a Hugging Face folder"),
    (["checkpoint={folder}", "temperature=-1"], "temperature=-1: must be at least 0"),
    (["checkpoint={folder}", "top_p=0"], "top_p=0: must be above 0"),
    (["checkpoint={folder}", "sedd=1"], "unknown key sedd: there are checkpoint, base, prompt, temperature"),
    (["checkpoint={folder}", "prompt= "], "chat: the question is empty"),
    (["checkpoint={folder}", "base=x", "prompt=a"], "base=x: {folder} is a whole model and no adapter"),
    (["checkpoint={folder}", "paths.outputs_dir=x"], "chat paths.outputs_dir=x: chat takes KEY=VALUE"),
    (["checkpoint={empty}", "prompt=a"], "checkpoint={empty}: *.safetensors is missing"),
)


def test_mistakes_end_in_one_line_before_torch_is_imported(qwen_folder: Path, tmp_path: Path) -> None:
    shutil.copy(qwen_folder / "config.json", tmp_path)
    places = {"folder": str(qwen_folder), "empty": str(tmp_path)}
    script = (
        "import sys\nfrom redi_lab.cli import main\n"
        f"for words in {[[word.format(**places) for word in words] for words, _ in MISTAKES]!r}:\n"
        "    try:\n        main(['chat', *words])\n    except SystemExit as ended:\n"
        "        print(ended.code, sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n" * len(MISTAKES)
    for line, (_, message) in zip(done.stderr.splitlines(), MISTAKES, strict=True):
        assert line.startswith(f"redi_lab: {message.format(**places)}")


def test_a_damaged_folder_is_refused(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results / "checkpoints" / "last" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(SystemExit):
        main(["chat", f"checkpoint={results}", "prompt=a"])
    assert "is not a complete safetensors file" in capsys.readouterr().err
