"""From sources to token arrays in a folder: for the user's own one, and for a run's temporary one.

    sources -> texts (Arrow) -> which are held out -> tokenizer -> tokens (Arrow) -> train.npy, ...

`datasets` keeps the texts and tokens by the checksums of their sources and the tokenizer, so that a
stopped preparation goes on with what was complete. The arrays depend on neither the number of
processes nor on interruptions.
"""

import contextlib
import hashlib
import importlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from training.data.bpe import trained_tokenizer
from training.data.documents import read_documents
from training.data.plan import Plan
from training.data.processes import watching_processes
from training.data.split import choose_validation, cut_in_two
from training.data.tables import import_datasets
from training.data.token_arrays import (
    FORMAT,
    MANIFEST_FILE,
    VERSION,
    write_arrays,
)
from training.data.tokenizers import Tokenizer
from training.errors import DataError
from training.json_files import write_json

_CACHE = "cache"
# Documents that a tokenizer gets at once, and that are written at once.
_BATCH = 64


def write_tokens(
    plan: Plan,
    folder: Path,
    *,
    workers: int = 1,
    most_bytes: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    show_progress: bool = False,
) -> None:
    """Reads, splits and tokenises a corpus into the files that `open_token_arrays` opens.

    Args:
        plan: what to do.
        folder: to write to; what an earlier call for the same plan left in it is used again.
        workers: processes; with 1, all is done in this one. The result does not depend on it.
        most_bytes: more text is refused; None = any. For one process only.
        say: called with what takes long.
        show_progress: show the bars of `datasets`.

    Raises:
        DataError: a source cannot be read or changes meanwhile, or there is too little text.
    """
    cache = folder / _CACHE
    cache.mkdir(parents=True, exist_ok=True)
    datasets = import_datasets()
    with contextlib.ExitStack() as stack:
        if show_progress:
            datasets.enable_progress_bars()
            stack.callback(datasets.disable_progress_bars)
        texts = _read(plan, cache, workers, most_bytes)
        if plan.is_stale:
            shutil.rmtree(cache)  # these texts may not be those of the checksums
            raise DataError(
                f"{plan.data}: a file has changed while it was read. Start again when no other "
                "program writes to it."
            )
        checksums = _with_streamed(plan, texts)
        texts, held_out = _split(plan, texts)
        tokenizer = plan.tokenizer
        if tokenizer is None:
            say(f"training {plan.tokenizer_name}")
            training = _training_texts(texts, held_out)
            tokenizer = trained_tokenizer(
                plan.tokenizer_name, training, checksums, plan.validation_fraction
            )
        tokens = _tokenise(texts, tokenizer, cache, _key(plan, tokenizer.checksum), workers)
    _write(plan, folder, texts, tokens, held_out, tokenizer, checksums)
    del texts, tokens
    shutil.rmtree(cache)


def _key(plan: Plan, *more: Any) -> str:
    """What `datasets` keeps a result by: it is another one if any source is another."""
    content = [VERSION, plan.validation_fraction, list(plan.checksums.items()), *more]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _read(plan: Plan, cache: Path, workers: int, most_bytes: int | None) -> Any:
    """All documents, as a `Dataset` with the columns of `read_documents`."""
    datasets = import_datasets()
    failure = cache / "failure"
    failure.unlink(missing_ok=True)
    workers = min(workers, len(plan.sources))
    # A list is divided among processes, and read item by item in any case; a tuple is not.
    sources = list(plan.sources) if workers > 1 else plan.sources
    features = {"rank": datasets.Value("float64"), "text": datasets.Value("large_string")}
    try:
        with watching_processes(workers):
            return datasets.Dataset.from_generator(
                read_documents,
                features=datasets.Features(features),
                cache_dir=str(cache),
                gen_kwargs={
                    "sources": sources,
                    "cache": str(cache),
                    "failure": str(failure),
                    "most_bytes": most_bytes,
                },
                num_proc=workers if workers > 1 else None,
                fingerprint=_key(plan),
                writer_batch_size=_BATCH,
            )
    except Exception as error:
        if failure.exists():
            raise DataError(failure.read_text("utf-8")) from error
        if "corresponds to no data" in str(error):  # what `datasets` says of a table without rows
            raise DataError(
                f"{plan.data}: there is no text in it (empty files: {len(plan.sources)}, binary "
                f"files: {plan.num_binary}). Give a file, folder or glob that holds text, or "
                '"stdlib".'
            ) from error
        raise


