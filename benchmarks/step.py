"""One training step against transformers' LlamaForCausalLM of the same shape, interleaved in one process.

    python benchmarks/step.py [--compiled] [--bf16] [--rounds 5] [--threads 2]

LLaMA-shaped, 6.9M parameters: vocabulary 4096, width 256, 6 layers, 8 heads, context 256, batch 8; forward,
backward and fused AdamW. Prints tokens/s (median of rounds) and the ratio, paired by round.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

Clock = Callable[[], float]
V, C, L, H, F, T, B = 4096, 256, 6, 8, 704, 256, 8


def ours() -> nn.Module:
    from ablate.model.decoder import Decoder
    from ablate.spec import ModelSpec

    spec = ModelSpec.model_validate(
        {
            "width": C,
            "depth": L,
            "heads": H,
            "context": T,
            "vocab": V,
            "norm": "rmsnorm",
            "placement": "pre",
            "topology": "serial",
            "position": "rope",
            "attention": "softmax",
            "ffn": {"name": "glu", "width": F},
            "embedding": {"norm": "none"},
            "head": {"tied": False},
            "init": "gpt2",
            "kernel": "auto",
        }
    )
    return Decoder(spec).start(0)


def theirs() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=V,
        hidden_size=C,
        intermediate_size=F,
        num_hidden_layers=L,
        num_attention_heads=H,
        max_position_embeddings=T,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def stepper(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], bf16: bool) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    tokens = torch.randint(V, (B, T + 1), generator=torch.Generator().manual_seed(0))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss(tokens[:, :-1], tokens[:, 1:].contiguous())
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def rivals(compiled: bool, bf16: bool) -> dict[str, Callable[[], None]]:
    mine, peer = ours(), theirs()
    if compiled:
        mine.compile()
        peer.compile()

    def my_loss(tokens: Tensor, targets: Tensor) -> Tensor:
        return mine(tokens, None, targets).nll.mean()

    def peer_loss(tokens: Tensor, targets: Tensor) -> Tensor:
        logits = peer(tokens).logits
        return nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    return {
        "ablate": stepper(mine, my_loss, bf16),
        "transformers": stepper(peer, peer_loss, bf16),
    }


def race(
    steps: dict[str, Callable[[], None]], rounds: int, each: int, clock: Clock
) -> dict[str, list[float]]:
    """Tokens per second of each, by round."""
    for step in steps.values():
        for _ in range(3):
            step()
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            begin = clock()
            for _ in range(each):
                step()
            rates[name].append(each * B * T / (clock() - begin))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--each", type=int, default=4, help="steps of a round")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = (
        time.process_time if given.threads == 1 else time.perf_counter
    )  # CPU time where others are at work
    rates = race(rivals(given.compiled, given.bf16), given.rounds, given.each, clock)
    for name, values in rates.items():
        print(f"{name:14} {statistics.median(values):7.0f} tokens/s  [{min(values):.0f}..{max(values):.0f}]")
    paired = [a / b for a, b in zip(rates["ablate"], rates["transformers"], strict=True)]
    print(f"ablate / transformers: {statistics.median(paired):.3f}  [{min(paired):.2f}..{max(paired):.2f}]")


if __name__ == "__main__":
    main()
