"""Several models as one: their parameters stacked along a first dimension of N, one forward and backward pass
for all (`torch.func.vmap`), and for each the clipping, rate and optimizer that it has alone.

A step of a small model on a GPU takes as long as its kernels take to be launched, and N stacked models launch
no more of them than one. The models must have the same parts and shapes; seeds, optimizers and schedules may
differ. Sums are added up in another order than alone, so results are equal but for rounding.

The gradient of a weight is a sum over all tokens, which a GPU's product of N small matrices takes one token
after the other, most of the GPU idle. There each batch is split into parts by rows, and a part has a copy of
the weights, so that the products are more and shorter; and the optimizers step side by side.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from ablate.data.stream import Batch
from ablate.parts.base import IncompatibleParts
from ablate.parts.compiler import keep_graphs
from ablate.train.evaluate import on_device, to_device
from ablate.train.fit import Run
from ablate.train.speed.cuda_graph import Captured, changed, side_by_side
from ablate.train.task import Task

# What rounding may differ by: parts of the loss, of a gradient's largest entry, and of the largest of all
# gradients (that of a bias on keys is nothing but rounding).
_LOSS, GRADIENT, _LARGEST = 1e-5, 1e-4, 1e-6
PARTS = {"cuda": 32}  # of all batches together, at most, by type of device; elsewhere none is split


class ManualTask(Task):
    """A task that is driven by hand rather than by Lightning."""

    def built_for(self, lightning: Trainer) -> "ManualTask":
        """Build the model and its optimizers for the device of `lightning`."""
        self.trainer = lightning
        self.configure_model()
        self.to(lightning.strategy.root_device)
        self.configure_optimizers()
        return self

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        return self.chosen

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward()

    def forward(self, batch: Batch, count: Tensor) -> tuple[Tensor, Tensor]:
        """(the loss, what to differentiate) of one pass."""
        nll, objective, _ = self.objective(batch, count, None)
        return nll, objective


def seat(run: Run, lightning: Trainer) -> ManualTask:
    """That of a run in a stack, which is compiled as a whole."""
    settings = run.settings.model_copy(update={"compile": False})
    return ManualTask(run.spec, run.stream(), settings).built_for(lightning)


class Ensemble:
    """The models of N tasks, whose parameters become slices of the stacked ones. Raises IncompatibleParts."""

    def __init__(self, tasks: Sequence[ManualTask], compile: bool = False):
        self.tasks = tasks
        if compile:
            keep_graphs()
        self.forward = torch.compile(self.together) if compile else self.together
        alone = [task.captured for task in tasks]
        first = alone[0]
        # Of an optimizer that cannot be captured a graph would keep the rate of its first step.
        self.captured = Captured(self.work, self.changed, first.must) if first and all(alone) else None
        self.streams = [torch.cuda.Stream() if tasks[0].device.type == "cuda" else None for _ in tasks]
        buffers = dict(tasks[0].decoder.named_buffers())
        for task in tasks[1:]:
            for name, buffer in task.decoder.named_buffers():
                if not torch.equal(buffer, buffers[name]):
                    raise IncompatibleParts(
                        f"stacked models share their buffers, and {name} differs from seed to seed"
                    )
        self.parameters, _ = stack_module_state([task.decoder for task in tasks])  # (N, ...)
        self.slices = {name: [task.decoder.get_parameter(name) for task in tasks] for name in self.parameters}
        for name, slices in self.slices.items():
            for p, values in zip(slices, self.parameters[name].detach(), strict=True):
                p.data = values

    def step(self, step: int) -> None:
        """One optimizer step of each."""
        for task in self.tasks:
            task.set_lr(step)
        passes, counts = self.passes(step)
        if self.captured is not None:
            losses, added, norms = self.captured(*passes[0], counts)
        else:
            losses, added, norms = *self.gradients(passes, counts), self.update()
        for task, loss, more, norm in zip(self.tasks, losses, added, norms, strict=True):
            task.norm = norm
            task.add(more)
            task.record_step(step, loss)

    def work(self, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
        """A step of one pass, of tensors alone: the fields of its batch and the counts -> the losses, what
        was added to them, and the norms of the gradients."""
        *batch, counts = given
        return *self.gradients([Batch(*batch)], counts), self.update()

    def changed(self) -> list[Tensor]:
        return [x for task in self.tasks for x in changed(task.decoder, task.chosen)]

    def update(self) -> Tensor:
        return torch.stack(side_by_side([task.update for task in self.tasks], self.streams))

    def passes(self, step: int) -> tuple[list[Batch], Tensor]:
        """The passes of the step, each for all models, and of each model the targets of the step (N,)."""
        of_each = [task.on_host(step) for task in self.tasks]
        counts = torch.stack([task.count(p) for task, p in zip(self.tasks, of_each, strict=True)])
        device = self.tasks[0].device
        most = PARTS.get(device.type, 1)
        passes = [on_device(stacked_batch(batches, most), device) for batches in zip(*of_each, strict=True)]
        return passes, to_device(counts, device)

    def gradients(self, passes: list[Batch], counts: Tensor) -> tuple[Tensor, Tensor]:
        """The losses (N,), and what was added to them; every parameter of every task has its gradient."""
        for whole in self.parameters.values():
            whole.grad = None
        losses, added = torch.zeros(2, len(self.tasks), device=counts.device)
        for batch in passes:
            nll, objective = self.forward(self.parameters, batch, counts)
            objective.sum().backward()
            losses += nll
            added += objective.detach() - nll
        for name, whole in self.parameters.items():
            gradients = [None] * len(self.tasks) if whole.grad is None else whole.grad.unbind()
            for p, gradient in zip(self.slices[name], gradients, strict=True):
                p.grad = gradient
        return losses, added

    def together(self, parameters: dict[str, Tensor], batch: Batch, counts: Tensor) -> tuple[Tensor, Tensor]:
        """The losses (N,), and what to differentiate of each."""
        parts = len(batch.tokens) // len(self.tasks)
        if parts > 1:
            parameters = {name: repeated(p, parts) for name, p in parameters.items()}
        found = vmap(self.alone, in_dims=(0, dimensions(batch), 0))(
            parameters, batch, repeated(counts, parts)
        )
        nll, objective = (x.view(-1, parts).sum(1) for x in found)
        return nll, objective

    def alone(self, parameters: dict[str, Tensor], batch: Batch, count: Tensor) -> tuple[Tensor, Tensor]:
        named = {f"decoder.{name}": p for name, p in parameters.items()}
        found: tuple[Tensor, Tensor] = functional_call(
            self.tasks[0], named, (batch, count), tie_weights=False
        )
        return found

    def prove(self) -> None:
        """Raises IncompatibleParts where some part cannot be computed for several models at once, or gives
        other gradients then, on the batch of the first step."""
        task = self.tasks[0]
        passes = task.passes(0)
        count = task.count(passes)
        loss = torch.zeros((), device=count.device)
        for batch in passes:
            nll, objective, loads = task.objective(batch, count, None)
            if loads is not None:
                raise IncompatibleParts(
                    "experts cannot be stacked: how many tokens one gets depends on the data, so the shapes "
                    "differ from replica to replica"
                )
            objective.backward()
            loss += nll
        alone = {name: p.grad for name, p in task.decoder.named_parameters()}
        try:
            losses, _ = self.gradients(*self.passes(0))
        except (RuntimeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise IncompatibleParts(f"cannot be computed for several models at once: {error}") from error
        wrong = [] if near(losses[0], loss, _LOSS) else ["the loss"]
        floor = _LARGEST * max(float(g.abs().max()) for g in alone.values() if g is not None)
        for name, p in task.decoder.named_parameters():
            if not near(p.grad, alone[name], GRADIENT, floor):
                wrong.append(f"the gradient of {name}")
        for each in self.tasks:
            each.zero_grad(set_to_none=True)
        if wrong:
            raise IncompatibleParts(f"stacked models do not compute what one does alone: {wrong[0]} differs")


def near(found: Tensor | None, alone: Tensor | None, part: float, floor: float = 0.0) -> bool:
    """Whether they differ by no more than a part of the largest entry, or by the floor."""
    if found is None or alone is None:
        return found is alone
    return bool((found - alone).abs().max() <= max(floor, part * float(alone.abs().max())))


def stacked_batch(batches: Sequence[Batch], most: int) -> Batch:
    """One batch for all models, each split into as many equal parts as together are at most `most`; positions
    that are the same for all stay one."""
    first, rows = batches[0], len(batches[0].tokens)
    parts = max(
        n for n in range(1, rows + 1) if rows % n == 0 and n * len(batches) <= max(most, len(batches))
    )

    def of_all(field: str) -> Tensor:
        whole = torch.cat([getattr(each, field) for each in batches])
        split: Tensor = whole.unflatten(0, (len(batches) * parts, rows // parts))
        return split

    return Batch(
        of_all("tokens"),
        of_all("targets"),
        first.positions if first.document is None else of_all("positions"),
        None if first.document is None else of_all("document"),
        None if first.prefix is None else of_all("prefix"),
        None if first.real is None else of_all("real"),
    )


def repeated(x: Tensor, parts: int) -> Tensor:
    """(N, ...) -> (N parts, ...), the parts of one model beside each other."""
    return x[:, None].expand(-1, parts, *x.shape[1:]).flatten(0, 1)


def dimensions(batch: Batch) -> Any:
    """Where the fields of a stacked batch have their dimension of models."""
    restarts = 0 if batch.document is not None else None
    prefix, real = (None if x is None else 0 for x in (batch.prefix, batch.real))
    return Batch(0, 0, restarts, restarts, prefix, real)  # type: ignore[arg-type]
