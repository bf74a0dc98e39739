"""Generated tasks: what the examples are, where their loss is, and what counts as solved."""

from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import small
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ablate import registry
from ablate.data.prepare import Prepared, prepare
from ablate.data.source import SPLITS, DataError
from ablate.data.source.copying import BEGIN, END
from ablate.data.split import Split
from ablate.data.stream import NO_LOSS, Batch, Stream
from ablate.data.task import Example, split_of
from ablate.data.tokenizer import TokenizerError
from ablate.measure import reads_heldout
from ablate.measure.score import score
from ablate.measure.skill import answered, skill_metrics
from ablate.measure.trained import Trained
from ablate.model.decoder import Decoder
from ablate.model.generate import complete
from ablate.record import RunRecord
from ablate.spec import DataSpec, RunSpec
from ablate.study.design.claim import declared
from ablate.study.judge.solved import judge_solved
from ablate.study.stats.fisher import fewest_seeds, share_interval
from ablate.train.fit import fit
from ablate.train.settings import Settings

FEW = {"train": 60, "validation": 20, "heldout": 40}
SOURCES: dict[str, dict[str, Any]] = {
    "mqar": {"name": "mqar", "vocab": 40, "shapes": [[16, 4], [24, 3]]},
    "mqar filled": {"name": "mqar", "vocab": 40, "shapes": [[20, 3]], "random_filler": True},
    "induction": {"name": "induction", "vocab": 10, "tokens": 12},
    "copy": {"name": "copy", "vocab": 40, "trained": [2, 5], "tested": [2, 10]},
    "reverse": {"name": "copy", "order": "reversed", "vocab": 40, "trained": [2, 5], "tested": [2, 10]},
}
every = pytest.mark.parametrize("name", SOURCES)


def made(name: str, **options: Any) -> Any:
    return registry.source.build({**SOURCES[name], **FEW, **options})


