from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow.parquet import write_table

from redi_lab.data.curated import PAIRS_SCHEMA, TRACE_SCHEMA
from redi_lab.data.student_tokenizer import train_tokenizer
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import UNWEIGHTED
from redi_lab.errors import UserError
from redi_lab.verbs.curate.marks import END_OF_TURN, Piece, Window, mark_pair, visible
from redi_lab.verbs.curate.preview import _lengths, run_preview

PNG = b"\x89PNG\r\n\x1a\n"
ALL = Window(head=10_000, around=0, tail=0)
NASTY = '<script>alert("x")</script> [bold]&amp;[/bold] \x1b[31m \u202egnorw\u202c $\\undefined$'


def pair(**changes: Any) -> dict[str, Any]:
    values = {
        "id": "a/1",
        "problem": "What is 1+1?",
        "chosen": "I add one and one. It is 2.",
        "rejected": "I add one and two. It is 3.",
        "answer": "2",
        "source": "sums",
        "source_row": 4,
        "chosen_index": 1,
        "rejected_index": 0,
        "chosen_verdicts": '{"math_verify": true, "llama": null}',
        "rejected_verdicts": '{"math_verify": false}',
        "rejected_error": "slip",
        "common_prefix": 14,
        "length_ratio": 1.0,
        **UNWEIGHTED.as_columns("chosen_"),
        **UNWEIGHTED.as_columns("rejected_"),
    }
    return values | changes


def demonstration(**changes: Any) -> dict[str, Any]:
    row = {key: value for key, value in pair().items() if key in TRACE_SCHEMA.names}
    return row | {"completion": "It is 2.", "generation_index": 1, "verdicts": "{}"} | UNWEIGHTED.as_columns() | changes


