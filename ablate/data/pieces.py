"""The documents of a source as tokens, in pieces: a long document is tokenised piece by piece."""

from collections.abc import Iterator

import numpy as np

from ablate.data.source import Source, SplitName
from ablate.data.tokenizer import Tokenizer, TokenizerError

PIECE_CHARACTERS = (
    1 << 16
)  # characters: longer documents are tokenised in pieces, which takes far less memory
BATCH = 1 << 20  # characters that are tokenised at once
Pieces = Iterator[tuple[str, np.ndarray, bool, bool]]


def pieces_of(documents: Iterator[str], source: Source, name: SplitName, tokenizer: Tokenizer) -> Pieces:
    """The pieces of a split, of its documents or of its tokens where these are there already. Their text is
    asked for outside of training only: there a loss is divided by its bytes. Raises TokenizerError for a
    token beyond the vocabulary."""
    ready = source.token_documents(name)
    if ready is None:
        yield from encoded_pieces(documents, tokenizer)
        return
    for ids in ready:
        spoken = name != "train" and tokenizer.has_text
        text = tokenizer.decode(ids.tolist()) if spoken else ""
        yield text, known_tokens(ids, tokenizer).astype(dtype(tokenizer)), True, True


def encoded_pieces(documents: Iterator[str], tokenizer: Tokenizer) -> Pieces:
    """(text, tokens, is it a document's first piece, its last) in order. Long documents come in pieces; the
    end token stands after the last one."""
    for batch in batches(documents):
        numbers = tokenizer.arrays([text for text, _, _ in batch])
        for (text, first, last), ids in zip(batch, numbers, strict=True):
            ends = [tokenizer.end] if last and tokenizer.end is not None else []
            whole = np.concatenate(
                [known_tokens(ids, tokenizer), ends], dtype=dtype(tokenizer), casting="unsafe"
            )
            yield text, whole, first, last


def known_tokens(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """The tokens. Raises TokenizerError for one that is not in the vocabulary."""
    if len(ids) and not 0 <= ids.min() <= ids.max() < tokenizer.vocab:
        raise TokenizerError(f"data: a token is not in 0..{tokenizer.vocab - 1}: {ids.max()}")
    return ids


def dtype(tokenizer: Tokenizer) -> np.dtype:
    """The smallest unsigned integers that hold every token."""
    return np.dtype(np.uint16 if tokenizer.vocab <= 1 << 16 else np.uint32)


def batches(documents: Iterator[str]) -> Iterator[list[tuple[str, bool, bool]]]:
    """Lists of (piece, is it a document's first, its last), each of about BATCH characters."""
    batch: list[tuple[str, bool, bool]] = []
    held = 0
    for document in documents:
        at = 0
        while at < len(document):
            until = cut(document, at)
            batch.append((document[at:until], at == 0, until == len(document)))
            held += until - at
            at = until
            if held >= BATCH:
                yield batch
                batch, held = [], 0
    if batch:
        yield batch


def cut(document: str, at: int) -> int:
    """Where the piece that begins at `at` ends: after the last line that fits, where there is one (there, a
    tokenizer hardly ever joins what stands on both sides)."""
    if len(document) - at <= PIECE_CHARACTERS:
        return len(document)
    line = document.rfind("\n", at, at + PIECE_CHARACTERS)
    return line + 1 if line >= 0 else at + PIECE_CHARACTERS
