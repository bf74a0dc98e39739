"""Mixtures: each source is tokenised once, every row is of one source, and weights are met to the row."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from training import run_spec

from ablate.data import prepare as module
from ablate.data.blend import Blend, epochs, refuse_text, training_stream
from ablate.data.prepare import Prepared, prepare
from ablate.data.source import DataError
from ablate.data.source.mixture import ROWS_IN_BLOCK, apportioned, taking_turns
from ablate.data.split import Split
from ablate.data.stream import Batch, Stream
from ablate.data.tokenizer.bytes import Bytes
from ablate.spec import DataSpec

WORDS = {"digits": "0123456789", "letters": "abcdefghij", "capitals": "ABCDEFGHIJ"}  # told apart by a token
DOCUMENTS = {"digits": 400, "letters": 300, "capitals": 60}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the texts, in which caches may be kept."""
    folder = tmp_path_factory.mktemp("mixture")
    for name, letters in WORDS.items():
        draw = random.Random(name)
        documents = ["".join(draw.choices(letters, k=draw.randint(20, 90))) for _ in range(DOCUMENTS[name])]
        (folder / f"{name}.txt").write_text("\n\n".join(documents) + "\n")
    return folder


def alone(place: Path, name: str) -> dict[str, Any]:
    return {"name": "text", "files": [str(place / f"{name}.txt")], "validation": 0.1, "heldout": 0.1}


def mixture(
    place: Path, weights: dict[str, float] | None, names: Any = None, **options: Any
) -> dict[str, Any]:
    names = names or {name: name for name in weights or WORDS}
    sources = {called: alone(place, name) for called, name in names.items()}
    return {"name": "mixture", "sources": sources, "weights": weights, "most_epochs": None, **options}


def data(source: dict[str, Any], tokenizer: Any = "bytes", **options: Any) -> DataSpec:
    return DataSpec.model_validate({"source": source, "tokenizer": tokenizer, **options})


def prepared(place: Path, *given: Any, tokenizer: Any = "bytes", **options: Any) -> Prepared:
    return prepare(data(mixture(place, *given, **options), tokenizer), place / "cache")


def of_rows(batch: Batch) -> list[str]:
    """The source of each row, all of whose letters must be of one."""
    found = []
    for row in batch.tokens.tolist():
        letters = {chr(token) for token in row if token < 256}
        (name,) = (name for name, of_name in WORDS.items() if letters <= set(of_name))
        found.append(name)
    return found


def streams(count: int = 3) -> dict[str, Stream]:
    texts = {
        name: Split("train", (1000 * n + np.arange(60 + 50 * n)).astype(np.uint16), np.array([0, 30]), 0)
        for n, name in enumerate("abcdefgh"[:count])
    }
    return {name: Stream(text, 5, "masked", seed=n) for n, (name, text) in enumerate(texts.items())}


def equal(one: Batch, other: Batch) -> bool:
    pairs = zip(one, other, strict=True)
    return all((a is None and b is None) or torch.equal(a, b) for a, b in pairs)


# --------------------------------------------------------------------------------------------- the rows


def test_every_row_is_of_one_source_and_weights_are_met(place):
    weights = {"digits": 0.5, "letters": 0.3, "capitals": 0.2}
    text = prepared(place, weights)
    stream = training_stream(text, run_spec(place, data=data(mixture(place, weights))))
    rows = [name for step in range(20) for name in of_rows(stream.batch(step, 50))]
    share = {name: count / len(rows) for name, count in Counter(rows).items()}
    assert share == pytest.approx(weights, abs=0.005)
    for step in range(20):  # and in every batch nearly so
        counts = Counter(of_rows(stream.batch(step, 50)))
        assert all(abs(counts[name] - 50 * weight) <= 3 for name, weight in weights.items())