def data(name: str, **options: Any) -> DataSpec:
    source = {**SOURCES[name], **FEW, **options}
    return DataSpec(source=source, tokenizer={"name": "symbols", "vocab": source["vocab"]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def ready(folder: Path, name: str) -> Prepared:
    return prepare(data(name), folder)


# --------------------------------------------------------------------------------------- examples


@every
def test_an_example_is_a_function_of_options_split_and_index(name: str) -> None:
    backwards = {
        (split, n): made(name).example(split, n) for split in SPLITS for n in reversed(range(FEW[split]))
    }
    whole = made(name)
    for split in SPLITS:
        assert [backwards[split, n] for n in range(FEW[split])] == [
            whole.example(split, n) for n in range(FEW[split])
        ]
    more = made(name, train=3 * FEW["train"])
    assert list(more.documents("train"))[: FEW["train"]] == list(whole.documents("train"))
    assert list(made(name, seed=1).documents("train")) != list(whole.documents("train"))


@every
def test_no_example_stands_in_two_splits(name: str) -> None:
    source = made(name, train=2000)
    seen = {
        split: {tuple(source.example(split, n).tokens) for n in range(source.sizes[split])}
        for split in SPLITS
    }
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["heldout"]
    assert not seen["validation"] & seen["heldout"]


def test_examples_are_dealt_in_eight_to_one_to_one() -> None:
    dealt = [split_of(Example([n, n + 1], [1])) for n in range(20_000)]
    for split, share in {"train": 0.8, "validation": 0.1, "heldout": 0.1}.items():
        assert dealt.count(split) / len(dealt) == pytest.approx(share, abs=0.01)  # four sd


@pytest.mark.parametrize("name", ["mqar", "mqar filled"])
def test_recall_has_one_answer_to_each_query(name: str) -> None:
    source = made(name)
    for n in range(FEW["train"]):
        row, answers = source.example("train", n)
        tokens, pairs = source.shapes[n % len(source.shapes)]
        assert len(row) == tokens
        said = dict(zip(row[0 : 2 * pairs : 2], row[1 : 2 * pairs : 2], strict=True))
        assert len(said) == pairs
        assert all(1 <= key < 20 <= value < 40 for key, value in said.items())
        assert len(set(said.values())) == pairs
        assert answers == sorted(answers)
        assert {row[place - 1]: row[place] for place in answers} == said  # each key asked for, once
        rest = [
            t for place, t in enumerate(row) if place >= 2 * pairs and not {place, place + 1} & set(answers)
        ]
        assert not said.keys() & set(rest)
        assert (set(rest) <= {0}) == (not source.random_filler)


def test_queries_come_as_soon_as_the_power_law_says() -> None:
    source = registry.source.build({"name": "mqar", "vocab": 64, "shapes": [[22, 1]], "power_a": 0.01})
    first = [source.draw("train", 0, np.random.default_rng(n)).answers[0] for n in range(3000)]
    places = [(place - 3) // 2 for place in first]
    p = np.arange(1, 11) ** -0.99
    shares = np.bincount(places, minlength=10) / len(places)
    assert np.abs(shares - p / p.sum()).max() < 0.035  # four sd of the most frequent


def test_induction_repeats_one_token_and_asks_what_followed_it() -> None:
    source, places = made("induction", train=500), set()
    for n in range(500):
        row, answers = source.example("train", n)
        assert (len(row), answers) == (13, [12])
        assert row[:11].count(row[11]) == 1
        place = row.index(row[11])
        assert row[12] == row[place + 1]
        places.add(place)
    assert places == set(range(10))


@pytest.mark.parametrize("name", ["copy", "reverse"])
def test_copies_say_what_was_said(name: str) -> None:
    source = made(name)
    for split, most in (("train", 5), ("validation", 5), ("heldout", 10)):
        lengths = []
        for n in range(FEW[split]):
            row, answers = source.example(split, n)
            length = row.index(BEGIN)
            assert row[length + 1 : -1] == (row[:length] if name == "copy" else row[:length][::-1])
            assert row[-1] == END
            assert min(row[:length]) > END
            assert answers == list(range(length + 1, 2 * length + 2))
            lengths.append(length)
        assert set(lengths) == set(range(2, most + 1))
        counts = np.bincount(lengths)[2:]
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"name": "mqar", "shapes": [[64, 4], [15, 4]]},
            r"\[15, 4\]: 4 pairs and their queries take 16 tokens",
        ),
        ({"name": "mqar", "vocab": 8, "shapes": [[64, 4]]}, "has 3 keys; raise data.source.vocab to 10"),
        ({"name": "mqar", "shapes": [[64, 0]]}, "needs a pair or more"),
        ({"name": "copy", "trained": [6, 5]}, "trained: the least length 6 is above the greatest, 5"),
        ({"name": "copy", "tested": [6, 5]}, "tested: the least length 6"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        registry.source.build(options)


@pytest.mark.parametrize(
    "options",
    [{"name": "mqar", "shapes": []}, {"name": "mqar", "power_a": 0}, {"name": "induction", "tokens": 2}],
)
def test_options_outside_their_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"shapes|power_a|tokens"):
        registry.source.parse(options)


def test_the_smallest_that_is_possible_is_made() -> None:
    shortest = registry.source.build({"name": "mqar", "vocab": 10, "shapes": [[16, 4]], **FEW})
    assert sorted(shortest.example("heldout", 0).answers) == [9, 11, 13, 15]


def test_too_few_possible_examples_for_three_splits_are_refused() -> None:
    source = registry.source.build({"name": "copy", "vocab": 3, "trained": [1, 1], "tested": [1, 1], **FEW})
    with pytest.raises(DataError, match="too few are possible"):  # one example is possible, for one split
        [next(source.documents(split)) for split in SPLITS]


@pytest.mark.parametrize("name", ["mqar", "induction", "copy"])
def test_the_defaults_have_examples_of_every_kind_in_every_split(name: str) -> None:
    source = registry.source.build(name)
    for split, n in product(SPLITS, range(40)):
        assert split_of(source.example(split, n)) == split


@pytest.mark.parametrize("choice", ["mqar", "induction", "copy", "reverse"])
def test_the_yaml_has_the_defaults_and_the_tokenizer_follows_the_task(choice: str) -> None:
    conf = str(Path(__file__).parents[2] / "conf")
    with initialize_config_dir(conf, version_base="1.3"):
        node = compose("train", [f"data={choice}", "data.source.vocab=50"]).data
    spec = DataSpec.model_validate(OmegaConf.to_container(node, resolve=True))
    name = {"reverse": {"name": "copy", "order": "reversed"}}.get(choice, {"name": choice})
    assert spec.source == registry.source.parse({**name, "vocab": 50})
    assert spec.tokenizer == registry.tokenizer.parse({"name": "symbols", "vocab": 50})


# ---------------------------------------------------------------------------------- marks and rows


def test_the_tokenizer_reads_numbers_and_marks() -> None:
    symbols = registry.tokenizer.build({"name": "symbols", "vocab": 12})
    assert symbols.encode(["3 11 =0", "=7"]) == [[3, 11, 0], [7]]
    assert symbols.loss_mask("3 11 =0") == [False, False, True]
    assert symbols.decode([3, 11, 0]) == "3 11 0"
    for wrong in ("12", "-1", "03", "x", "=", "==1", "1_0", "٣"):
        with pytest.raises(TokenizerError, match=r"is no number of 0\.\.11"):
            symbols.encode([f"1 {wrong}"])


@every
def test_the_cache_holds_the_examples_and_their_marks(folder: Path, name: str) -> None:
    prepared, source = ready(folder, name), made(name)
    for split in SPLITS:
        held = prepared.splits[split]
        assert held.loss_mask is not None
        assert f"{split}.scored" in prepared.files  # hashed, as the tokens are
        ends = [*held.document_offsets[1:], len(held.tokens)]
        for n, (first, end) in enumerate(zip(held.document_offsets, ends, strict=True)):
            example = source.example(split, n)
            assert held.tokens[first:end].tolist() == example.tokens
            assert np.flatnonzero(held.loss_mask[first:end]).tolist() == example.answers
    again = prepare(data(name), folder)
    assert (again.folder, again.files) == (prepared.folder, prepared.files)


def digest(batches: list[Batch]) -> str:
    content = b"".join(x.numpy().tobytes() for batch in batches for x in batch if x is not None)
    return sha256(content).hexdigest()[:12]


def test_text_has_no_marks_and_the_key_it_had(tmp_path: Path) -> None:
    """Caches and batches of text are, to the bit, what the code gave before there were marks."""
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "Story {n}: =7 is text."}}\n' for n in range(99)))
    spec = DataSpec(source={"name": "text", "files": [str(tmp_path / "a.jsonl")]}, tokenizer="bytes")
    prepared = prepare(spec, tmp_path / "cache")
    assert all(split.loss_mask is None for split in prepared.splits.values())
    assert set(prepared.files) == {f"{s}.{kind}" for s in SPLITS for kind in ("tokens", "starts.npy")}
    assert prepared.folder.name == "19231b130840"
    assert prepared.fingerprint["source"].startswith("43c33e3f0e55")
    assert prepared.files["train.tokens"].startswith("98ca8f6caa6d")
    streams = [Stream(prepared.splits["train"], 16, way, seed=3) for way in ("joined", "masked")]
    assert digest([stream.batch(2, 4) for stream in streams]) == "6d5e2dbf7de3"
    whole = [batch for stream in streams for batch in stream.evaluation_batches(4, by_document=True)]
    assert digest(whole) == "4d500e30c579"


