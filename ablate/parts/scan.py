"""State recurrences with decay: token by token, and in chunks that are matrix products.

Letters: B rows, H heads, T tokens, D width of a key, V width of a value. All functions read q, k (B,1|H,T,D),
v (B,H,T,V), log_decay (B,H,T,1) or (B,H,T,D), a state (B,H,D,V), and segment (B,T) or None; they give
(B,H,T,V) and the state after the last token. A state is empty before the first token of each segment; segment
0 goes on with the given state.

    linear    S_t = a_t S_{t-1} + k_t v_t'                                 o_t = S_t' q_t
    delta     S_t = (I - b_t k_t k_t') a_t S_{t-1} + b_t k_t v_t'          o_t = S_t' q_t
    erasing   S_t = (I - k_t e_t') a_t S_{t-1} + k_t v_t'                  o_t = S_t' q_t

a_t = exp(log_decay_t), one number for each head or for each channel of its key. The chunked forms are those
of Mamba-2 (arXiv:2405.21060, section 6) and Gated DeltaNet (arXiv:2412.06464, section 3.3), with segments.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_TOKENS = 64  # tokens; a power of two


def recurrent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    state: Tensor,
    segment: Tensor | None = None,
    beta: Tensor | None = None,
    erase: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Token by token, as the equations say; `beta` (B,H,T,1) makes it the delta rule, `erase` (B,H,T,D) that
    with a key of its own for what is erased."""
    outputs = []
    for t in range(q.shape[2]):
        decay = log_decay[:, :, t].exp()
        if segment is not None:
            same = segment[:, t] == (segment[:, t - 1] if t else 0)
            decay = decay * same[:, None, None]
        state = decay[..., None] * state
        key, value = k[:, :, t], v[:, :, t]
        if beta is not None:
            value = beta[:, :, t] * (value - (key[..., None] * state).sum(-2))
        if erase is not None:
            value = value - (erase[:, :, t, :, None] * state).sum(-2)
        state = state + key[..., None] * value[..., None, :]
        outputs.append((q[:, :, t, :, None] * state).sum(-2))
    return torch.stack(outputs, 2), state


def chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    state: Tensor,
    segment: Tensor | None = None,
    beta: Tensor | None = None,
    erase: Tensor | None = None,
    chunk: int = CHUNK_TOKENS,
) -> tuple[Tensor, Tensor]:
    """The same in chunks: between chunks goes a state, inside of one all is products."""
    T = q.shape[2]
    if beta is not None:
        v, erase = beta * v, beta * k
    while chunk >= 2 * T:
        chunk //= 2
    q, k, v, log_decay = (_chunks(x, chunk) for x in (q, k, v, log_decay))  # (B,H,N,c,*)
    total = log_decay.cumsum(-2)
    last = total[..., -1:, :]
    causal = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()
    into, onward, whole = total.exp(), (last - total).exp(), last.exp()
    if segment is not None:
        spans = _segments(segment, chunk)  # (B,1,N,c)
        before = F.pad(spans[..., :-1, -1:], (0, 0, 1, 0))  # of the token before each chunk
        end = spans[..., -1:]
        causal = causal & (spans[..., :, None] == spans[..., None, :])
        into = into * (spans == before)[..., None]
        onward = onward * (spans == end)[..., None]
        whole = whole * (before == end)[..., None]
    erase = None if erase is None else _chunks(erase, chunk)
    scores, *mixing = (x.masked_fill(~causal, 0) for x in _similar(q, erase, k, total))
    reads, writes = q * into, (k * onward).transpose(-1, -2)
    whole = whole.transpose(-1, -2)
    values, erased = v.unbind(2), None
    if erase is not None:
        both = torch.cat((v, erase * into), -1)
        solved = torch.linalg.solve_triangular(mixing[0].tril(-1), both, upper=False, unitriangular=True)
        values, erased = (x.unbind(2) for x in solved.split((v.shape[-1], k.shape[-1]), -1))
    outputs = []
    each = zip(values, *(x.unbind(2) for x in (reads, scores, writes, whole)), strict=True)
    for n, (value, read, score, write, kept) in enumerate(each):
        value = value if erased is None else value - erased[n] @ state
        outputs.append(read @ state + score @ value)
        state = kept * state + write @ value
    return torch.cat(outputs, 2)[:, :, :T], state


