from ablate.parts.base import Kernel, Need, Refused
from ablate.registry import kernel

PREFERENCE = {"cuda": ["flash", "flex", "sdpa", "reference"], "cpu": ["chunked", "sdpa", "reference"]}


@kernel("auto", paper="the first kernel that serves every layer (and in a study, every arm)")
class Auto(Kernel):
    """Settles on the fastest kernel for the device that refuses none of the needs; the choice is recorded."""

    name = "auto"

    def settle(self, needs: list[Need]) -> Kernel:
        refusals = []
        for name in PREFERENCE["cuda" if needs[0].device == "cuda" else "cpu"]:
            if name not in kernel:
                continue
            try:
                return kernel.build(name).settle(needs)
            except Refused as refusal:
                refusals.append(str(refusal))
        raise Refused("; ".join(refusals))

    def refuses(self, need: Need) -> str | None:
        raise NotImplementedError("auto is settled before it is asked")
