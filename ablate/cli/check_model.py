"""`ablate check`: the contracts of a model, held against a file of a user, a Hugging Face folder or a run."""

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from ablate.cli.contracts import Contract, Judge, Subject
from ablate.errors import AblateError
from ablate.registry import load_parts

VERDICT_STYLES = {"kept": "green", "broken": "bold red", "not checked": "dim"}


class CheckFailed(AblateError, ValueError):
    """A model that cannot be made or called."""


def check_model(target: str, vocab: int | None, rows: int, length: int, seed: int, as_json: bool) -> bool:
    """Print what is kept and what is broken; whether nothing is broken. Raises CheckFailed."""
    torch.manual_seed(seed)
    module, known = open_target(target)
    tokens = vocab or known
    if tokens is None:
        raise CheckFailed(f"{target}: say how many tokens it knows: --vocab N")
    try:
        module = module.double()
        found = list(Judge(Subject(module, tokens, rows, length, seed)).contracts())
    except (RuntimeError, TypeError, IndexError, AttributeError) as error:
        raise CheckFailed(
            f"{target}: calling it with tokens ({rows}, {length}) below {tokens} raises "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    broken = [contract for contract in found if contract.verdict == "broken"]
    if as_json:
        print(json.dumps([contract._asdict() for contract in found], indent=1))
    else:
        Console(highlight=False).print(contracts_table(target, found))
    return not broken


def open_target(target: str) -> tuple[nn.Module, int | None]:
    """The module that is meant, and its vocabulary where it says one. Raises CheckFailed."""
    file, colon, name = target.rpartition(":")
    if colon and file.endswith(".py"):
        return from_file(Path(file), name)
    folder = Path(target)
    if (folder / "record.json").exists():
        from ablate.measure.trained import open_run

        run = open_run(folder, "cpu")
        return run.decoder, run.decoder.shape.vocab
    if (folder / "config.json").exists():
        return from_hugging_face(folder)
    raise CheckFailed(
        f"{target}: give FILE.py:NAME (a module, or what makes one without arguments), a folder with "
        "config.json, or a run"
    )


def from_file(file: Path, name: str) -> tuple[nn.Module, int | None]:
    """The module that a name in a Python file is or makes. Raises CheckFailed, and ImportError for a file
    that cannot be imported."""
    if not file.is_file():
        raise CheckFailed(f"{file}: there is no such file")
    (code,) = load_parts([str(file)])
    try:
        made: Any = getattr(code, name)
        module = made if isinstance(made, nn.Module) else made()
    except Exception as error:
        raise CheckFailed(f"{file}:{name}: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise CheckFailed(f"{file}:{name}: makes a {type(module).__name__}, and not a torch.nn.Module")
    return module, vocabulary(module)


def from_hugging_face(folder: Path) -> tuple[nn.Module, int | None]:
    """With its weights where there are some, else with new ones. Code beside the config is not run."""
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise CheckFailed(f"{folder}: needs transformers; pip install transformers") from error
    disable_progress_bar()
    try:
        if any(folder.glob("*.safetensors")):
            module = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
        else:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            make: Any = AutoModelForCausalLM
            module = make.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise CheckFailed(f"{folder}: {type(error).__name__}: {str(error).splitlines()[0]}") from error
    return module, vocabulary(module)


def vocabulary(module: nn.Module) -> int | None:
    """The rows of its first embedding."""
    tables = [m for m in module.modules() if isinstance(m, nn.Embedding)]
    return tables[0].num_embeddings if tables else None


def contracts_table(target: str, found: list[Contract]) -> Table:
    """One row for each contract."""
    table = Table(title=Text(target), title_justify="left", box=None, pad_edge=False)
    for column in ("contract", "verdict", "finding"):
        table.add_column(column, overflow="fold")
    for contract in found:
        table.add_row(
            contract.name, Text(contract.verdict, VERDICT_STYLES[contract.verdict]), Text(contract.finding)
        )
    return table
