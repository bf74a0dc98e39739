"""What the arms of a study write: `sweep.py experiment=NAME samples=true`, from stored weights."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ablate.cli.compose import ConfigError
from ablate.cli.workspace import Workspace
from ablate.spec import DataSpec

if TYPE_CHECKING:
    import pandas as pd

    from ablate.measure.trained import Trained

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 3, 16, 48
DOCUMENTS_READ = 100  # to find prompts that differ
SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "seed": 0}


def samples(frame: "pd.DataFrame", workspace: Workspace) -> Iterator[dict[str, Any]]:
    """A row for each prompt and each arm of each corpus: what its first test run with weights writes next.

    `frame` has the runs of the study's results. Prompts are the beginnings of documents of validation, the
    same for all arms of a corpus. Raises ConfigError where no run has kept its weights, RunNotLoadable where
    one cannot be read.
    """
    from ablate.measure.trained import continue_texts, open_run

    tests = frame[(frame["role"] == "test") & (frame["status"] == "finished")]
    folders = {id: workspace.store.folder(id) for id in tests["id"]}
    kept = tests[[(folders[id] / "weights").is_dir() for id in tests["id"]]]
    if kept.empty:
        raise ConfigError([f"samples: no test run in {workspace.store.root} has kept its weights; see keep="])
    prompts: dict[str, list[str]] = {}
    first = kept.drop_duplicates(["corpus", "arm"])
    for id, corpus, arm in zip(first["id"], map(str, first["corpus"]), first["arm"], strict=True):
        trained = open_run(folders[id], workspace.device)
        if corpus not in prompts:
            prompts[corpus] = beginnings(trained, workspace)
        given = prompts[corpus]
        texts = continue_texts(trained, given, NEW_TOKENS, **SAMPLING)
        for prompt, text in zip(given, texts, strict=True):
            yield {"id": id, "corpus": corpus, "arm": arm, "prompt": prompt, "text": text}


def beginnings(trained: "Trained", workspace: Workspace) -> list[str]:
    """How the first documents of the run's validation text begin: up to `PROMPTS`, each once."""
    from ablate.train.texts import texts_of

    prepared = workspace.text(DataSpec.model_validate(trained.record.spec["data"]))
    split = next(iter(texts_of(prepared, "validation").main.values()))
    starts = [int(start) for start in split.document_offsets[:DOCUMENTS_READ]]
    ends = [*starts[1:], len(split.tokens)]
    most = min(PROMPT_TOKENS, max(1, trained.decoder.spec.context // 2))
    tokens = [split.tokens[start : min(start + most, end)] for start, end in zip(starts, ends, strict=True)]
    found = (str(trained.tokenizer.decode([int(token) for token in each])) for each in tokens)
    return list(dict.fromkeys(found))[:PROMPTS]
