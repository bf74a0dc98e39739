"""New tokens from a decoder, through the same forward pass as training."""

import hashlib
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.model.packed import packable, packed
from ablate.parts.base import ForwardContext, IncompatibleParts
from ablate.parts.memory import RollingCache

PACKING_TOKENS = 16  # laying out the weights (ablate.model.packed) costs as much as some ten steps


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | Sequence[int] = 0,
    stop: Collection[int] = (),
    restart: bool = False,
) -> Iterator[list[int | None]]:
    """Yields, step by step, each row's new token: None after a `stop` token, which is yielded itself.

    Prompts may differ in length. What a row gets does not depend on the other rows: each draws from a
    generator of its own, made from `seed` and its number, or from its own seed if `seed` is a sequence. A
    prefix decoder reads the prompt as its prefix. `restart` counts positions inside of what a window
    remembers (StreamingLLM), so that they never grow beyond it; every layer must have a window, and no
    position may act on the embedding.

    Raises ValueError for wrong arguments, and IncompatibleParts where positions would leave what the model
    can name; both at once, before the first step.
    """
    _check(decoder, prompts, max_tokens)
    sampler = Sampler(temperature, top_k, top_p, _seeds(seed, len(prompts)))
    longest = max(map(len, prompts))
    memories = decoder.memories(longest + max_tokens)
    if restart:
        if any(scheme.acts_on_embedding for scheme in decoder.positions):
            raise IncompatibleParts(
                "restart counts positions inside a window, and this model's act on the embedding"
            )
        memories = [_restarting(memory) for memory in memories]
    return _steps(decoder, prompts, max_tokens, sampler, frozenset(stop), memories)


def complete(
    decoder: Decoder, prompts: Sequence[Sequence[int]], max_tokens: int, **options: Any
) -> list[list[int]]:
    """The new tokens of each row, all at once. Options are those of `generate`."""
    rows: list[list[int]] = [[] for _ in prompts]
    for step in generate(decoder, prompts, max_tokens, **options):
        for row, token in zip(rows, step, strict=True):
            if token is not None:
                row.append(token)
    return rows


