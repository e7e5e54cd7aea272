"""What can be answered without a model: the floor under every reader.

Source: the sliding window with distances of Richardson, Burges & Renshaw 2013 (MCTest), which
SQuAD takes as its baseline too.
Differs: candidates are runs of words between stop words, and words count by how rare they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from experiments.minilm_reader.batches import candidates
from experiments.minilm_reader.cloze import STOP_WORDS, WORD, phrases
from experiments.minilm_reader.material import NO_PASSAGE, Material, Question
from experiments.minilm_reader.reading import NUM_PASSAGES, Reading, score

_DRAWS = 20  # random spans a question
_REACH = 10  # words between a phrase and a word of the question that still count


def random_spans(material: Material, questions: Sequence[Question], seed: int) -> Reading:
    """Answer with spans that start anywhere and are as long as answers are; the mean of some."""
    rng = np.random.default_rng(seed)
    placed = [each for each in material.questions if each.passage != NO_PASSAGE]
    lengths = [each.last - each.first + 1 for each in placed]
    readings = []
    for _ in range(_DRAWS):
        answers = []
        for question in questions:
            passage = int(rng.choice(candidates(material, question)[:NUM_PASSAGES]))
            first, last = material.text_rows(passage)
            start = int(rng.integers(first, last + 1))
            end = min(start + int(rng.choice(lengths)) - 1, last)
            answers.append((passage, material.answer(passage, start, end)))
        readings.append(score(questions, answers))
    return Reading(
        em=np.mean([each.em for each in readings], axis=0),
        f1=np.mean([each.f1 for each in readings], axis=0),
        is_found=np.mean([each.is_found for each in readings], axis=0),
    )


def most_shared_words(material: Material, questions: Sequence[Question]) -> Reading:
    """Answer with the phrase around which most of the question's words stand."""
    passages = [material.text(number) for number in range(len(material.articles))]
    found_in = Counter(word for text in passages for word in set(_words(text)))
    answers = []
    for question in questions:
        asked = {
            word: np.log(len(passages) / max(1, found_in[word]))
            for word in set(_words(question.text)) - STOP_WORDS
        }
        best, answer = -1.0, (NO_PASSAGE, "")
        for passage in candidates(material, question)[:NUM_PASSAGES]:
            value, phrase = _likeliest(passages[passage], asked)
            if value > best:
                best, answer = value, (int(passage), phrase)
        answers.append(answer)
    return score(questions, answers)


def _words(text: str) -> list[str]:
    return [word[0].lower() for word in WORD.finditer(text)]


def _likeliest(text: str, asked: dict[str, float]) -> tuple[float, str]:
    """Return the value of the best phrase, and the phrase."""
    words: list[re.Match[str]] = list(WORD.finditer(text))
    place = {word.start(): number for number, word in enumerate(words)}
    shared = [(i, word[0].lower()) for i, word in enumerate(words) if word[0].lower() in asked]
    best, answer = 0.0, ""
    for start, end in phrases(words):
        if asked.keys() & set(_words(text[start:end])):
            continue
        near: dict[str, float] = {}
        for i, word in shared:
            distance = abs(i - place[start])
            if distance <= _REACH:
                near[word] = max(near.get(word, 0.0), asked[word] / distance)
        value = sum(near.values())
        if value > best:
            best, answer = value, text[start:end]
    return best, answer
