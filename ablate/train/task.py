"""One optimizer step: this process's share of the global batch, in as many passes as fit."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from ablate.data.blend import Blend
from ablate.data.stream import NO_LOSS, Batch, Stream
from ablate.model.decoder import Decoder
from ablate.parts.base import DTYPES, AuxOutputs, ForwardContext, IncompatibleParts
from ablate.parts.compiler import keep_graphs
from ablate.registry import optimizer
from ablate.spec import RunSpec
from ablate.train.evaluate import on_device
from ablate.train.schedule import factor
from ablate.train.settings import Settings
from ablate.train.speed.cuda_graph import Captured, changed, places, set_rate, wanted


class Steps:
    """The numbers of the optimizer steps still to be made, and one more: the look at the whole of validation,
    which so can be resumed too. A batch is a function of its step, so this is all there is to remember."""

    def __init__(self, steps: int):
        self.steps, self.done = steps, 0

    def __len__(self) -> int:
        """One more than come: Lightning would not go on from a checkpoint made after the last."""
        return self.steps + 2

    def __iter__(self) -> Iterator[int]:
        while self.done < self.steps:
            yield self.done
        yield self.steps

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"]


class Task(LightningModule):
    """Trains a decoder.

    The loss is the sum over all targets of the global batch divided by their number, so it does not depend on
    how rows are split over devices and passes; nor does the balance loss of experts, whose loads are counted
    over the global batch first. Dropout is drawn by (seed, step, rank, pass), so resuming restores no
    generator.
    """

    decoder: Decoder

    def __init__(
        self, spec: RunSpec, stream: Stream | Blend, settings: Settings, weights: Path | None = None
    ):
        super().__init__()
        self.automatic_optimization = False
        self.spec, self.stream, self.settings, self.weights = spec, stream, settings, weights
        self.steps = Steps(spec.steps)
        self.built = False
        self.reports: bool | None = None  # whether some layer reports a load; None: not known yet
        self.loads: list[Tensor] | None = None  # of the last step, by layer with experts
        self.norm: Tensor | None = None  # of the last gradient
        self.captured: Captured | None = None  # a step as a graph
        self.rate = 0.0  # of the first group of parameters, at the last step
        self.total: Tensor | None = None  # losses of this rank's shares since `reduce_loss` was last called
        self.summed = 0
        self.added: Tensor | None = None  # as `total`, what the objective has beside the losses

    # ---------------------------------------------------------------------------------- building

    def configure_model(self) -> None:
        """Build on the device (sharded, if Lightning made a mesh) and draw the parameters."""
        if self.built:
            return
        strategy = self.trainer.strategy
        device: torch.device = strategy.root_device
        with torch.device("meta"):
            decoder = Decoder(
                self.spec.model,
                device=device.type,
                documents=self.spec.data.documents == "masked",
                dtype=DTYPES[self.spec.precision],
            )
        if self.settings.activation_checkpointing:
            decoder.recompute()
        if self.device_mesh is not None:
            shard(decoder, self.device_mesh)
        decoder.to_empty(device=device)
        decoder.init_parameters(self.spec.seed.init, self.spec.seed.redraw)
        if self.weights is not None:
            from ablate.train.state.weights import load_weights

            load_weights(decoder, self.weights)
        self.decoder = decoder.train()
        if self.settings.compile:
            keep_graphs()
            self.decoder.compile()
        self.built = True

    def configure_optimizers(self) -> list[Optimizer]:
        chosen: list[Optimizer] = optimizer.build(self.spec.optim, list(self.decoder.named_parameters()))
        self.peaks = [[float(group["lr"]) for group in o.param_groups] for o in chosen]
        captured = wanted(self.spec, self.settings, self.decoder, chosen)
        self.places = [places(o, captured) for o in chosen]
        if captured:
            must = self.settings.cuda_graph is True
            self.captured = Captured(self.work, lambda: changed(self.decoder, chosen), must)
        self.chosen = chosen
        return chosen

    def train_dataloader(self) -> Steps:
        return self.steps

    # ---------------------------------------------------------------------------------- one step

    def training_step(self, step: int, index: int) -> None:
        if step == self.spec.steps:
            return
        passes = self.passes(step)
        count = self.count(passes)
        self.set_lr(step)
        if self.captured is not None:
            loss, self.norm, added = self.captured(*passes[0], count)
            self.add(added)
            self.record_step(step, loss)
            return
        loads = self.loads_ahead(passes, step) if len(passes) > 1 else None
        loss, added = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for n, batch in enumerate(passes):
            self.reseed(step, n)
            nll, objective, loads = self.objective(batch, count, loads)
            if n + 1 < len(passes) and self.device_mesh is None:
                objective.backward()  # Lightning's own would have DDP send the gradient
            else:
                self.manual_backward(objective)
            loss += nll
            added += self.beside(nll, objective)
        self.norm = self.update()
        if loads is not None:
            self.loads = loads
            self.after_step(loads)
        self.add(added)
        self.record_step(step, loss)

    def work(self, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
        """A step of one pass, of tensors alone: the fields of its batch and the count -> the loss, the norm
        of the gradient and what was added to the loss."""
        *batch, count = given
        self.decoder.zero_grad()  # of a capture that failed
        nll, objective, _ = self.objective(Batch(*batch), count, None)
        self.manual_backward(objective)
        return nll, self.update(), self.beside(nll, objective)

    def beside(self, nll: Tensor, objective: Tensor) -> Tensor:
        """What this rank's share of an objective has beside the loss, both as `objective` gives them."""
        return objective.detach() / self.trainer.world_size - nll

    def add(self, added: Tensor) -> None:
        """Count what a step added to this rank's share of the loss, where the model adds anything."""
        if self.decoder.adds_to_loss:
            self.added = added if self.added is None else self.added + added

    def record_step(self, step: int, loss: Tensor) -> None:
        """Step `step` is made; `loss` is that of this rank's share."""
        self.total = loss if self.total is None else self.total + loss
        self.summed += 1
        self.steps.done = step + 1

    def passes(self, step: int) -> list[Batch]:
        """This rank's rows of the step, in passes of at most `micro_batch_size`."""
        return [on_device(batch, self.device) for batch in self.on_host(step)]

    def on_host(self, step: int) -> list[Batch]:
        """The same, where they were made."""
        batch = self.stream.batch(step, self.spec.rows, (self.global_rank, self.trainer.world_size))
        rows = len(batch.tokens)
        size = min(rows, self.settings.micro_batch_size or rows)
        return [part(batch, n, n + size) for n in range(0, rows, size)]

    def count(self, passes: list[Batch]) -> Tensor:
        """(2,): the targets of the global batch, and its real tokens."""
        targets = sum((batch.targets != NO_LOSS).sum() for batch in passes)
        assert isinstance(targets, Tensor)
        real = targets.new_zeros(()) + sum(real_of(batch) for batch in passes)
        return self.over_ranks(torch.stack((targets, real))).clamp(min=1)

    def objective(
        self, batch: Batch, count: Tensor, loads: list[Tensor] | None
    ) -> tuple[Tensor, Tensor, list[Tensor] | None]:
        """(this pass's part of the loss, what to differentiate, the loads). Gradients are averaged over
        ranks, so what is differentiated is multiplied by their number. What parts report of a pass counts by
        its real tokens."""
        call = self.call(batch)
        out = self.decoder(batch.tokens, call, targets=batch.targets, summed=True)
        targets, real = count.unbind()
        objective = out.objective / targets
        aux = call.aux or []
        if any(aux):
            if loads is None:
                loads = self.add_loads([aux])
            put_loads(aux, loads)
            objective = objective + real_of(batch) / real * self.decoder.auxiliary(aux)
        return out.nll / targets, objective * self.trainer.world_size, loads

    def call(self, batch: Batch) -> ForwardContext:
        aux = self.decoder.aux()
        return ForwardContext(batch.positions, batch.document, batch.prefix, aux=aux, real=batch.real)

    def set_lr(self, step: int) -> None:
        """Set the rates of the step."""
        share = factor(self.spec.schedule, step, self.spec.steps)
        self.rate = self.peaks[0][0] * share
        for o, peaks, at in zip(self.chosen, self.peaks, self.places, strict=True):
            for group, peak, place in zip(o.param_groups, peaks, at, strict=True):
                set_rate(group, peak * share, place)

    def update(self) -> Tensor:
        """Clip the gradients and step the optimizers, with the rates as they are set. Gives the norm before
        clipping."""
        parameters = list(self.decoder.parameters())
        if self.spec.clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.spec.clip)
        else:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        optimizers = self.optimizers()
        for o in optimizers if isinstance(optimizers, list) else [optimizers]:
            o.step()
            o.zero_grad(set_to_none=True)
        return norm

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["untaken"], checkpoint["added"] = (self.total, self.summed), self.added

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        (self.total, self.summed), self.added = checkpoint["untaken"], checkpoint.get("added")
        if self.total is not None and self.global_rank > 0:
            self.total = torch.zeros_like(self.total)  # a lone process made it: several save at rows
            self.added = None if self.added is None else torch.zeros_like(self.added)

    # ---------------------------------------------------------------------------------- experts

    def loads_ahead(self, passes: list[Batch], step: int) -> list[Tensor] | None:
        """The loads of a step of several passes, from a look ahead without gradients: the balance loss of the
        first pass needs those of the last. None where no layer reports any."""
        if self.reports is False:
            return None
        aux_outputs: list[AuxOutputs] = []
        with torch.no_grad():
            for n, batch in enumerate(passes):
                self.reseed(step, n)
                call = self.call(batch)
                self.decoder(batch.tokens, call, targets=batch.targets)
                aux = call.aux or []
                if self.reports is None:
                    self.reports = any("load" in report for report in aux)
                if not self.reports:
                    break
                aux_outputs.append(aux)
        torch.clear_autocast_cache()  # casts made without gradients must not serve the passes with them
        return self.add_loads(aux_outputs) if self.reports else None

    def add_loads(self, aux_outputs: list[AuxOutputs]) -> list[Tensor] | None:
        """The load of each layer that reports one, added up over passes and ranks. In whole numbers, or the
        order of addition would say which of two equal experts had more. Raises IncompatibleParts for
        others."""
        first = aux_outputs[0]
        self.loaded = [n for n, report in enumerate(first) if "load" in report]
        if not self.loaded:
            return None
        for n in self.loaded:
            if first[n]["load"].dtype != torch.int64:
                name, dtype = self.spec.model.layers()[n].ffn.name, first[n]["load"].dtype
                raise IncompatibleParts(
                    f"ffn {name}: reports a load of {dtype}; a load is how many choices each expert got, in "
                    "int64, and is added up over the batch"
                )
        sizes = [len(first[n]["load"]) for n in self.loaded]
        each = [torch.cat([aux[n]["load"] for n in self.loaded]) for aux in aux_outputs]
        return list(self.over_ranks(torch.stack(each).sum(0)).split(sizes))

    def after_step(self, loads: list[Tensor]) -> None:
        """Let each layer with experts move its bias against the load."""
        for n, load in zip(self.loaded, loads, strict=True):
            self.decoder.layers[n].ffn.after_step(load)

    # ---------------------------------------------------------------------------------- the rest

    def reseed(self, step: int, n: int) -> None:
        """Dropout is a function of (seed, step, rank, pass)."""
        place = f"{self.spec.seed.dropout}/{step}/{self.global_rank}/{n}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(place.encode()).digest()[:8], "big") >> 1)

    def over_ranks(self, x: Tensor) -> Tensor:
        """The sum over ranks."""
        if self.trainer.world_size > 1:
            dist.all_reduce(x)
        return x

    def reduce_loss(self, flag: bool) -> tuple[float, bool]:
        """(mean loss of the steps since last asked, whether the flag is up on some rank). All ranks must ask
        together."""
        assert self.total is not None
        both = torch.stack([self.total, torch.full_like(self.total, float(flag))])
        loss, flags = self.over_ranks(both).tolist()
        loss /= self.summed
        self.total, self.summed = None, 0
        return loss, flags > 0

    def auxiliary_loss(self) -> float | None:
        """The mean of what the steps added to the loss since `reduce_loss` was last called; None where the
        model adds nothing. It is asked before `reduce_loss`, and by all ranks together."""
        if self.added is None:
            return None
        added, self.added = self.over_ranks(self.added.clone()), None
        return float(added) / self.summed

    def wait(self) -> None:
        """Until the device has made the steps."""
        if self.total is not None:
            self.total.item()

    def expert_load(self) -> dict[str, float]:
        """Of the last step, by layer: the share of the busiest expert as a multiple of an even share, which
        is 1 where experts are balanced and their number where one does all."""
        if self.loads is None:
            return {}
        return {
            f"expert_load/layer_{n}": float(load.max() * len(load) / load.sum())
            for n, load in zip(self.loaded, self.loads, strict=True)
        }

    def gradient_norm(self) -> float:
        """Of the last step, before clipping. All ranks must ask together."""
        from torch.distributed.tensor import DTensor

        norm = self.norm
        assert norm is not None
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def shard(decoder: Decoder, mesh: Any) -> None:
    """FSDP2: each layer is a group; embedding, positions and head are the root's."""
    from torch.distributed.fsdp import fully_shard

    mesh = mesh["data_parallel"]
    for layer in (*decoder.layers, *decoder.lookups()):
        fully_shard(layer, mesh=mesh)
    fully_shard(decoder, mesh=mesh)


def part(batch: Batch, first: int, last: int) -> Batch:
    """The rows from first to last."""
    tokens, targets, at, document, prefix, real, _ = batch
    return Batch(
        tokens[first:last],
        targets[first:last],
        at if len(at) == 1 else at[first:last],
        None if document is None else document[first:last],
        None if prefix is None else prefix[first:last],
        None if real is None else real[first:last],
    )


def real_of(batch: Batch) -> Tensor | int:
    """How many tokens of it are text, and not filling."""
    return batch.tokens.numel() if batch.real is None else batch.real.sum()


def put_loads(aux: AuxOutputs, loads: list[Tensor] | None) -> None:
    """Put the loads of all ranks into the reports of the experts."""
    reports = [report for report in aux if "load" in report]
    for report, load in zip(reports, loads or [], strict=True):
        report["load"] = load
