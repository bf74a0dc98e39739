"""Lightning's Trainer for given settings."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from ablate.spec import RunSpec
from ablate.train.settings import Settings, accelerator, devices, elsewhere_launched


def trainer(spec: RunSpec, settings: Settings, callbacks: list[Callback], profiler: Any = None) -> Trainer:
    """Everything that Lightning would show, log or keep by itself is switched off: `Watch` does it."""
    world = devices(settings)
    plugins: list[Any] = []
    if not elsewhere_launched():
        plugins.append(LightningEnvironment())
    return Trainer(
        accelerator=accelerator(settings),
        devices=world,
        num_nodes=settings.nodes,
        strategy=strategy(settings, world * settings.nodes),
        precision="bf16-mixed" if spec.precision == "bf16" else "32-true",
        max_epochs=1,
        callbacks=callbacks,
        profiler=profiler,
        plugins=plugins,
        logger=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def strategy(settings: Settings, world: int) -> Strategy | str:
    """Lightning's strategy for these settings on `world` devices."""
    if settings.strategy == "fsdp":
        return ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1)
    if settings.strategy == "ddp" or world > 1:
        # Buffers (the bias of experts) are the same on all ranks by construction.
        return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    return "auto"


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's tips and notices. Errors are exceptions, and pass."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            # It warns of changing the losses in place, which nothing here does.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