def test_a_source_takes_each_of_its_windows_once_in_an_epoch_of_its_own():
    rows = {"a": 5000, "b": 4000, "c": 1000}
    each = streams()
    blend = Blend(each, rows, seed=7)
    tokens = torch.cat([blend.batch(step, 400).tokens for step in range(2 * ROWS_IN_BLOCK // 400)])
    for number, (name, stream) in enumerate(each.items()):
        mine = tokens[tokens[:, 0] // 1000 == number]
        assert len(mine) == 2 * rows[name]
        own = Stream(stream.split, 5, "masked", seed=number)
        expected = torch.cat([own.batch(step, 400).tokens for step in range(len(mine) // 400)])
        assert torch.equal(mine, expected)  # in its own order, as if it were alone


def test_a_batch_needs_no_history_and_no_rank():
    rows = {"a": 3333, "b": 3333, "c": 3334}
    blend = Blend(streams(), rows, seed=3)
    through = [blend.batch(step, 120) for step in range(90)]  # beyond a block of rows
    for step in (89, 0, 83, 84, 64):
        assert equal(Blend(streams(), rows, seed=3).batch(step, 120), through[step])
        for ranks in (2, 3, 12):
            parts = [Blend(streams(), rows, seed=3).batch(step, 120, (rank, ranks)) for rank in range(ranks)]
            for field in ("tokens", "targets", "positions", "document"):
                whole = torch.cat([getattr(part, field) for part in parts])
                assert torch.equal(whole, getattr(through[step], field))
    assert not equal(Blend(streams(), rows, seed=4).batch(0, 120), through[0])


def test_positions_that_all_rows_share_stay_one():
    texts = [Split("train", np.arange(n, n + 80).astype(np.uint16), np.array([0]), 0) for n in (0, 500)]
    blend = Blend({str(n): Stream(t, 5, "joined", n) for n, t in enumerate(texts)}, {"0": 5000, "1": 5000}, 0)
    for rows in (1, 2, 3, 8):
        batch = blend.batch(0, rows)
        assert batch.positions.shape == (1, 5) and batch.document is None
        assert torch.equal(batch.targets, batch.tokens + 1)


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0.01, 1000), min_size=2))
def test_rows_are_dealt_out_by_weight(weights):
    rows = apportioned(weights)
    total = sum(weights.values())
    assert sum(rows.values()) == ROWS_IN_BLOCK
    assert all(abs(rows[name] - ROWS_IN_BLOCK * weight / total) < 1.001 for name, weight in weights.items())


def test_the_sum_of_weights_and_their_order_are_no_matter():
    assert apportioned({"a": 3, "b": 1}) == apportioned({"b": 0.25, "a": 0.75}) == {"a": 7500, "b": 2500}
    assert apportioned({"a": 0.1, "b": 0.2, "c": 0.3}) == apportioned({"c": 3, "b": 2, "a": 1})


# ------------------------------------------------------------------------------------- the text it is of


def test_without_weights_sources_count_by_their_tokens(place):
    text = prepared(place, None)
    sizes = {name: len(each.splits["train"].tokens) for name, each in text.ingredients.items()}
    for name, each in text.ingredients.items():
        assert each.rows == pytest.approx(ROWS_IN_BLOCK * sizes[name] / sum(sizes.values()), abs=1)
    spec = run_spec(place, data=data(mixture(place, None)), steps=200)
    times = epochs(text, spec)
    assert max(times.values()) / min(times.values()) < 1.2


def test_a_source_is_the_text_that_it_is_alone_and_is_tokenised_once(place, tmp_path, monkeypatch):
    built = []
    build = module.build
    monkeypatch.setattr(module, "build", lambda folder, *rest: (built.append(folder), build(folder, *rest)))
    single = prepare(data(alone(place, "digits")), tmp_path)
    one = prepare(data(mixture(place, {"digits": 1, "letters": 1})), tmp_path)
    assert len(built) == 2
    other = prepare(data(mixture(place, {"digits": 1, "letters": 9, "capitals": 1})), tmp_path)
    assert len(built) == 3
    for text in (one, other):
        assert (
            text.ingredients["digits"].splits["train"].tokens.tolist()
            == single.splits["train"].tokens.tolist()
        )
    for split in ("validation", "heldout"):
        parts = [one.ingredients[name].splits[split] for name in ("digits", "letters")]
        whole = one.splits[split]
        assert whole.tokens.tolist() == [token for part in parts for token in part.tokens]
        assert whole.bytes == sum(part.bytes for part in parts)
        ends = (whole.tokens == Bytes.end).nonzero()[0] + 1
        assert whole.document_offsets.tolist() == [0, *ends[:-1]]
    with pytest.raises(DataError, match="lies in its sources"):
        one.splits["train"]


def test_the_fingerprint_covers_sources_names_and_weights(place):
    def of(*given: Any, **options: Any) -> dict[str, str]:
        return prepared(place, *given, **options).fingerprint

    plain = of({"digits": 3, "letters": 1})
    assert of({"letters": 0.25, "digits": 0.75}) == plain  # the same rows
    assert of({"digits": 3, "letters": 1}, most_epochs=2.0) == plain
    others = [
        of({"digits": 2, "letters": 1}),
        of({"digits": 3, "capitals": 1}),
        of({"d": 3, "letters": 1}, {"d": "digits", "letters": "letters"}),
        of({"digits": 3, "letters": 1}, {"digits": "letters", "letters": "digits"}),
    ]
    sources = [fingerprint["source"] for fingerprint in (plain, *others)]
    assert len(set(sources)) == len(sources)


@pytest.mark.parametrize("tokenizer", [{"name": "bpe", "vocab": 500}, "characters"])
def test_a_learned_tokenizer_reads_all_sources_whatever_their_weights_and_names(place, tokenizer):
    one = prepared(place, {"digits": 1, "letters": 1}, tokenizer=tokenizer)
    other = prepared(place, {"x": 9, "y": 1}, {"y": "digits", "x": "letters"}, tokenizer=tokenizer)
    assert one.fingerprint["tokenizer"] == other.fingerprint["tokenizer"]
    for name, each in one.ingredients.items():
        text = one.tokenizer.decode(each.splits["train"].tokens[:50].tolist())
        assert set(text) <= set(WORDS[name])
    third = prepared(place, {"digits": 1, "letters": 1, "capitals": 1}, tokenizer=tokenizer)
    assert third.fingerprint["tokenizer"] != one.fingerprint["tokenizer"]
    single = prepare(data(alone(place, "digits"), tokenizer), place / "cache")
    assert single.fingerprint["tokenizer"] != one.fingerprint["tokenizer"]


def test_texts_that_take_turns_have_given_equally_many_bytes():
    long, short = ["x" * 100] * 3, ["y" * 10] * 50
    taken = list(taking_turns(iter([iter(long), iter(short)])))
    assert Counter(taken) == Counter(long + short)
    assert taken[:12] == ["x" * 100, *["y" * 10] * 10, "x" * 100]


def test_sets_stand_beside_a_source_in_its_tokens(place):
    tokenizer = {"name": "bpe", "vocab": 280}
    plain = prepare(data(alone(place, "digits"), tokenizer), place / "cache")
    text = prepare(
        data(alone(place, "digits"), tokenizer, sets={"abc": alone(place, "letters")}), place / "cache"
    )
    assert text.splits["train"].tokens.tolist() == plain.splits["train"].tokens.tolist()
    assert text.fingerprint["source"] == plain.fingerprint["source"]
    assert text.fingerprint["tokenizer"] == plain.fingerprint["tokenizer"]
    assert set(text.fingerprint) - set(plain.fingerprint) == {"sets"}
    tokens = text.sets["abc"]["validation"].tokens.tolist()
    assert set(plain.tokenizer.decode(tokens)) <= set(WORDS["letters"])
    mixed = data(mixture(place, {"digits": 1, "letters": 1}), tokenizer)
    assert list(prepare(mixed, place / "cache").sets) == ["digits", "letters"]
    chosen = mixed.model_copy(
        update={"sets": data(alone(place, "digits"), sets={"a": alone(place, "capitals")}).sets}
    )
    assert list(prepare(chosen, place / "cache").sets) == ["a"]


# --------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": {"digits": 1}}, "letters stands in only one of sources and weights"),
        ({"weights": {"digits": 1, "letters": 1, "code": 1}}, "code stands in only one"),
        ({"weights": {"digits": 1, "letters": 1e-6}}, "letters has less than 1/10,000"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, said, place):
    with pytest.raises(DataError, match=said):
        prepare(data(mixture(place, {"digits": 1, "letters": 1}) | change), place / "cache")


def test_mixtures_of_mixtures_and_of_examples_are_refused(place):
    inside = mixture(place, {"digits": 1, "letters": 1})
    sources = {"a": inside, "b": alone(place, "digits")}
    with pytest.raises(DataError, match="is a mixture; name its sources here"):
        prepare(data({"name": "mixture", "sources": sources}), place / "cache")
    copying = {
        name: {"name": "copy", "order": name, "train": 20, "validation": 9, "heldout": 9}
        for name in ("same", "reversed")
    }
    with pytest.raises(DataError, match="generates examples; mix sources of text"):
        prepare(data({"name": "mixture", "sources": copying}, "symbols"), place / "cache")


@pytest.mark.parametrize("name", ["macro", "a/b", "", "a.b"])
def test_names_that_no_metric_could_have_are_refused(name, place):
    sources = {name: alone(place, "digits"), "b": alone(place, "letters")}
    with pytest.raises(ValidationError):
        data({"name": "mixture", "sources": sources})
    with pytest.raises(ValidationError):
        data(alone(place, "digits"), sets={name: alone(place, "letters")})


def test_a_source_that_would_be_read_too_often_is_refused(place):
    weights = {"digits": 1, "capitals": 9}
    source = mixture(place, weights)
    spec = run_spec(place, data=data(source), steps=50)
    text = prepare(spec.data, place / "cache")
    times = epochs(text, spec)
    assert times["capitals"] == pytest.approx(50 * 8 * 0.9 / training_stream(text, spec).streams[0].windows)
    refuse_text(text, spec)
    spec = run_spec(place, data=data(source | {"most_epochs": 1.5}), steps=50)
    with pytest.raises(ValueError, match=rf"would read capitals {times['capitals']:.1f} times, and may 1.5"):
        refuse_text(text, spec)


def test_a_set_or_a_source_that_is_shorter_than_a_window_is_named(place):
    (place / "short.txt").write_text("\n\n".join(f"{n}" for n in range(60)))
    sets = {"short": {**alone(place, "short")}}
    spec = run_spec(place, {"context": 96}, data=data(alone(place, "digits"), sets=sets))
    with pytest.raises(ValueError, match=r"data\.sets\.short: .* needs at least 97"):
        refuse_text(prepare(spec.data, place / "cache"), spec)
    source = mixture(place, {"short": 1, "digits": 1})
    spec = run_spec(place, {"context": 96}, data=data(source))
    with pytest.raises(ValueError, match=r"source short: .* needs at least 97"):
        refuse_text(prepare(spec.data, place / "cache"), spec)
