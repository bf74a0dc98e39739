"""What to type here instead of the words of other tools, and of earlier versions of these commands."""

from collections.abc import Iterable, Mapping, Sequence

_STEPS = "training ends by tokens: budget.tokens=N; a step takes budget.batch_tokens of them"

# Keys that a person may type to train.py, with what they are called here.
TRAIN: dict[str, str] = {
    "experiment": "is called preset here: preset=NAME; studies are run with sweep.py experiment=NAME",
    "trainer.max_steps": _STEPS,
    "trainer.max_epochs": _STEPS,
    "max_steps": _STEPS,
    "trainer.precision": "is a field of the run: precision=fp32 or precision=bf16",
    "trainer.accumulate_grad_batches": "batches are split by rows: trainer.micro_batch_size=N rows at a time",
    "trainer.gradient_clip_val": "is a field of the run: clip=1.0, or clip=null for none",
    "trainer.num_nodes": "is called trainer.nodes here",
    "model.layers": "the number of layers is model.depth; model/layers=NAME chooses a pattern of layers",
    "lr": "belongs to the optimizer: optim.lr=...",
    "store": "is called runs here: runs=FOLDER",
}
# The same for sweep.py.
SWEEP: dict[str, str] = {
    "store": "is called runs here: runs=FOLDER",
    "race": "is called timing here: timing=true",
    "replicas": "is called ensemble here: ensemble=off, auto or N",
    "study": "is called experiment here: experiment=NAME",
}
VALUES: dict[str, str] = {
    "precision: Input should be": "bf16 here is mixed: weights and optimizer stay in fp32",
}


def foreign(overrides: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Find overrides whose key is called otherwise here; returns a line for each."""
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides if "=" in override]
    return [f"{key}: {names[key]}" for key in keys if key in names]


def hinted(mistakes: Iterable[str]) -> list[str]:
    """Add to each mistake what to type, where one of `VALUES` knows it."""

    def with_hint(line: str) -> str:
        return next((f"{line}; {hint}" for start, hint in VALUES.items() if line.startswith(start)), line)

    return [with_hint(line) for line in mistakes]
