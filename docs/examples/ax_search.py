"""Ax proposes a learning rate and a width, `train.py` answers with its validation loss.

pip install ax-platform
python docs/examples/ax_search.py TRIALS OVERRIDES    # those of train.py, the same in every trial
"""

import math
import sys

from ax.api.client import Client
from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig
from hydra import compose, initialize_config_dir

from ablate.cli.train import train
from ablate.paths import CONF

# The names are paths of the configuration, with - for the dots, which Ax does not take.
SPACE = [
    RangeParameterConfig(name="optim-lr", bounds=(1e-4, 1e-1), parameter_type="float", scaling="log"),
    ChoiceParameterConfig(name="model-width", values=[16, 32], parameter_type="int", is_ordered=True),
]


def loss(overrides: list[str]) -> float | None:
    """The objective of a run; None for one that failed or diverged. A run that is there is not done again."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=overrides)
    try:
        found = train(config)
    except SystemExit:
        return None
    return found if found is not None and math.isfinite(found) else None


if __name__ == "__main__":
    trials, fixed = int(sys.argv[1]), sys.argv[2:]
    client = Client(random_seed=0)
    client.configure_experiment(parameters=SPACE)
    client.configure_optimization(objective="-loss")
    for _ in range(trials):
        for trial, chosen in client.get_next_trials(max_trials=1).items():
            value = loss([*fixed, *(f"{name.replace('-', '.')}={x}" for name, x in chosen.items())])
            if value is None:
                client.mark_trial_failed(trial)
            else:
                client.complete_trial(trial, raw_data={"loss": value})
    best, prediction, *_ = client.get_best_parameterization()
    print("best", {name.replace("-", "."): x for name, x in best.items()}, prediction["loss"])
