"""The contracts of a language model, held against anybody's: tokens (B,T) in, logits (B,T,V) out.

Of a model of Hugging Face its own cache is held against the whole pass, too. Nothing is trained; the model's
weights are left as they are. Differences are relative to the spread of the logits, and what counts as one
stands far above what rounding does (`Judge.limit`).
"""

import copy
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ContractVerdict = Literal["kept", "broken", "not checked"]
CACHES = ("past_key_values", "cache_params")
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5}  # a model's own noise is added to it


class Contract(NamedTuple):
    """What was found of one contract."""

    name: str
    verdict: ContractVerdict
    finding: str


class Subject:
    """A model that is checked, and how it is called."""

    def __init__(self, module: nn.Module, vocab: int, rows: int, length: int, seed: int = 0):
        """Raises ValueError for tokens of which nothing can be seen."""
        if rows < 2 or length < 8:
            raise ValueError(f"rows {rows}, length {length}: at least 2 and 8 are needed")
        if vocab < 3:
            raise ValueError(f"vocab {vocab}: at least 3 are needed")
        self.module, self.vocab = module.eval(), vocab
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(vocab, (rows, length), generator=generator)
        self.other = (self.tokens + 1 + torch.randint(vocab - 1, (rows, length), generator=generator)) % vocab

    def logits(self, tokens: Tensor) -> Tensor:
        """(B,T,V). Raises ValueError where the model gives something else."""
        return logits_of(self.module, tokens)


def logits_of(module: nn.Module, tokens: Tensor) -> Tensor:
    """What a model gives for tokens (B,T), (B,T,V). Raises ValueError where that is something else."""
    out = module(tokens)
    logits = getattr(out, "logits", out[0] if isinstance(out, tuple | list) else out)
    if not isinstance(logits, Tensor) or logits.shape[:2] != tokens.shape or logits.ndim != 3:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"the model gives {shape} for tokens {tuple(tokens.shape)}; logits (B, T, V) are needed"
        )
    return logits