@pytest.mark.parametrize(
    ("document", "error", "said"),
    [
        ("1 2 3", DataError, "nothing in it is marked as an answer"),
        ("=1 2 3", DataError, "its first token is an answer"),
        ("1 " * 40_000 + "=1", DataError, "an example may have 65536 characters at most"),
        ("1 =99", TokenizerError, "'=99' is no number"),
    ],
)
def test_examples_of_ones_own_are_checked(tmp_path: Path, document: str, error: Any, said: str) -> None:
    lines = [f'{{"text": "{n % 7} =1"}}\n' for n in range(50)] + [f'{{"text": "{document}"}}\n']
    (tmp_path / "own.jsonl").write_text("".join(lines))
    source = {"name": "text", "files": [str(tmp_path / "own.jsonl")], "validation": 0.2, "heldout": 0.2}
    with pytest.raises(error, match=said):
        prepare(DataSpec(source=source, tokenizer={"name": "symbols", "vocab": 9}), tmp_path / "cache")


def test_ones_own_task_is_a_file(tmp_path: Path) -> None:
    lines = [f'{{"text": "{a} {b} ={(a + b) % 10}"}}\n' for a in range(10) for b in range(10)]
    (tmp_path / "sums.jsonl").write_text("".join(lines))
    source = {"name": "text", "files": [str(tmp_path / "sums.jsonl")], "validation": 0.2, "heldout": 0.2}
    prepared = prepare(
        DataSpec(source=source, tokenizer={"name": "symbols", "vocab": 10}), tmp_path / "cache"
    )
    (batch,) = Stream(prepared.splits["heldout"], 2, "joined", seed=0).evaluation_batches(
        len(prepared.splits["heldout"].document_offsets)
    )
    assert torch.equal(batch.targets[:, 1], batch.tokens.sum(1) % 10)
    assert (batch.targets[:, 0] == NO_LOSS).all()


