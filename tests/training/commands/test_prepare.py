"""`train.py prepare`: the tokens of the corpus, for any workers and however often it is killed."""

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from rich.console import Console

import train
from training.commands.prepare import PrepareConfig, prepare
from training.config.pretraining import TrainingConfig
from training.data import prepare_parts
from training.data.corpus import load_corpus
from training.data.token_arrays import open_token_arrays
from training.data.workers import Workers
from training.errors import TrainingFailedError, UserError

REPOSITORY = Path(train.__file__).parent

# Prepares as the command line does, and kills itself at the n-th time that it opens, renames or
# removes a file of the output folder.
KILLED = """
import os, signal, sys
from pathlib import Path
from rich.console import Console
from training.commands.prepare import PrepareConfig, prepare

data, tokenizer, out, last = sys.argv[1:]
left = int(last)

def count(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove") and out in str(arguments[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
prepare(
    PrepareConfig(data=data, tokenizer=tokenizer, out=Path(out), part_bytes=2000, workers=1),
    Console(quiet=True),
)
"""

# An undisturbed preparation of `source` has some 110 of these moments.
MOMENTS = [1, 20, 39, 58, 77, 90, 103]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Text, JSON-lines and Parquet files, an empty and a binary one."""
    folder = tmp_path_factory.mktemp("source")
    for i in range(6):
        lines = [f"file {i} line {j}: naïve {i * j}.\n" for j in range(20 + 17 * i)]
        (folder / f"{i}.txt").write_text("".join(lines))
    lines = [json.dumps({"text": f"document {i} of the lines " * (i % 5)}) for i in range(90)]
    (folder / "lines.jsonl").write_text("\n".join(lines))
    rows = pyarrow.table({"text": [f"row {i} of the table " * (i % 4) for i in range(90)]})
    parquet.write_table(rows, folder / "table.parquet")
    (folder / "empty.txt").touch()
    (folder / "picture.png").write_bytes(b"\x89PNG\0")
    return folder


def run(data, out, **options):
    """Prepares with small parts in this process, unless told otherwise; returns the output."""
    console = Console(file=io.StringIO(), width=300)
    defaults = {"part_bytes": 2000, "workers": 1}
    prepare(PrepareConfig(data=str(data), out=out, **(defaults | options)), console)
    return console.file.getvalue()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_prepared_tokens_are_those_that_a_run_would_make(source, tmp_path):
    for tokenizer in ("bytes", "bpe:300"):
        out = tmp_path / tokenizer[:3]
        run(source, out, tokenizer=tokenizer, validation_fraction=0.2)
        direct = load_corpus(
            TrainingConfig(data=str(source), tokenizer=tokenizer, validation_fraction=0.2)
        )
        prepared = load_corpus(TrainingConfig(data=str(out), tokenizer=tokenizer, verify=True))
        for split in ("training", "validation"):
            ours, theirs = getattr(prepared, split)[:], getattr(direct, split)
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype == np.uint16
        assert prepared.training_bytes == direct.training_bytes
        assert prepared.validation_bytes == direct.validation_bytes
        assert prepared.tokenizer.checksum == direct.tokenizer.checksum
        assert len(prepared.checksums) > 4


@pytest.mark.parametrize("workers", [1, 2])
def test_a_data_set_by_name_is_prepared_shard_by_shard(tmp_path, monkeypatch, workers):
    """A local folder stands in for the hub: the same builder reads it, only without a network."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))  # for the workers
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    for shard in range(3):
        lines = [json.dumps({"text": f"shard {shard} text {i} " * 5}) + "\n" for i in range(30)]
        (folder / f"train-{shard}.jsonl").write_text("".join(lines))
    run(f"hf:{folder}", tmp_path / "out", workers=workers)
    direct = load_corpus(TrainingConfig(data=f"hf:{folder}"))
    prepared = load_corpus(TrainingConfig(data=str(tmp_path / "out"), verify=True))
    np.testing.assert_array_equal(prepared.training[:], direct.training)
    np.testing.assert_array_equal(prepared.validation[:], direct.validation)
    assert "train-00002.npy" in prepared.checksums


def test_a_single_text_is_cut_as_a_run_would_cut_it(tmp_path):
    (tmp_path / "book.txt").write_text("né" * 500)
    run(tmp_path / "book.txt", tmp_path / "out")
    direct = load_corpus(TrainingConfig(data=str(tmp_path / "book.txt")))
    prepared = load_corpus(TrainingConfig(data=str(tmp_path / "out")))
    np.testing.assert_array_equal(prepared.training[:], direct.training)
    np.testing.assert_array_equal(prepared.validation[:], direct.validation)


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_the_folder_does_not_depend_on_the_number_of_workers(source, tmp_path, tokenizer):
    folders = []
    for workers in (1, 3):
        run(source, tmp_path / str(workers), tokenizer=tokenizer, workers=workers)
        folders.append(contents(tmp_path / str(workers)))
    assert folders[0] == folders[1]
    names = set(folders[0])
    assert {"manifest.json", "train-00000.npy"} <= names
    assert ("tokenizer.json" in names) == (tokenizer != "bytes")
    # Nothing is left of the work.
    assert not [name for name in names if name.startswith(("scan", "part", "prep"))]
    assert not [name for name in names if name.endswith("tmp")]


