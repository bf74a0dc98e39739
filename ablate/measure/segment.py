"""A stretch of a split, as a split of its own."""

import numpy as np

from ablate.data.split import Split


def segment(split: Split, first: int, tokens: int) -> Split:
    """`tokens` tokens from `first` on. A document that has begun before begins with the stretch. Its `bytes`
    are those of the whole split. Raises ValueError where the split ends before, or holds examples."""
    if split.loss_mask is not None:
        raise ValueError(f"data: the {split.name} split is of examples, each whole; it has no stretches")
    if first < 0 or first + tokens > len(split.tokens):
        raise ValueError(
            f"data: the {split.name} split has {len(split.tokens)} tokens; {first} to {first + tokens} were "
            "asked for"
        )
    inside = (
        split.document_offsets[(split.document_offsets > first) & (split.document_offsets < first + tokens)]
        - first
    )
    document_offsets = np.concatenate([np.zeros(1, dtype=np.int64), inside])
    return Split(split.name, split.tokens[first : first + tokens], document_offsets, split.bytes)