def split_of_lengths(lengths: list[int]) -> Split:
    """Token n stands at place n; every third token of an example is an answer, and the last."""
    document_offsets = np.append(0, np.cumsum(lengths)[:-1]).astype(np.int64)
    loss_mask = np.concatenate([(np.arange(n) % 3 == 2) | (np.arange(n) == n - 1) for n in lengths])
    return Split("train", np.arange(sum(lengths), dtype=np.uint16), document_offsets, 1, loss_mask)


@given(
    lengths=st.lists(st.integers(2, 12), min_size=1, max_size=20),
    room=st.integers(0, 4),
    rows=st.sampled_from([1, 2, 6]),
    ranks=st.sampled_from([1, 2]),
    documents=st.sampled_from(["joined", "masked"]),
)
def test_every_answer_is_a_target_once_and_nothing_else(
    lengths: list[int], room: int, rows: int, ranks: int, documents: Any
) -> None:
    split, ranks = split_of_lengths(lengths), min(ranks, rows)
    assert split.loss_mask is not None
    stream = Stream(split, max(lengths) - 1 + room, documents, seed=0)
    targets: list[int] = []
    owners: list[int] = []
    for together in zip(
        *(stream.evaluation_batches(rows, (r, ranks), True) for r in range(ranks)), strict=True
    ):
        for batch in together:
            assert batch.document is None
            assert batch.document_index is not None
            assert batch.positions.tolist() == [list(range(stream.context))]
            has = batch.targets != NO_LOSS
            assert torch.equal(has, batch.document_index >= 0)
            assert torch.equal(batch.tokens[has] + 1, batch.targets[has])
            targets += batch.targets[has].tolist()
            owners += batch.document_index[has].tolist()
    assert targets == np.flatnonzero(split.loss_mask).tolist()
    assert owners == (np.searchsorted(split.document_offsets, targets, side="right") - 1).tolist()


def test_an_epoch_takes_each_example_once_from_its_beginning() -> None:
    lengths = [5, 3, 9, 4, 7, 2, 8]
    split = split_of_lengths(lengths)
    stream = Stream(split, 10, "joined", seed=4)
    firsts = torch.cat([stream.batch(step, 7).tokens[:, 0] for step in range(3)])
    orders = [firsts[7 * n : 7 * n + 7].tolist() for n in range(3)]
    assert all(sorted(order) == split.document_offsets.tolist() for order in orders)
    assert len(set(map(tuple, orders))) == 3
    halves = [stream.batch(1, 6, (rank, 2)) for rank in (0, 1)]
    assert torch.equal(torch.cat([half.targets for half in halves]), stream.batch(1, 6).targets)
    for row, first in zip(stream.batch(0, 7).tokens, orders[0], strict=True):
        size = lengths[split.document_offsets.tolist().index(first)]
        assert row.tolist() == [*range(first, first + size), *[0] * 10][:10]


def test_an_example_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has 12 tokens, which needs a context of 11; model\.context is 10"):
        Stream(split_of_lengths([3, 12, 4]), 10, "joined", seed=0)


# ------------------------------------------------------------------------------------------ measure


