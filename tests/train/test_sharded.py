"""FSDP2 over two CPU processes: every hard combination trains as it does in one process."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cases import HARD
from conftest import small

from ablate.model import loss
from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext

HEAD = {"softcap": 2.0, "z_loss": 0.01}
SLICED = {f"head tied: {tied}": {"head": HEAD | {"tied": tied}} for tied in (True, False)}
ROWS = torch.randint(50, (4, 20), generator=torch.Generator().manual_seed(0))


def losses(m: Decoder, rows: torch.Tensor, average) -> list[float]:
    """Three steps of plain gradient descent on the mean loss of all rows."""
    optimizer = torch.optim.SGD(m.parameters(), lr=0.5)
    seen = []
    for _ in range(3):
        call = ForwardContext.of(rows)
        call.aux = m.aux()
        total = m(rows, call, targets=rows.roll(-1, 1), summed=True).objective / rows.numel()
        for report in call.aux:
            if "load" in report:
                report["load"] = average(report["load"].clone())
        total = total + m.auxiliary(call.aux)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        seen.append(average(total.detach().clone()).item())
    return seen


def one_rank(rank: int, folder: str, case: dict) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)

    def average(x: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(x)
        return x / 2

    results = {}
    for name, options in case.items():
        mesh = init_device_mesh("cpu", (2,))
        with torch.device("meta"):
            m = Decoder(small(**options))
        for layer in m.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(m, mesh=mesh)
        m.to_empty(device="cpu")
        m.init_parameters(0).train()
        if name in SLICED:
            loss.LOGITS_SLICE = 4 * m.shape.vocab * 16  # the loss of sixteen tokens at a time
        results[name] = losses(m, ROWS[2 * rank : 2 * rank + 2], average)
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    dist.barrier()  # neither leaves while the other still talks to it
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> dict[str, list[float]]:
    folder: Path = tmp_path_factory.mktemp("sharded")
    mp.spawn(one_rank, args=(str(folder), HARD | SLICED), nprocs=2)
    return torch.load(folder / "results.pt", weights_only=True)


@pytest.mark.parametrize("name", HARD | SLICED)
def test_two_processes_train_as_one(name, sharded):
    m = Decoder(small(**(HARD | SLICED)[name])).init_parameters(0).train()
    assert sharded[name] == pytest.approx(losses(m, ROWS, lambda x: x), abs=1e-5)
