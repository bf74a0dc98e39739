"""The losses on validation or held-out text: one over all of it, and one for each set that has a name."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ablate.data.prepare import Prepared
from ablate.data.source import SplitName
from ablate.data.split import Split
from ablate.spec import MACRO
from ablate.train.evaluate import Evaluation

Evaluate = Callable[[Split], Evaluation]


class Texts(NamedTuple):
    """`main` is what one loss is taken of, over all tokens: the split of the source, or those of a mixture's
    sources by name. `sets` have a loss each."""

    main: Mapping[str, Split]
    sets: Mapping[str, Split]


def texts_of(prepared: Prepared, name: SplitName) -> Texts:
    """Those of one split. A source of a mixture, and a set, that has no such split is left out."""
    sets = {each: splits[name] for each, splits in prepared.sets.items() if len(splits[name].tokens)}
    if not prepared.ingredients:
        return Texts({"": prepared.splits[name]}, sets)
    every = {each: found.splits[name] for each, found in prepared.ingredients.items()}
    return Texts({each: split for each, split in every.items() if len(split.tokens)} or every, sets)


def pooled_loss(main: Mapping[str, Split], evaluate: Evaluate) -> Evaluation:
    """The loss over the tokens of all splits together, and over the documents of the one after the other."""
    found = [evaluate(split) for split in main.values()]
    return found[0] if len(found) == 1 else added_up(found)


def added_up(found: Sequence[Evaluation]) -> Evaluation:
    """Several evaluations as one: of all their targets, their documents one after the other."""
    return Evaluation(
        sum(each.nll for each in found),
        sum(each.tokens for each in found),
        [nll for each in found for nll in each.by_document],
        [tokens for each in found for tokens in each.document_tokens],
    )


def scores(texts: Texts, evaluate: Evaluate, kind: str) -> tuple[Evaluation, dict[str, float]]:
    """The pooled loss and the metrics: `kind/loss` of all, `kind/NAME/loss` of each set, `kind/macro/loss` of
    the mean over sets. No split is evaluated twice."""
    known: dict[int, Evaluation] = {}

    def once(split: Split) -> Evaluation:
        if id(split) not in known:
            known[id(split)] = evaluate(split)
        return known[id(split)]

    whole = pooled_loss(texts.main, once)
    metrics = loss_numbers(kind, whole.loss, list(texts.main.values()))
    by_set = [loss_numbers("", once(split).loss, [split]) for split in texts.sets.values()]
    for name, found in zip(texts.sets, by_set, strict=True):
        metrics |= {f"{kind}/{name}{number}": value for number, value in found.items()}
    return whole, metrics | {f"{kind}/{MACRO}{number}": value for number, value in set_means(by_set)}


def set_columns(texts: Texts, kind: str) -> list[str]:
    """Those of the metrics of `scores` that are drawn over time: the loss of each set, and of their mean."""
    return [f"{kind}/{name}/loss" for name in (*texts.sets, MACRO)] if texts.sets else []


def set_means(by_set: Sequence[Mapping[str, float]]) -> Iterator[tuple[str, float]]:
    """The mean of each number over the sets, where all have it; a perplexity is that of the mean loss."""
    for number in by_set[0] if by_set else ():
        if all(number in found for found in by_set):
            named = "/loss" if number == "/perplexity" else number
            mean = sum(found[named] for found in by_set) / len(by_set)
            yield number, perplexity(mean) if number == "/perplexity" else mean


def loss_numbers(place: str, loss: float, splits: Sequence[Split]) -> dict[str, float]:
    """What a loss over the tokens of these splits is called, and what follows from it."""
    metrics = {f"{place}/loss": loss, f"{place}/perplexity": perplexity(loss)}
    # Of generated examples only the answers have a loss, and of bare tokens the text is not known.
    if all(split.loss_mask is None and split.bytes for split in splits):
        bytes_per_token = sum(split.bytes for split in splits) / sum(len(split.tokens) for split in splits)
        metrics[f"{place}/bits_per_byte"] = loss / math.log(2) / bytes_per_token
    return metrics


def perplexity(loss: float) -> float:
    """exp(loss) of nats per token; of a loss beyond 700, which a float cannot hold, that of 700."""
    return math.exp(min(loss, 700.0))