class Oracle(torch.nn.Module):
    """Says the right token wherever it is asked, or, where `wrong`, its successor."""

    def __init__(self, split: Split, vocab: int, wrong: set[int]):
        super().__init__()
        self.embedding, self.positions = torch.nn.Embedding(1, 1), torch.nn.ModuleList()
        self.split, self.vocab, self.wrong = split, vocab, wrong
        self.number = 0

    def forward(self, tokens: torch.Tensor, call: Any) -> torch.Tensor:
        logits = torch.zeros(*tokens.shape, self.vocab)
        ends = [*self.split.document_offsets[1:], len(self.split.tokens)]
        for row in range(len(tokens)):
            if self.number < len(ends):
                first, end = self.split.document_offsets[self.number], ends[self.number]
                for place in range(first + 1, end):
                    right = int(self.split.tokens[place])
                    said = (right + 1) % self.vocab if place in self.wrong else right
                    logits[row, place - first - 1, said] = 1.0
            self.number += 1
        return logits


@every
def test_an_oracle_is_always_right_and_its_mistakes_are_counted(folder: Path, name: str) -> None:
    split = ready(folder, name).splits["heldout"]
    assert split.loss_mask is not None
    answers = np.add.reduceat(split.loss_mask, split.document_offsets, dtype=np.int64)
    assert (answered(Oracle(split, 40, set()), split, "fp32") == answers).all()  # type: ignore[arg-type]
    places = np.flatnonzero(split.loss_mask)
    wrong = {int(places[0]), int(places[-1])}
    right = answered(Oracle(split, 40, wrong), split, "fp32")  # type: ignore[arg-type]
    assert np.flatnonzero(right != answers).tolist() == [0, len(answers) - 1]
    elsewhere = {int(p) for p in np.flatnonzero(~split.loss_mask)}
    assert (answered(Oracle(split, 40, elsewhere), split, "fp32") == answers).all()  # type: ignore[arg-type]


def test_an_untrained_model_is_right_by_chance(tmp_path: Path) -> None:
    split = prepare(data("copy", heldout=900, vocab=12), tmp_path).splits["heldout"]
    decoder = Decoder(small(vocab=12, depth=1, position="none"), training=False).init_parameters(0)
    right, total = answered(decoder, split, "fp32").sum(), split.loss_mask.sum()  # type: ignore[union-attr]
    assert right / total == pytest.approx(1 / 11, abs=0.06)  # answers are symbols or the end


def test_exact_match_is_what_greedy_generation_gives(folder: Path) -> None:
    """Training for a moment makes a model that is right here and there."""
    prepared = ready(folder, "copy")
    train, split = prepared.splits["train"], prepared.splits["heldout"]
    decoder = Decoder(small(vocab=40, depth=1)).init_parameters(0)
    optimizer = torch.optim.Adam(decoder.parameters(), 1e-2)
    stream = Stream(train, 24, "joined", seed=0)
    for step in range(150):
        batch = stream.batch(step, 30)
        loss = decoder(batch.tokens, None, targets=batch.targets).nll.sum() / (batch.targets != NO_LOSS).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for held in (train, split):
        assert held.loss_mask is not None
        right = answered(decoder, held, "fp32")
        ends = [*held.document_offsets[1:], len(held.tokens)]
        exact = []
        for n in range(40):
            row = held.tokens[held.document_offsets[n] : ends[n]].tolist()
            answers = int(held.loss_mask[held.document_offsets[n] : ends[n]].sum())
            exact.append(complete(decoder, [row[:-answers]], answers)[0] == row[-answers:])
            assert exact[-1] == (right[n] == answers)
    assert any((answered(decoder, train, "fp32") > 0).tolist())


def trained(decoder: Decoder) -> Trained:
    record = RunRecord(id="a", status="finished", source_hash="b", spec={"precision": "fp32"}, fingerprint={})
    return Trained(decoder, None, record)


@pytest.mark.parametrize("position", ["none", "rope", "alibi", "t5", "sinusoidal"])
def test_the_measure_goes_beyond_training_and_the_context(folder: Path, position: str) -> None:
    decoder = Decoder(small(vocab=40, context=11, position=position), training=False).init_parameters(0)
    measured = registry.measure.build("skill")(trained(decoder), ready(folder, "copy"))
    assert measured.vectors["skill/tokens"] == [2.0 * n + 2 for n in range(2, 11)]
    assert measured.vectors["skill/answers"] == [n + 1.0 for n in range(2, 11)]
    assert sum(measured.vectors["skill/examples"]) == FEW["heldout"]
    assert {"skill/exact_beyond", "skill/exact_within", "skill/accuracy_beyond"} <= measured.metrics.keys()
    assert reads_heldout("skill")


