"""Is our training loop the one that people know? nanoGPT's shakespeare_char on a CPU (experiment
`nanogpt_shakespeare`) against a plain-torch loop written here, from the same weights and batches.

    python benchmarks/faithful.py input.txt             # 50 steps: the largest difference of the losses
    python benchmarks/faithful.py input.txt --whole     # 2,000 steps, three seeds: 1.88 in nanoGPT's README
"""

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.data.prepare import Prepared, prepare
from ablate.data.stream import Stream
from ablate.model.decoder import Decoder
from ablate.spec import RunSpec
from ablate.train.fit import fit
from ablate.train.settings import Settings

CONF = Path(__file__).resolve().parent.parent / "conf"


def specification(text: Path, *overrides: str) -> RunSpec:
    """The experiment, from its file."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    words = ["experiment=nanogpt_shakespeare", f"data.source.files=[{text.resolve()}]", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = OmegaConf.to_container(compose("train", words), resolve=True)
    assert isinstance(node, dict)
    return RunSpec.model_validate({name: node[name] for name in RunSpec.model_fields if name in node})


def resolved(spec: RunSpec, cache: Path) -> tuple[RunSpec, Prepared]:
    """With the vocabulary of the text."""
    prepared = prepare(spec.data, cache)
    model = spec.model.model_copy(update={"vocab": prepared.vocab})
    return spec.model_copy(update={"model": model}), prepared


# ------------------------------------------------------------------------------------- the reference


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.before_mlp = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(self.before_attention(x)).view(B, T, 3, self.heads, C // self.heads).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        scores = (q @ k.mT) / math.sqrt(q.shape[-1])
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        y = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.before_mlp(x))))


class GPT(nn.Module):
    """GPT-2 without biases, its head tied to the embedding."""

    def __init__(self, vocab: int, context: int, width: int, depth: int, heads: int):
        super().__init__()
        self.tokens = nn.Embedding(vocab, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.last = nn.LayerNorm(width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.last(x) @ self.tokens.weight.T


def copy_of(decoder: Decoder, gpt: GPT) -> GPT:
    """Our weights under the reference's names."""
    ours = decoder.state_dict()
    theirs = {
        "tokens.weight": ours.pop("embedding.weight"),
        "places.weight": ours.pop("positions.0.table.weight"),
        "last.weight": ours.pop("final_norm.weight"),
    }
    for n in range(len(gpt.blocks)):
        layer = f"layers.{n}."
        qkv = [ours.pop(f"{layer}attention.{name}.weight") for name in ("q", "k", "v")]
        theirs |= {
            f"blocks.{n}.qkv.weight": torch.cat(qkv),
            f"blocks.{n}.out.weight": ours.pop(f"{layer}attention.out.weight"),
            f"blocks.{n}.up.weight": ours.pop(f"{layer}ffn.up.weight"),
            f"blocks.{n}.down.weight": ours.pop(f"{layer}ffn.down.weight"),
            f"blocks.{n}.before_attention.weight": ours.pop(f"{layer}attention_residual.input_norm.weight"),
            f"blocks.{n}.before_mlp.weight": ours.pop(f"{layer}ffn_residual.input_norm.weight"),
        }
    if ours:
        raise ValueError(f"the reference has no place for {', '.join(ours)}")
    gpt.load_state_dict(theirs)
    return gpt


def reference(spec: RunSpec, prepared: Prepared, warmup: int) -> list[float]:
    """The loss at each step, by nanoGPT's recipe."""
    shape, steps = spec.model.shape(), spec.steps
    gpt = GPT(shape.vocab, shape.context, shape.width, shape.depth, shape.heads)
    copy_of(Decoder(spec.model).init_parameters(spec.seed.init), gpt)
    matrices = [p for p in gpt.parameters() if p.dim() >= 2]
    vectors = [p for p in gpt.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    stream = Stream(prepared.splits["train"], shape.context, "joined", spec.seed.data)
    losses = []
    for step in range(steps):
        if step < warmup:
            lr = 1e-3 * (step + 1) / (warmup + 1)
        else:
            way = (step - warmup) / (steps - warmup)
            lr = 1e-4 + 0.5 * (1 + math.cos(math.pi * way)) * (1e-3 - 1e-4)
        for group in optimizer.param_groups:
            group["lr"] = lr
        batch = stream.batch(step, 12)
        loss = F.cross_entropy(gpt(batch.tokens).flatten(0, 1), batch.targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


# ------------------------------------------------------------------------------------ what is asked


def compare(text: Path, folder: Path, steps: int = 50, warmup: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """(our losses, the reference's), a schedule of `steps` with all its parts."""
    spec, prepared = resolved(
        specification(
            text, f"budget.tokens={768 * steps}", f"schedule.warmup={warmup}", "evaluation.every=0"
        ),
        folder / "cache",
    )
    record = fit(spec, prepared, Settings(accelerator="cpu", progress=False), folder / "runs")
    ours = pd.read_parquet(folder / "runs" / record.id / "curve.parquet")["loss"]
    return ours.to_numpy(), np.array(reference(spec, prepared, warmup))


def whole(text: Path, folder: Path) -> list[float]:
    """The loss on the whole validation split, for three seeds."""
    losses = []
    for seed in range(3):
        spec, prepared = resolved(specification(text, f"seed={seed}"), folder / "cache")
        record = fit(spec, prepared, Settings(accelerator="cpu"), folder / "runs")
        losses.append(record.metrics["validation/loss"] or math.nan)
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--whole", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if chosen.whole:
            losses = whole(chosen.text, Path(folder))
            print(f"validation loss {np.mean(losses):.4f}, of seeds {', '.join(f'{x:.4f}' for x in losses)}")
        else:
            ours, theirs = compare(chosen.text, Path(folder))
            print(f"{len(ours)} steps, from {ours[0]:.4f} to {ours[-1]:.4f}")
            print(f"largest difference {np.abs(ours - theirs).max():.2e}")


if __name__ == "__main__":
    main()
