"""The choice of a kernel by what the layers need."""

from ablate.parts.base import IncompatibleParts, Kernel, KernelRequirements, Mask
from ablate.registry import kernel

CUDA = ["flash", "flex", "sdpa", "reference"]
LEARNED_ON_CUDA = ["sdpa", "flex", "reference"]  # flex adds the gradients of a table one by one
# Without a mask sdpa is itself a fused kernel, on a Hopper cuDNN's, which is faster than flash-attn 2.
PLAIN_ON_CUDA = ["sdpa", "flash", "flex", "reference"]
ELSEWHERE = ["chunked", "sdpa", "reference"]


@kernel("auto", paper="the first kernel that serves every layer (and in a study, every arm)")
class Auto(Kernel):
    """Settles on the fastest kernel for the device that refuses none of the needs; the choice is recorded."""

    name = "auto"

    def settle(self, needs: list[KernelRequirements]) -> Kernel:
        refusals = []
        for name in preference(needs):
            try:
                settled: Kernel = kernel.build(name).settle(needs)
                return settled
            except IncompatibleParts as refusal:
                refusals.append(str(refusal))
        raise IncompatibleParts("; ".join(refusals))

    def refuses(self, need: KernelRequirements) -> str | None:
        raise NotImplementedError("auto is settled before it is asked")


def preference(needs: list[KernelRequirements]) -> list[str]:
    """The names of kernels to try, the fastest first."""
    if not any(need.device.startswith("cuda") for need in needs):
        return ELSEWHERE
    if any(need.learned_bias for need in needs):
        return LEARNED_ON_CUDA
    return PLAIN_ON_CUDA if all(is_plain(need) for need in needs) else CUDA


def is_plain(need: KernelRequirements) -> bool:
    """Nothing but the order of the tokens acts on the scores."""
    return need.mask == Mask() and not (need.bias or need.softcap or need.sink or need.documents)