def test_a_position_that_cannot_name_the_places_is_refused(folder: Path) -> None:
    decoder = Decoder(small(vocab=40, context=11, position="learned"), training=False).init_parameters(0)
    with pytest.raises(
        ValueError, match=r"takes 21 positions, and the model can name 11; raise model\.context"
    ):
        registry.measure.build("skill")(trained(decoder), ready(folder, "copy"))


def test_text_has_no_skill(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "Story {n}"}}\n' for n in range(99)))
    spec = DataSpec(source={"name": "text", "files": [str(tmp_path / "a.jsonl")]}, tokenizer="bytes")
    prepared = prepare(spec, tmp_path / "cache")
    with pytest.raises(ValueError, match="the held-out split has no answers"):
        registry.measure.build("skill")(trained(Decoder(small())), prepared)


def test_the_numbers_of_the_measure() -> None:
    tokens, answers = np.array([6, 6, 8, 8, 8]), np.array([2, 2, 3, 3, 3])
    right = np.array([2, 1, 3, 3, 0])
    measured = skill_metrics(tokens, answers, right, longest=6, threshold=0.6)
    assert measured.metrics == {
        "skill/accuracy": pytest.approx(9 / 13),
        "skill/exact": 0.6,
        "skill/solved": 1.0,
        "skill/accuracy_within": 0.75,
        "skill/exact_within": 0.5,
        "skill/accuracy_beyond": pytest.approx(6 / 9),
        "skill/exact_beyond": pytest.approx(2 / 3),
    }
    assert measured.vectors == {
        "skill/tokens": [6.0, 8.0],
        "skill/answers": [2.0, 3.0],
        "skill/examples": [2.0, 3.0],
        "skill/accuracy": [0.75, pytest.approx(6 / 9)],
        "skill/exact": [0.5, pytest.approx(2 / 3)],
    }
    within = skill_metrics(tokens, answers, right, longest=8, threshold=0.61)
    assert set(within.metrics) == {"skill/accuracy", "skill/exact", "skill/solved"}
    assert within.metrics["skill/solved"] == 0.0


# ---------------------------------------------------------------------------------------- P(solved)


