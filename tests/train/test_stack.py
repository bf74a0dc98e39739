"""Models trained as one are the models that are trained alone."""

import functools

import pytest
import torch
from cases import CASES
from sampled import sampled
from training import MOE, QUIET, run_spec, seats, write_text

from ablate.parts.base import IncompatibleParts
from ablate.spec import RunSpec
from ablate.train.speed.ensemble import PARTS, Ensemble, ManualTask, near

STEPS = 20
# What decides how a model computes, once: init, scaling and activation are functions of what is here.
WALKED = [name for name in CASES if name.startswith(("norm", "placement", "topology", "position", "hard"))]
UNEVEN = ("moe", "sparsemixer", "moa")  # experts: how many tokens one gets depends on the data
STACKED = [name for name in WALKED if not any(part in name for part in UNEVEN)]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


def replicas(text, case: dict, steps: int = STEPS, **options) -> list[RunSpec]:
    """Three seeds, each with its own rate, decay and clipping, which acts at the lowest norm always."""
    model = {**case, "vocab": 257}
    prefix = {"prefix": True} if case.get("attention", {}) and "prefix" in str(case["attention"]) else {}
    data = {"source": {"name": "text", "files": [str(text)]}, "tokenizer": "bytes", **prefix}
    optims = [{"name": "adamw", "lr": lr, "weight_decay": lr * 10} for lr in (3e-4, 1e-3, 2e-3)]
    return [
        run_spec(text, model, steps, seed=seed, optim=optim, clip=clip, data=data, **options)
        for seed, (optim, clip) in enumerate(zip(optims, (0.1, 0.5, None), strict=True))
    ]


def assert_the_same(
    together: list[ManualTask], alone: list[ManualTask], but: str = "nothing", far: float = 1e-5
) -> None:
    for one, other in zip(together, alone, strict=True):
        mine, theirs = one.reduce_loss(False)[0], other.reduce_loss(False)[0]
        assert mine == pytest.approx(theirs, abs=1e-5)
        for (name, p), q in zip(one.decoder.named_parameters(), other.decoder.parameters(), strict=True):
            if name.endswith(but):
                continue
            torch.testing.assert_close(p, q, rtol=far, atol=far, msg=lambda m, name=name: f"{name}: {m}")


def compare(specs: list[RunSpec], text, far: float = 1e-5) -> None:
    together, alone = seats(specs, text.parent), seats(specs, text.parent)
    stack = Ensemble(together)
    stack.prove()
    for step in range(specs[0].steps):
        stack.step(step)
        for task in alone:
            task.training_step(step, step)
    assert_the_same(together, alone, far=far)


@pytest.mark.parametrize("name", sampled(STACKED, 3))
def test_parameters_and_losses_are_those_of_lone_training(name, text):
    compare(replicas(text, CASES[name]), text)


def test_a_bias_on_keys_whose_gradient_is_rounding_refuses_nothing(text):
    """As in GPT-2: it shifts all scores of a query alike, so Adam's steps along the noise act on nothing."""
    case = {"attention": {"name": "softmax", "bias": ["q", "k", "v", "out"]}, "position": "learned"}
    together, alone = seats(replicas(text, case), text.parent), seats(replicas(text, case), text.parent)
    stack = Ensemble(together)
    stack.prove()
    for step in range(STEPS):
        stack.step(step)
        for task in alone:
            task.training_step(step, step)
    assert_the_same(together, alone, but="k.bias")


@pytest.mark.parametrize(("optim", "far"), [("muon", 1e-3), ("sgd", 1e-5)])
def test_every_optimizer_is_the_one_it_is_alone(optim, far, text):
    """Muon's orthogonal matrices are made in bf16, where the rounding of a gradient shows."""
    specs = [run_spec(text, seed=seed, optim={"name": optim, "lr": 1e-3 * (1 + seed)}) for seed in range(2)]
    compare(specs, text, far)


def test_clipping_acts_in_these_runs_and_parameters_move(text):
    tasks = seats(replicas(text, {}), text.parent)
    before = [task.decoder.embedding.weight.clone() for task in tasks]
    Ensemble(tasks).step(0)
    assert tasks[0].gradient_norm() > 0.1
    assert all(
        not torch.equal(task.decoder.embedding.weight, b) for task, b in zip(tasks, before, strict=True)
    )


