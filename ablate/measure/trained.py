"""A finished run, opened from its folder, and what its model says."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from ablate import registry
from ablate.errors import AblateError
from ablate.explain import explain
from ablate.model.decoder import Decoder
from ablate.model.generate import complete, generate
from ablate.model.hf import CheckpointFormatError
from ablate.model.hf.opened import is_foreign, open_foreign
from ablate.record import RunRecord
from ablate.spec import RunSpec
from ablate.train.state.weights import WEIGHTS_FILE, WeightsMismatch, load_weights


class RunNotLoadable(AblateError, ValueError):
    """A run that cannot be generated from, with the reason."""


class Trained(NamedTuple):
    """A trained decoder, its tokenizer and the record it came from."""

    decoder: Decoder
    tokenizer: Any  # ablate.data.tokenizer.Tokenizer
    record: RunRecord
    folder: Path | None = None  # where its curve lies


def open_run(folder: Path, device: str = "cpu") -> Trained:
    """The model of `runs/<id>` with its weights and its tokenizer. The kernel is chosen anew, for the device
    and for reading only: it is the same mathematics. A Hugging Face folder and an imported one are opened
    too; their record says no more than whose they are. Raises RunNotLoadable (for a run that is not
    finished, too, though older weights may lie there), IncompatibleParts."""
    if is_foreign(folder):
        return _open_foreign(folder, device)
    try:
        record = RunRecord.load(folder)
    except FileNotFoundError:
        raise RunNotLoadable(f"{folder}: there is no finished run here (no record.json)") from None
    except ValueError as error:
        raise RunNotLoadable(str(error)) from None
    if record.status != "finished":
        raise RunNotLoadable(f"{folder}: the run is {record.status}, not finished; train it to its end")
    try:
        spec = RunSpec.model_validate(record.spec)
    except ValidationError as error:
        said = "; ".join(explain(error))
        raise RunNotLoadable(
            f"{folder}: its specification is not understood: {said}; name parts of your own with --parts"
        ) from None
    model = spec.model.model_copy(update={"kernel": registry.kernel.parse("auto")})
    decoder = Decoder(model, device, training=False)
    try:
        load_weights(decoder, folder / WEIGHTS_FILE)
    except (WeightsMismatch, FileNotFoundError) as error:
        raise RunNotLoadable(str(error)) from None
    tokenizer = registry.tokenizer.build(spec.data.tokenizer)
    try:
        tokenizer.load(folder / "tokenizer")
    except (ValueError, OSError) as error:
        raise RunNotLoadable(f"{folder}: its tokenizer cannot be read: {error}") from None
    if tokenizer.hash() != record.fingerprint.get("tokenizer"):
        raise RunNotLoadable(f"{folder / 'tokenizer'} is not the tokenizer that the run was trained with")
    return Trained(decoder.to(device).eval(), tokenizer, record, folder)


def _open_foreign(folder: Path, device: str) -> Trained:
    try:
        foreign = open_foreign(folder)
    except (CheckpointFormatError, OSError) as error:
        raise RunNotLoadable(str(error)) from None
    decoder = Decoder(foreign.spec, device, training=False)
    decoder.load_state_dict(foreign.state)
    record = RunRecord(
        id=foreign.id,
        status="finished",
        source_hash="",
        spec={"model": foreign.spec.model_dump(mode="json")},
        fingerprint={} if foreign.tokenizer is None else {"tokenizer": foreign.tokenizer.hash()},
    )
    tokenizer = foreign.tokenizer or _Speechless(folder)
    return Trained(decoder.to(device).eval(), tokenizer, record, folder)


class _Speechless:
    """Stands where a folder has no tokenizer: its model can be measured by nothing that reads text."""

    end = None

    def __init__(self, folder: Path):
        self._folder = folder

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        raise ValueError(
            f"{self._folder}: has no tokenizer.json with a token that ends a document; put it there "
            "(transformers: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER))"
        )


def sample_text(
    run: Trained,
    prompt: str,
    tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> str:
    """The prompt and what the model says next, up to the end of a document."""
    texts = continue_texts(
        run, [prompt], tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    return prompt + texts[0]


def continue_texts(
    run: Trained, prompts: Sequence[str], tokens: int, *, stop: Sequence[str] = (), **options: Any
) -> list[str]:
    """What the model says next to each prompt, up to the end of a document or the first `stop`, which is left
    out. An empty prompt begins a document. Raises as `generate` does."""
    ends = () if run.tokenizer.end is None else (run.tokenizer.end,)
    given = _read(run.tokenizer, prompts)
    rows = complete(run.decoder, given, tokens, stop=ends, **options)
    texts = [_text(run.tokenizer, prompt, row) for prompt, row in zip(given, rows, strict=True)]
    return [text[: _first(text, stop)] for text in texts]


def stream_text(
    run: Trained, prompt: str, tokens: int, *, stop: Sequence[str] = (), **options: Any
) -> Iterator[str]:
    """`continue_texts` of one prompt, piece by piece as it comes. Raises as `generate` does, at once."""
    ends = () if run.tokenizer.end is None else (run.tokenizer.end,)
    given = _read(run.tokenizer, [prompt])
    steps = generate(run.decoder, given, tokens, stop=ends, **options)
    return _spoken(run.tokenizer, given[0], steps, stop)


def _read(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    begin = [] if tokenizer.end is None else [tokenizer.end]
    rows = [row or begin for row in tokenizer.encode(prompts)]
    if not all(rows):
        raise ValueError("the prompt is empty, and this tokenizer has no token that begins a document")
    return rows


def _text(tokenizer: Any, prompt: Sequence[int], new: Sequence[int]) -> str:
    """What the new tokens add to the text of the prompt: alone, a word may lose the space before it. Of the
    tokens that are the tokenizer's; a model may have more."""
    known = [token for token in new if token < tokenizer.vocab]
    before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *known])
    same = (n for n, (old, now) in enumerate(zip(before, whole, strict=False)) if old != now)
    return str(whole[next(same, min(len(before), len(whole))) :])


def _first(text: str, stop: Sequence[str]) -> int:
    """Where the first stop begins, or the end of the text."""
    return min((text.index(s) for s in stop if s and s in text), default=len(text))


def _spoken(
    tokenizer: Any, prompt: Sequence[int], steps: Iterator[list[int | None]], stop: Sequence[str]
) -> Iterator[str]:
    """Text is held back while it may be the beginning of a stop, or of a character of several bytes."""
    new: list[int] = []
    said, text = 0, ""
    for (token,) in steps:
        assert token is not None  # the only row ends the steps when it stops
        new.append(token)
        text = _text(tokenizer, prompt, new)
        if _first(text, stop) < len(text):
            break
        sure = len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
        sure -= max((n for s in stop for n in range(1, len(s)) if text[:sure].endswith(s[:n])), default=0)
        if sure > said:
            yield text[said:sure]
            said = sure
    if _first(text, stop) > said:
        yield text[said : _first(text, stop)]
