"""`hydra/launcher=slots`: a plain Hydra multirun on the local engine."""