def test_documents_passes_and_a_tail_of_the_loss(text):
    """Masked documents restart positions in every row; a step takes two passes; the head has a z-loss."""
    data = {"source": {"name": "text", "files": [str(text)]}, "tokenizer": "bytes", "documents": "masked"}
    head = {"z_loss": 0.01, "tied": False}
    specs = [run_spec(text, {"head": head}, STEPS, seed=seed, data=data) for seed in range(2)]
    together, alone = seats(specs, text.parent), seats(specs, text.parent)
    for task in [*together, *alone]:
        task.settings = QUIET.model_copy(update={"micro_batch_size": 4})
    stack = Ensemble(together)
    for step in range(STEPS):
        stack.step(step)
        for task in alone:
            task.training_step(step, step)
    assert_the_same(together, alone)


@pytest.mark.parametrize(
    ("case", "documents", "most"),
    [("hard:prefix", "joined", 6), ("position=t5", "masked", 6), ("position=t5", "joined", 100)],
)
def test_batches_split_into_parts_as_on_a_gpu(case, documents, most, text, monkeypatch):
    """Into two by rows, and into single rows. Losses are those of lone training to 1e-5; where a gradient is
    small, Adam makes more of its rounding."""
    monkeypatch.setitem(PARTS, "cpu", most)
    specs = replicas(text, {**CASES[case], "head": {"z_loss": 0.01}})
    specs = [s.model_copy(update={"data": s.data.model_copy(update={"documents": documents})}) for s in specs]
    tasks = seats(specs, text.parent)
    (batch,), _ = Ensemble(tasks).passes(0)
    assert len(batch.tokens) == (6 if most == 6 else 3 * specs[0].rows)
    compare(specs, text, far=3e-5)


def test_experts_are_refused_with_the_reason(text):
    tasks = seats([run_spec(text, {"ffn": MOE}, seed=seed) for seed in range(2)], text.parent)
    with pytest.raises(IncompatibleParts, match="experts cannot be stacked: how many tokens one gets"):
        Ensemble(tasks).prove()


def test_a_part_that_looks_at_values_is_refused(text, monkeypatch):
    tasks = seats([run_spec(text, seed=seed) for seed in range(2)], text.parent)
    stack = Ensemble(tasks)
    real = tasks[0].decoder.final_norm.forward
    monkeypatch.setattr(tasks[0].decoder.final_norm, "forward", lambda x: real(x) if x.sum().item() else x)
    with pytest.raises(IncompatibleParts, match="cannot be computed for several models at once"):
        stack.prove()


def test_a_part_that_computes_otherwise_is_refused(text, monkeypatch):
    """Its output grows from call to call, as that of a part with a state of its own would."""
    tasks = seats([run_spec(text, seed=seed) for seed in range(2)], text.parent)
    stack = Ensemble(tasks)
    real, calls = tasks[0].decoder.final_norm.forward, []
    monkeypatch.setattr(
        tasks[0].decoder.final_norm,
        "forward",
        lambda x: real(x) * (1 + len(calls)) if calls.append(1) is None else x,
    )
    with pytest.raises(IncompatibleParts, match="do not compute what one does alone"):
        stack.prove()


def test_near_is_relative_to_the_largest_entry():
    x = torch.tensor([1.0, 100.0])
    assert near(x + 0.001, x, 1e-4) and not near(x + 0.02, x, 1e-4)
    assert near(x + 0.02, x, 1e-4, floor=0.1)
    assert near(None, None, 0.0) and not near(None, x, 1.0)


@pytest.mark.parametrize(
    "case", [{}, {"position": "t5"}, {"attention": {"name": "softmax", "window": 5}}], ids=str
)
def test_a_stack_can_be_compiled_as_a_whole(case, text, monkeypatch):
    """Traced to one graph, which here is run as it is; what a compiler makes of it is seen on a GPU."""
    whole = functools.partial(torch.compile, fullgraph=True, backend="eager")
    monkeypatch.setattr("ablate.train.speed.ensemble.torch.compile", whole)
    Ensemble(seats(replicas(text, {**case, "kernel": "sdpa"}), text.parent), compile=True).prove()


def test_a_captured_step_is_the_step(text):
    """A graph calls `work` with the tensors of each step; here it is called by hand."""
    (spec,) = replicas(text, {})[:1]
    captured, plain = seats([spec, spec], text.parent)
    captured.captured = captured.work
    for step in range(STEPS):
        captured.training_step(step, step)
        plain.training_step(step, step)
    assert_the_same([captured], [plain], far=0)