def _with_streamed(plan: Plan, texts: Any) -> dict[str, str]:
    """The checksums; a data set by name has that of all its texts, known once they are here."""
    if None not in plan.checksums.values():
        return {name: str(checksum) for name, checksum in plan.checksums.items()}
    digest = hashlib.sha256()
    for text in _strings(texts):
        digest.update(len(text).to_bytes(8, "big"))
        digest.update(text)
    return {plan.data: digest.hexdigest()}


def _strings(texts: Any) -> Iterator[bytes]:
    for table in texts.with_format("arrow").iter(batch_size=_BATCH):
        for text in table["text"].to_pylist():
            yield text.encode("utf-8")


def _training_texts(texts: Any, held_out: np.ndarray) -> Iterator[bytes]:
    return itertools.compress(_strings(texts), ~held_out)


def _split(plan: Plan, texts: Any) -> tuple[Any, np.ndarray]:
    """The texts, and which of them are held out; the only text of a corpus is cut in two."""
    if len(texts) > 1:
        ranks = texts.data.column("rank").to_numpy()
        return texts, choose_validation(ranks, plan.validation_fraction)
    halves = cut_in_two(texts[0]["text"], plan.data, plan.validation_fraction)
    rows = {"rank": [1.0, 0.0], "text": list(halves)}
    halved = import_datasets().Dataset.from_dict(rows, features=texts.features)
    return halved, np.array([False, True])


def _tokenise(texts: Any, tokenizer: Tokenizer, cache: Path, key: str, workers: int) -> Any:
    """A `Dataset` with the tokens of every text, the end of text the last one."""
    datasets = import_datasets()
    dtype = str(np.min_scalar_type(tokenizer.vocab_size - 1))
    workers = min(workers, len(texts))
    with watching_processes(workers):
        return texts.map(
            encode_documents,
            batched=True,
            batch_size=_BATCH,
            num_proc=workers if workers > 1 else None,
            remove_columns=["rank", "text"],
            features=datasets.Features({"tokens": datasets.LargeList(datasets.Value(dtype))}),
            fn_kwargs={"tokenizer": tokenizer, "dtype": dtype},
            cache_file_name=str(cache / f"{key}.arrow"),
            new_fingerprint=key,
            desc="tokenising",
        )


def encode_documents(
    batch: dict[str, list[str]], tokenizer: Tokenizer, dtype: str
) -> dict[str, list[np.ndarray]]:
    """The function of `map`: the tokens of several texts, each with the end of text behind it."""
    encoded = tokenizer.encode_batch(batch["text"])
    return {"tokens": [np.append(ids, tokenizer.eos_id).astype(dtype) for ids in encoded]}


def _write(
    plan: Plan,
    folder: Path,
    texts: Any,
    tokens: Any,
    held_out: np.ndarray,
    tokenizer: Tokenizer,
    checksums: dict[str, str],
) -> None:
    """Writes the arrays, the tokenizer and, last, the manifest."""
    compute = importlib.import_module("pyarrow.compute")
    lengths = compute.list_value_length(tokens.data.column("tokens")).to_numpy()
    num_bytes = compute.binary_length(texts.data.column("text")).to_numpy()
    masks = {"training": ~held_out, "validation": held_out}
    sizes = {split: int(lengths[mask].sum()) for split, mask in masks.items()}
    for split, size in sizes.items():
        if size < 2:
            raise DataError(
                f"{plan.data}: the tokenizer makes no token of the {split} documents. "
                "Give more text."
            )
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
    arrays = write_arrays(folder, _pieces(tokens, lengths, held_out), sizes, dtype)
    tokenizer.save(folder)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "tokenizer": {
            "name": tokenizer.name,
            "sha256": tokenizer.checksum,
            "vocab_size": tokenizer.vocab_size,
            "eos_id": tokenizer.eos_id,
        },
        "dtype": str(dtype),
        "binary_left_out": plan.num_binary,
    }
    for split, mask in masks.items():
        counts = {"documents": int(mask.sum()), "text_bytes": int(num_bytes[mask].sum())}
        manifest[split] = arrays[split] | counts
    manifest |= {"plan": plan.choices(), "sources": plan.checksums, "checksums": checksums}
    write_json(folder / MANIFEST_FILE, manifest)


def _pieces(
    tokens: Any, lengths: np.ndarray, held_out: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the tokens of some documents, and whether each is held out, in order."""
    start = 0
    for table in tokens.with_format("arrow").iter(batch_size=_BATCH):
        stop = start + len(table)
        values = [chunk.flatten().to_numpy() for chunk in table["tokens"].chunks]
        yield np.concatenate(values), np.repeat(held_out[start:stop], lengths[start:stop])
        start = stop
