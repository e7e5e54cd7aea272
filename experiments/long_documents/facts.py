"""Generated documents: who they are about stands at their beginning alone.

A document is of passages of equal length. The first says a name; each of the others gives the value
of one attribute among filler words. A question names an attribute and a name. Many documents give
the same attribute, so the passage alone does not tell whose it is: that stands so many passages
before it. Names of the test are new pairs of known words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from experiments.long_documents.task import Batch, Question, Test
from memstore.types import Document

_TEST_SHARE = 5  # of all pairs of words one in so many is a name of the test
_TEST_SEED = 1 << 20


@dataclass(frozen=True)
class Facts:
    """How documents are made.

    Args:
        passage_tokens: words of a passage.
        training_passages: of a document, the first included.
        test_passages: of a document of the test; there are as many attributes.
        batch_documents: in a batch, with a question each.
        test_documents: that are searched together.
        questions_each: to a document of the test.
        num_names, num_values, num_fillers: words of these kinds; a name is two of the first.
    """

    passage_tokens: int = 16
    training_passages: int = 9
    test_passages: int = 65
    batch_documents: int = 32
    test_documents: int = 160
    questions_each: int = 64
    num_names: int = 32
    num_values: int = 64
    num_fillers: int = 64

    @property
    def num_attributes(self) -> int:
        """Words that are attributes: a document of the test gives each once."""
        return self.test_passages - 1

    @cached_property
    def words(self) -> list[str]:
        """All words, in order of token id."""
        kinds = {
            "name": self.num_names,
            "attribute": self.num_attributes,
            "value": self.num_values,
            "filler": self.num_fillers,
        }
        named = [f"{kind}{number}" for kind, count in kinds.items() for number in range(count)]
        return ["about", "is", *named]

    @property
    def vocab_size(self) -> int:
        """V, of the tokenizer."""
        return len(self.words)

    @property
    def word_vectors(self) -> np.ndarray | None:
        """Words mean nothing before they are read."""
        return None

    @property
    def tokenizer(self) -> str:
        """Content of the tokenizer.json: a word is a token."""
        from tokenizers import Tokenizer, models, pre_tokenizers

        ids = {word: number for number, word in enumerate(self.words)}
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token=self.words[0]))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        content: str = tokenizer.to_str()
        return content

    def training(self, seed: int) -> Iterator[Batch]:
        """Yield batches; the names of one are distinct."""
        rng = np.random.default_rng(seed)
        names = self._names(is_test=False)
        while True:
            chosen = names[rng.choice(len(names), self.batch_documents, replace=False)]
            documents, questions, gold = [], [], []
            for number, name in enumerate(chosen):
                attributes = rng.permutation(self.num_attributes)[: self.training_passages - 1]
                passages = self._passages(name, attributes, rng)
                asked = int(rng.integers(1, self.training_passages))
                documents.append(list(passages))
                questions.append(self._question(attributes[asked - 1], name))
                gold.append(number * self.training_passages + asked)
            yield Batch(documents, questions, gold)

    def test(self) -> Test:
        """Return documents of new names; a group is how far back the name stands."""
        rng = np.random.default_rng(_TEST_SEED)
        names = self._names(is_test=True)
        chosen = names[rng.choice(len(names), self.test_documents, replace=False)]
        documents, questions = [], []
        for number, name in enumerate(chosen):
            attributes = rng.permutation(self.num_attributes)
            passages = self._passages(name, attributes, rng)
            texts = [self._spell(each) for each in passages]
            starts = np.cumsum([0, *(len(text) + 1 for text in texts)])
            document_id = f"document{number}"
            documents.append(Document(document_id, " ".join(texts)))
            for place in rng.permutation(len(attributes))[: self.questions_each] + 1:
                question = self._spell(self._question(attributes[place - 1], name))
                group = int(place).bit_length() - 1
                start = int(starts[place])
                questions.append(Question(question, document_id, document_id, start, group))
        num_groups = self.num_attributes.bit_length()
        spans = [
            (1 << group, min((2 << group) - 1, self.num_attributes)) for group in range(num_groups)
        ]
        groups = [f"{a}" if a == b else f"{a}-{b}" for a, b in spans]
        # The attribute alone, which as many passages say as there are documents.
        return Test(documents, questions, groups, floor=1 / self.test_documents)

    def _names(self, *, is_test: bool) -> np.ndarray:
        """Return (N, 2) token ids."""
        first, second = np.indices((self.num_names, self.num_names)).reshape(2, -1)
        is_name = (first != second) & (((3 * first + second) % _TEST_SHARE == 0) == is_test)
        names: np.ndarray = np.stack([first, second], axis=1)[is_name] + self._first("name")
        return names

    def _passages(
        self, name: np.ndarray, attributes: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Return (1 + attributes, passage_tokens) token ids."""
        shape = 1 + len(attributes), self.passage_tokens
        passages = self._first("filler") + rng.integers(self.num_fillers, size=shape)
        about, is_ = 0, 1
        passages[0, :3] = about, *name
        values = self._first("value") + rng.integers(self.num_values, size=len(attributes))
        said = [self._first("attribute") + attributes, np.full_like(values, is_), values]
        starts = rng.integers(self.passage_tokens - 2, size=len(attributes))
        for offset, words in enumerate(said):
            passages[1 + np.arange(len(attributes)), starts + offset] = words
        return passages

    def _question(self, attribute: int, name: np.ndarray) -> np.ndarray:
        return np.array([self._first("attribute") + attribute, 0, *name])

    def _first(self, kind: str) -> int:
        return self.words.index(f"{kind}0")

    def _spell(self, ids: np.ndarray) -> str:
        return " ".join(self.words[each] for each in ids)
