"""What recipes read: streams of tokens to train on, to tune by, and to report."""

import functools
import itertools
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np

from training.data.documents import STDLIB, find_sources, read_documents
from training.data.problems import generate_problems
from training.data.tokenization import document_rank

END_OF_TEXT = np.array([256], np.uint16)
HELD_OUT = 0.05
PROBLEMS, HELD_OUT_PROBLEMS = 10_000, 1000


def write_library(path: pathlib.Path) -> None:
    """The bytes of Python's standard library.

    The split is the search's own, so that its runs stay comparable: documents in the order of the
    hash of their names are held out as long as they fit into a twentieth of the bytes.
    """
    documents = list(read_documents(find_sources(STDLIB)))
    texts = [document.text.encode() for document in documents]
    room = HELD_OUT * sum(map(len, texts))
    smallest = min(map(len, texts))
    held_out = set()
    for i in sorted(range(len(texts)), key=lambda i: document_rank(documents[i].name)):
        if room < smallest:
            break
        if len(texts[i]) <= room:
            held_out.add(i)
            room -= len(texts[i])
    training = _stream(text for i, text in enumerate(texts) if i not in held_out)
    write_arrays(path, _parts(training, _stream(texts[i] for i in sorted(held_out))))


def write_problems(path: pathlib.Path) -> None:
    """The bytes of arithmetic word problems and their solutions, no problem twice."""
    texts = (f"{problem.question}\n{problem.answer}".encode() for problem in generate_problems(0))
    held_out = _stream(itertools.islice(texts, HELD_OUT_PROBLEMS))
    write_arrays(path, _parts(_stream(itertools.islice(texts, PROBLEMS)), held_out))


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An npz file, there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished.npz")
    np.savez(unfinished, **arrays)
    unfinished.replace(path)


@functools.cache
def tokens(path: pathlib.Path) -> Mapping[str, np.ndarray]:
    """The arrays "training", "tuning" and "reported" of token ids.

    Args:
        path: what one of the above wrote, or an .npy file of one array of ids, of which the last
            twentieth is held out.

    Raises:
        SystemExit: for an .npy file of another kind of array.
    """
    if path.suffix != ".npy":
        with np.load(path) as arrays:
            return dict(arrays)
    ids = np.load(path, mmap_mode="r")
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise SystemExit(f"{path} holds {ids.dtype}{ids.shape}: give one axis of integers, the ids")
    end = round((1 - HELD_OUT) * len(ids))
    return _parts(ids[:end], ids[end:])


@functools.cache
def vocabulary_size(path: pathlib.Path) -> int:
    """How many ids there are at least."""
    return 1 + max(int(part.max()) for part in tokens(path).values())


def rows(stream: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Windows of a stream of tokens, int32 (rows, length + 1)."""
    return stream[starts[:, None] + np.arange(length + 1)].astype(np.int32)


def _parts(training: np.ndarray, held_out: np.ndarray) -> dict[str, np.ndarray]:
    half = len(held_out) // 2
    return {"training": training, "tuning": held_out[:half], "reported": held_out[half:]}


def _stream(texts: Iterable[bytes]) -> np.ndarray:
    """Bytes, and 256 between texts."""
    pieces = [piece for text in texts for piece in (np.frombuffer(text, np.uint8), END_OF_TEXT)]
    return np.concatenate(pieces[:-1]).astype(np.uint16)
