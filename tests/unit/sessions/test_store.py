"""What a caller of a session store sees: sessions that begin, grow, are copied and end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from memstore import ProductCodec
from memstore.errors import (
    AlreadyExistsError,
    CodecMismatchError,
    CommitConflictError,
    ConfigError,
    CorruptionError,
    InvalidInputError,
    ModelMismatchError,
    SessionNotFoundError,
    StorageFullError,
)
from memstore.models.melodi_config import Architecture
from memstore.sessions import SessionModel, SessionStore, open_sessions
from memstore.storage import PosixStore
from memstore.storage.objects import Buffer
from tests.tiny_sessions import WINDOW, make_session_model, make_text, save_model
from tests.unit.sessions.conftest import Clock

OpenStore = Callable[..., SessionStore]


def test_a_session_grows_by_what_is_appended(store: SessionStore) -> None:
    """Versions rise by one; tokens and windows are counted."""
    first = store.append("s", make_text(5))
    second = store.append("s", make_text(2 * WINDOW))

    assert [first.version, second.version] == [2, 3]
    assert [first.num_tokens, second.num_tokens] == [5, 5 + 2 * WINDOW]
    assert [first.num_windows, second.num_windows] == [0, 2]
    assert store.info("s") == second


def test_the_texts_of_the_windows_are_what_was_appended(store: SessionStore) -> None:
    """Spaces included, as long as the queue holds them; the last is what has been read since."""
    texts = [make_text(3), "  sea", "\nship\t", make_text(11, seed=1), make_text(1, seed=2)]
    for text in texts:
        store.append("s", text)

    windows = store.windows("s")
    assert "".join(window.text for window in windows) == "".join(texts)
    assert [(window.number, window.start, window.end) for window in windows] == [
        (0, 0, 8),
        (1, 8, 16),
        (2, 16, 17),
    ]


def test_the_queue_forgets_the_text_of_windows_that_leave_it(store: SessionStore) -> None:
    """Four windows are kept, and the tail."""
    for seed in range(5):
        store.append("s", make_text(13, seed=seed))

    assert [window.number for window in store.windows("s")] == [4, 5, 6, 7, 8]
    assert store.info("s").num_tokens == 65


def test_another_process_reads_what_was_acknowledged(
    store: SessionStore, open_store: OpenStore
) -> None:
    """From disk, to the last bit."""
    store.append("s", make_text(50))

    other = open_store()
    assert other.windows("s") == store.windows("s")
    mine, theirs = store.state("s").to_tensors(), other.state("s").to_tensors()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_an_append_without_a_token_is_refused(store: SessionStore, text: str) -> None:
    """Nothing is committed."""
    with pytest.raises(InvalidInputError, match="wanted one token or more"):
        store.append("s", text)
    assert store.info("s").version == 1


def test_text_that_utf8_cannot_spell_is_refused(store: SessionStore) -> None:
    """Half of a surrogate pair, as JSON can hold it; the text stays out of the message."""
    with pytest.raises(InvalidInputError, match="character 4 is half of a surrogate pair"):
        store.append("s", "sea \ud800 ship")


def test_a_version_that_is_not_expected_is_a_conflict(
    store: SessionStore, open_store: OpenStore
) -> None:
    """Of two writers that both read version 1, the second is told."""
    open_store().append("s", "sea", expected_version=1)

    with pytest.raises(CommitConflictError, match="at version 2, not 1"):
        store.append("s", "ship", expected_version=1)
    with pytest.raises(CommitConflictError, match="at version 2, not 1"):
        store.generate("s", expected_version=1)
    assert store.append("s", "ship", expected_version=2).num_tokens == 2


def test_a_writer_follows_on_what_another_process_has_appended(
    store: SessionStore, open_store: OpenStore
) -> None:
    """What is at hand in RAM is never taken for the newest."""
    store.append("s", "sea ")
    open_store().append("s", "ship ")

    store.append("s", "salt")
    assert store.windows("s")[0].text == "sea ship salt"


def test_generation_becomes_part_of_the_session(store: SessionStore) -> None:
    """The text that is returned stands at the end; the same seed writes the same."""
    store.append("s", make_text(10))
    store.fork("s", "copy")

    made = store.generate("s", max_new_tokens=20, temperature=1.0, seed=4)
    assert made.session == store.info("s")
    assert made.session.num_tokens == 30
    assert "".join(window.text for window in store.windows("s")).endswith(made.text)
    assert made.text == store.generate("copy", max_new_tokens=20, temperature=1.0, seed=4).text


def test_an_empty_session_cannot_be_continued(store: SessionStore) -> None:
    """There is nothing to go on from."""
    with pytest.raises(InvalidInputError, match="empty; append something"):
        store.generate("s")


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": 4097},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"seed": -1},
    ],
)
def test_numbers_out_of_range_are_refused(store: SessionStore, options: dict[str, float]) -> None:
    """Each names itself."""
    store.append("s", "sea")
    with pytest.raises(ConfigError, match=next(iter(options))):
        store.generate("s", **options)  # type: ignore[arg-type]


def test_a_fork_goes_its_own_way(store: SessionStore, open_store: OpenStore) -> None:
    """It has the memory of its origin at that version, and neither sees the other's future."""
    store.append("s", make_text(40))
    fork = store.fork("s", "other")

    assert (fork.forked_from, fork.version) == ("s@2", 1)
    assert open_store().windows("other") == store.windows("s")
    store.append("other", "whale")
    assert store.info("s").version == 2
    store.append("s", "anchor")
    assert store.windows("other")[-1].text.endswith("whale")


