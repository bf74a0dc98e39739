"""Model FLOPs utilisation: the FLOPs of a run as a share of what its devices can do at most."""

# Dense FLOPs per second by the name of a device, in bf16 and in fp32 without TF32, from NVIDIA's data sheets.
# The first name whose words all occur in the device's own counts.
PEAK_FLOPS = {
    "B200": {"bf16": 2250e12, "fp32": 75e12},
    "GH200": {"bf16": 989e12, "fp32": 67e12},
    "H200": {"bf16": 989e12, "fp32": 67e12},
    "H100 PCIe": {"bf16": 756e12, "fp32": 51e12},
    "H100": {"bf16": 989e12, "fp32": 67e12},
    "A100": {"bf16": 312e12, "fp32": 19.5e12},
    "L40S": {"bf16": 362e12, "fp32": 91.6e12},
    "L4": {"bf16": 121e12, "fp32": 30.3e12},
    "A10": {"bf16": 125e12, "fp32": 31.2e12},
    "RTX 4090": {"bf16": 165e12, "fp32": 82.6e12},
    "V100": {"fp32": 15.7e12},
}


def peak_flops(device_kind: str, precision: str) -> float | None:
    """FLOPs per second that one device can do at most; None for a CPU and a GPU that is not in the table."""
    words = device_kind.replace("-", " ").split()
    for name, peaks in PEAK_FLOPS.items():
        if all(word in words for word in name.split()):
            return peaks.get(precision)
    return None


class Pace:
    """Tokens per second and utilisation between rows of a curve.

    `flops` are those of a token in training, `peak` the FLOPs per second of all devices; None: not known.
    """

    def __init__(self, flops: float | None, peak: float | None):
        self.flops, self.peak = flops, peak
        self.tokens, self.seconds = 0.0, 0.0  # at the last row

    def pass_over(self, tokens: float, seconds: float) -> None:
        """Go on from a row that was made before."""
        self.tokens, self.seconds = tokens, seconds

    def __call__(self, tokens: float, seconds: float) -> dict[str, float]:
        """`speed/tokens_per_second` and, where both its terms are known, `speed/mfu` since the last row;
        nothing where no time has passed. `seconds` are those of training so far."""
        new, time = tokens - self.tokens, seconds - self.seconds
        self.pass_over(tokens, seconds)
        if time <= 0 or new <= 0:
            return {}
        rate = new / time
        pace = {"speed/tokens_per_second": rate}
        if self.flops is not None and self.peak:
            pace["speed/mfu"] = rate * self.flops / self.peak
        return pace
