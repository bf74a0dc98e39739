"""The check of a specification before a study runs anything: `Backend.check`, which needs torch."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ablate.data.blend import refuse_text
from ablate.data.ngrams import reference_lines
from ablate.data.prepare import prepare
from ablate.model.decoder import Decoder
from ablate.model.head import TokenLoss
from ablate.model.loss import Sums
from ablate.model.measure import costs_of_run, of_run
from ablate.parts.base import ForwardContext, IncompatibleParts
from ablate.parts.kernel.auto import CUDA, ELSEWHERE
from ablate.registry import kernel
from ablate.spec import RunSpec
from ablate.study.design.planned import Facts
from ablate.train.settings import threads

_ROWS = 1  # of the forward pass that proves that an arm acts: of a whole context, for windows to act


def checker(cache: Path, device: str) -> Callable[[dict[str, Any]], Facts]:
    """Make the check for runs on `device`, cpu or cuda."""
    torch.set_num_threads(1)  # many small passes: two threads under other load are slower than one

    def check(node: dict[str, Any]) -> Facts:
        return facts(RunSpec.model_validate(node), cache, device)

    return check


def facts(spec: RunSpec, cache: Path, device: str) -> Facts:
    """The facts of a specification, or why it is refused. The model is built on the meta device for the
    counts, and in memory for a small forward pass."""
    try:
        ghost = of_run(spec, device)
        decoder = Decoder(spec.model.model_copy(update={"kernel": kernel.parse("auto")}))
        decoder.init_parameters(0, spec.seed.redraw)
    except IncompatibleParts as refusal:
        return Facts(refusals=(str(refusal),))
    prepared = prepare(spec.data, cache)
    try:
        refuse_text(prepared, spec)
    except ValueError as error:
        return Facts(refusals=(str(error),))
    if looks_ahead(decoder):
        return Facts(refusals=("a part looks ahead: the output at a token depends on later tokens",))
    shapes = {n: str(tuple(p.shape)) for n, p in ghost.named_parameters()}
    candidates = CUDA if device == "cuda" else ELSEWHERE
    costs = costs_of_run(spec, ghost)
    return Facts(
        id=spec.id(prepared.fingerprint),
        parameters={
            "total": costs.parameters,
            "non_embedding": costs.non_embedding,
            "active": costs.active,
        },
        flops_per_token=costs.training_flops,
        kv_bytes_per_token=costs.kv_bytes,
        memory_bytes=costs.training_bytes(spec.budget.batch_tokens, device),
        kernel=ghost.kernel.name,
        kernels=tuple(name for name in candidates if kernel_serves(spec, name, device)),
        tree={name: hashlib.sha256(shape.encode()).hexdigest() for name, shape in shapes.items()},
        output=output_hash(decoder, spec),
        reference=reference_lines(prepared, spec.budget.tokens),
    )


def kernel_serves(spec: RunSpec, name: str, device: str) -> bool:
    """Whether the kernel of that name can compute every layer of this model on the device."""
    if name not in kernel:
        return False
    try:
        model = spec.model.model_copy(update={"kernel": kernel.parse(name)})
        of_run(spec.model_copy(update={"model": model}), device)
    except IncompatibleParts:
        return False
    return True


def probe(spec: RunSpec) -> float:
    """Estimate the seconds of a run in one thread of this CPU, from three steps on a few rows. A rough guess:
    it knows nothing of the machine's other work."""
    rows, times = min(4, spec.rows), []
    with threads(1):
        decoder = Decoder(spec.model).init_parameters(0).train()
        tokens = torch.zeros(rows, spec.model.context, dtype=torch.long)
        for _ in range(3):
            begin = time.perf_counter()
            sums = decoder(tokens, targets=tokens, summed=True)
            assert isinstance(sums, Sums)
            sums.objective.backward()
            times.append(time.perf_counter() - begin)
    return min(times) * spec.steps * spec.rows / rows


def looks_ahead(decoder: Decoder) -> bool:
    """Whether logits change with later tokens. Two draws must say so: in one, rounding may choose between two
    experts."""
    decoder.eval()
    half = decoder.spec.context // 2

    def changes(seed: int) -> bool:
        tokens = random_tokens(decoder, seed)
        other = torch.cat((tokens[:, :half], (tokens[:, half:] + 1) % decoder.shape.vocab), 1)
        before, after = (decoder(each)[:, :half] for each in (tokens, other))
        scale = float(before.std()) if half else 0.0
        return not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)

    with torch.no_grad():
        return changes(0) and changes(1)


def random_tokens(decoder: Decoder, seed: int) -> torch.Tensor:
    """Tokens (ROWS, context)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(decoder.shape.vocab, (_ROWS, decoder.spec.context), generator=generator)


def output_hash(decoder: Decoder, spec: RunSpec) -> str:
    """A hash of what training sees on fixed tokens: the logits and the whole loss, with dropout drawn from a
    seed. It is computed on the CPU, whatever the device of the study."""
    decoder.train()
    tokens = random_tokens(decoder, 0)
    call = ForwardContext.of(tokens)
    call.aux = decoder.aux()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed.dropout)
        logits = decoder(tokens, ForwardContext.of(tokens))
        assert isinstance(logits, torch.Tensor)
        torch.manual_seed(spec.seed.dropout)
        losses = decoder(tokens, call, targets=tokens.roll(-1, 1))
        assert isinstance(losses, TokenLoss)
        loss = losses.nll.mean() + decoder.auxiliary(call.aux)
        if losses.z is not None:
            loss = loss + spec.model.head.z_loss * losses.z.mean()
    digest = hashlib.sha256(logits.numpy().tobytes())
    digest.update(loss.numpy().tobytes())
    return digest.hexdigest()
