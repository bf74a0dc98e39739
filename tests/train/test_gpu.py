"""On a GPU: fused kernels against the definition, models in one graph, steps captured and stacked."""

from typing import Any

import pytest
import torch
from cases import HARD
from conftest import small
from torch import Tensor
from training import prepared_for, run_of, run_spec, write_text

from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext, IncompatibleParts, KernelRequirements, Mask, NoCache, Scores
from ablate.registry import kernel, position
from ablate.spec import Shape
from ablate.train.fit import fit
from ablate.train.settings import Settings
from ablate.train.speed import ensemble_runs

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

B, H, K, T, D = 2, 4, 2, 200, 64
SHAPE = Shape(H * D, 1, H, D, T, 50)


def biases() -> list[str]:
    """Each registered position that adds to the scores, and one that does not."""
    adding = [name for name in position if position.build(name, SHAPE).bias is not None]
    return ["none", *adding]


ACTS: dict[str, tuple[Mask, dict[str, float]]] = {
    "order": (Mask(), {}),
    "window": (Mask(70), {}),
    "sink_tokens": (Mask(70, sink_tokens=3), {}),
    "prefix": (Mask(prefix=True), {}),
    "softcap": (Mask(), {"softcap": 3.0}),
    "sink": (Mask(), {"sink": 0.5}),
    "documents": (Mask(), {}),
    "all": (Mask(70, sink_tokens=3), {"softcap": 3.0, "sink": 0.5}),
}


def call(acts: str) -> ForwardContext:
    at = torch.arange(T, device="cuda")[None]
    if acts not in ("documents", "all"):
        prefix = torch.tensor([30, 90], device="cuda") if acts == "prefix" else None
        return ForwardContext(at, prefix=prefix)
    border = torch.tensor([[60], [130]], device="cuda")
    after = at >= border
    return ForwardContext(torch.where(after, at - border, at), after.long())


def assert_agree(name: str, acts: str, bias: str, dtype: torch.dtype, close: float, widens: int = 0) -> None:
    """Output and every gradient, to a share of their norm, against the definition in fp64."""
    mask, given = ACTS[acts]
    torch.manual_seed(0)
    scheme = position.build(bias, SHAPE)
    for p in scheme.parameters():
        torch.nn.init.normal_(p)
    softcap, sink = given.get("softcap"), "sink" in given
    need = KernelRequirements(
        heads=H,
        kv_heads=K,
        key_width=D + widens,
        value_width=D,
        mask=mask,
        bias=scheme.bias is not None,
        learned_bias=bool(list(scheme.parameters())),
        slopes=scheme.slopes is not None,
        softcap=softcap is not None,
        sink=sink,
        documents=acts in ("documents", "all"),
        device="cuda",
        dtype=dtype,
    )
    try:
        chosen = kernel.build(name).settle([need])
    except IncompatibleParts as refusal:
        pytest.skip(str(refusal))
    shapes = ((H, D + widens), (K, D + widens), (K, D))
    rounded = [torch.randn(B, h, T, d, device="cuda").to(dtype) for h, d in shapes]
    logit = torch.linspace(-1, 1, H, device="cuda")
    weight = torch.randn(B, H, T, D, device="cuda").to(dtype)
    seen = NoCache().look(call(acts)).sight
    found = []
    for one, kind in ((kernel.build("reference"), torch.double), (chosen, dtype)):
        own = scheme.to("cuda", torch.double if kind == torch.double else torch.float32)
        qkv = [x.to(kind).requires_grad_() for x in rounded]
        learned = list(own.parameters())
        leaf = logit.to(own_dtype(kind)).requires_grad_() if sink else None
        prepared = one.prepare(mask, seen, own.bias, H, kind)
        y = one(*qkv, prepared, Scores(D**-0.5, softcap, leaf), 0.0)
        leaves = [*qkv, *learned, *([] if leaf is None else [leaf])]
        found.append([y, *torch.autograd.grad(y, leaves, weight.to(kind))])
    for exact, mine in zip(*found, strict=True):
        distance = (mine.double() - exact).norm() / exact.norm()
        assert distance < close, f"{distance:.2e}"


def own_dtype(kind: torch.dtype) -> torch.dtype:
    return torch.double if kind == torch.double else torch.float32


@pytest.mark.parametrize("acts", ACTS)
@pytest.mark.parametrize("bias", biases())
@pytest.mark.parametrize("name", ["sdpa", "flex", "flash"])
def test_a_kernel_is_the_definition_in_bf16(name, bias, acts):
    assert_agree(name, acts, bias, torch.bfloat16, 0.02)


@pytest.mark.parametrize("acts", ["order", "window", "documents", "all"])
@pytest.mark.parametrize("bias", biases())
@pytest.mark.parametrize("name", ["sdpa", "flex"])
def test_a_kernel_is_the_definition_in_fp32(name, bias, acts):
    assert_agree(name, acts, bias, torch.float32, 1e-4)


@pytest.mark.parametrize("name", ["sdpa", "flex"])
def test_keys_wider_than_values(name):
    assert_agree(name, "window", "none", torch.bfloat16, 0.02, widens=D)


# ------------------------------------------------------------------------------------------- models

WIDE = {"width": 64, "heads": 4, "context": 32}  # heads of 16 channels, which flex can do
MODELS: dict[str, dict[str, Any]] = {"rope": {}, "alibi": {"position": "alibi"}, **HARD}
ROUTED = ("moe", "moe_capacity")


