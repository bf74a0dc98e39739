"""The share of answers that are right in generated examples."""

from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt, Le

from ablate.data.prepare import Prepared
from ablate.data.split import Split
from ablate.data.stream import NO_LOSS, Stream
from ablate.measure import Measured
from ablate.measure.trained import Trained
from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext
from ablate.registry import measure
from ablate.train.evaluate import evaluating, on_device

_ROWS = 16  # of one forward pass


@measure("skill", paper="arXiv:2312.04927")
class Skill:
    """How often the likeliest token is the answer, on held-out examples: of all answers (`accuracy`), and of
    all examples, every answer of each (`exact`, as in arXiv:2305.19466). `solved` is 1 where `exact` is at
    least `threshold`.

    Each answer is predicted with the right ones before it given (teacher forcing). An example is exact in
    this way if and only if greedy generation gives all its answers (where they come one after another).

    Examples may be longer than any of training (`*_beyond`; the others are `*_within`) and than the model's
    context. The vectors have an entry for each kind of example (`tokens` in it and `answers` among them):
    their number (`examples`), `accuracy` and `exact`.

    Raises ValueError where the text is no examples, or a position cannot name the places of the longest.
    """

    reads_splits = ("heldout",)
    metrics = ("accuracy", "exact", "solved", "*_within", "*_beyond")

    def __init__(self, *, threshold: Annotated[float, Gt(0), Le(1)] = 0.9):
        self.threshold = threshold

    def __call__(self, trained: Trained, prepared: Prepared) -> Measured:
        split = prepared.splits["heldout"]
        if split.loss_mask is None:
            raise ValueError(
                "skill: the held-out split has no answers; use data=mqar, induction, copy or reverse"
            )
        right = answered(trained.decoder, split, trained.record.spec["precision"])
        answers = np.add.reduceat(split.loss_mask, split.document_offsets, dtype=np.int64)
        longest = int(answer_sizes(prepared.splits["train"]).max())
        return skill_metrics(answer_sizes(split), answers, right, longest, self.threshold)


def answered(decoder: Decoder, split: Split, precision: str) -> np.ndarray:
    """(examples,) how many of its answers are the likeliest token, for each example of the split."""
    context = int(answer_sizes(split).max()) - 1
    for scheme in decoder.positions:
        if scheme.max_positions is not None and context > scheme.max_positions:
            raise ValueError(
                f"skill: the longest held-out example takes {context} positions, and the model can name "
                f"{scheme.max_positions}; raise model.context, or test shorter examples"
            )
    device = decoder.embedding.weight.device
    right = np.zeros(len(split.document_offsets), dtype=np.int64)
    with (
        evaluating(decoder),
        torch.no_grad(),
        torch.autocast(device.type, torch.bfloat16, precision == "bf16"),
    ):
        for batch in Stream(split, context, "joined", seed=0).evaluation_batches(_ROWS, by_document=True):
            assert batch.document_index is not None
            given = on_device(batch, device)
            likeliest = (
                decoder(given.tokens, ForwardContext(given.positions, real=given.real)).argmax(-1).cpu()
            )
            hit = (batch.targets != NO_LOSS) & (likeliest == batch.targets)
            right += np.bincount(batch.document_index[hit].numpy(), minlength=len(right))
    return right


def answer_sizes(split: Split) -> np.ndarray:
    """(documents,) tokens."""
    return np.diff(split.document_offsets, append=len(split.tokens))


def skill_metrics(
    tokens: np.ndarray, answers: np.ndarray, right: np.ndarray, longest: int, threshold: float
) -> Measured:
    """All three (examples,): tokens, answers, and right answers; `longest` had so many tokens in training."""
    exact = right == answers
    metrics = {
        "skill/accuracy": float(right.sum() / answers.sum()),
        "skill/exact": float(exact.mean()),
        "skill/solved": float(exact.mean() >= threshold),
    }
    beyond = tokens > longest
    for name, chosen in (("within", ~beyond), ("beyond", beyond)):
        if beyond.any() and chosen.any():
            metrics[f"skill/accuracy_{name}"] = float(right[chosen].sum() / answers[chosen].sum())
            metrics[f"skill/exact_{name}"] = float(exact[chosen].mean())
    kinds, kind = np.unique(np.stack([tokens, answers], 1), axis=0, return_inverse=True)
    number = np.bincount(kind)
    return Measured(
        metrics,
        {
            "skill/tokens": kinds[:, 0].astype(float).tolist(),
            "skill/answers": kinds[:, 1].astype(float).tolist(),
            "skill/examples": number.astype(float).tolist(),
            "skill/accuracy": (np.bincount(kind, right) / np.bincount(kind, answers)).tolist(),
            "skill/exact": (np.bincount(kind, exact) / number).tolist(),
        },
    )
