"""Training steps on a GPU: `python benchmarks/gpu`."""
