"""A started model that passes for a trained one, and text for it: what a measure is called with."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import model
from conftest import SMALL

from ablate.data.prepare import Prepared
from ablate.data.split import Split
from ablate.measure.trained import Trained
from ablate.record import RunRecord
from ablate.spec import RunSpec

VOCAB = SMALL["vocab"]


def split(name: str, tokens: int, document: int = 37) -> Split:
    """Random tokens, in documents of the given length."""
    drawn = np.random.default_rng(len(name)).integers(VOCAB, size=tokens).astype(np.uint16)
    return Split(name, drawn, np.arange(0, tokens, document), tokens)


def text(tokens: int = 2000, document: int = 37) -> Prepared:
    splits = {name: split(name, tokens, document) for name in ("train", "validation", "heldout")}
    tokenizer: Any = None
    return Prepared({}, tokenizer, VOCAB, splits, {}, Path())


def trained(
    case: dict[str, Any], documents: str = "joined", dtype: torch.dtype = torch.float64, **options: Any
) -> Trained:
    """`options` are those of the record."""
    context = case.get("context", SMALL["context"])
    spec = RunSpec.model_validate(
        {
            "model": {**SMALL, **case},
            "data": {
                "source": {"name": "text", "files": ["a"]},
                "tokenizer": "bytes",
                "documents": documents,
            },
            "optim": "adamw",
            "schedule": "cosine",
            "budget": {"tokens": 10 * context, "batch_tokens": context},
            "evaluation": {"every": 4, "tokens": 1000},
            "seed": 0,
        }
    )
    node = {"id": "0" * 12, "status": "finished", "source_hash": "c", "fingerprint": {}}
    record = RunRecord.model_validate({**node, "spec": spec.model_dump(mode="json"), **options})
    return Trained(model(case, dtype), None, record)
