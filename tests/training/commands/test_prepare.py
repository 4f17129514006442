"""`train.py prepare`: the tokens of a run, and however often it is killed no half result."""

import dataclasses
import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from rich.console import Console

import train
from training.commands.prepare import PrepareConfig, prepare
from training.config.pretraining import CorpusOptions
from training.data import tokenization
from training.data.corpus import load_corpus
from training.errors import TrainingFailedError, UserError

# Prepares as the command line does, once undisturbed and then once for every given part of the way:
# there the process kills itself, as it opens, renames or removes a file of the output folder. What
# takes longest, the imports, the processes share.
KILLED = """
import json, multiprocessing, os, signal, sys
from pathlib import Path
from rich.console import Console
from training.commands.prepare import PrepareConfig, prepare

def moments(out, last, answer):
    passed = 0

    def count(event, arguments):
        nonlocal passed
        if event not in ("open", "os.rename", "os.remove", "os.rmdir"):
            return
        if str(out) in str(arguments[0]):
            passed += 1
            if passed == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    prepare(PrepareConfig(data=data, tokenizer=tokenizer, out=out), Console(quiet=True))
    answer.send(passed)

def exit_code(out, last):
    process = fork.Process(target=moments, args=(out, last, answer))
    process.start()
    process.join()
    return process.exitcode

data, tokenizer, folder, *parts = sys.argv[1:]
fork = multiprocessing.get_context("fork")
question, answer = fork.Pipe(duplex=False)
codes = [exit_code(Path(folder, "undisturbed"), None)]
of_all = question.recv()
codes += [exit_code(Path(folder, part), max(1, round(float(part) * of_all))) for part in parts]
print(json.dumps(codes))
"""


pytestmark = pytest.mark.usefixtures("cache")


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
    """Prepares in this process, unless told otherwise; returns the output."""
    console = Console(file=io.StringIO(), width=300, soft_wrap=True)
    prepare(PrepareConfig(data=str(data), out=out, **options), console)
    return console.file.getvalue()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_prepared_tokens_are_those_of_a_run(source, tmp_path):
    tokenizer = "bpe:300"
    options = {"tokenizer": tokenizer, "validation_fraction": 0.2}
    run(source, tmp_path / "out", **options)
    # Nothing is left of the work, neither in the folder nor beside it.
    files = {"manifest.json", "train.bin", "validation.bin"}
    assert set(contents(tmp_path / "out")) == files | {"tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    direct = load_corpus(CorpusOptions(data=(str(source),), **options))
    data = str(tmp_path / "out")
    prepared = load_corpus(CorpusOptions(data=(data,), tokenizer=tokenizer, verify=True))
    for split in ("training", "validation"):
        ours, theirs = getattr(prepared, split)[0], getattr(direct, split)[0]
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype == np.uint16
    assert prepared.sources[0].manifest == direct.sources[0].manifest
    assert prepared.tokenizer.checksum == direct.tokenizer.checksum
    assert "(1 binary files left out)" in direct.description


def test_the_manifest_says_what_was_made_of_what(source, tmp_path):
    run(source, tmp_path / "out", tokenizer="bpe:300")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["tokenizer"]["name"] == "bpe:300"
    assert (manifest["dtype"], manifest["version"], manifest["binary_left_out"]) == ("uint16", 3, 1)
    names = {path.name for path in source.iterdir()} - {"picture.png"}
    assert set(manifest["sources"]) == names
    splits = [manifest["training"], manifest["validation"]]
    # Six files, four fifths of the lines and three quarters of the rows: the others are empty.
    assert sum(split["documents"] for split in splits) == 6 + 72 + 67
    corpus = load_corpus(CorpusOptions(data=(str(tmp_path / "out"),), tokenizer="bpe:300"))
    streams = [*corpus.training, *corpus.validation]
    ends = [(tokens == corpus.tokenizer.eos_id).sum() for tokens in streams]
    # The two splits are streams of their own: an end of text between any two documents of each.
    assert ends == [split["documents"] - 1 for split in splits]


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_a_preparation_that_is_killed_ends_as_an_undisturbed_one(source, tmp_path, tokenizer):
    run(source, tmp_path / "trained", tokenizer=tokenizer)  # the BPE, found in the cache afterwards
    parts = ("0.02", "0.3", "0.55", "0.8", "0.97", "1") if tokenizer == "bytes" else ("0.3", "0.97")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(source), tokenizer, str(tmp_path), *parts],
        cwd=Path(train.__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0] + [-signal.SIGKILL] * len(parts), done.stderr
    for part in parts:
        out = tmp_path / part
        run(source, out, tokenizer=tokenizer)
        assert contents(out) == contents(tmp_path / "undisturbed")
        assert not out.with_name(out.name + ".unfinished").exists()


