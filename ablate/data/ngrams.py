"""What counting alone achieves: the losses of interpolated n-gram models, as reference lines for a report.

A model whose loss is no lower than the trigram's has hardly used its context. One at the unigram's has
learned no more than how frequent tokens are. The counts are taken from the tokens that training sees, and
smoothed by Witten and Bell (1991, IEEE Transactions on Information Theory 37, 1085):

    p(w | h) = (c(h, w) + t(h) p(w | h')) / (c(h) + t(h))

with c(h, w) how often w follows the context h, c(h) how often any token does, t(h) how many different ones
do, h' the context without its first token, and 1 / V below the empty context.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablate.data.prepare import Prepared
from ablate.record import atomic
from ablate.spec import digest

ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3, "5-gram": 5}
_MOST_TOKENS = 4_000_000  # of training text that are counted: sorting more takes minutes and gigabytes
MOST_SCORED = 1_000_000
_FORMAT = 1  # raise it when the losses change their meaning

log = logging.getLogger("ablate.data")


def ngram_losses(train: NDArray[np.integer], text: NDArray[np.integer], vocab: int) -> dict[str, float]:
    """The mean loss of each model of ORDERS on `text` (M,), in nats per token, counted on `train` (N,).

    The tokens of both are 0 ... vocab - 1. The first 4 of `text` are context alone, so that all orders are
    scored on the same tokens. Raises ValueError where a text is too short or holds another token.
    """
    highest = max(ORDERS.values())
    for name, tokens in (("train", train), ("text", text)):
        if len(tokens) < highest:
            raise ValueError(f"{name}: {len(tokens)} tokens are too few for n-grams of {highest}")
        if int(tokens.max()) >= vocab or int(tokens.min()) < 0:
            raise ValueError(f"{name}: a token lies outside the vocabulary of {vocab}")
    loss_mask = len(text) - highest + 1
    last = text[highest - 1 :].astype(np.int64)
    probability = np.full(loss_mask, 1 / vocab)
    losses = {}
    known = np.zeros(len(train), np.int64)  # what the context before each token of `train` is called
    asked = np.zeros(loss_mask, np.int64)  # the same before each scored token; -1 where `train` has none
    for order in range(1, highest + 1):
        if order > 1:
            known, asked = _longer(train, text, known, asked, order, vocab, highest)
        words = train[order - 1 :].astype(np.int64)
        probability = _witten_bell(known, words, asked, last, probability, vocab)
        for name, n in ORDERS.items():
            if n == order:
                losses[name] = float(-np.log(probability).mean())
    return losses


def _longer(
    train: NDArray[np.integer],
    text: NDArray[np.integer],
    known: NDArray[np.int64],
    asked: NDArray[np.int64],
    order: int,
    vocab: int,
    highest: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Name the contexts of order - 1 tokens, from the names of those that are one token shorter."""
    front = train[: len(train) - order + 1].astype(np.int64)
    names, known = np.unique(known[1:] * vocab + front, return_inverse=True)
    first = highest - order
    before = text[first : first + len(asked)].astype(np.int64)
    wanted = np.where(asked >= 0, asked * vocab + before, -1)
    at = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
    return known, np.where(names[at] == wanted, at, -1)


def _witten_bell(
    known: NDArray[np.int64],
    words: NDArray[np.int64],
    asked: NDArray[np.int64],
    last: NDArray[np.int64],
    shorter: NDArray[np.float64],
    vocab: int,
) -> NDArray[np.float64]:
    """p(w | h) of each scored token, from that of the shorter context; unchanged where the context is new."""
    pairs, counts = np.unique(known * vocab + words, return_counts=True)
    contexts = int(known.max()) + 1
    total = np.bincount(known, minlength=contexts)
    kinds = np.bincount(pairs // vocab, minlength=contexts)
    wanted = asked * vocab + last
    at = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    count = np.where((asked >= 0) & (pairs[at] == wanted), counts[at], 0)
    here = np.maximum(asked, 0)
    mixed = (count + kinds[here] * shorter) / (total[here] + kinds[here])
    return np.where(asked >= 0, mixed, shorter)


def reference_lines(
    prepared: Prepared, tokens: int | None = None, split: str = "validation"
) -> dict[str, float]:
    """The n-gram losses of a prepared text on one split, in nats per token; kept beside the token cache.

    `tokens` is the budget of training: no more than the first so many of its tokens are counted. Empty where
    the text is a task, whose examples are scored in part, is a mixture, or is too short.
    """
    if prepared.ingredients:
        return {}
    train, text = prepared.splits["train"], prepared.splits[split]
    counted = min(tokens or _MOST_TOKENS, _MOST_TOKENS, len(train.tokens))
    key = digest({"format": _FORMAT, "tokens": counted, "split": split, "scored": MOST_SCORED})
    file = prepared.folder / f"ngrams.{key}.json"
    if (lines := _stored(file)) is not None:
        return lines
    if train.loss_mask is not None or text.loss_mask is not None:
        return {}
    try:
        lines = ngram_losses(
            np.asarray(train.tokens[:counted]), np.asarray(text.tokens[:MOST_SCORED]), prepared.vocab
        )
    except ValueError as error:
        log.warning("no reference lines: %s", error)
        return {}
    with atomic(file) as f:
        f.write(json.dumps(lines).encode())
    return lines


def _stored(file: Path) -> dict[str, float] | None:
    """The lines that were stored; None where there are none, or they are damaged."""
    try:
        stored = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(stored, Mapping) or set(stored) != set(ORDERS):
        return None
    if not all(isinstance(value, float) and np.isfinite(value) for value in stored.values()):
        return None
    return {name: float(stored[name]) for name in ORDERS}
