"""The loss on held-out text, whole and by document."""

from ablate.data.prepare import Prepared
from ablate.data.split import Split
from ablate.measure import Measured
from ablate.measure.trained import Trained
from ablate.registry import measure
from ablate.train.evaluate import Evaluation, evaluate
from ablate.train.texts import scores, texts_of

HELDOUT_NUMBERS = ("loss", "perplexity", "bits_per_byte")
_ROWS = 16  # of one forward pass


@measure("heldout", paper="the loss on text that neither training nor tuning has seen")
class Heldout:
    """The loss on the whole held-out split, at the final step, and its sums by document; of several sets also
    the loss on each, and `macro`, the mean over sets. Of a mixture, each source is a set."""

    reads_splits = ("heldout",)
    metrics = (*HELDOUT_NUMBERS, *(f"*/{number}" for number in HELDOUT_NUMBERS))

    def __call__(self, trained: Trained, prepared: Prepared) -> Measured:
        spec = trained.decoder.spec
        data = trained.record.spec["data"]

        def evaluated(split: Split) -> Evaluation:
            return evaluate(
                trained.decoder,
                split,
                spec.context,
                data["documents"],
                _ROWS,
                precision=trained.record.spec["precision"],
                by_document=True,
                prefix=data.get("prefix", False),
            )

        found, metrics = scores(texts_of(prepared, "heldout"), evaluated, "heldout")
        return Measured(
            metrics,
            {
                "heldout/by_document": list(found.by_document),
                "heldout/document_tokens": [float(n) for n in found.document_tokens],
            },
        )
