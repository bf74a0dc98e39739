"""`python -m ablate`: text from a run, the catalogue of parts, weights in and out, measures again."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ablate.cli.arguments import Parser, integer_within, some_text
from ablate.cli.terminal import replace_unprintable
from ablate.errors import AblateError, printable, system_error

_WRONG = 2  # exit code
MOST_NEW_TOKENS = 1_000_000  # that `generate` adds
FARTHER = 32  # times the context: the longest prompt
HYDRA = {  # the commands whose options are composed by Hydra
    "train": "Train one model: `ablate train --help` lists every choice.",
    "sweep": "Answer a question: plan, run, score and report a study.",
}
STATUS = "Say how far a study is and what failed, without starting anything: `ablate status experiment=NAME`."


def main(given: Sequence[str] | None = None) -> int:
    """The exit code: 0; 1 where a model breaks a contract; 2 where what was asked cannot be done, with the
    reason on stderr."""
    replace_unprintable()
    given = sys.argv[1:] if given is None else list(given)
    if given and given[0] in HYDRA:
        return hydra_command(given)
    if given and given[0] == "status":
        return status_command(given[1:])
    options = parser().parse_args(given)
    run: Callable[[argparse.Namespace], int | None] = options.run
    try:
        load_own(getattr(options, "parts", []))
        return run(options) or 0
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        sys.stderr.close()
    except KeyboardInterrupt:
        return 130
    except (AblateError, ValueError, OSError, ImportError, KeyError, MemoryError, RuntimeError) as error:
        line = line_for(error)
        if line is None:
            raise
        print(printable(f"ablate {options.command}: {line}"), file=sys.stderr)
        return _WRONG
    return 0


def line_for(error: Exception) -> str | None:
    """What an error means to whoever typed the command; None for one that is a mistake of ours."""
    if isinstance(error, OSError) and error.errno:
        return system_error(error)
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    ):
        return "memory ran out; ask for fewer tokens or a smaller model"
    if isinstance(error, RuntimeError):
        return None
    return str(error.args[0]) if isinstance(error, KeyError) else str(error)


def entry() -> None:
    """The console script `ablate`."""
    raise SystemExit(main())


def hydra_command(given: list[str]) -> int:
    """`ablate train ...` and `ablate sweep ...`, whose arguments are Hydra's."""
    from ablate.cli import entry

    sys.argv = [f"ablate {given[0]}", *given[1:]]
    {"train": entry.train_main, "sweep": entry.sweep_main}[given[0]]()
    return 0


