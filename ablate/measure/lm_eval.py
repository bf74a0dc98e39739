"""Tasks of lm-evaluation-harness on the exported model."""

import math
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, MinLen

from ablate.data.prepare import Prepared
from ablate.data.tokenizer import Portable
from ablate.measure import Measured
from ablate.measure.trained import Trained
from ablate.model.hf import choose, export_folder
from ablate.model.hf.family import ExportError
from ablate.model.hf.folder import write_json
from ablate.registry import measure

TASKS = ["lambada_openai", "hellaswag", "piqa", "arc_easy", "winogrande"]


@measure("lm_eval", paper="EleutherAI's lm-evaluation-harness, arXiv:2405.14782")
class LMEval:
    """Tasks of lm-evaluation-harness on the exported model, as `lm_eval --model hf` measures them.

    Metrics are `lm_eval/<task>/<metric>`, with those of other filters than `none` as
    `<metric>_<filter>`. `include_path` is a folder of your own tasks, `limit` the examples of a task,
    `shots` the worked examples before each; null: as the task says.

    Other tasks are a class of your own in `parts`, derived from this one, with a name of its own.
    Needs the extra `lm-eval` and a tokenizer that can be written as tokenizer.json. A model that no family of
    transformers expresses is exported with the code of its parts, as by `ablate export --code`. That code is
    written here and now from the sources of this process, and is the only code of a folder that is run.
    Raises ValueError where something is missing, ExportError for a part that cannot be carried.
    """

    metrics = ("*/*",)
    prefix = "lm_eval"
    requires = ("lm_eval", "lm-eval")  # the module, and the extra that brings it

    def __init__(
        self,
        *,
        tasks: Annotated[list[str], MinLen(1)] = TASKS,
        include_path: str | None = None,
        limit: Annotated[int, Gt(0)] | None = None,
        shots: Annotated[int, Ge(0)] | None = None,
        batch_size: Annotated[int, Gt(0)] = 8,
    ):
        self.tasks, self.include_path, self.limit = tasks, include_path, limit
        self.shots, self.batch_size = shots, batch_size

    def __call__(self, trained: Trained, prepared: Prepared) -> Measured:
        if find_spec("lm_eval") is None:
            raise ValueError("lm_eval: needs lm-eval: pip install -e '.[lm-eval]' (in the repository)")
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        device = str(trained.decoder.embedding.weight.device)
        with tempfile.TemporaryDirectory(prefix="ablate-lm-eval-") as place:
            folder = Path(place) / f"model_{Path(place).name}"  # transformers remembers code by this name
            own_code = export_with_tokenizer(trained, folder)
            answers = simple_evaluate(
                model="hf",
                model_args={"pretrained": str(folder), "dtype": "float32", "trust_remote_code": own_code},
                tasks=list(self.tasks),
                task_manager=TaskManager(include_path=self.include_path),
                device=device,
                batch_size=self.batch_size,
                limit=self.limit,
                num_fewshot=self.shots,
                bootstrap_iters=0,
                log_samples=False,
            )
        return Measured(numbers_of(answers["results"], self.prefix), {})


def numbers_of(results: Mapping[str, Mapping[str, Any]], prefix: str) -> dict[str, float]:
    """The finite numbers of lm-eval's results, by task and metric: `acc,none` is `acc`, `acc,strict` is
    `acc_strict`. Standard errors are left out: a study has its own intervals, over seeds."""
    found = {}
    for task, numbers in results.items():
        for key, value in numbers.items():
            metric, _, filtered = key.partition(",")
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or metric.endswith("_stderr") or not filtered:
                continue
            name = metric if filtered == "none" else f"{metric}_{filtered}"
            found[f"{prefix}/{task}/{name}"] = float(value)
    return found


def export_with_tokenizer(trained: Trained, folder: Path) -> bool:
    """Write the model as a Hugging Face folder that `AutoModelForCausalLM` and `AutoTokenizer` read; return
    whether it needs code of its own. Raises ExportError, and TokenizerError for a tokenizer that cannot be
    written."""
    words = trained.tokenizer.portable()
    context = trained.decoder.spec.context
    beside = [lambda aside: write_tokenizer(aside, words, context)]
    try:
        name = choose(trained.decoder.spec, None).family.name
    except ExportError:
        from ablate.model.hf.code import export_code

        export_code(trained.decoder, folder, trained.tokenizer.end, beside=beside)
        return True
    export_folder(trained.decoder, folder, name, trained.tokenizer.end, beside=beside)
    return False


def write_tokenizer(folder: Path, words: Portable, context: int) -> None:
    """tokenizer.json and tokenizer_config.json, as `AutoTokenizer` reads them."""
    (folder / "tokenizer.json").write_text(words.text, encoding="utf-8")
    ends = (
        {} if words.end is None else {"eos_token": words.end, "bos_token": words.end, "pad_token": words.end}
    )
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_json(folder / "tokenizer_config.json", {**about, **ends, "model_max_length": context})