def test_a_name_that_is_taken_is_refused(store: SessionStore) -> None:
    """For a new session and for a fork; without a name, one is drawn."""
    with pytest.raises(AlreadyExistsError):
        store.create("s")
    with pytest.raises(AlreadyExistsError):
        store.fork("s", "s")
    assert store.create().session_id != store.fork("s").session_id


@pytest.mark.parametrize("name", ["", "../s", "a/b", "Ab", "ä", "x" * 64, "-a", "\ud800"])
def test_a_name_that_is_no_name_is_refused(store: SessionStore, root: Path, name: str) -> None:
    """Before anything touches the disk."""
    before = sorted(root.rglob("*"))
    for call in (store.create, store.info, store.remove, store.windows):
        with pytest.raises(ConfigError, match="wanted 1 to 63"):
            call(name)
    with pytest.raises(ConfigError, match="wanted 1 to 63"):
        store.append(name, "sea")
    assert sorted(root.rglob("*")) == before


def test_an_unknown_session_is_not_found(store: SessionStore, root: Path) -> None:
    """By no verb, and asking leaves nothing behind."""
    calls: list[Callable[[], object]] = [
        lambda: store.append("t", "sea"),
        lambda: store.generate("t"),
        lambda: store.fork("t"),
        lambda: store.info("t"),
        lambda: store.windows("t"),
        lambda: store.state("t"),
        lambda: store.search("t", "sea"),
        lambda: store.remove("t"),
    ]
    for call in calls:
        with pytest.raises(SessionNotFoundError, match="there is none"):
            call()
    assert [path.name for path in root.iterdir()] == ["s"]


def test_a_removed_session_takes_nothing_more(store: SessionStore, open_store: OpenStore) -> None:
    """Not even from a writer that had it at hand; one object is left of it."""
    other = open_store()
    other.append("s", make_text(40))
    store.remove("s")

    with pytest.raises(SessionNotFoundError, match="was removed at 2027-"):
        other.append("s", "sea")
    assert other.list() == []


def test_a_removed_name_can_be_used_again(store: SessionStore, open_store: OpenStore) -> None:
    """Versions go on, so that an old expectation never fits the new session."""
    other = open_store()
    other.append("s", make_text(40))
    store.remove("s")
    again = store.create("s")

    assert (again.version, again.num_tokens) == (4, 0)
    with pytest.raises(CommitConflictError):
        other.append("s", "sea", expected_version=2)
    assert other.append("s", "sea").num_tokens == 1


def test_a_session_expires_after_its_time(open_store: OpenStore, clock: Clock) -> None:
    """An append puts it off; then the session is gone, and its name is free."""
    store = open_store()
    store.create("short", ttl_s=60)
    clock.now += 59
    info = store.append("short", "sea")
    assert info.expires_at == "2027-01-15T08:01:59.000000+00:00"
    clock.now += 60

    with pytest.raises(SessionNotFoundError, match="it expired at 2027-01-15T08:01:59"):
        store.append("short", "ship")
    assert store.list() == []
    assert store.create("short").version == 3


def test_expire_removes_what_has_run_out(open_store: OpenStore, clock: Clock, root: Path) -> None:
    """First its memory, and three days later the mark that it was there."""
    store = open_store()
    store.create("stays")
    store.create("goes", ttl_s=60)
    store.append("goes", make_text(40))
    assert store.expire() == []
    clock.now += 61

    assert store.expire() == ["goes"]
    assert len(list((root / "goes").iterdir())) == 1
    clock.now += 73 * 3600
    assert store.expire() == []
    assert not (root / "goes").exists()
    assert [info.session_id for info in store.list()] == ["stays"]


def test_expire_deletes_what_dead_writers_left(
    store: SessionStore, clock: Clock, root: Path
) -> None:
    """After three days; what is younger may be a writer's at work."""
    old, young = root / "s" / ".tmp-old", root / "s" / ".tmp-young"
    for path, age_s in ((old, 73 * 3600), (young, 60)):
        path.write_bytes(b"half")
        os.utime(path, (clock.now - age_s, clock.now - age_s))

    store.expire()
    assert young.exists()
    assert not old.exists()
    assert store.append("s", "sea").version == 2