def status_command(given: list[str]) -> int:
    """`ablate status ...`, whose words are written as those of `ablate sweep`."""
    from ablate.cli.status import show_statuses

    try:
        show_statuses(given)
    except (ValueError, OSError) as error:
        print(f"ablate status: {error}", file=sys.stderr)
        return _WRONG
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands of `ablate` and their options."""
    whole = Parser("ablate", description=__doc__.split(": ", 1)[1])
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int | None], said: str
    ) -> argparse.ArgumentParser:
        add = commands.add_parser(
            name,
            help=said,
            description=said,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        add.set_defaults(run=run)
        return add

    def own_parts(to: argparse.ArgumentParser) -> None:
        to.add_argument(
            "--parts",
            action="append",
            default=[],
            metavar="FILE|MODULE",
            help="your own parts that the run was trained with; may be repeated",
        )

    add = command("try", referee, "Ask the referee of a campaign about a change: keep, discard or undecided.")
    add.add_argument(
        "words", nargs="*", metavar="WORD", help="FILE.py and KEY=VALUE of train.py; campaign=NAME; more=N"
    )
    add.add_argument("--json", action="store_true", help="print the answer as JSON")

    add = command("campaign", referee, "Say how far a campaign is, write its report, or serve it (MCP).")
    add.add_argument("action", choices=("status", "report", "serve"), help="what to do")
    add.add_argument("name", metavar="NAME", help="of its folder")
    add.add_argument("--experiments", type=Path, default=Path("experiments"), metavar="FOLDER", help="where")
    add.add_argument("--json", action="store_true", help="print it as JSON")

    for name, said in HYDRA.items():
        commands.add_parser(name, help=said, add_help=False)
    commands.add_parser("status", help=STATUS, add_help=False)
    add = command("init", _init, "Make a project folder: a study, a part and a config group of your own.")
    add.add_argument("folder", type=Path, nargs="?", default=Path(), metavar="FOLDER", help="where")

    add = command("generate", _generate, "Let a trained model go on with a text.")
    add.add_argument(
        "folder", type=Path, metavar="RUN", help="runs/<id>, a Hugging Face folder or an imported"
    )
    add.add_argument(
        "--prompt",
        action="append",
        required=True,
        metavar="TEXT",
        help="may be repeated: the rows of one batch",
    )
    add.add_argument(
        "--tokens",
        type=integer_within(1, MOST_NEW_TOKENS),
        default=100,
        metavar="N",
        help="new tokens at most",
    )
    add.add_argument(
        "--temperature", type=float, default=0.8, metavar="T", help="0 takes the likeliest token"
    )
    add.add_argument(
        "--top-k", type=integer_within(1, 2**31), metavar="K", help="choose among the K likeliest tokens"
    )
    add.add_argument(
        "--top-p", type=float, metavar="P", help="choose among the likeliest that hold P together"
    )
    add.add_argument(
        "--seed",
        type=integer_within(0, 2**63 - 1),
        default=0,
        metavar="S",
        help="the same seed says the same",
    )
    add.add_argument(
        "--stop",
        action="append",
        type=some_text,
        default=[],
        metavar="TEXT",
        help="end before this text; may be repeated",
    )
    add.add_argument("--stream", action="store_true", help="print text as it comes (one prompt)")
    add.add_argument(
        "--restart",
        action="store_true",
        help="count positions inside what a window remembers, to go on beyond the context (StreamingLLM)",
    )
    add.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"), help="where it runs")
    own_parts(add)

    add = command("parts", _parts, "Print the catalogue of parts: formula, source and options of each.")
    own_parts(add)

    add = command(
        "import",
        import_,
        "Read a Hugging Face folder: its specification and weights, in this project's names.",
    )
    add.add_argument("folder", type=Path, metavar="FOLDER", help="has config.json and safetensors")
    add.add_argument("to", type=Path, metavar="TO", help="new folder: model.json, weights/ and tokenizer/")
    add.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="KEY",
        help="a key of config.json that changes nothing in evaluation; may be repeated",
    )

    add = command("export", export, "Write a trained model as a Hugging Face folder.")
    add.add_argument("folder", type=Path, metavar="RUN", help="runs/<id>, or a folder that was imported")
    add.add_argument("to", type=Path, metavar="TO", help="new folder: configs, weights, tokenizer and a card")
    add.add_argument("--family", help="write it as this family, not the first that expresses the model")
    add.add_argument(
        "--code",
        action="store_true",
        help="write the model's own code beside it, for a model that no family expresses",
    )
    add.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights; as they are without it"
    )
    add.add_argument("--shard-size", default="50GB", metavar="SIZE", help="of one file at most: 5GB, 200MB")
    add.add_argument(
        "--experiments",
        type=Path,
        default=Path("experiments"),
        metavar="FOLDER",
        help="studies, for the card",
    )
    own_parts(add)

    add = command("evaluate", _evaluate, "Measure stored weights again; what is new is added to the record.")
    add.add_argument("folder", type=Path, metavar="RUN", help="runs/<id>; a model of others: with --like")
    add.add_argument("measures", nargs="+", metavar="MEASURE", help="names of measures; see `parts`")
    add.add_argument("--cache", type=Path, default=Path("cache"), help="where tokenised text is kept")
    add.add_argument(
        "--like",
        type=Path,
        metavar="RUN",
        help="measure a Hugging Face folder, or an imported one, on this run's text; nothing is written",
    )
    own_parts(add)

    add = command(
        "check",
        check_contracts,
        "Hold the contracts of a language model against anybody's: look-ahead, cache, gradients, bf16.",
    )
    add.add_argument("target", metavar="TARGET", help="FILE.py:NAME, a Hugging Face folder, or a run")
    add.add_argument("--vocab", type=int, metavar="N", help="its tokens are 0 to N-1; else its embedding's")
    add.add_argument("--rows", type=int, default=2, metavar="B", help="of the batch")
    add.add_argument("--length", type=int, default=32, metavar="T", help="tokens in a row")
    add.add_argument("--seed", type=int, default=0, metavar="S", help="of the tokens and of new weights")
    add.add_argument("--json", action="store_true", help="print the findings as JSON")
    own_parts(add)

    add = command(
        "evidence", evidence, "Write experiments/README.md, and README's headline, from the stored results."
    )
    add.add_argument(
        "--experiments", type=Path, default=Path("experiments"), metavar="FOLDER", help="studies"
    )
    add.add_argument("--headline", default="rope_4m", metavar="NAME", help="the study that README shows")
    return whole


def _init(options: argparse.Namespace) -> None:
    """`ablate init`: make a project folder."""
    from ablate.cli.project import make_project

    for line in make_project(options.folder):
        print(printable(line))


def referee(options: argparse.Namespace) -> int:
    """`ablate try` and `ablate campaign`."""
    from ablate.cli.campaign_command import campaign_command, try_command

    if options.command == "try":
        return try_command(options.words, options.json)
    return campaign_command(options.action, options.experiments / options.name, options.json)


def load_own(places: list[str]) -> None:
    """Import a user's own parts, where any are named."""
    if places:
        from ablate.registry import load_parts

        load_parts(places)