def scanned(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    state: Tensor,
    segment: Tensor | None = None,
    beta: Tensor | None = None,
    erase: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The form that is faster: steps for one or two, chunks for more."""
    form = recurrent if q.shape[2] <= 2 else chunked
    return form(q, k, v, log_decay, state, segment, beta, erase)


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """(B,H,T,*) -> (B,H,N,c,*), filled up with zeros: such a token keeps and adds nothing."""
    padded = F.pad(x, (0, 0, 0, -x.shape[2] % chunk))
    return padded.reshape(*x.shape[:2], -1, chunk, x.shape[-1])


def _segments(segment: Tensor, chunk: int) -> Tensor:
    """(B,T) -> (B,1,N,c); what fills up belongs to the last segment."""
    filling = segment[:, -1:].expand(-1, -segment.shape[1] % chunk)
    return torch.cat((segment, filling), 1).reshape(len(segment), 1, -1, chunk)


def _similar(q: Tensor, erase: Tensor | None, k: Tensor, total: Tensor) -> list[Tensor]:
    """q_i . k_j and, where there is `erase`, e_i . k_j, times the decay from j to i, each (..., c, c); where
    j > i they mean nothing, but are finite."""
    readers = [q] if erase is None else [q, erase]
    if total.shape[-1] > 1:
        return list(similar_by_channel(torch.stack(readers, -2), k, total).unbind(-2))
    kept = (total - total.transpose(-1, -2)).clamp(max=0).exp()
    return [x @ k.transpose(-1, -2) * kept for x in readers]


def similar_by_channel(x: Tensor, y: Tensor, total: Tensor) -> Tensor:
    """x_i . y_j times the decay from j to i, 0 where j > i. x (...,c,M,D), y and total (...,c,D) ->
    (...,c,M,c)."""
    if torch.compiler.is_compiling():
        return _by_halves(x, y, total)
    similar: Tensor = _SimilarByChannel.apply(x, y, total)  # type: ignore[no-untyped-call]
    return similar


class _SimilarByChannel(torch.autograd.Function):
    """`_by_halves`, with its gradient in closed form: the sums that give dx and dy are products of the same
    halves, and dtotal = x dx - y dy."""

    generate_vmap_rule = True  # for several models at once

    @staticmethod
    def forward(x: Tensor, y: Tensor, total: Tensor) -> Tensor:
        return _by_halves(x, y, total)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y, total = ctx.saved_tensors
        M, c = g.shape[-2:]
        alone = g.movedim(-2, -1).diagonal(dim1=-3, dim2=-2).movedim(-1, -2)[..., None]  # (...,c,M,1)
        dx, dy = alone * y[..., None, :], (alone * x).sum(-2)
        half = 1
        while half < c:
            i, j, to_i, to_j = _halves(x, y, total, half)
            cross = g.unflatten(-3, (-1, 2, half))[..., 1, :, :, :].unflatten(-1, (-1, 2, half))[..., 0, :]
            cross = cross.diagonal(dim1=-5, dim2=-2).movedim(-1, -4).flatten(-3, -2)  # (...,N,half M,half)
            di = (cross @ (j * to_j)).unflatten(-2, (half, M)) * to_i[..., None, :]
            dj = cross.transpose(-1, -2) @ (i * to_i[..., None, :]).flatten(-3, -2) * to_j
            dx = dx + torch.stack((torch.zeros_like(di), di), -4).flatten(-5, -3)
            dy = dy + torch.stack((dj, torch.zeros_like(dj)), -3).flatten(-4, -2)
            half *= 2
        return dx, dy, (x * dx).sum(-2) - y * dy


def _by_halves(x: Tensor, y: Tensor, total: Tensor) -> Tensor:
    """Halves of halves: from the last token of the left half, which is between j and i, the decay goes to
    both, so no factor is above 1."""
    M, c = x.shape[-2], x.shape[-3]
    blocks = (x * y[..., None, :]).sum(-1)[..., None, :, None]  # (...,c,1,M,1): of each token with itself
    half = 1
    while half < c:
        i, j, to_i, to_j = _halves(x, y, total, half)
        cross = (i * to_i[..., None, :]).flatten(-3, -2) @ (j * to_j).transpose(-1, -2)
        cross = cross.unflatten(-2, (half, M))
        left, right = blocks.unflatten(-4, (-1, 2)).unbind(-4)
        upper, lower = torch.cat((left, torch.zeros_like(cross)), -1), torch.cat((cross, right), -1)
        blocks = torch.cat((upper, lower), -3)
        half *= 2
    return blocks[..., 0, :, :, :]


def _halves(x: Tensor, y: Tensor, total: Tensor, half: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each pair of halves x of the right one (...,N,half,M,D) and y of the left (...,N,half,D), and what
    is left from the middle on to each right token, and of each left token in the middle."""
    i = x.unflatten(-3, (-1, 2, half))[..., 1, :, :, :]
    j = y.unflatten(-2, (-1, 2, half))[..., 0, :, :]
    left, right = total.unflatten(-2, (-1, 2, half)).unbind(-3)
    middle = left[..., -1:, :]
    return i, j, (right - middle).exp(), (middle - left).exp()


def wide(x: Tensor) -> Tensor:
    """In fp32 at least: a state adds up many small numbers."""
    return x if x.dtype == torch.float64 else x.float()


def by_head(x: Tensor, width: int) -> Tensor:
    """(B,T,H width) -> (B,H,T,width), in fp32 at least."""
    return wide(x).reshape(*x.shape[:-1], -1, width).transpose(1, 2)


def unit_length(x: Tensor) -> Tensor:
    """x / |x| over the last dimension, with 1e-6 under the root."""
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


def softplus(x: Tensor) -> Tensor:
    """ln(1 + e^x). Torch's own operator fails under `torch.compile(backend="aot_eager")` where its gradient
    arrives transposed (torch 2.13)."""
    return torch.logaddexp(x, torch.zeros_like(x))