class Judge:
    """Holds the contracts against one subject."""

    def __init__(self, subject: Subject):
        self.subject = subject
        self.whole = self.read(subject.tokens)
        self.spread = float(self.whole.std().clamp(min=1e-12))
        again = self.read(subject.tokens)
        self.noise = self.apart(again, self.whole)
        self.limit = ROUNDING.get(self.whole.dtype, 1e-2) + 10 * self.noise

    @torch.no_grad()
    def read(self, tokens: Tensor) -> Tensor:
        return self.subject.logits(tokens)

    def apart(self, a: Tensor, b: Tensor) -> float:
        """The largest difference, in spreads of the logits; not finite is infinite."""
        largest = float((a - b).abs().max()) if a.numel() else 0.0
        return largest / self.spread if largest == largest else float("inf")

    def contracts(self) -> Iterator[Contract]:
        yield self.finite()
        yield self.deterministic()
        yield self.looks_ahead()
        yield self.rows_apart()
        yield self.tokens_act()
        yield self.cached()
        yield self.gradients()
        yield self.half()

    def finite(self) -> Contract:
        wrong = int((~self.whole.isfinite()).sum())
        return contract_of("finite logits", not wrong, f"{wrong} of {self.whole.numel()} are not")

    def deterministic(self) -> Contract:
        return contract_of(
            "deterministic", self.noise == 0, f"the same tokens twice differ by {self.noise:.1e}"
        )

    def looks_ahead(self) -> Contract:
        """Later tokens are changed, at several places; no earlier logit may move."""
        tokens, length = self.subject.tokens, self.subject.tokens.shape[1]
        worst, where = 0.0, 0
        for cut in sorted({1, length // 4, length // 2, length - length // 4, length - 1}):
            changed = torch.cat((tokens[:, :cut], self.subject.other[:, cut:]), 1)
            found = self.apart(self.read(changed)[:, :cut], self.whole[:, :cut])
            if found > worst:
                worst, where = found, cut
        return contract_of(
            "no look-ahead",
            worst <= self.limit,
            f"tokens from {where} on move earlier logits by {worst:.1e}",
            f"at most {worst:.1e}",
        )

    def rows_apart(self) -> Contract:
        """What stands in one row may not act on another."""
        tokens = torch.cat((self.subject.tokens[:1], self.subject.other[1:]))
        found = self.apart(self.read(tokens)[:1], self.whole[:1])
        alone = self.apart(self.read(self.subject.tokens[:1]), self.whole[:1])
        return contract_of(
            "rows apart",
            max(found, alone) <= self.limit,
            f"other rows move a row's logits by {max(found, alone):.1e}",
        )

    def tokens_act(self) -> Contract:
        """Each token acts on the logits at its place and on the last ones."""
        tokens = self.subject.tokens
        idle = []
        for t in range(tokens.shape[1]):
            changed = tokens.clone()
            changed[:, t] = self.subject.other[:, t]
            moved = self.read(changed) - self.whole
            if not float(moved[:, t].abs().max()) > 0:
                idle.append(t)
        return contract_of("tokens act", not idle, f"at {some(idle)} a token moves no logit of its own place")

    def cached(self) -> Contract:
        """Token by token with the model's own cache, against the whole pass (Hugging Face's interface)."""
        name = "cached is whole"
        if not hasattr(self.subject.module, "generation_config"):
            return Contract(name, "not checked", "the model has no cache of Hugging Face's kind")
        cache: dict[str, Any] = {}  # by the name that the model itself gives it: others it takes and ignores
        logits, tokens = [], self.subject.tokens
        prompt = tokens.shape[1] // 2
        with torch.no_grad():
            for piece in (tokens[:, :prompt], *tokens[:, prompt:].split(1, 1)):
                out = self.subject.module(piece, use_cache=True, **cache)
                cache = {key: out[key] for key in CACHES if getattr(out, key, None) is not None}
                if not cache:
                    return Contract(name, "not checked", f"the model gives back none of {', '.join(CACHES)}")
                logits.append(out.logits)
        found = self.apart(torch.cat(logits, 1), self.whole)
        kept = found <= max(self.limit, 1e-4)
        return contract_of(name, kept, f"differs by {found:.1e}", f"differs by {found:.1e}")

    def gradients(self) -> Contract:
        """Every parameter is reached by the loss of the next token, and no gradient is infinite."""
        module, tokens = self.subject.module, self.subject.tokens
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not trained:
            return Contract("gradients", "not checked", "the model has no parameter that is trained")
        logits = self.subject.logits(tokens)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        still = [n for n, g in zip(trained, found, strict=True) if g is None or not g.abs().sum() > 0]
        wild = [n for n, g in zip(trained, found, strict=True) if g is not None and not g.isfinite().all()]
        said = [f"none reaches {some(still)}"] * bool(still) + [f"not finite: {some(wild)}"] * bool(wild)
        return contract_of("gradients", not said, "; ".join(said), f"all {len(trained)} tensors are reached")

    def half(self) -> Contract:
        """In bf16 the model runs and says nearly the same."""
        try:
            twin = copy.deepcopy(self.subject.module).to(torch.bfloat16)
            with torch.no_grad():
                out = logits_of(twin, self.subject.tokens)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            return Contract("bf16", "broken", f"does not run: {str(error).splitlines()[0][:120]}")
        found = self.apart(out.to(self.whole.dtype), self.whole)
        rms = float((out.to(self.whole.dtype) - self.whole).square().mean().sqrt()) / self.spread
        return contract_of(
            "bf16", rms < 0.2 and found == found, f"differs by {rms:.2g} (RMS)", f"RMS {rms:.1g}"
        )


def contract_of(name: str, kept: bool, wrong: str, right: str = "") -> Contract:
    """Kept, with `right` as the finding, or broken, with `wrong`."""
    return Contract(name, "kept", right) if kept else Contract(name, "broken", wrong)


def some(names: list[Any]) -> str:
    """The first few of them."""
    shown = ", ".join(str(name) for name in names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