def write_folder(folder: Path, pairs: Sequence[dict[str, Any]], sft: Sequence[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_table(pa.Table.from_pylist(list(pairs), schema=PAIRS_SCHEMA), folder / "pairs.parquet", row_group_size=2)
    write_table(pa.Table.from_pylist(list(sft), schema=TRACE_SCHEMA), folder / "sft.parquet")
    return folder


class Page(HTMLParser):
    """What a browser sees: the tags, and the text of elements by tag and class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.pieces: list[tuple[str, str, str]] = []
        self._open: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img"):
            self._open.append((tag, str(dict(attrs).get("class") or "")))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.pieces.append((*self._open[-1], data))


def shown(folder: Path, *arguments: str) -> str:
    """The page."""
    return run_preview([f"path={folder}", *arguments]).read_text()


def card(page: str) -> Page:
    return Page(page.split("<article>")[1].split("</article>")[0])


def loss_text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces if piece.kind == "loss")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["I add one and one. It is 2. What is 1+1?"], 300)


@pytest.fixture(scope="module")
def by_tokens(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The argument that makes pieces tokens."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return f"tokenizer={folder}"


def test_words_are_marked() -> None:
    view = mark_pair(pair(), None, ALL)
    assert view.prompt == "What is 1+1?"
    assert loss_text(view.chosen) == pair()["chosen"]
    assert [piece for piece in view.chosen if piece.kind == "end"] == [Piece(END_OF_TURN, "end", 1)]
    assert [piece.text for piece in view.chosen if piece.is_parting] == [" one."]
    assert [piece.text for piece in view.rejected if piece.is_parting] == [" two."]
    assert (view.common_prefix, view.unit, view.prompt_length) == (4, "words", 3)


def test_tokens_are_marked_as_in_training(tokenizer: Any) -> None:
    encoder = TraceEncoder(tokenizer, "Q: {problem}\n", "<think>")
    view = mark_pair(pair(), encoder, ALL)
    (sequence,) = encoder.encode_all([("a", pair()["problem"], pair()["chosen"])])
    assert view.prompt == "Q: What is 1+1?\n<think>"
    assert view.prompt_length == sequence.prompt_length
    assert sum(piece.size for piece in view.chosen) == sequence.completion_length
    assert loss_text(view.chosen) == pair()["chosen"]
    assert [p.text for p in view.chosen if p.kind == "end"] == ["<|endoftext|>"]
    same = sequence.input_ids[sequence.prompt_length :][: view.common_prefix]
    assert tokenizer.decode(list(same)).startswith("I add one and")
    (parting,) = [piece for piece in view.chosen if piece.is_parting]
    assert parting.text.strip() in "one"


def test_a_trace_that_continues_the_other_parts_at_its_end(tokenizer: Any) -> None:
    row = pair(chosen="It is 2.", rejected="It is 2. And more")
    for encoder in (None, TraceEncoder(tokenizer)):
        view = mark_pair(row, encoder, ALL)
        assert [piece.kind for piece in view.chosen if piece.is_parting] == ["end"]
        assert [piece.kind for piece in view.rejected if piece.is_parting] == ["loss"]


def test_an_empty_trace_is_its_end_of_turn_alone(tokenizer: Any) -> None:
    for encoder in (None, TraceEncoder(tokenizer)):
        view = mark_pair(pair(chosen="", rejected="It is 3."), encoder)
        assert [piece.kind for piece in view.chosen] == ["end"]
        assert sum(piece.is_parting for piece in view.rejected) == 1


def test_characters_of_several_tokens_are_shown_whole(tokenizer: Any) -> None:
    text = "∫ 😀 求和 é"
    view = mark_pair(pair(chosen=text, rejected=text + "."), TraceEncoder(tokenizer), ALL)
    assert loss_text(view.chosen) == text
    assert any(piece.size > 1 for piece in view.chosen)


@pytest.mark.parametrize("length", [0, 1, 40, 59, 60, 61, 300])
def test_what_is_left_out_is_said(length: int, tokenizer: Any) -> None:
    start = "word " * length
    for encoder in (None, TraceEncoder(tokenizer)):
        view = mark_pair(pair(chosen=start + "a tail", rejected=start + "b tail"), encoder, Window(20, 10, 5))
        whole = mark_pair(pair(chosen=start + "a tail", rejected=start + "b tail"), encoder, ALL)
        for side, every in ((view.chosen, whole.chosen), (view.rejected, whole.rejected)):
            assert sum(piece.size for piece in side) == sum(piece.size for piece in every)
            assert sum(piece.is_parting for piece in side) == 1
            assert side[-1].kind == "end"
            gaps = [piece for piece in side if piece.kind == "gap"]
            assert len(gaps) == (length == 300) or length < 100
            assert all(piece.size > 0 for piece in gaps)


def test_nothing_of_the_data_becomes_markup(tmp_path: Path) -> None:
    row = pair(
        id=NASTY, problem=NASTY, chosen=NASTY, rejected=NASTY + "!", answer=NASTY, source=NASTY,
        chosen_verdicts=json.dumps({NASTY: True}), rejected_verdicts=NASTY,
    )  # fmt: skip
    page = shown(write_folder(tmp_path / "<b> [bold]", [row], [demonstration()]))
    seen = Page(page)
    assert "script" not in seen.tags
    ours = "html head meta title style body h1 h2 h3 h4 p article div span img i b s"
    assert set(seen.tags) <= {*ours.split()}
    assert page.count("alert(") == page.count("&lt;script&gt;alert(") > 5
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", page)
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert visible("\x1b\x00\x7f\u202e a\n\t") == "␛␀␡⟨U+202E⟩ a\n\t"


def test_the_page_marks_prompt_loss_parting_and_end(tmp_path: Path, by_tokens: str) -> None:
    pieces = card(shown(write_folder(tmp_path / "data", [pair()], [demonstration()]), by_tokens)).pieces
    assert "".join(text for _, name, text in pieces if name == "prompt") == "What is 1+1?"
    assert [text for tag, _, text in pieces if tag == "b"] == ["<|endoftext|>"] * 2
    assert len([text for tag, name, text in pieces if (tag, name) == ("i", "part")]) == 2
    assert "".join(text for tag, _, text in pieces if tag == "i") == pair()["chosen"] + pair()["rejected"]
    badges = {text for _, name, text in pieces if name == "badge"}
    assert {'{"math_verify": true, "llama": null}', '{"math_verify": false}', "generation 0", "row 4", "slip"} <= badges


WEIGHED = pair(
    chosen="I add one.", rejected="I add two.", chosen_weight=3.0, pass_rate=0.25,
    chosen_steps=[{"start": 0, "end": 5, "right": True, "advantage": 0.5}, {"start": 5, "end": 10, "advantage": -1.0}],
    rejected_steps=[{"start": 2, "end": 9, "right": False, "advantage": -2.0}],
)  # fmt: skip


@pytest.mark.parametrize("is_in_tokens", [False, True])
def test_weights_are_shades_of_what_they_do(tmp_path: Path, by_tokens: str, is_in_tokens: bool) -> None:
    folder = write_folder(tmp_path / "data", [WEIGHED], [demonstration()])
    page = shown(folder, *[by_tokens] * is_in_tokens, "token_weights=step_advantages")
    piece = r'<[ib] class="(?:part )?(\w+)" title="[^"]*weight ([^"]*)" style="--w:([^"]*)">([^<]*)'
    texts: dict[tuple[str, str, str], str] = {}
    for name, weight, share, text in re.findall(piece, page.split("<article>")[1]):
        texts[name, weight, share] = texts.get((name, weight, share), "") + text
    end = "&lt;|endoftext|&gt;" if is_in_tokens else END_OF_TURN
    outside, wrong = ("I.", " add two") if is_in_tokens else ("I two.", " add")
    assert texts == {
        ("up", "0.5", "0.250"): "I add",
        ("down", "-1", "0.500"): " one." + end,
        ("off", "0", "0.000"): outside + end,
        ("down", "2", "1.000"): wrong,
    }
    assert 'title="weight -2' not in page
    legend = re.findall(r'<span><i class="(\w+)" style="--w:([\d.]+)">([^<]*)</i></span>', page)
    assert legend == [
        ("down", "1.000", "falls × 2"), ("down", "0.500", "falls × 1"), ("off", "0.000", "no gradient"),
        ("up", "0.500", "rises × 1"), ("up", "1.000", "rises × 2"),
    ]  # fmt: skip
    chips = {text for tag, name, text in card(page).pieces if name == "badge"}
    assert {"weight 2", "pass rate 0.25"} <= chips


def test_the_manifest_says_how_prompts_are_written(tmp_path: Path, by_tokens: str) -> None:
    folder = write_folder(tmp_path / "data", [pair()], [demonstration()])
    manifest = {"decided_by": {"prompt_template": "Please: {problem}", "thinking_prefix": "<think>"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    page = shown(folder, by_tokens)
    prompt = "".join(text for _, name, text in card(page).pieces if name == "prompt")
    assert prompt == "Please: What is 1+1?<think>"


def test_pairs_are_spread_over_the_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", [pair(id=f"row-{i}-") for i in range(9)], [demonstration()])
    page = shown(folder)
    assert re.findall(r"row-\d-", page) == ["row-1-", "row-4-", "row-7-"]
    page = shown(folder, "n=100")
    assert len(re.findall(r"row-\d-", page)) == 9


def test_lengths_are_drawn(tmp_path: Path) -> None:
    sft = [demonstration(completion="x" * 10**i) for i in range(5)]
    folder = write_folder(tmp_path / "data", [pair()], sft)
    page = shown(folder)
    assert (folder / "preview" / "lengths.png").read_bytes().startswith(PNG)
    assert page.count("data:image/png;base64,") == 1
    assert shown(folder) == page


def test_lengths_are_in_tokens_only_where_all_rows_have_them(tmp_path: Path) -> None:
    some = [demonstration(completion_tokens=5), demonstration(completion="abc")]
    pairs = [pair(rejected_tokens=7)]
    mixed = _lengths(write_folder(tmp_path / "mixed", pairs, some))
    assert mixed == ("characters", {"right": [8, 3], "wrong": [27]})
    full = _lengths(write_folder(tmp_path / "full", pairs, some[:1]))
    assert full == ("tokens", {"right": [5], "wrong": [7]})


def test_an_empty_folder_of_curate_is_shown(tmp_path: Path) -> None:
    page = shown(write_folder(tmp_path / "data", [], []))
    assert "There is no pair in this folder." in page


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str], by_tokens: str) -> None:
    """The tokenizer that curated is the one that shows."""
    folder = write_folder(tmp_path / "data", [pair()], [demonstration()])
    (folder / "manifest.json").write_text(json.dumps({"tokenizer": by_tokens.partition("=")[2]}))
    page = run_preview([f"path={folder}", "n=1"])
    assert page == folder / "preview" / "index.html"
    assert f"Page:       {page}" in capsys.readouterr().out
    assert "&lt;|endoftext|&gt;" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "takes path=FOLDER"),
        (["path=absent"], r"absent: no sft.parquet there; give the results folder of"),
        (["path=.", "n=two"], "n=two: must be a whole number"),
        (["path=.", "n=-1"], "n=-1: must be at least 1"),
        (["path=.", "m=1"], "unknown key m: there are path, n, tokenizer"),
        (["folder"], "takes path=FOLDER"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_preview(arguments)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", [pair()], [demonstration()])
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        shown(folder)
    (folder / "manifest.json").unlink()
    (folder / "pairs.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"pairs\.parquet: not a readable Parquet file"):
        shown(folder)
    write_table(pa.table({"problem": ["x"]}), folder / "pairs.parquet")
    with pytest.raises(UserError, match=r"pairs\.parquet: without the columns chosen, rejected"):
        shown(folder)
    with pytest.raises(UserError, match=r"tokenizer=.*nowhere: cannot load its tokenizer"):
        run_preview([f"path={folder}", f"tokenizer={tmp_path / 'nowhere'}"])


def test_real_long_traces(tmp_path: Path, shared_data: Callable[[str], Path], by_tokens: str) -> None:
    with shared_data("traces/sky_aime24.jsonl").open() as file:
        rows = [json.loads(next(file)) for _ in range(2)]
    pairs = []
    for row in rows:
        by_verdict = {generation["correct"]: generation["text"] for generation in row["generations"]}
        pairs.append(pair(id=row["id"], problem=row["problem"], chosen=by_verdict[True], rejected=by_verdict[False]))
    page = shown(write_folder(tmp_path / "data", pairs, [demonstration()]), by_tokens)
    assert len(page) < 2_000_000
    assert "tokens not shown" in page
    assert rows[0]["id"] in page
