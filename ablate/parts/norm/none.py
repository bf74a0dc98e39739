"""The absent norm."""

from torch import nn

from ablate.registry import norm


@norm("none", paper="the absent norm: the control of every norm study")
class NoNorm(nn.Identity):
    """y = x."""

    def __init__(self, width: int):
        super().__init__()
