"""Questions made from running text, to teach a reader to find spans before it sees real ones.

A few hundred questions teach a span head little. Here a phrase is taken out of a sentence and the
words around it, some of them lost, become the question.

Source: noisy cloze questions, Lewis, Denoyer & Riedel 2019 (arXiv 1906.04980).
Differs: phrases are runs of words between stop words, not noun phrases or entities.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.running_text import read_text
from experiments.minilm_reader.material import Asked, Material, build
from memstore.types import Document

STOP_WORDS = frozenset(
    """
    a about after all also an and any are as at be because been before being but by can could did do
    does during each even for from had has have he her him his how i if in into is it its just like
    may me might more most much must my no nor not of off on one only or other our out over own said
    same she should so some such than that the their them then there these they this those through
    to too under until up us very was we were what when where which while who whom whose why will
    with would you your
    """.split()  # noqa: SIM905 - as a list it takes a page
)
_SENTENCE = re.compile(r"[^.!?]{40,300}[.!?]")
WORD = re.compile(r"\w[\w'’-]*(?:[.,]\d+)*")
_ASKING = {
    "number": ("how many", "when", "what", "how much", "in what year"),
    "name": ("who", "what", "where", "which"),
    "other": ("what", "what kind of", "which", "how", "why"),
}
_WEIGHTS = {"number": 4.0, "name": 3.0, "other": 1.0}  # people ask for these more than they occur
_MAX_WORDS = 4  # of a phrase
_REACH = 14  # words around it
_KEPT = 0.7
_EVERY = 8  # of the documents of the text
_PER_DOCUMENT_CHARS = 24_000
_CHARS_PER_QUESTION = 120


def read_cloze(data: Path, cache: Path) -> Material:
    """Return every eighth document of the running text with questions about it."""
    return build(_documents(data / "text"), ask, cache / "text.npy")


def ask(document: Document) -> list[Asked]:
    """Return about one question for every 120 characters, the same for the same document."""
    rng = random.Random(document.document_id)
    found = [(s, e, words) for words in _sentences(document.text) for s, e in phrases(words)]
    # A draw without replacement by weight: Efraimidis & Spirakis 2006.
    found.sort(
        key=lambda each: rng.random() ** (1 / _WEIGHTS[_kind(document.text[each[0] : each[1]])]),
        reverse=True,
    )
    asked = []
    for start, end, words in found[: len(document.text) // _CHARS_PER_QUESTION]:
        answer = document.text[start:end]
        asked.append(Asked(_question(words, start, end, _kind(answer), rng), answer, start))
    return asked


def _kind(phrase: str) -> str:
    if any(character.isdigit() for character in phrase):
        return "number"
    return "name" if phrase[0].isupper() else "other"


def _documents(text: Path) -> Iterator[tuple[int, Document]]:
    for number, document in enumerate(read_text(text)):
        if number % _EVERY == 1:
            short = document.text[:_PER_DOCUMENT_CHARS]
            yield number, Document(document.document_id, short)


def _sentences(text: str) -> Iterator[list[re.Match[str]]]:
    for sentence in _SENTENCE.finditer(text):
        yield list(WORD.finditer(text, *sentence.span()))


def phrases(words: list[re.Match[str]]) -> Iterator[tuple[int, int]]:
    """Yield the characters of runs of up to four words that are no stop words."""
    run: list[re.Match[str]] = []
    for word in [*words, None]:
        is_next = bool(run) and word is not None and word.start() - run[-1].end() == 1
        if run and (word is None or word[0].lower() in STOP_WORDS or not is_next):
            if len(run) <= _MAX_WORDS:
                yield run[0].start(), run[-1].end()
            run = []
        if word is not None and word[0].lower() not in STOP_WORDS:
            run.append(word)


def _question(
    words: list[re.Match[str]], start: int, end: int, kind: str, rng: random.Random
) -> str:
    before = [word[0] for word in words if word.end() <= start][-_REACH:]
    after = [word[0] for word in words if word.start() >= end][:_REACH]
    kept = [word for word in before + after if rng.random() < _KEPT]
    return " ".join([rng.choice(_ASKING[kind]), *kept]) + "?"
