"""The same LLaMA-shaped decoder from this project and from its peers, and one training step of each.

Peers are optional (`pip install -e '.[bench]'`): one that is absent is left out with a line that says so.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.model.decoder import Decoder
from ablate.parts.linear import BY_HAND, onednn
from ablate.spec import ModelSpec

Loss = Callable[[Tensor, Tensor], Tensor]  # tokens and targets (B,T) -> the mean loss


class Size(NamedTuple):
    name: str
    vocab: int
    width: int
    depth: int
    heads: int
    hidden: int
    context: int
    rows: int

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.rows * self.context


SIZES = {
    size.name: size
    for size in (
        Size("1M", 1024, 128, 4, 4, 352, 256, 8),
        Size("7M", 4096, 256, 6, 8, 704, 256, 8),
        Size("125M", 25_600, 768, 12, 12, 2048, 128, 2),
    )
}


def spec(size: Size, changes: dict[str, Any] | None = None) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "width": size.width,
            "depth": size.depth,
            "heads": size.heads,
            "context": size.context,
            "vocab": size.vocab,
            "norm": "rmsnorm",
            "placement": "pre",
            "topology": "serial",
            "position": "rope",
            "attention": "softmax",
            "ffn": {"name": "glu", "activation": "silu", "width": size.hidden},
            "embedding": {"norm": "none"},
            "head": {"tied": False},
            "init": "gpt2",
            "kernel": "auto",
            **(changes or {}),
        }
    )


def ablate(size: Size, device: str = "cpu", changes: dict[str, Any] | None = None) -> tuple[nn.Module, Loss]:
    """As it is trained: on a GPU in bf16."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = Decoder(spec(size, changes), device, dtype=dtype).init_parameters(0).train()
    return model, lambda tokens, targets: model(tokens, None, targets, summed=True).objective / size.tokens


def transformers(size: Size) -> tuple[nn.Module, Loss]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.width,
        intermediate_size=size.hidden,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        max_position_embeddings=size.context,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).train()
    return model, lambda tokens, targets: mean_loss(model(tokens).logits, targets)


def litgpt(size: Size) -> tuple[nn.Module, Loss]:
    from litgpt import GPT, Config

    config = Config(
        name="llama",
        block_size=size.context,
        n_layer=size.depth,
        n_embd=size.width,
        n_head=size.heads,
        vocab_size=size.vocab,
        padded_vocab_size=size.vocab,
        intermediate_size=size.hidden,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        parallel_residual=False,
        rotary_percentage=1.0,
        bias=False,
    )
    model = GPT(config).train()
    return model, lambda tokens, targets: mean_loss(model(tokens), targets)


def x_transformers(size: Size) -> tuple[nn.Module, Loss]:
    from x_transformers import Decoder as Layers
    from x_transformers import TransformerWrapper

    head_width = size.width // size.heads
    model = TransformerWrapper(
        num_tokens=size.vocab,
        max_seq_len=size.context,
        use_abs_pos_emb=False,
        attn_layers=Layers(
            dim=size.width,
            depth=size.depth,
            heads=size.heads,
            attn_dim_head=head_width,
            attn_flash=True,
            use_rmsnorm=True,
            rotary_pos_emb=True,
            rotary_emb_dim=head_width,
            ff_mult=size.hidden / size.width,
            ff_glu=True,
            ff_swish=True,
            ff_no_bias=True,
        ),
    ).train()
    return model, lambda tokens, targets: mean_loss(model(tokens), targets)


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


MAKERS: dict[str, Any] = {
    "ablate": ablate,
    "transformers": transformers,
    "litgpt": litgpt,
    "x-transformers": x_transformers,
}


def installed(name: str) -> bool:
    """Says so where it is not."""
    if find_spec(name.replace("-", "_")) is not None:
        return True
    print(f"{name} is not installed, so it is left out (pip install -e '.[bench]')", flush=True)
    return False


def built(size: Size) -> Iterator[tuple[str, nn.Module, Loss]]:
    """Those that are installed. Raises ValueError where one has another number of parameters than ours, up to
    the 1% that biases and norms may add."""
    expected = 0
    for name, make in MAKERS.items():
        if not installed(name):
            continue
        torch.manual_seed(0)
        model, loss = make(size)
        count = sum(p.numel() for p in model.parameters())
        expected = expected or count
        if abs(count - expected) > 0.01 * expected:
            raise ValueError(f"{name} has {count} parameters, where ablate has {expected}")
        yield name, model, loss


def step(
    model: nn.Module, loss: Loss, size: Size, bf16: bool = False, device: str = "cpu"
) -> Callable[[], None]:
    """Forward, backward and fused AdamW on the same batch."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    drawn = torch.randint(
        size.vocab, (size.rows, size.context + 1), generator=torch.Generator().manual_seed(0)
    )
    tokens, targets = (x.contiguous().to(device) for x in (drawn[:, :-1], drawn[:, 1:]))

    def once() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            value = loss(tokens, targets)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return once


class Products:
    """The matrix products of a training step and nothing else: for each matrix that multiplies tokens, the
    output, the gradient of the input and that of the weight, by the library that is faster here."""

    def __init__(self, size: Size, dtype: torch.dtype):
        C, H, V, N = size.width, size.hidden, size.vocab, size.tokens
        self.counts = {(C, C): 4 * size.depth, (C, H): 2 * size.depth, (H, C): size.depth, (C, V): 1}
        self.operands = {shape: draw(N, *shape, dtype) for shape in self.counts}
        self.flops = sum(6 * N * m * n * count for (m, n), count in self.counts.items())
        self.multiply = onednn if dtype == torch.float32 and BY_HAND else F.linear

    def __call__(self) -> None:
        for shape, count in self.counts.items():
            x, y, w = self.operands[shape]
            for _ in range(count):
                self.multiply(x, w)
                self.multiply(y, w.T)
                self.multiply(y.T, x.T)


def draw(rows: int, m: int, n: int, dtype: torch.dtype) -> list[Tensor]:
    """Input (rows, m), output (rows, n) and weight (n, m) of a product."""
    return [torch.rand(shape).to(dtype) for shape in ((rows, m), (rows, n), (n, m))]
