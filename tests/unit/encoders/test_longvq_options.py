"""What an encoder that reads documents whole takes, and how its documents are cut; no torch."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memstore.encoders import EncoderOptions, load_splitter, read_identity
from memstore.encoders.documents import find_documents, pooled_lengths, span_means
from memstore.errors import ConfigError
from memstore.types import Document, canonical_json
from tests.tiny import WORDS
from tests.tiny_longvq_encoder import DIM, save_longvq

SaveCheckpoint = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose tokenizer puts [CLS] before a text and [SEP] after it."""
    return save_longvq(tmp_path_factory.mktemp("longvq") / "model", has_specials=True)


@pytest.fixture
def options(folder: Path) -> EncoderOptions:
    """Passages of eight tokens."""
    return EncoderOptions(source=str(folder), window_tokens=8)


def test_identity_is_read_from_the_folder(options: EncoderOptions) -> None:
    """Three blocks, of which a third is live."""
    identity = read_identity(options)

    assert (identity.family, identity.pooling) == ("memstore-longvq", "mean")
    assert (identity.num_layers, identity.num_frozen_layers) == (3, 2)
    assert (identity.memory_dim, identity.embedding_dim) == (DIM, DIM)


def test_live_fraction_must_cut_whole_blocks(options: EncoderOptions) -> None:
    """As in every family."""
    with pytest.raises(ConfigError, match=r"1\.50 of 3 layers"):
        read_identity(replace(options, live_fraction="1/2"))


def test_pooling_is_part_of_the_identity(options: EncoderOptions) -> None:
    """Another rate is another encoder; options with it survive JSON."""
    pooled = replace(options, pool_tokens=4)

    assert read_identity(pooled).to_dict()["pool_tokens"] == 4
    assert len({read_identity(each).id for each in (options, pooled)}) == 2
    assert EncoderOptions.from_dict(pooled.to_dict()) == pooled


def test_encoders_that_do_not_pool_have_the_ids_that_they_had() -> None:
    """The id is the digest of the fields that there were before pooling; so are stored options."""
    identity = read_identity(EncoderOptions())
    names = (
        *("family", "weights_sha256", "config_sha256", "tokenizer_sha256", "num_layers"),
        *("num_frozen_layers", "memory_dim", "embedding_dim", "window_tokens", "stride_tokens"),
        *("template", "special_tokens", "pooling", "retriever_sha256"),
    )
    before = {name: getattr(identity, name) for name in names}

    assert identity.id == hashlib.sha256(canonical_json(before)).hexdigest()
    assert "pool_tokens" not in EncoderOptions().to_dict()


def test_overlap_is_refused(options: EncoderOptions) -> None:
    """A passage has seen its neighbours anyway."""
    with pytest.raises(ConfigError, match=r"stride_tokens: got 4, wanted 0.*documents whole"):
        load_splitter(replace(options, stride_tokens=4))


def test_pooling_is_refused_for_encoders_of_passages() -> None:
    """A reader of theirs wants every token."""
    with pytest.raises(ConfigError, match="pool_tokens: got 2, wanted 1"):
        read_identity(EncoderOptions(pool_tokens=2))


@pytest.mark.parametrize("pool_tokens", [0, -1, True])
def test_pooling_of_nothing_is_refused(pool_tokens: int) -> None:
    """By name, when the options are made."""
    with pytest.raises(ConfigError, match="encoder option pool_tokens"):
        EncoderOptions(pool_tokens=pool_tokens)


def test_it_is_no_retriever_of_another_encoder(folder: Path) -> None:
    """A retriever reads passages one by one."""
    with pytest.raises(ConfigError, match=r"retriever: .* reads documents whole"):
        read_identity(EncoderOptions(retriever=str(folder)))


def test_naming_itself_as_the_retriever_changes_nothing(options: EncoderOptions) -> None:
    """As in every family."""
    named = replace(options, retriever=options.source)

    assert read_identity(named) == read_identity(options)


def test_a_model_saved_without_tokenizer_is_refused(tmp_path: Path) -> None:
    """With what writes one."""
    folder = save_longvq(tmp_path / "model")
    (folder / "tokenizer.json").unlink()

    with pytest.raises(ConfigError, match=r"no tokenizer\.json.*save_pretrained\(folder, token"):
        read_identity(EncoderOptions(source=str(folder)))


def test_identity_and_splitter_need_no_torch(folder: Path) -> None:
    """A tokenizing worker does not pay for it."""
    program = (
        "import sys\n"
        "from memstore.encoders import EncoderOptions, load_splitter, read_identity\n"
        f"options = EncoderOptions(source={str(folder)!r})\n"
        "read_identity(options)\n"
        "load_splitter(options)\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)\n"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("num_words", [1, 3, 4, 5, 40, 41, 42, 43, 44, 45, 46, 47, 48])
def test_the_ids_of_all_passages_are_the_document(options: EncoderOptions, num_words: int) -> None:
    """Title and special tokens stand at its ends alone, and no passage is too long."""
    words = (WORDS * 2)[:num_words]
    text = " ".join(words)

    passages = load_splitter(options).split(Document("d", text, "star"))

    ids = np.concatenate([each.token_ids for each in passages]).tolist()
    assert ids == [1, 3 + WORDS.index("star"), *(3 + WORDS.index(word) for word in words), 2]
    assert max(len(each.token_ids) for each in passages) <= 8
    assert " ".join(each.passage.text for each in passages) == text
    assert [each.passage.num_tokens for each in passages] == [len(p.token_ids) for p in passages]
    assert [each.passage.number for each in passages] == list(range(len(passages)))
    assert [each.is_last for each in passages] == [False] * (len(passages) - 1) + [True]


def test_a_document_without_tokens_has_no_passages(options: EncoderOptions) -> None:
    """Its title alone is not a text."""
    assert load_splitter(options).split(Document("d", "  ", "star")) == []


def test_passages_of_other_encoders_end_their_documents_too() -> None:
    """The last window of each, overlapping or not."""
    for stride_tokens in (0, 7):
        options = EncoderOptions(window_tokens=32, stride_tokens=stride_tokens)
        passages = load_splitter(options).split(Document("d", "the cold sea " * 60))

        assert [each.is_last for each in passages] == [False] * (len(passages) - 1) + [True]
        assert load_splitter(options).is_document_wide is False


def test_documents_are_found_among_passages(options: EncoderOptions) -> None:
    """One after another, also two of one id."""
    splitter = load_splitter(options)
    texts = [Document("a", "ice " * 20), Document("b", "fog"), Document("b", "ice " * 9)]
    passages = [each for document in texts for each in splitter.split(document)]

    assert splitter.is_document_wide
    assert find_documents(passages) == [range(3), range(3, 4), range(4, 6)]
    assert find_documents([]) == []


def test_pooled_lengths_add_up() -> None:
    """The last span is of what is left."""
    assert pooled_lengths(8, 4) == [4, 4]
    assert pooled_lengths(9, 4) == [4, 4, 1]
    assert pooled_lengths(2, 4) == [2]


def test_span_means_are_those_of_each_span_alone() -> None:
    """Spans of one row and of many, in float32."""
    rows = np.random.default_rng(0).standard_normal((500, 3)).astype(np.float32)
    lengths = [1, 7, 400, 91, 1]

    means = span_means(rows, lengths)

    parts = np.split(rows.astype(np.float64), np.cumsum(lengths)[:-1])
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, [part.mean(axis=0) for part in parts], atol=1e-6)