def test_the_manifest_says_what_was_made_of_what(source, tmp_path):
    run(source, tmp_path / "out", tokenizer="bpe:300")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["tokenizer"]["name"] == "bpe:300"
    assert len(manifest["tokenizer"]["sha256"]) == 64
    assert (manifest["dtype"], manifest["version"], manifest["plan"]["split_seed"]) == (
        "uint16",
        1,
        0,
    )
    sources = {entry["name"]: entry for entry in manifest["sources"]}
    assert sorted(sources) == sorted(path.name for path in source.iterdir())
    assert sources["picture.png"]["left_out"]
    assert sources["empty.txt"]["documents"] == 0
    assert sources["1.txt"]["text_bytes"] == (source / "1.txt").stat().st_size
    documents = sum(entry["documents"] for entry in sources.values())
    tokens = sum(entry["tokens"] for entry in sources.values())
    splits = [manifest["training"], manifest["validation"]]
    assert sum(split["documents"] for split in splits) == documents
    # The two splits are streams of their own: an end of text between any two documents of each.
    assert sum(split["tokens"] for split in splits) == tokens + documents - 2


@pytest.mark.parametrize(
    ("tokenizer", "moment"),
    [
        *(("bytes", moment) for moment in MOMENTS),
        *(("bpe:300", moment) for moment in MOMENTS[2:5]),
    ],
)
def test_a_preparation_that_is_killed_ends_as_an_undisturbed_one(
    source, tmp_path, tokenizer, moment
):
    out = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(source), tokenizer, str(out), str(moment)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    run(source, out, tokenizer=tokenizer)
    run(source, tmp_path / "undisturbed", tokenizer=tokenizer)
    assert contents(out) == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("wanted", ["preparation.json", "part-00000.json"])
def test_a_kill_after_the_manifest_leaves_no_traces(source, tmp_path, monkeypatch, wanted):
    """The last moments: the folder is complete, but what served to continue is still there."""
    unlink = Path.unlink

    def stopping(path, missing_ok=False):
        if path.name == wanted:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "out")
    assert (tmp_path / "out" / wanted).exists()
    assert "was complete already" in run(source, tmp_path / "out")
    run(source, tmp_path / "undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def stop_at_part(monkeypatch, count):
    """Makes the tokenisation of part `count` fail like an interruption."""
    write = prepare_parts.write_json

    def stopping(path, content):
        if path.name == f"part-{count:05d}.json":
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(prepare_parts, "write_json", stopping)


@pytest.fixture
def stopped(source, tmp_path, monkeypatch):
    """A copy of the source and a preparation of it that was stopped in its third part."""
    data = tmp_path / "data"
    data.mkdir()
    for path in source.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    with monkeypatch.context() as patch:
        stop_at_part(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "out")
    return data, tmp_path / "out"


def test_finished_parts_are_not_made_again(stopped):
    data, out = stopped
    before = {path.name: path.stat().st_ino for path in out.glob("*-0000[01].npy")}
    assert len(before) >= 2
    printed = run(data, out)
    assert "tokenising: part 3/" in printed
    assert "tokenising: part 2/" not in printed
    assert "reading" not in printed
    assert {name: (out / name).stat().st_ino for name in before} == before


def test_a_finished_preparation_is_not_made_again(source, tmp_path):
    first = run(source, tmp_path / "out")
    assert f"{tmp_path}/out is complete: " in first
    assert f"Train with --data {tmp_path}/out --tokenizer bytes" in first
    again = run(source, tmp_path / "out")
    assert "was complete already" in again
    assert "part" not in again


def test_a_file_that_changed_since_the_interruption_is_named(stopped):
    data, out = stopped
    (data / "0.txt").write_text("other text " * 1000)
    for _ in range(2):  # refused as often as it is tried
        with pytest.raises(UserError, match=r"^0\.txt: this file has changed since .* Restore it"):
            run(data, out)


def test_a_file_that_was_only_touched_is_accepted(stopped):
    data, out = stopped
    os.utime(data / "0.txt", (1, 1))
    run(data, out)
    open_token_arrays(out, verify=True)


def test_files_that_vanished_or_came_since_the_interruption_are_named(stopped):
    data, out = stopped
    (data / "1.txt").unlink()
    (data / "new.txt").write_text("new")
    with pytest.raises(UserError) as caught:
        run(data, out)
    assert "  1.txt has vanished\n  new.txt is new\n" in str(caught.value)


def test_a_file_that_changes_while_it_is_prepared_is_named(source, tmp_path, monkeypatch):
    data = tmp_path / "a.txt"
    data.write_text("text " * 100)
    (tmp_path / "b.txt").write_text("text " * 100)
    original = prepare_parts.split_part

    def changed(task):
        data.write_text("other " * 100)
        return original(task)

    monkeypatch.setattr(prepare_parts, "split_part", changed)
    with pytest.raises(UserError, match=r"a\.txt: this file has changed since the preparation"):
        run(f"{tmp_path}/*.txt", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tmp"))


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"tokenizer": "bpe:300"}, "tokenizer: 'bytes' before, 'bpe:300' now"),
        ({"validation_fraction": 0.1}, "validation_fraction: 0.05 before, 0.1 now"),
        ({"part_bytes": 2001}, "part_bytes: 2000 before, 2001 now"),
    ],
)
def test_other_options_for_the_same_folder_are_refused(stopped, options, difference):
    data, out = stopped
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            run(data, out, **options)
        assert f"{out} holds data prepared differently:\n" in str(caught.value)
        assert difference in str(caught.value)
        run(data, out)  # the same holds of the finished folder


