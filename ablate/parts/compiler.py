"""What torch's compiler is told."""

import torch

GRAPHS = 10_000


def keep_graphs() -> None:
    """Beyond torch's limit of 8 graphs of a function it runs uncompiled: without a word, slowly, and flex
    attention with all scores in memory. A process that trains arm after arm needs more."""
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = GRAPHS
