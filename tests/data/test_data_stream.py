"""Batches are a function of (seed, step): nothing else decides them, and nothing is lost or seen twice."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ablate.data.split import Split
from ablate.data.stream import NO_LOSS, Batch, Stream, share, shuffle

END = 999


def split(lengths: list[int], name: str = "train") -> Split:
    """Documents of these lengths. A token is its place in the split; the last of a document is END."""
    tokens = np.arange(sum(lengths), dtype=np.uint16)
    ends = np.cumsum(lengths)
    tokens[ends - 1] = END
    return Split(name, tokens, np.append(0, ends[:-1]).astype(np.int64), 0)


def plain(length: int) -> Split:
    return Split("train", np.arange(length, dtype=np.uint16), np.zeros(1, dtype=np.int64), 0)


def equal(one: Batch, other: Batch) -> bool:
    pairs = zip(one, other, strict=True)
    return all((a is None and b is None) or torch.equal(a, b) for a, b in pairs)


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
def test_shuffle_is_a_bijection(n: int, seed: int, epoch: int) -> None:
    assert sorted(shuffle(np.arange(n), n, seed, epoch)) == list(range(n))


@given(n=st.integers(1, 10**9), data=st.data())
def test_shuffle_stays_inside_a_large_range(n: int, data: st.DataObject) -> None:
    positions = np.array(
        data.draw(
            st.lists(st.integers(0, n - 1), min_size=2, max_size=50, unique=True) if n > 1 else st.just([0])
        )
    )
    found = shuffle(positions, n, 0, 0)
    assert len(set(found.tolist())) == len(positions)
    assert 0 <= found.min() <= found.max() < n


def test_all_orders_of_a_small_epoch_are_equally_likely() -> None:
    draws = 4800
    orders, counts = np.unique(
        [shuffle(np.arange(4), 4, seed, 0) for seed in range(draws)], axis=0, return_counts=True
    )
    assert len(orders) == 24
    expected = draws / 24
    assert ((counts - expected) ** 2 / expected).sum() < 49.7  # chi-squared, 23 degrees of freedom, 99.9 %


def test_neighbours_are_torn_apart() -> None:
    order = shuffle(np.arange(20_000), 20_000, 0, 0)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.03


def test_an_epoch_takes_each_window_once() -> None:
    stream = Stream(plain(1003), 10, "joined", seed=5)
    rows, epochs = 7, 4
    steps = -(-stream.windows * epochs // rows)
    firsts = torch.cat([stream.batch(step, rows).tokens[:, 0] for step in range(steps)])
    shifts = set()
    for epoch in range(epochs):
        seen = sorted(firsts[epoch * stream.windows : (epoch + 1) * stream.windows].tolist())
        shifts.add(seen[0])
        assert seen == [seen[0] + 10 * n for n in range(stream.windows)]
        assert seen[-1] + 10 < 1003
    assert all(0 <= shift < 10 for shift in shifts)
    assert len(shifts) > 1  # the windows lie elsewhere in another epoch
    assert stream.windows >= 1002 // 10 - 1  # an epoch leaves out two windows of text at most


def test_orders_differ_by_epoch_and_seed() -> None:
    one, other = (Stream(plain(5000), 10, "joined", seed) for seed in (0, 1))
    assert not equal(one.batch(0, 8), other.batch(0, 8))
    first, second = (shuffle(np.arange(400), 400, 0, epoch) for epoch in (0, 1))
    assert (first != second).any()


def test_a_batch_needs_no_history() -> None:
    text = split([13, 40, 5, 77, 200, 31])
    through = Stream(text, 16, "masked", seed=3)
    batches = [through.batch(step, 4) for step in range(30)]
    for step in (29, 0, 17):
        assert equal(Stream(text, 16, "masked", seed=3).batch(step, 4), batches[step])


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
@pytest.mark.parametrize("documents", ["joined", "masked"])
def test_ranks_together_make_the_single_batch(ranks: int, documents: str) -> None:
    stream = Stream(split([13, 40, 5, 77]), 16, documents, seed=3)  # type: ignore[arg-type]
    for step in range(5):  # epochs of 7 windows: borders inside batches
        single = stream.batch(step, 6)
        parts = [stream.batch(step, 6, (rank, ranks)) for rank in range(ranks)]
        for name in ("tokens", "targets"):
            assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(single, name))
        if documents == "masked":
            assert torch.equal(torch.cat([p.positions for p in parts]), single.positions)
            assert torch.equal(torch.cat([p.document for p in parts]), single.document)  # type: ignore[misc]


def test_rows_that_cannot_be_shared_are_refused() -> None:
    stream = Stream(plain(1000), 10, "joined", seed=0)
    with pytest.raises(ValueError, match="7 rows cannot be shared equally by 2"):
        stream.batch(0, 7, (0, 2))
    with pytest.raises(ValueError, match="no rank 2 of 2"):
        stream.batch(0, 8, (2, 2))
    assert [list(share(6, (r, 3))) for r in range(3)] == [[0, 1], [2, 3], [4, 5]]


def test_joined_targets_are_the_next_tokens() -> None:
    batch = Stream(plain(300), 10, "joined", seed=1).batch(2, 4)
    assert torch.equal(batch.targets, batch.tokens + 1)
    assert torch.equal(batch.positions, torch.arange(10)[None])
    assert batch.document is None
    assert batch.prefix is None
    assert all(t.dtype == torch.int64 for t in (batch.tokens, batch.targets, batch.positions))


def test_a_split_of_exactly_one_window() -> None:
    stream = Stream(plain(11), 10, "joined", seed=0)
    for step in range(3):
        batch = stream.batch(step, 2)
        assert batch.tokens.tolist() == [list(range(10))] * 2
        assert batch.targets.tolist() == [list(range(1, 11))] * 2


@pytest.mark.parametrize("length", [0, 1, 10])
def test_a_split_shorter_than_a_window_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=rf"validation split has {length} tokens.*at least 11"):
        Stream(Split("validation", np.zeros(length, np.uint16), np.zeros(1, np.int64), 0), 10, "joined", 0)


def test_masked_documents_of_one_token_have_no_target_and_are_refused() -> None:
    with pytest.raises(ValueError, match=r"every document of the train split has a single token.*joined"):
        Stream(split([1] * 40), 10, "masked", seed=0)
    Stream(split([1] * 40), 10, "joined", seed=0)
    stream = Stream(split([1] * 30 + [2] + [1] * 9), 10, "masked", seed=0)
    assert sum(int((batch.targets != NO_LOSS).sum()) for batch in stream.evaluation_batches(2)) == 1
    assert [stream.learns(tokens) for tokens in (10, 30, 31, 40)] == [False, False, True, True]


@given(
    lengths=st.lists(st.integers(2, 30), min_size=3, max_size=30),
    seed=st.integers(0, 100),
    step=st.integers(0, 50),
)
def test_masked_documents_are_apart(lengths: list[int], seed: int, step: int) -> None:
    text = split(lengths)
    context = min(12, len(text.tokens) - 1)
    stream = Stream(text, context, "masked", seed)
    batch, same = stream.batch(step, 3), Stream(text, context, "joined", seed).batch(step, 3)
    assert torch.equal(batch.tokens, same.tokens)
    assert batch.document is not None
    number = np.repeat(np.arange(len(lengths)), lengths)
    for row in range(3):
        # the joined window says where the row lies: at most one of its first two tokens is END
        known = next(n for n, t in enumerate(same.tokens[row].tolist()) if t != END)
        first = int(same.tokens[row, known]) - known
        at = 0
        for n in range(context):
            place = first + n
            border = n > 0 and number[place] != number[place - 1]
            at = 0 if border or n == 0 else at + 1
            assert batch.positions[row, n] == at
            assert batch.document[row, n] == number[place]
            last = place + 1 < len(number) and number[place] != number[place + 1]
            assert last == (batch.tokens[row, n] == END)
            if last:  # nothing is predicted from the end token
                assert batch.targets[row, n] == NO_LOSS
            else:  # the end token itself is predicted
                assert batch.targets[row, n] == text.tokens[place + 1]


@pytest.mark.parametrize("length", [11, 12, 41, 100, 101, 111])
@pytest.mark.parametrize(("rows", "ranks"), [(1, 1), (4, 1), (4, 2)])
def test_whole_has_every_token_once_as_a_target(length: int, rows: int, ranks: int) -> None:
    stream = Stream(plain(length), 10, "joined", seed=0)
    of_ranks = [list(stream.evaluation_batches(rows, (rank, ranks))) for rank in range(ranks)]
    assert len({len(batches) for batches in of_ranks}) == 1
    targets: list[int] = []
    for together in zip(*of_ranks, strict=True):
        for batch in together:
            assert batch.tokens.shape == (rows // ranks, 10)
            loss_mask = batch.targets != NO_LOSS
            assert torch.equal(batch.targets[loss_mask], batch.tokens[loss_mask] + 1)
            targets += batch.targets[loss_mask].tolist()
    assert targets == list(range(1, length))


@pytest.mark.parametrize("documents", ["joined", "masked"])
def test_whole_by_document_says_whose_target_it_is(documents: str) -> None:
    lengths = [7, 30, 2, 18]
    text = split(lengths, "heldout")
    document_index, targets = [], []
    for batch in Stream(text, 10, documents, seed=0).evaluation_batches(3, by_document=True):  # type: ignore[arg-type]
        assert batch.document_index is not None
        assert torch.equal(batch.document_index == -1, batch.targets == NO_LOSS)
        assert (batch.document is None) == (documents == "joined")
        document_index += batch.document_index[batch.document_index >= 0].tolist()
        targets += batch.targets[batch.targets != NO_LOSS].tolist()
    first_has_none = [length - (documents == "masked" or n == 0) for n, length in enumerate(lengths)]
    assert np.bincount(document_index).tolist() == first_has_none
    assert targets.count(END) == len(lengths)  # every end token is predicted