def test_verifying_finds_a_damaged_array(source, tmp_path):
    run(source, tmp_path / "out")
    path = tmp_path / "out" / "train-00000.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train-00000\.npy: its checksum differs"):
        run(source, tmp_path / "out", verify=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_data_are_named_and_leave_what_is_finished(source, tmp_path, workers):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"text": 1}\n')
    (tmp_path / "b.txt").write_text("good")
    with pytest.raises(UserError, match=r'a\.jsonl, line 2: the field "text" is not a string'):
        run(f"{tmp_path}/*.*", tmp_path / "out", workers=workers, part_bytes=1)
    assert (tmp_path / "out" / "preparation.json").exists()


def test_a_corpus_without_text_is_refused(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "empty.txt").touch()
    (data / "picture.png").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"no text in it \(empty files: 1, binary files: 1\)"):
        run(data, tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(source, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already and is not prepared data"):
        run(source, tmp_path)
    assert contents(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(UserError, match=r"cannot write to .*notes\.txt/out: Not a directory"):
        run(source, tmp_path / "notes.txt" / "out")


def test_a_prepared_folder_is_not_prepared_again(source, tmp_path):
    run(source, tmp_path / "out")
    with pytest.raises(UserError, match="is prepared already: give the text itself"):
        run(tmp_path / "out", tmp_path / "again")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "--workers and --part-bytes must be at least 1"),
        ({"tokenizer": "byte"}, "Did you mean 'bytes'"),
        ({"tokenizer": "bpe:8k"}, "expected bpe:SIZE"),
        ({"validation_fraction": 1.0}, "must be between 0 and 1, got 1.0"),
        ({"data": "missing"}, "no such file or folder"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(source, tmp_path, options, message):
    options = {"data": str(source), "out": tmp_path / "out"} | options
    with pytest.raises(UserError, match=message):
        prepare(PrepareConfig(**options), Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_explained(source, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare_parts, "write_json", full)
    with pytest.raises(TrainingFailedError, match=r"no space left in .*out: free some\. What is"):
        run(source, tmp_path / "out")


def test_a_killed_worker_is_explained(tmp_path):
    with (
        Workers(2, Console(quiet=True), tmp_path) as workers,
        pytest.raises(
            TrainingFailedError, match=r"a worker process was killed, .* fewer --workers"
        ),
    ):
        workers.run(os._exit, [(1,), (1,)], doing="", describe=str)


ORPHANS = """
import fcntl, sys, time
from pathlib import Path
from rich.console import Console
from training.data.workers import Workers

def hold(path):
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("held")
        file.flush()
        time.sleep(600)

if __name__ == "__main__":
    with Workers(2, Console(quiet=True), Path()) as workers:
        workers.run(hold, [(path,) for path in sys.argv[1:]], doing="", describe=str)
"""


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "program.py").write_text(ORPHANS)
    locks = [tmp_path / "one", tmp_path / "two"]
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "program.py", *locks],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    try:
        wait_until(lambda: all(path.exists() and path.read_text() for path in locks))
    finally:
        parent.kill()
        parent.wait()

    def free(path):
        with path.open() as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    wait_until(lambda: all(map(free, locks)))


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_command_line_prepares(source, tmp_path, capsys):
    arguments = ["prepare", "--data", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert dataclasses.asdict(train.parse(arguments))["tokenizer"] == "bytes"
    assert train.main(arguments) == 0
    assert "is complete" in capsys.readouterr().out
    assert train.main([*arguments, "--tokenizer", "bpe:8k"]) == 2
    assert "error: tokenizer 'bpe:8k': expected bpe:SIZE" in capsys.readouterr().err