def _generate(options: argparse.Namespace) -> None:
    """`ablate generate`: continue prompts with a trained run."""
    import torch

    from ablate.measure.trained import continue_texts, open_run, stream_text

    if not getattr(torch, options.device).is_available():
        raise ValueError(f"--device {options.device}: torch finds none on this machine; use --device cpu")
    if options.stream and len(options.prompt) > 1:
        raise ValueError("--stream prints one text as it comes; give one --prompt")
    chosen = {
        name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "seed", "stop", "restart")
    }
    run = open_run(options.folder, options.device)
    most = FARTHER * run.decoder.spec.context
    for n, prompt in enumerate(options.prompt, 1):
        if len(run.tokenizer.encode([prompt])[0]) > most:
            raise ValueError(
                f"--prompt {n}: has more than {most} tokens, {FARTHER} times the context; shorten it"
            )
    shown = printable if sys.stdout.isatty() else str  # what a model says must not act on a terminal
    if options.stream:
        pieces = stream_text(run, options.prompt[0], options.tokens, **chosen)
        print(shown(options.prompt[0]), end="", flush=True)
        for piece in pieces:
            print(shown(piece), end="", flush=True)
        print()
        return
    texts = continue_texts(run, options.prompt, options.tokens, **chosen)
    print(shown("\n\n".join(prompt + text for prompt, text in zip(options.prompt, texts, strict=True))))


def _parts(options: argparse.Namespace) -> None:
    """`ablate parts`: list all parts with their options."""
    from ablate.cli.catalogue import catalogue

    print(catalogue(), end="")


def import_(options: argparse.Namespace) -> None:
    """`ablate import`: turn a folder of transformers into one of ablate."""
    from ablate.cli.exchange import bring_in

    if options.to.exists():
        raise ValueError(f"{options.to} is there already; name a new folder")
    found = bring_in(options.folder, options.to, options.ignore)
    print(f"{options.to}: {sum(tensor.numel() for tensor in found.state.values()):,} parameters")
    if found.tokenizer is None:
        print("no tokenizer.json with a token that ends a document: the model cannot be given text")


def check_contracts(options: argparse.Namespace) -> int:
    """`ablate check`: 1 where a contract is broken."""
    from ablate.cli.check_model import check_model

    whole = check_model(
        options.target, options.vocab, options.rows, options.length, options.seed, options.json
    )
    return 0 if whole else 1


def export(options: argparse.Namespace) -> None:
    """`ablate export`: write a run as a folder that transformers reads."""
    from ablate.cli.exchange import parse_size, send_out

    shard = parse_size(options.shard_size)
    lines = send_out(
        options.folder, options.to, options.family, options.dtype, shard, options.experiments, options.code
    )
    print("\n".join(lines))


def _evaluate(options: argparse.Namespace) -> None:
    """`ablate evaluate`: measure a trained run, or a folder of transformers."""
    from rich.console import Console

    from ablate.cli.show import name_table, show_record
    from ablate.measure.score import score

    console = Console(highlight=False)
    if options.like is not None:
        from ablate.cli.exchange import measure_like

        measured = measure_like(options.folder, options.measures, options.like, options.cache).metrics
        console.print(
            name_table("Measured", [(name, f"{value:.6g}") for name, value in sorted(measured.items())])
        )
        return
    record = score(options.folder, options.cache, options.measures)
    show_record(console, record)
    found = {n: v for n, v in sorted(record.metrics.items()) if n.split("/")[0] in options.measures}
    console.print(name_table("Measured", [(name, f"{value:.6g}") for name, value in found.items()]))


def evidence(options: argparse.Namespace) -> None:
    """`ablate evidence`: rewrite the pages that sum up all studies of a folder."""
    from ablate.study.report.evidence import write_evidence

    if not options.experiments.is_dir():
        raise ValueError(f"--experiments {options.experiments}: is no folder; name one that holds studies")
    for file in write_evidence(options.experiments, Path("README.md"), options.headline):
        print(file)


if __name__ == "__main__":
    raise SystemExit(main())