def test_a_finished_preparation_is_not_made_again(source, tmp_path):
    first = run(source, tmp_path / "out")
    assert f"{tmp_path}/out is complete: " in first
    assert f"Train with --data {tmp_path}/out --tokenizer bytes" in first
    before = (tmp_path / "out" / "train.bin").stat().st_ino
    assert "was complete already" in run(source, tmp_path / "out")
    assert (tmp_path / "out" / "train.bin").stat().st_ino == before


def test_other_options_or_files_for_the_same_folder_are_refused(source, tmp_path):
    data = shutil.copytree(source, tmp_path / "data")
    run(data, tmp_path / "out")
    for options, difference in [
        ({"tokenizer": "bpe:300"}, "  tokenizer: 'bytes' before, 'bpe:300' now\n"),
        ({"validation_fraction": 0.1}, "  validation_fraction: 0.05 before, 0.1 now\n"),
    ]:
        with pytest.raises(UserError) as caught:
            run(data, tmp_path / "out", **options)
        assert f"{tmp_path}/out holds data prepared differently:\n" in str(caught.value)
        assert difference in str(caught.value)
    (data / "1.txt").unlink()
    (data / "2.txt").write_text("other")
    (data / "new.txt").write_text("new")
    with pytest.raises(UserError) as caught:
        run(data, tmp_path / "out")
    expected = "  1.txt has vanished\n  2.txt has changed\n  new.txt is new\n"
    assert expected in str(caught.value)


def test_verifying_finds_a_damaged_array(source, tmp_path):
    run(source, tmp_path / "out")
    path = tmp_path / "out" / "train.bin"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train\.bin: its checksum differs"):
        run(source, tmp_path / "out", verify=True)


def test_bad_data_are_named_and_leave_nothing(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"text": null}\n')
    (tmp_path / "b.txt").write_text("good")
    with pytest.raises(UserError, match=r'a\.jsonl, row 2: the field "text" is missing'):
        run(f"{tmp_path}/*.*", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "b.txt"}


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
        ({"tokenizer": "byte"}, "Did you mean 'bytes'"),
        ({"validation_fraction": 1.0}, "--validation-fraction is 1.0, but must be between"),
        ({"data": "missing"}, "no such file or folder"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(source, tmp_path, options, message):
    options = {"data": str(source), "out": tmp_path / "out"} | options
    with pytest.raises(UserError, match=message):
        prepare(PrepareConfig(**options), Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_explained(source, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokenization, "write_arrays", full)
    with pytest.raises(TrainingFailedError, match=r"no space left in .*out: free some, and start"):
        run(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_prepares(source, tmp_path, capfd):
    arguments = ["prepare", "--data", str(source), "--out", str(tmp_path / "out")]
    assert dataclasses.asdict(train.parse(arguments))["tokenizer"] == "bytes"
    assert train.main(arguments) == 0
    printed = capfd.readouterr()
    assert printed.out.count("\n") == 1
    assert "is complete" in printed.out
    assert printed.err == ""
    assert train.main([*arguments, "--tokenizer", "bpe:8k"]) == 2
    assert "error: tokenizer 'bpe:8k': expected bpe:SIZE" in capfd.readouterr().err
