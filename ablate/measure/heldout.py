"""The loss on held-out text, whole and by document."""

import math

from ablate.data.prepare import Prepared
from ablate.measure import Measured
from ablate.measure.trained import Trained
from ablate.registry import measure
from ablate.train.evaluate import evaluate

ROWS = 16  # of one forward pass


@measure("heldout", paper="the loss on text that neither training nor tuning has seen")
class Heldout:
    """The loss on the whole held-out split, at the final step, and its sums by document."""

    reads_splits = ("heldout",)
    metrics = ("loss", "perplexity", "bits_per_byte")

    def __call__(self, trained: Trained, prepared: Prepared) -> Measured:
        spec = trained.decoder.spec
        data = trained.record.spec["data"]
        split = prepared.splits["heldout"]
        found = evaluate(
            trained.decoder,
            split,
            spec.context,
            data["documents"],
            ROWS,
            precision=trained.record.spec["precision"],
            by_document=True,
            prefix=data.get("prefix", False),
        )
        metrics = {"heldout/loss": found.loss, "heldout/perplexity": math.exp(min(found.loss, 700.0))}
        # Of generated examples only the answers have a loss, and of bare tokens the text is not known.
        if split.loss_mask is None and split.bytes:
            metrics["heldout/bits_per_byte"] = found.loss / math.log(2) / split.bytes_per_token
        return Measured(
            metrics,
            {
                "heldout/by_document": list(found.by_document),
                "heldout/document_tokens": [float(n) for n in found.document_tokens],
            },
        )
