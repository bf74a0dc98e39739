#!/usr/bin/env bash
# hydra-joblib-launcher: a seed set at module level is set in the main process and in none of the workers.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet hydra-core==1.3.8 hydra-joblib-launcher==1.2.0

cd "$folder"
cat > config.yaml <<'YAML'
arm: 0
YAML
cat > app.py <<'PYTHON'
import random

import hydra

random.seed(0)


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    print(f"arm {config.arm} draws {random.random():.6f}", flush=True)


main()
PYTHON

draws() {
    "$folder/venv/bin/python" app.py -m arm=0,1 hydra.sweep.dir=out "$@" | grep draws | sort | tr '\n' ';'
}
basic=$(draws)
basic_again=$(draws)
joblib=$(draws hydra/launcher=joblib hydra.launcher.n_jobs=2)
joblib_again=$(draws hydra/launcher=joblib hydra.launcher.n_jobs=2)

"$folder/venv/bin/python" -m pip list 2>/dev/null | grep '^hydra' | sed 's/^/version:  /'
echo "expected: a script that seeds itself at module level draws the same numbers in each call, under every launcher"
echo "seen:     under joblib the function is sent to workers that never run the module: the draws change from call to call"
echo "output:   basic:        $basic"
echo "          basic again:  $basic_again"
echo "          joblib:       $joblib"
echo "          joblib again: $joblib_again"
if [ "$basic" != "$basic_again" ] || [ "$joblib" = "$joblib_again" ]; then
    echo "the behaviour has changed" >&2
    exit 1
fi
