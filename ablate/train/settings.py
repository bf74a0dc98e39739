"""What does not decide the numbers of a run: where it runs, what it shows and what it keeps.

The same specification under other settings is the same run, so nothing of this is hashed. Dropout is drawn
for each pass of each device: other `micro_batch_size` or `devices` are other draws, as good as the first.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

from annotated_types import Gt
from pydantic import Field, PositiveInt

from ablate.spec import Strict

_MOST = 16  # threads to a core: with far more, there is no memory to start them

Strategy = Literal["auto", "ddp", "fsdp"]
Keep = Literal["none", "weights", "all"]


class LoggerSpec(Strict):
    """A mirror of the curve. The record under `runs/` is the truth, whatever becomes of the mirror."""

    name: Literal["none", "csv", "tensorboard", "wandb", "trackio"] = "none"
    peak_flops: Annotated[float, Gt(0)] | None = None  # a device's, for MFU; null: of known GPUs
    run_name: str | None = None  # for people; null: the id. This and what follows: wandb and trackio only
    job_type: str | None = None  # the role of a study's run
    project: str = "ablate"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None
    config: dict[str, str | int | float] = Field({})  # beside the specification: the arm of a study, its seed
    offline: bool | None = None  # null: offline where there is no key


class Settings(Strict):
    """How a run is carried out; nothing here decides its numbers."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: PositiveInt | Literal["auto"] = 1
    nodes: int = Field(1, gt=0)  # more than one: start with torchrun
    strategy: Strategy = "auto"  # auto: ddp where there are several devices
    micro_batch_size: int | None = Field(
        None, gt=0
    )  # rows of one forward pass on one device; null: all at once
    compile: bool = False
    cuda_graph: bool | Literal["auto"] = "auto"  # a step as one CUDA graph; auto: of small models on a GPU
    activation_checkpointing: bool = False  # activations again in the backward pass, for memory
    threads: int | None = Field(None, gt=0)  # null: as torch finds best
    progress: bool | Literal["auto"] = "auto"  # auto: a bar in a terminal, a line for each tenth elsewhere
    log_every: int | None = Field(None, gt=0)  # steps between rows of the curve; null: 1 on a CPU, else 10
    # With several devices, runs make checkpoints, and stop when told to, at rows of the curve alone.
    checkpoint_steps: int | None = Field(None, gt=0)
    checkpoint_minutes: float | None = Field(10.0, gt=0)
    keep: Keep = "weights"
    logger: LoggerSpec = LoggerSpec(config={})


def accelerator(settings: Settings) -> str:
    """The accelerator that is meant: `cpu` or `gpu`."""
    import torch

    if settings.accelerator == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    return settings.accelerator


def torch_device(settings: Settings) -> str:
    """The accelerator as torch calls it."""
    return "cuda" if accelerator(settings) == "gpu" else "cpu"


def devices(settings: Settings) -> int:
    """On this machine."""
    if settings.devices != "auto":
        return settings.devices
    import torch

    return torch.cuda.device_count() if accelerator(settings) == "gpu" else 1


def too_many(threads: int | None) -> str | None:
    """Why this machine cannot run so many threads; None if it can. That is the machine's, and no outcome of a
    run."""
    cores = os.cpu_count() or 1
    if threads is None or threads <= _MOST * cores:
        return None
    return (
        f"trainer.threads {threads}: this machine has {cores} cores; give {_MOST * cores} at most, or leave "
        "it out, and torch chooses"
    )


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """So many of the CPU, and afterwards as many as before. None: as they are. Raises ValueError for too
    many."""
    import torch

    reason = too_many(number)
    if reason is not None:
        raise ValueError(reason)
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number is not None:
            torch.set_num_threads(before)


def elsewhere_launched() -> bool:
    """Started by torchrun, with all its ranks."""
    return "TORCHELASTIC_RUN_ID" in os.environ