class Sampler:
    """Chooses the next token of each row from its logits.

    Temperature 0 takes the largest. Otherwise softmax(logits / temperature), cut to the `top_k` likeliest
    tokens, then to the smallest set of the likeliest that holds `top_p` of what is left (Holtzman et al.
    2020); one uniform number for each row and step, drawn on the CPU, so any device chooses the same.
    """

    def __init__(self, temperature: float, top_k: int | None, top_p: float | None, seeds: Sequence[int]):
        if not 0 <= temperature < math.inf:
            raise ValueError(
                f"temperature {temperature}: must be a number, at least 0 (0 takes the likeliest token)"
            )
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k {top_k}: must be at least 1")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"top_p {top_p}: must be above 0 and at most 1")
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, logits: Tensor) -> Tensor:
        """(B,V) -> (B,). Raises ValueError for logits that are not finite."""
        if not all(map(math.isfinite, logits.aminmax())):  # both are nan where one is
            raise ValueError("the model gives logits that are not finite: its weights have diverged")
        if self.temperature == 0:
            return logits.argmax(-1)
        p, token = self.probabilities(logits.cpu().double())
        upto = p.cumsum(-1)
        u = torch.stack([torch.rand((), generator=g, dtype=torch.double) for g in self.generators])
        chosen = torch.searchsorted(upto, u[:, None] * upto[:, -1:], right=True)
        return token.gather(-1, chosen.clamp(max=p.shape[-1] - 1))[:, 0].to(logits.device)

    def probabilities(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(B,V) -> those of the tokens that are left, the likeliest first, and which tokens they are."""
        ordered, token = torch.sort(logits, dim=-1, descending=True, stable=True)
        ordered, token = ordered[:, : self.top_k], token[:, : self.top_k]
        p = ((ordered - ordered[:, :1]) / self.temperature).softmax(-1)  # by a tiny one too
        if self.top_p is not None:
            before = p.cumsum(-1) - p
            inside = int((before < self.top_p).sum(-1).max())
            p = p.masked_fill(before >= self.top_p, 0)[:, :inside]
            token = token[:, :inside]
        return p / p.sum(-1, keepdim=True), token


def _check(decoder: Decoder, prompts: Sequence[Sequence[int]], max_tokens: int) -> None:
    if not prompts:
        raise ValueError("there is no prompt")
    if max_tokens < 1:
        raise ValueError(f"max_tokens {max_tokens}: must be at least 1")
    vocab = decoder.shape.vocab
    for n, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {n} is empty; a model needs a first token")
        wrong = [token for token in prompt if not 0 <= token < vocab]
        if wrong:
            raise ValueError(f"prompt {n}: there is no token {wrong[0]}; they are 0 to {vocab - 1}")
    positions = max(map(len, prompts)) + max_tokens - 1  # the last new token is not read
    for scheme, options in zip(decoder.positions, decoder.spec.distinct_positions(), strict=True):
        if scheme.max_positions is not None and positions > scheme.max_positions:
            raise IncompatibleParts(
                f"position {options.name} names {scheme.max_positions} positions; a prompt of "
                f"{max(map(len, prompts))} tokens and {max_tokens} new ones take {positions}. Shorten the "
                "prompt, or ask for fewer"
            )


def _seeds(seed: int | Sequence[int], rows: int) -> list[int]:
    if isinstance(seed, int):
        hashes = [hashlib.sha256(f"{seed}/{row}".encode()).digest() for row in range(rows)]
        return [int.from_bytes(h[:7]) for h in hashes]
    if len(seed) != rows:
        raise ValueError(f"{len(seed)} seeds for {rows} prompts; give one for each, or one number for all")
    return list(seed)


def _restarting(memory: Any) -> RollingCache:
    if not isinstance(memory, RollingCache):
        raise IncompatibleParts(
            "restart counts positions inside a window, and a layer of this model has none"
        )
    return RollingCache(memory.window, memory.sink_tokens, restart=True)


@torch.inference_mode()
def _steps(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    sampler: Sampler,
    stop: frozenset[int],
    memories: list[Any],
) -> Iterator[list[int | None]]:
    training = decoder.training
    if training:
        decoder.eval()
    try:
        device = decoder.embedding.weight.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        longest = int(lengths.max())
        tokens = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=device)
        whole = _reading(decoder, lengths, longest, memories)
        for a, b in _pieces(longest, memories):
            document = None if whole.document is None else whole.document[:, a:b]
            real = None if whole.real is None else whole.real[:, a:b]
            piece = ForwardContext(
                whole.positions[:, a:b], document, whole.prefix, memories, last=True, real=real
            )
            logits = decoder(tokens[:, a:b], piece)
        at = whole.positions[:, -1:]
        document = None if whole.document is None else whole.document[:, -1:]
        stopped = [False] * len(prompts)
        reader = decoder
        for step in range(max_tokens):
            chosen = sampler(logits[:, -1])
            new: list[int] = chosen.tolist()
            yield [None if s else token for s, token in zip(stopped, new, strict=True)]
            stopped = [s or token in stop for s, token in zip(stopped, new, strict=True)]
            if all(stopped) or step == max_tokens - 1:
                return
            at = at + 1
            if step == 0 and max_tokens > PACKING_TOKENS and packable(decoder):
                reader = packed(decoder)
            logits = reader(chosen[:, None], ForwardContext(at, document, whole.prefix, memories))
    finally:
        if training:
            decoder.train()


def _reading(decoder: Decoder, lengths: Tensor, longest: int, memories: list[Any]) -> ForwardContext:
    """How the prompts are read: padded on the left where they differ in length."""
    even = bool((lengths == longest).all())
    call = (
        ForwardContext(torch.arange(longest, device=lengths.device)[None])
        if even
        else ForwardContext.ragged(lengths, longest)
    )
    call.prefix = lengths if any(group.prefix for group in decoder.groups) else None
    call.memories = memories
    return call


def _pieces(longest: int, memories: list[Any]) -> list[tuple[int, int]]:
    """A restarting memory takes what it has room for at once, and the rest token by token."""
    room = [m.size for m in memories if isinstance(m, RollingCache) and m.restart]
    first = min([longest, *room])
    return [(0, first), *((n, n + 1) for n in range(first, longest))]