def test_one_that_cannot_be_removed_does_not_keep_the_others(
    open_store: OpenStore, clock: Clock, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a full disk: what can be freed is."""

    class Refusing(PosixStore):
        def put(self, key: str, data: Buffer) -> bool:
            if key.startswith("first/"):
                raise StorageFullError("no space left")
            return super().put(key, data)

    store = open_store()
    store.create("first", ttl_s=60)
    store.create("second", ttl_s=60)
    clock.now += 61
    assert SessionStore(Refusing(root), store.model, clock=clock).expire() == ["second"]
    assert "session first does not expire: no space left" in caplog.text


@pytest.mark.parametrize("num_bytes", [0, 8, 100, -1])
def test_a_damaged_session_can_be_removed(
    store: SessionStore, open_store: OpenStore, root: Path, num_bytes: int
) -> None:
    """Its name is free again at once."""
    store.append("s", make_text(40))
    newest = max((root / "s").iterdir())
    newest.chmod(0o644)
    newest.write_bytes(newest.read_bytes()[:num_bytes])
    other = open_store()
    with pytest.raises(CorruptionError):
        other.append("s", "sea")

    other.remove("s")
    assert other.create("s").version == 1
    assert other.append("s", "sea").num_tokens == 1


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf")])
def test_a_time_to_live_that_is_none_is_refused(store: SessionStore, ttl_s: float) -> None:
    """It would be gone at once, or never by mistake."""
    with pytest.raises(ConfigError, match="ttl_s"):
        store.create("t", ttl_s=ttl_s)


def test_sessions_are_listed_by_name_in_pages(store: SessionStore) -> None:
    """`after` and `limit` cut the list."""
    for name in ("c", "a", "b"):
        store.create(name)

    assert [info.session_id for info in store.list()] == ["a", "b", "c", "s"]
    assert [info.session_id for info in store.list(after="a", limit=2)] == ["b", "c"]


def test_the_memory_of_another_model_is_refused(
    store: SessionStore, root: Path, tmp_path: Path
) -> None:
    """Other weights are another model, even in the same shape; its figures can still be read."""
    store.append("s", make_text(20))
    other = SessionStore(PosixStore(root), make_session_model(tmp_path, seed=4))

    for call in (other.windows, other.state, lambda name: other.append(name, "sea")):
        with pytest.raises(ModelMismatchError, match="was made by model"):
            call("s")
    assert other.info("s").num_tokens == 20


def test_the_queue_of_another_codec_is_refused(
    store: SessionStore, open_store: OpenStore, codec: ProductCodec
) -> None:
    """With a codec where there was none, and the other way round."""
    store.append("s", make_text(20))
    coded = open_store(codec=codec)
    coded.create("c")

    with pytest.raises(CodecMismatchError, match="keeps its queue in no codec, this store in"):
        coded.append("s", "sea")
    with pytest.raises(CodecMismatchError, match="this store in no codec"):
        store.append("c", "sea")


def test_memories_beyond_the_limit_are_read_from_disk_again(
    open_store: OpenStore, root: Path
) -> None:
    """With no RAM at all, sessions work as with much; with some, those used last stay."""
    poor = open_store(ram_bytes=0)
    for name in ("a", "b"):
        poor.create(name)
        poor.append(name, make_text(40))
        poor.append(name, make_text(40, seed=1))
    assert poor.windows("a") == poor.windows("b")

    rich = open_store()
    wanted = rich.windows("a")
    for path in (root / "a").iterdir():
        content = bytearray(path.read_bytes())
        content[-1] ^= 1  # the header is still whole
        path.write_bytes(content)
    assert rich.windows("a") == wanted


def test_a_store_opens_from_folders(tmp_path: Path) -> None:
    """Model and codec as the command line names them; another open of it goes on."""
    folder = save_model(tmp_path / "model")
    open_sessions(tmp_path / "sessions", folder).create("s")

    assert open_sessions(tmp_path / "sessions", folder).append("s", "sea ship").num_tokens == 2


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    """Sessions take in text."""
    folder = save_model(tmp_path / "model")
    (folder / "tokenizer.json").unlink()

    with pytest.raises(ConfigError, match=r"no tokenizer\.json beside the model"):
        open_sessions(tmp_path / "sessions", folder)


def test_a_tokenizer_of_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    """An id beyond the embedding would end the process on some devices."""
    with pytest.raises(ConfigError, match="32 tokens, the model knows 9"):
        make_session_model(tmp_path, vocab_size=9)


def test_a_baseline_is_refused(tmp_path: Path) -> None:
    """Its state is caches, not a queue of summaries."""
    with pytest.raises(ConfigError, match="got transformer-xl"):
        make_session_model(tmp_path, architecture=Architecture.TRANSFORMER_XL)


def test_ids_tell_models_apart(model: SessionModel, tmp_path: Path) -> None:
    """The same config, weights and tokenizer are one model; one bit of a weight is another."""
    (tmp_path / "a").mkdir()
    assert make_session_model(tmp_path / "a").id == model.id
    assert make_session_model(tmp_path / "a", seed=4).id != model.id
    assert make_session_model(tmp_path / "a", dtype=torch.float32).id != model.id