def frame(**arms: list[Any]) -> pd.DataFrame:
    """Values by arm; a string is a status."""
    rows = [
        {
            "arm": arm,
            "seed": seed,
            "role": "test",
            "status": value if isinstance(value, str) else "finished",
            "skill/exact": None if isinstance(value, str) else value,
            "skill/solved": None if isinstance(value, str) else float(value >= 0.9),
        }
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_counts_of_solved_runs() -> None:
    made = judge_solved(
        frame(
            base=[0.99] * 8, none=[0.0] * 7 + ["diverged"], half=[1.0] * 4 + [0.5, 0.0, 0.05, "out_of_memory"]
        ),
        "base",
    )
    assert {name: (arm.solved, arm.runs, arm.between) for name, arm in made.arms.items()} == {
        "base": (8, 8, 0),
        "none": (0, 8, 0),
        "half": (4, 7, 1),
    }
    assert made.contrasts["none"].word == "solves less"
    assert made.contrasts["none"].difference == -1.0
    assert made.contrasts["half"].word == "undecided"
    assert made.contrasts["none"].p is not None and made.contrasts["none"].p_adjusted is not None
    assert made.contrasts["none"].p_adjusted == pytest.approx(2 * made.contrasts["none"].p)
    back = judge_solved(frame(base=[0.0] * 8, one=[1.0] * 8), "base")
    assert back.contrasts["one"].word == "solves more"


def test_missing_runs_make_the_verdict_wait() -> None:
    made = judge_solved(frame(base=[1.0] * 8, none=[0.0] * 7 + ["crashed"], other=[0.0] * 8), "base")
    assert made.contrasts["none"].word == "waiting"
    assert made.contrasts["none"].p is None
    assert made.contrasts["other"].word == "solves less"
    assert made.arms["none"].runs == 7


def test_what_is_not_solved_or_not_is_refused() -> None:
    table = frame(base=[1.0] * 3, other=[0.0] * 3)
    with pytest.raises(ValueError, match="does not count solved runs"):
        judge_solved(table, "base", "skill/exact")
    table.loc[4, "skill/solved"] = 0.5
    with pytest.raises(ValueError, match=r"arm 'other', seed 1: skill/solved is 0.5, and must be 0 or 1"):
        judge_solved(table, "base")
    assert declared("skill/solved")
    assert not declared("heldout/loss")


@pytest.mark.parametrize("runs", [1, 5, 8, 12])
def test_the_interval_covers_at_any_probability(runs: int) -> None:
    from scipy.stats import binom

    ends = np.array([share_interval(n, runs) for n in range(runs + 1)])
    for p in np.linspace(0, 1, 101):
        chances = binom.pmf(np.arange(runs + 1), runs, p)
        assert chances[(ends[:, 0] <= p) & (p <= ends[:, 1])].sum() >= 0.95
    assert (ends[0, 0], ends[-1, 1]) == (0.0, 1.0)
    assert share_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 of 2 runs"):
        share_interval(3, 2)


def test_arms_that_are_the_same_are_told_apart_seldom() -> None:
    """Every outcome of six seeds of two arms, weighed: at most 5 % decide anything."""
    from scipy.stats import binom

    decided = np.zeros((7, 7))
    for a, b in product(range(7), repeat=2):
        one = frame(base=[1.0] * a + [0.0] * (6 - a), other=[1.0] * b + [0.0] * (6 - b))
        decided[a, b] = judge_solved(one, "base").contrasts["other"].word != "undecided"
    assert decided[0, 6] and decided[6, 0]
    for p in np.linspace(0.05, 0.95, 19):
        chances = binom.pmf(np.arange(7), 6, p)
        assert chances @ decided @ chances <= 0.05


@pytest.mark.parametrize("arms", [1, 3, 7])
def test_the_fewest_seeds_that_can_decide(arms: int) -> None:
    for seeds in (fewest_seeds(arms) - 1, fewest_seeds(arms)):
        others = {f"arm{n}": [0.0] * seeds for n in range(arms)}
        made = judge_solved(frame(base=[1.0] * seeds, **others), "base")
        decides = {contrast.word for contrast in made.contrasts.values()} == {"solves less"}
        assert decides == (seeds == made.fewest)


# ------------------------------------------------------------------------------------ from end to end


@pytest.mark.slow
def test_two_layers_learn_induction_and_one_does_not(tmp_path: Path) -> None:
    """Elhage et al. 2021: one layer sees which tokens there are, but not what stood before each."""
    source = {
        "name": "induction",
        "vocab": 8,
        "tokens": 12,
        "train": 20_000,
        "validation": 300,
        "heldout": 500,
    }
    solved = {}
    for depth in (2, 1):
        model = small(vocab=8, context=12, depth=depth, init="xavier", attention="softmax", ffn="mlp")
        spec = RunSpec.model_validate(
            {
                "model": model,
                "data": {"source": source, "tokenizer": {"name": "symbols", "vocab": 8}},
                "optim": {"name": "adamw", "lr": 1e-2},
                "schedule": "cosine",
                "budget": {"tokens": 700 * 64 * 12, "batch_tokens": 64 * 12},
                "evaluation": {"every": 0},
                "seed": 1,
            }
        )
        prepared = prepare(spec.data, tmp_path / "cache")
        record = fit(
            spec, prepared, Settings(accelerator="cpu", progress=False, threads=1), tmp_path / "runs"
        )
        assert record.status == "finished"
        loss_mask = score(tmp_path / "runs" / record.id, tmp_path / "cache", ["skill"])
        assert loss_mask.heldout_reads == 1
        solved[depth] = loss_mask.metrics
    assert solved[2]["skill/solved"] == 1.0
    assert solved[2]["skill/exact"] >= 0.9
    assert solved[1]["skill/solved"] == 0.0
    assert solved[1]["skill/exact"] < 0.5
