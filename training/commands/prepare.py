"""`train.py prepare`: a corpus tokenised once, by several processes, into memory-mapped arrays.

    sources -> parts -> scans -> which documents are held out -> tokenizer -> arrays -> manifest

The arrays hold, bit for bit, the tokens that `pretrain` would make of the same data itself, and
depend neither on the number of workers nor on how often the preparation was stopped.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from training.data.bpe import is_bpe, parse_size, trained_tokenizer
from training.data.documents import (
    SPLIT_SEED,
    check_fraction,
    choose_validation,
    describe_size,
    no_text,
)
from training.data.prepare_parts import (
    Part,
    Scan,
    TokenizeTask,
    check_unchanged,
    group_sources,
    make_parts,
    part_record_path,
    read_scan,
    scan_part,
    split_part,
    tokenize_part,
)
from training.data.prepare_plan import enter_folder, make_plan
from training.data.reading import DataError
from training.data.sources import find_sources
from training.data.token_arrays import (
    FORMAT,
    MANIFEST_FILE,
    PLAN_FILE,
    SPLITS,
    VERSION,
    array_records,
    is_prepared,
    open_token_arrays,
    write_json,
)
from training.data.tokenizers import Tokenizer, get_tokenizer
from training.data.workers import Workers
from training.errors import UserError, as_user_error


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Tokenise a corpus once into memory-mapped arrays, for --data of the other commands. Started
    again after an interruption, it goes on where it was stopped."""

    data: str = "stdlib"
    """What to tokenise: stdlib, a file, a folder or a glob (text, JSON lines or Parquet), or a data
    set as hf:NAME:CONFIG:SPLIT."""
    tokenizer: str = "bytes"
    """bytes, bpe:SIZE (trained on the training part of the data), or the path of a tokenizer.json
    or of a SentencePiece .model file."""
    out: Path = Path("prepared")
    """Folder of the arrays."""
    workers: Annotated[int | None, tyro.conf.arg(help_behavior_hint="")] = None
    """Processes that tokenise (default: one per core). The result does not depend on it."""
    validation_fraction: float = 0.05
    """Share of the text held out for validation."""
    part_bytes: int = 2**24
    """Files are joined to arrays of at least so many bytes on disk; a single file is never
    divided."""
    verify: bool = False
    """Read all arrays again at the end and compare their checksums."""


def prepare(config: PrepareConfig, console: Console) -> dict[str, Any]:
    """Tokenises a corpus, or what is left of it.

    Args:
        config: as given.
        console: for progress.

    Returns:
        The content of the folder's manifest.json.

    Raises:
        UserError: for options, data or a folder that cannot be used; it names the file.
        TrainingFailedError: for a full disk, or a worker that died.
    """
    if config.part_bytes < 1 or (config.workers is not None and config.workers < 1):
        raise UserError("--workers and --part-bytes must be at least 1")
    if is_prepared(config.data):
        raise UserError(f"--data {config.data} is prepared already: give the text itself")
    with as_user_error():
        check_fraction(config.validation_fraction)
        tokenizer = None if is_bpe(config.tokenizer) else get_tokenizer(config.tokenizer)
        if tokenizer is None:
            parse_size(config.tokenizer)
        sources = find_sources(config.data)
        groups = group_sources(sources, config.part_bytes)
        plan = make_plan(
            data=config.data,
            tokenizer=config.tokenizer,
            tokenizer_sha256=None if tokenizer is None else tokenizer.checksum,
            validation_fraction=config.validation_fraction,
            split_seed=SPLIT_SEED,
            part_bytes=config.part_bytes,
            parts=[[source.name for source in group] for group in groups],
        )
    plan, finished = enter_folder(config.out, plan)
    parts = make_parts(sources, plan["parts"])
    try:
        if not finished:
            with Workers(config.workers or os.cpu_count() or 1, console, config.out) as workers:
                _Preparation(config, plan, parts, console, workers).run(tokenizer)
        _remove_traces(config.out)
        arrays = open_token_arrays(config.out, verify=config.verify)
    except DataError as error:
        raise UserError(str(error)) from error
    console.print(describe_manifest(config.out, arrays.manifest, finished), highlight=False)
    return arrays.manifest


def _remove_traces(folder: Path) -> None:
    """Removes from a complete folder what only served to continue."""
    for pattern in (PLAN_FILE, "scan-*.npz", "part-*.json", "*.tmp"):
        for path in folder.glob(pattern):
            path.unlink()


