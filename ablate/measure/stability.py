"""How near a run came to failing: from its curve, and from what its weights do to a fixed text."""

import logging
from typing import Annotated

import torch
from annotated_types import Ge, Gt

from ablate.data.prepare import Prepared
from ablate.data.stream import Stream
from ablate.measure import Measured
from ablate.measure.curve import curve_frame, spike_score
from ablate.measure.hooks import highest_logits, streams
from ablate.measure.segment import segment
from ablate.measure.trained import Trained
from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext
from ablate.registry import measure
from ablate.spec import RunSpec
from ablate.train.evaluate import evaluate, evaluating

_ROWS = 4  # of one forward pass: all scores of a layer are held at once

log = logging.getLogger("ablate.measure")


@measure("stability", paper="arXiv:2309.14322")
class _Stability:
    """Spikes and gradients of the curve; the highest attention logit, the mean output logit and the variance
    of the residual stream by layer (Wortsman et al. 2023, section 3; OLMo 2, arXiv:2501.00656; Peri-LN,
    arXiv:2502.02732), on the first `tokens` of the validation split. Where the run left no curve, its numbers
    are left out.
    """

    metrics = (
        "spikes_loss",
        "spikes_gradient",
        "gradient_mean",
        "gradient_max",
        "start_loss",
        "clipped_loss",
        "max_attention_logit",
        "output_logit_mean",
        "residual_growth",
    )

    def __init__(
        self,
        *,
        tokens: Annotated[int, Gt(0)] = 4096,
        window: Annotated[int, Ge(20)] = 1000,
        deviations: Annotated[float, Gt(0)] = 7.0,
    ):
        self.tokens, self.window, self.deviations = tokens, window, deviations

    def __call__(self, trained: Trained, prepared: Prepared) -> Measured:
        if trained.record.spec["data"].get("prefix"):
            raise ValueError("stability: it reads whole rows, and data.prefix=true makes others of them")
        inside = self.inside(trained, prepared)
        metrics = self.of_curve(trained) | self.of_start(trained, prepared) | inside.metrics
        return Measured(metrics, inside.vectors)

    def of_curve(self, trained: Trained) -> dict[str, float]:
        curve = curve_frame(trained.folder, trained.record)
        if curve is None:
            log.warning("stability: no curve in %s; its numbers are left out", trained.folder)
            return {}
        found = {
            "stability/gradient_mean": float(curve["grad_norm"].mean()),
            "stability/gradient_max": float(curve["grad_norm"].max()),
        }
        for name, column in (("loss", "loss"), ("gradient", "grad_norm")):
            score = spike_score(curve[column], self.window, self.deviations)
            if score is not None:
                found[f"stability/spikes_{name}"] = score
        return found

    def of_start(self, trained: Trained, prepared: Prepared) -> dict[str, float]:
        """The loss before training, l0, and min(l, l0). A run that began from other weights has none."""
        spec = RunSpec.model_validate(trained.record.spec)
        if spec.parent is not None:
            return {}
        decoder = trained.decoder
        device = str(decoder.embedding.weight.device)
        started = Decoder(decoder.spec, device, training=False).init_parameters(
            spec.seed.init, spec.seed.redraw
        )
        start = evaluate(
            started.to(device),
            prepared.splits["validation"],
            decoder.spec.context,
            spec.data.documents,
            _ROWS,
            precision=spec.precision,
            tokens=self.tokens,
        ).loss
        found = {"stability/start_loss": start}
        end = trained.record.metrics.get("validation/loss")
        if end is not None:
            found["stability/clipped_loss"] = min(end, start)
        return found

    @torch.no_grad()
    def inside(self, trained: Trained, prepared: Prepared) -> Measured:
        """In fp32 and with the reference kernel. Raises ValueError for a validation split of less than a
        window."""
        decoder, split = trained.decoder, prepared.splits["validation"]
        context = decoder.spec.context
        windows = max(1, min(self.tokens, len(split.tokens) - 1) // context)
        rows = min(_ROWS, windows)
        windows -= windows % rows
        text = segment(split, 0, windows * context + 1)
        stream = Stream(text, context, trained.record.spec["data"]["documents"], seed=0)
        device = decoder.embedding.weight.device
        variance, logit = torch.zeros(len(decoder.layers) + 1, dtype=torch.float64), 0.0
        with evaluating(decoder), streams(decoder) as heard, highest_logits(decoder) as highest:
            for batch in stream.evaluation_batches(rows):
                document = None if batch.document is None else batch.document.to(device)
                logits = decoder(
                    batch.tokens.to(device), ForwardContext(batch.positions.to(device), document)
                )
                logit += float(logits.double().mean()) * rows / windows
                variances = [x.double().var(-1, correction=0).mean() for x in heard]
                variance += torch.stack(variances).cpu() * rows / windows
        metrics = {"stability/output_logit_mean": logit}
        vectors = {"stability/residual_variance": variance.tolist()}
        if highest:
            by_layer = [highest[n] for n in sorted(highest)]
            vectors["stability/attention_logit"] = by_layer
            metrics["stability/max_attention_logit"] = max(by_layer)
        growth = growth_of(variance.tolist())
        if growth is not None:
            metrics["stability/residual_growth"] = growth
        return Measured(metrics, vectors)


def growth_of(variance: list[float]) -> float | None:
    """The slope of log variance against log l, over the layers l = 1..L (the first number is what enters
    them): 1 is growth in proportion to depth, 0 none. None with fewer than three layers."""
    import numpy as np
    from scipy import stats

    of_layers = np.array(variance[1:])
    if len(of_layers) < 3 or not (of_layers > 0).all():
        return None
    return float(stats.linregress(np.log(np.arange(1, len(of_layers) + 1)), np.log(of_layers)).slope)