def built(case: dict[str, Any], **options: Any) -> Decoder:
    made = Decoder(small(**{**WIDE, **case, **options}), "cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        made.init_parameters(0)
        generator = torch.Generator().manual_seed(1)
        for p in made.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    return made.to("cuda").train()


def gradients(made: Any, decoder: Decoder) -> list[Tensor]:
    """The loss, and the gradient of each parameter that has one."""
    tokens = torch.randint(50, (2, 33), generator=torch.Generator().manual_seed(0)).to("cuda")
    prefix = torch.tensor([5, 20], device="cuda")
    told = ForwardContext(torch.arange(32, device="cuda")[None], prefix=prefix, aux=decoder.aux())
    with torch.autocast("cuda", torch.bfloat16):
        objective = made(tokens[:, :-1], told, tokens[:, 1:], summed=True).objective
    named = list(decoder.parameters())
    return [
        objective,
        *(g for g in torch.autograd.grad(objective, named, allow_unused=True) if g is not None),
    ]


@pytest.mark.parametrize("name", MODELS)
def test_the_kernel_that_auto_chooses_trains_as_the_definition_does(name):
    """In bf16, so to a share of the norm of all gradients."""
    exact, mine = built(MODELS[name], kernel="reference"), built(MODELS[name])
    mine.load_state_dict(exact.state_dict())
    both = [torch.cat([g.flatten().float() for g in gradients(m, m)]) for m in (exact, mine)]
    assert (both[0] - both[1]).norm() / both[0].norm() < (0.2 if name in ROUTED else 0.03)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ROUTED])
def test_a_model_is_one_graph(name):
    made = built(MODELS[name])
    eager = gradients(made, made)
    torch._dynamo.reset()
    compiled = gradients(torch.compile(made, fullgraph=True), made)
    both = [torch.cat([g.flatten().float() for g in found]) for found in (eager, compiled)]
    assert (both[0] - both[1]).norm() / both[0].norm() < 0.03


# -------------------------------------------------------------------------------- the loss in slices


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_the_loss_in_slices_is_that_of_the_whole(softcap, monkeypatch):
    from ablate.model import loss

    case = {"head": {"tied": False, "bias": True, "softcap": softcap, "z_loss": 0.1}}
    made = built(case)
    found = []
    for size in (loss.LOGITS_SLICE, 4 * 50 * 7 // loss.ON_CUDA + 1):
        monkeypatch.setattr(loss, "LOGITS_SLICE", size)
        found.append(torch.cat([g.flatten().float() for g in gradients(made, made)]))
    assert loss.slice_of(64, 50, "cuda") < 64
    assert (found[0] - found[1]).norm() / found[0].norm() < 0.01


# ------------------------------------------------------------------------------ captured and stacked

ON_GPU = Settings(accelerator="gpu", progress=False, keep="weights", log_every=1)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


def curve_of(record: Any, runs: Any) -> Tensor:
    import pandas as pd

    frame = pd.read_parquet(runs / record.id / "curve.parquet")
    return torch.tensor(frame[["loss", "grad_norm", "lr"]].to_numpy())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("documents", ["joined", "masked"])
def test_captured_steps_are_the_steps(documents, precision, compiled, text, tmp_path):
    """Other numbers than the first few come from the graph: rates, batches and norms must have reached it."""
    spec = run_spec(text, steps=12, precision=precision)
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"documents": documents})})
    found = []
    for cuda_graph in (False, True):
        settings = ON_GPU.model_copy(update={"cuda_graph": cuda_graph, "compile": compiled})
        runs = tmp_path / str(cuda_graph)
        record = fit(spec, prepared_for(spec, text.parent), settings, runs)
        assert record.status == "finished"
        found.append(curve_of(record, runs))
    close = 1e-4 if precision == "fp32" else 1e-2
    torch.testing.assert_close(found[1], found[0], rtol=close, atol=close)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_stacked_runs_on_a_gpu_are_lone_runs(cuda_graph, compiled, text, tmp_path):
    specs = [
        run_spec(text, steps=12, seed=seed, optim={"name": "adamw", "lr": lr})
        for seed, lr in enumerate((1e-3, 2e-3, 4e-3))
    ]
    prepared = prepared_for(specs[0], text.parent)
    settings = ON_GPU.model_copy(update={"cuda_graph": cuda_graph, "compile": compiled})
    runs = [run_of(s, prepared, tmp_path / "stack", settings) for s in specs]
    ensemble_runs.train_together(runs)
    alone = [
        fit(s, prepared, ON_GPU.model_copy(update={"cuda_graph": False}), tmp_path / "alone") for s in specs
    ]
    for record in alone:
        one, other = (curve_of(record, tmp_path / where) for where in ("stack", "alone"))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        ({"dropout": 0.1}, {}, "dropout"),
        ({"ffn": HARD["moe"]["ffn"]}, {}, "expert"),
        ({}, {"optim": "sgd"}, "only adamw"),
    ],
)
def test_what_cannot_be_captured_is_refused_if_it_must(model, options, reason, text, tmp_path):
    spec = run_spec(text, model, **options)
    prepared = prepared_for(spec, text.parent)
    with pytest.raises(ValueError, match=reason):
        fit(spec, prepared, ON_GPU.model_copy(update={"cuda_graph": True}), tmp_path)
    assert fit(spec, prepared, ON_GPU, tmp_path).status == "finished"


def test_runs_in_bf16_train_with_flash(text, tmp_path):
    pytest.importorskip("flash_attn")
    wide = {"width": 128, "heads": 2, "kernel": "flash"}
    spec = run_spec(text, wide, precision="bf16")
    record = fit(spec, prepared_for(spec, text.parent), ON_GPU, tmp_path)
    assert (record.status, record.kernel) == ("finished", "flash")
    fp32 = run_spec(text, wide)
    with pytest.raises(IncompatibleParts, match="half precision"):
        fit(fp32, prepared_for(fp32, text.parent), ON_GPU, tmp_path)
