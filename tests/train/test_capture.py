"""Steps as graphs, by hand on a CPU: a graph here runs `work` on its own places. test_gpu.py has the rest."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from training import QUIET, prepared_for, run_spec, seats, write_text

from ablate.record import RunRecord
from ablate.train.fit import fit
from ablate.train.speed import cuda_graph
from ablate.train.speed.cuda_graph import Captured, changed
from ablate.train.speed.ensemble import Ensemble, ManualTask

STEPS = 12


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


def begun(text, number: int) -> list[ManualTask]:
    return seats([run_spec(text, seed=n) for n in range(number)], text.parent)


class ByHand(Captured):
    """Counts the steps that the graph made."""

    made = 0

    def capture(self, *given: Any) -> Callable[[], None]:
        self.places = [None if x is None else x.clone() for x in given]
        self.found = self.work(*self.places)  # a capture computes nothing, so it is undone
        return self.again

    def again(self) -> None:
        with torch.enable_grad():
            self.found = self.work(*self.places)
        self.made += 1


class Undone(ByHand):
    def capture(self, *given: Any) -> Callable[[], None]:
        before = [x.clone() for x in self.state()]
        replay = super().capture(*given)
        with torch.no_grad():
            cuda_graph.copy_state(self.state(), before)
        return replay


class Deaf(Undone):
    """Its graph reads the batch that it was captured with."""

    def replayed(self, *given: Any) -> tuple[torch.Tensor, ...]:
        return super().replayed(*self.places)


class Waiting(Captured):
    def capture(self, *given: Any) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


def captured(task: ManualTask, how: type[Captured], must: bool = False) -> Captured:
    made = how(task.work, lambda: changed(task.decoder, task.chosen), must)
    task.captured = made
    return made


def train(task: ManualTask) -> list[float]:
    """The norm of each step's gradient."""
    norms = []
    for step in range(STEPS):
        task.training_step(step, step)
        norms.append(task.gradient_norm())
    return norms


def assert_same(one: ManualTask, other: ManualTask) -> None:
    assert one.reduce_loss(False) == other.reduce_loss(False)
    for p, q in zip(one.decoder.parameters(), other.decoder.parameters(), strict=True):
        assert torch.equal(p, q)


def test_steps_by_a_graph_are_the_steps(text):
    (mine,), (plain,) = begun(text, 1), begun(text, 1)
    graph = captured(mine, Undone)
    assert train(mine) == train(plain)
    assert isinstance(graph, Undone) and graph.made == STEPS - cuda_graph.WARM
    assert_same(mine, plain)


@pytest.mark.parametrize(("how", "said"), [(Deaf, "is not the step without it"), (Waiting, "not permitted")])
def test_what_a_graph_gets_wrong_is_found_and_made_without(how, said, text, caplog):
    (mine,), (plain,) = begun(text, 1), begun(text, 1)
    graph = captured(mine, how)
    with caplog.at_level(logging.WARNING, "ablate.train"):
        assert train(mine) == train(plain)
    assert graph.replay is None and said in caplog.text and "and more" not in caplog.text
    assert_same(mine, plain)


def test_where_steps_must_be_captured_that_is_an_error(text):
    for how in (Deaf, Waiting):
        (mine,) = begun(text, 1)
        captured(mine, how, must=True)
        with pytest.raises(ValueError, match=r"trainer\.cuda_graph=true: "):
            train(mine)


def test_a_stack_by_a_graph(text):
    mine, plain = Ensemble(begun(text, 2)), Ensemble(begun(text, 2))
    mine.captured = Undone(mine.work, mine.changed, False)
    for step in range(STEPS):
        mine.step(step)
        plain.step(step)
    for one, other in zip(mine.tasks, plain.tasks, strict=True):
        assert one.gradient_norm() == other.gradient_norm()
        assert_same(one, other)


def test_a_stack_is_captured_only_where_each_of_its_runs_would_be(text):
    """Stacked runs may differ in the optimizer, and of sgd's rate a graph would keep what it was."""
    both = seats([run_spec(text), run_spec(text, optim="sgd")], text.parent)
    for task, other in (both, both[::-1]):
        captured(task, Undone)
        assert Ensemble([task, other]).captured is None
        captured(other, Undone)
        assert Ensemble([task, other]).captured is not None
        other.captured = task.captured = None


def test_rates_lie_where_a_graph_reads_them(text):
    """And a checkpoint, which brings its own, does not move them."""
    (task,) = begun(text, 1)
    (optimizer,) = task.chosen
    task.places = [cuda_graph.places(optimizer, captured=True)]
    task.set_lr(0)
    places = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(optimizer.state_dict())
    task.set_lr(3)
    for group, place in zip(optimizer.param_groups, places, strict=True):
        assert group["lr"] is place and float(place) == pytest.approx(task.rate)


def test_that_a_machine_has_no_graphs_is_no_outcome(text, tmp_path):
    spec = run_spec(text)
    settings = QUIET.model_copy(update={"cuda_graph": True})
    with pytest.raises(ValueError, match="only on a GPU"):
        fit(spec, prepared_for(spec, text.parent), settings, tmp_path)
    (folder,) = tmp_path.iterdir()
    assert RunRecord.load(folder).status == "crashed"


@pytest.mark.parametrize(
    ("model", "options", "settings", "reason"),
    [
        ({"dropout": 0.1}, {}, {}, "dropout"),
        ({"attention": {"name": "softmax", "dropout": 0.1}}, {}, {}, "dropout"),
        ({"ffn": {"name": "moe", "experts": 4}}, {}, {}, "expert"),
        ({}, {"optim": "sgd"}, {}, "only adamw"),
        ({}, {}, {"micro_batch_size": 2}, "several passes"),
        ({}, {}, {"activation_checkpointing": True}, "again"),
        ({}, {}, {"devices": 2}, "several devices"),
        ({}, {}, {}, None),
    ],
)
def test_what_cannot_be_captured(model, options, settings, reason, text, monkeypatch):
    """As on a GPU, whose device alone is feigned."""
    from ablate.model.measure import blueprint
    from ablate.registry import optimizer

    spec = run_spec(text, model, **options)
    decoder = blueprint(spec.model)
    optimizers = optimizer.build(spec.optim, list(decoder.to_empty(device="cpu").named_parameters()))
    monkeypatch.setattr(cuda_graph, "ON", "cpu")
    said = cuda_graph.capture_refusal(spec, QUIET.model_copy(update=settings), decoder, optimizers)
    assert said is None if reason is None else reason in str(said)
