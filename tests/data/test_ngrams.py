"""N-gram losses against a direct count."""

import json
import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ablate.data.ngrams import ORDERS, ngram_losses, reference_lines


def by_hand(train: list[int], text: list[int], vocab: int, order: int) -> float:
    """Witten and Bell's interpolation, one token at a time."""

    def probability(word: int, context: tuple[int, ...]) -> float:
        below = probability(word, context[1:]) if context else 1 / vocab
        n = len(context)
        followers = Counter(train[i + n] for i in range(len(train) - n) if tuple(train[i : i + n]) == context)
        if not followers:
            return below
        kinds = len(followers)
        return (followers[word] + kinds * below) / (followers.total() + kinds)

    each = [-math.log(probability(text[i], tuple(text[i - order + 1 : i]))) for i in range(4, len(text))]
    return sum(each) / len(each)


@pytest.mark.parametrize("vocab", [3, 11])
def test_the_losses_are_those_of_a_direct_count(vocab: int) -> None:
    rng = np.random.default_rng(0)
    train, text = (rng.integers(0, vocab, n) for n in (300, 60))
    losses = ngram_losses(train, text, vocab)
    for name, order in ORDERS.items():
        assert losses[name] == pytest.approx(by_hand(train.tolist(), text.tolist(), vocab, order))


def test_a_text_that_repeats_is_known_by_its_context() -> None:
    pattern = np.tile([0, 1, 2, 1], 500)
    losses = ngram_losses(pattern, pattern[:400], 3)
    assert losses["unigram"] > losses["bigram"] > losses["trigram"] > losses["5-gram"]
    assert losses["bigram"] == pytest.approx(math.log(2) / 2, abs=0.01)  # after 1 comes 0 or 2
    assert losses["5-gram"] < 0.01


def test_a_vocabulary_of_any_size_is_counted() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 100_000, 2000).astype(np.uint32)
    assert ngram_losses(tokens, tokens[:100], 100_000)["unigram"] < math.log(100_000)


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ValueError, match="text: 3 tokens are too few"):
        ngram_losses(np.zeros(10, int), np.zeros(3, int), 2)
    with pytest.raises(ValueError, match="train: a token lies outside the vocabulary of 2"):
        ngram_losses(np.full(10, 2), np.zeros(10, int), 2)


def prepared(folder: Any, loss_mask: Any = None) -> Any:
    def split(n: int) -> Any:
        return SimpleNamespace(tokens=np.arange(n) % 5, loss_mask=loss_mask)

    splits = {"train": split(300), "validation": split(50)}
    return SimpleNamespace(folder=folder, vocab=5, splits=splits, ingredients={})


def test_reference_lines_are_stored_beside_the_tokens(tmp_path: Any) -> None:
    lines = reference_lines(prepared(tmp_path), tokens=100)
    (file,) = tmp_path.glob("ngrams.*.json")
    assert json.loads(file.read_text()) == lines and set(lines) == set(ORDERS)
    file.write_text(json.dumps(dict.fromkeys(ORDERS, 1.0)))
    assert reference_lines(prepared(tmp_path), tokens=100)["unigram"] == 1.0
    assert reference_lines(prepared(tmp_path), tokens=200)["unigram"] != 1.0  # another budget
    for damage in ("{", "[]", json.dumps(dict.fromkeys(ORDERS, "1"))):
        file.write_text(damage)
        assert reference_lines(prepared(tmp_path), tokens=100) == lines


def test_a_task_has_no_reference_lines(tmp_path: Any) -> None:
    assert reference_lines(prepared(tmp_path, loss_mask=np.ones(1, bool))) == {}