@dataclasses.dataclass(frozen=True)
class _Preparation:
    """The steps of an unfinished preparation, each of which does only what is left to do."""

    config: PrepareConfig
    plan: dict[str, Any]
    parts: list[Part]
    console: Console
    workers: Workers

    @property
    def folder(self) -> Path:
        return self.config.out

    def run(self, tokenizer: Tokenizer | None) -> None:
        """Scans, splits, tokenises and writes the manifest."""
        scans = self.scan()
        held_out = self.split(scans)
        if tokenizer is None:
            self.console.print(f"training {self.config.tokenizer}", highlight=False)
            tokenizer = self.train_tokenizer(scans, held_out)
        records = self.tokenize(tokenizer, scans, held_out)
        manifest = self.manifest(tokenizer, scans, records)
        tokenizer.save(self.folder)
        write_json(self.folder / MANIFEST_FILE, manifest)

    def scan(self) -> list[Scan]:
        """Scans the parts that have not been, and checks that the others have not changed."""
        missing = []
        for part in self.parts:
            check_unchanged(part, self.folder, SPLIT_SEED)
            if read_scan(part, self.folder) is None:
                missing.append((part, self.folder, SPLIT_SEED))
        self.workers.run(
            scan_part,
            missing,
            doing="reading",
            describe=describe_size,
            already_done=len(self.parts) - len(missing),
        )
        scans = [read_scan(part, self.folder) for part in self.parts]
        if not sum(len(scan.sizes) for scan in scans):
            sources = [source for scan in scans for source in scan.sources]
            binary = sum(source["left_out"] for source in sources)
            raise no_text(self.config.data, len(sources) - binary, binary)
        return scans

    def split(self, scans: list[Scan]) -> list[np.ndarray | None]:
        """For each part, which documents are held out; None if the corpus is one document."""
        ranks = np.concatenate([scan.ranks for scan in scans])
        sizes = np.concatenate([scan.sizes for scan in scans])
        if len(sizes) == 1:
            return [None if len(scan.sizes) else np.empty(0, bool) for scan in scans]
        chosen = choose_validation(ranks, sizes, self.config.validation_fraction)
        return np.split(chosen, np.cumsum([len(scan.sizes) for scan in scans])[:-1])

    def tasks(
        self, tokenizer: Tokenizer, scans: list[Scan], held_out: list[np.ndarray | None]
    ) -> list[TokenizeTask]:
        """What tokenises each part."""
        tasks = []
        to_come = set(SPLITS)
        for part, scan, mask in zip(self.parts, scans, held_out, strict=True):
            found = {
                "training": mask is None or not mask.all(),
                "validation": mask is None or bool(mask.any()),
            }
            first = tuple(split for split in SPLITS if found[split] and split in to_come)
            to_come -= set(first)
            tasks.append(
                TokenizeTask(
                    part=part,
                    folder=self.folder,
                    tokenizer=tokenizer,
                    dtype=np.min_scalar_type(tokenizer.vocab_size - 1),
                    held_out=mask,
                    validation_fraction=self.config.validation_fraction,
                    first=first,
                    checksums=tuple(source["sha256"] for source in scan.sources),
                )
            )
        return tasks

    def train_tokenizer(self, scans: list[Scan], held_out: list[np.ndarray | None]) -> Tokenizer:
        """The BPE of the training documents."""

        def texts() -> Iterator[bytes]:
            # The bytes' tokenizer only fills the field: nothing is tokenised here.
            for task in self.tasks(get_tokenizer("bytes"), scans, held_out):
                for _, split, document in split_part(task):
                    if split == "training":
                        yield document.text

        checksums = {source["name"]: source["sha256"] for scan in scans for source in scan.sources}
        return trained_tokenizer(
            self.config.tokenizer, texts(), checksums, self.config.validation_fraction
        )

    def tokenize(
        self, tokenizer: Tokenizer, scans: list[Scan], held_out: list[np.ndarray | None]
    ) -> list[dict[str, Any]]:
        """Tokenises the parts that have not been; returns the records of all."""
        tasks = self.tasks(tokenizer, scans, held_out)
        missing = [(task,) for task in tasks if self._record(task) is None]
        self.workers.run(
            tokenize_part,
            missing,
            doing="tokenising",
            describe="{:,} tokens".format,
            already_done=len(self.parts) - len(missing),
        )
        return [self._record(task) for task in tasks]

    def _record(self, task: TokenizeTask) -> dict[str, Any] | None:
        """The record of a tokenised part, or None where it is still to be done."""
        path = part_record_path(self.folder, task.part.index)
        if not path.exists():
            return None
        record = json.loads(path.read_text())
        arrays = [record[split]["array"] for split in SPLITS]
        complete = all(array is None or (self.folder / array["file"]).exists() for array in arrays)
        same = record["tokenizer"] == task.tokenizer.checksum
        return record if complete and same else None

    def manifest(
        self, tokenizer: Tokenizer, scans: list[Scan], records: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """The content of manifest.json."""
        splits = {}
        for split in SPLITS:
            arrays = [record[split]["array"] for record in records if record[split]["array"]]
            if not arrays:
                raise DataError(
                    f"{self.config.data}: the tokenizer makes no token of the {split} documents. "
                    "Give more text."
                )
            splits[split] = {
                "documents": sum(record[split]["documents"] for record in records),
                "text_bytes": sum(record[split]["text_bytes"] for record in records),
                "tokens": sum(array["tokens"] for array in arrays),
                "arrays": arrays,
            }
        sources = [
            source | {"tokens": tokens}
            for scan, record in zip(scans, records, strict=True)
            for source, tokens in zip(scan.sources, record["source_tokens"], strict=True)
        ]
        return {
            "format": FORMAT,
            "version": VERSION,
            "tokenizer": {
                "name": tokenizer.name,
                "sha256": tokenizer.checksum,
                "vocab_size": tokenizer.vocab_size,
                "eos_id": tokenizer.eos_id,
            },
            "dtype": str(np.min_scalar_type(tokenizer.vocab_size - 1)),
            **splits,
            "sources": sources,
            "plan": self.plan,
        }


def describe_manifest(folder: Path, manifest: dict[str, Any], finished: bool) -> str:
    """One line for people: what a prepared folder holds."""
    training, validation = manifest["training"], manifest["validation"]
    done = "was complete already" if finished else "is complete"
    ratio = training["text_bytes"] / training["tokens"]
    return (
        f"{folder} {done}: {training['tokens']:,} tokens to train on, {validation['tokens']:,} "
        f"held out, {ratio:.2f} bytes per token, {len(list(array_records(manifest)))} arrays. "
        f"Train with --data {folder} --tokenizer {manifest['tokenizer']['name']}"
    )
