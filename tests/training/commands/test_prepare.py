"""`train.py prepare`: the tokens of the corpus, for any workers and however often it is killed."""

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from rich.console import Console

import train
from training.commands.prepare import PrepareConfig, prepare
from training.config.pretraining import TrainingConfig
from training.data import documents, tokenization
from training.data.corpus import load_corpus
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
    if event in ("open", "os.rename", "os.remove", "os.rmdir") and out in str(arguments[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
prepare(PrepareConfig(data=data, tokenizer=tokenizer, out=Path(out)), Console(quiet=True))
print(int(last) - left)
"""


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
    """Prepares in this process, unless told otherwise; returns the output."""
    console = Console(file=io.StringIO(), width=300, soft_wrap=True)
    prepare(PrepareConfig(data=str(data), out=out, **({"workers": 1} | options)), console)
    return console.file.getvalue()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_prepared_tokens_are_those_of_a_run_for_any_number_of_workers(source, tmp_path):
    tokenizer = "bpe:300"
    options = {"tokenizer": tokenizer, "validation_fraction": 0.2}
    folders = []
    for workers in (1, 3):
        run(source, tmp_path / str(workers), workers=workers, **options)
        folders.append(contents(tmp_path / str(workers)))
    assert folders[0] == folders[1]
    # Nothing is left of the work, neither in the folder nor beside it.
    files = {"manifest.json", "train.npy", "validation.npy"}
    assert set(folders[0]) == files | {"tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"1", "3"}
    direct = load_corpus(TrainingConfig(data=str(source), **options))
    data = str(tmp_path / "1")
    prepared = load_corpus(TrainingConfig(data=data, tokenizer=tokenizer, verify=True))
    for split in ("training", "validation"):
        ours, theirs = getattr(prepared, split), getattr(direct, split)
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype == np.uint16
    assert prepared.training_bytes == direct.training_bytes
    assert prepared.validation_bytes == direct.validation_bytes
    assert prepared.tokenizer.checksum == direct.tokenizer.checksum
    assert prepared.description == direct.description
    assert "(1 binary files left out)" in direct.description


@pytest.mark.slow
def test_a_single_file_of_lines_is_tokenised_by_all_processes(tmp_path, monkeypatch):
    """Each process leaves its share of the tokens where a stopped preparation would find it."""
    lines = [json.dumps({"text": f"document {i} " * 9}) for i in range(500)]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(tokenization, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "lines.jsonl", tmp_path / "out", workers=2)
    shares = sorted((tmp_path / "out.unfinished" / "cache").glob("*_of_*.arrow"))
    assert len(shares) == 2
    assert min(path.stat().st_size for path in shares) > 20_000


@pytest.mark.product(every=2)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_data_set_by_name_is_read_once(tmp_path, monkeypatch, workers):
    """A local folder stands in for the hub: the same builder reads it, only without a network."""
    folder = tmp_path / "data"
    folder.mkdir()
    for shard in range(3):
        lines = [json.dumps({"text": f"shard {shard} text {i} " * 5}) + "\n" for i in range(30)]
        (folder / f"train-{shard}.jsonl").write_text("".join(lines))
    reads = []
    original = documents.hub_texts
    monkeypatch.setattr(
        documents, "hub_texts", lambda hub, *rest: reads.append(rest[0]) or original(hub, *rest)
    )
    run(f"hf:{folder}", tmp_path / "out", workers=workers, tokenizer="bpe:300")
    if workers == 1:
        assert reads == [0, 1, 2]
    direct = load_corpus(TrainingConfig(data=f"hf:{folder}", tokenizer="bpe:300"))
    prepared = load_corpus(TrainingConfig(data=str(tmp_path / "out"), tokenizer="bpe:300"))
    np.testing.assert_array_equal(prepared.training, direct.training)
    np.testing.assert_array_equal(prepared.validation, direct.validation)


def test_a_single_text_is_cut_as_a_run_would_cut_it(tmp_path):
    (tmp_path / "book.txt").write_text("né" * 500)
    run(tmp_path / "book.txt", tmp_path / "out")
    direct = load_corpus(TrainingConfig(data=str(tmp_path / "book.txt")))
    prepared = load_corpus(TrainingConfig(data=str(tmp_path / "out")))
    np.testing.assert_array_equal(prepared.training, direct.training)
    assert bytes(prepared.validation.tolist()).decode() == "né" * 25


def test_the_manifest_says_what_was_made_of_what(source, tmp_path):
    run(source, tmp_path / "out", tokenizer="bpe:300")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["tokenizer"]["name"] == "bpe:300"
    assert (manifest["dtype"], manifest["version"], manifest["binary_left_out"]) == ("uint16", 2, 1)
    names = {path.name for path in source.iterdir()} - {"picture.png"}
    assert set(manifest["sources"]) == names
    splits = [manifest["training"], manifest["validation"]]
    # Six files, four fifths of the lines and three quarters of the rows: the others are empty.
    assert sum(split["documents"] for split in splits) == 6 + 72 + 67
    corpus = load_corpus(TrainingConfig(data=str(tmp_path / "out"), tokenizer="bpe:300"))
    ends = [
        (tokens == corpus.tokenizer.eos_id).sum() for tokens in (corpus.training, corpus.validation)
    ]
    # The two splits are streams of their own: an end of text between any two documents of each.
    assert ends == [split["documents"] - 1 for split in splits]


def kill_at(source, out, tokenizer, moment):
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(source), tokenizer, str(out), str(moment)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_a_preparation_that_is_killed_ends_as_an_undisturbed_one(source, tmp_path, tokenizer):
    done = kill_at(source, tmp_path / "undisturbed", tokenizer, 10**6)
    moments = int(done.stdout)
    for part in (0.02, 0.3, 0.55, 0.8, 0.97, 1):
        out = tmp_path / str(part)
        killed = kill_at(source, out, tokenizer, max(1, round(part * moments)))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        run(source, out, tokenizer=tokenizer)
        assert contents(out) == contents(tmp_path / "undisturbed")
        assert not out.with_name(out.name + ".unfinished").exists()


def stop(*arguments):
    raise KeyboardInterrupt


@pytest.fixture
def stopped(source, tmp_path, monkeypatch):
    """A copy of the source and a preparation of it that was stopped before its arrays."""
    data = tmp_path / "data"
    data.mkdir()
    for path in source.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(tokenization, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "out")
    return data, tmp_path / "out"


def test_an_unfinished_folder_is_not_trained_on(stopped):
    with pytest.raises(UserError, match=r"out: the preparation of these data is not finished\."):
        load_corpus(TrainingConfig(data=str(stopped[1])))


def test_what_is_complete_is_not_made_again(stopped, tmp_path, monkeypatch):
    data, out = stopped
    # Neither is reached: the texts and the tokens are there.
    monkeypatch.setattr(tokenization, "read_documents", stop)
    monkeypatch.setattr(tokenization, "encode_documents", stop)
    run(data, out)
    monkeypatch.undo()
    run(data, tmp_path / "undisturbed")
    assert contents(out) == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("keeps_time", [False, True])
def test_nothing_of_a_file_that_changed_since_the_interruption_is_used(
    stopped, tmp_path, keeps_time
):
    data, out = stopped
    status = (data / "0.txt").stat()
    (data / "0.txt").write_text((data / "0.txt").read_text().replace("file", "text"))
    if keeps_time:
        os.utime(data / "0.txt", ns=(status.st_atime_ns, status.st_mtime_ns))
    run(data, out)
    run(data, tmp_path / "undisturbed")
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_a_file_that_changes_while_it_is_prepared_is_noticed(source, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("text " * 100)
    (data / "b.txt").write_text("text " * 100)
    with monkeypatch.context() as patch:
        patch.setattr(documents, "_read_text", lambda path: path.write_text("other") and "other")
        with pytest.raises(UserError, match="data: a file has changed while it was read"):
            run(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # What was read is not taken for what the files are when they are as they were.
    (data / "a.txt").write_text("text " * 100)
    (data / "b.txt").write_text("text " * 100)
    run(data, tmp_path / "out")
    assert load_corpus(TrainingConfig(data=str(tmp_path / "out"))).training_bytes == 500


def test_a_finished_preparation_is_not_made_again(source, tmp_path):
    first = run(source, tmp_path / "out")
    assert f"{tmp_path}/out is complete: " in first
    assert f"Train with --data {tmp_path}/out --tokenizer bytes" in first
    before = (tmp_path / "out" / "train.npy").stat().st_ino
    assert "was complete already" in run(source, tmp_path / "out")
    assert (tmp_path / "out" / "train.npy").stat().st_ino == before


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
    path = tmp_path / "out" / "train.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train\.npy: its checksum differs"):
        run(source, tmp_path / "out", verify=True)


@pytest.mark.product(every=2)
@pytest.mark.parametrize("workers", [1, 2])
def test_bad_data_are_named_whichever_process_reads_them(tmp_path, workers):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"text": 1}\n')
    (tmp_path / "b.txt").write_text("good")
    with pytest.raises(UserError, match=r'a\.jsonl, line 2: the field "text" is not a string'):
        run(f"{tmp_path}/*.*", tmp_path / "out", workers=workers)
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n')
    run(f"{tmp_path}/*.*", tmp_path / "out", workers=workers)


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
        ({"workers": 0}, "--workers must be at least 1"),
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
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_explained(source, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokenization, "encode_documents", full)
    with pytest.raises(TrainingFailedError, match=r"no space left in .*out: free some\. What is"):
        run(source, tmp_path / "out")


# Tokenises endlessly in two processes, and says which processes there are.
ENDLESS = """
import os, sys, time
from pathlib import Path
from rich.console import Console
from training.commands.prepare import PrepareConfig, prepare
from training.data.tokenizers import ByteTokenizer
from training.data import plan

class Endless(ByteTokenizer):
    def encode_batch(self, texts):
        Path(sys.argv[2], str(os.getpid())).touch()
        time.sleep(600)

if __name__ == "__main__":
    plan.get_tokenizer = lambda name: __import__("program").Endless()
    config = PrepareConfig(data=sys.argv[1], out=Path(sys.argv[2], "out"), workers=2)
    prepare(config, Console(quiet=True))
"""


@pytest.fixture
def endless(source, tmp_path):
    """A preparation whose two workers never end, and their process ids."""
    (tmp_path / "program.py").write_text(ENDLESS)
    (tmp_path / "pids").mkdir()
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "program.py", source, tmp_path / "pids"],
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tmp_path}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    pids = lambda: [int(path.name) for path in (tmp_path / "pids").iterdir() if path.name.isdigit()]
    try:
        wait_until(lambda: len(pids()) == 2)
        yield parent, pids()
    finally:
        parent.kill()
        parent.communicate()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_no_process_outlives_a_killed_parent(endless):
    parent, pids = endless
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    assert {str(pid) for pid in pids} < set(children)  # and there is the pool's manager
    parent.kill()
    wait_until(lambda: not any(Path("/proc", pid).exists() for pid in children))


@pytest.mark.slow
def test_a_killed_worker_is_explained(endless):
    parent, pids = endless
    os.kill(pids[0], signal.SIGKILL)
    _, errors = parent.communicate(timeout=60)
    assert "TrainingFailedError: a worker process was killed, perhaps for want of memory" in errors


def wait_until(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_the_command_line_prepares(source, tmp_path, capfd):
    arguments = ["prepare", "--data", str(source), "--out", str(tmp_path / "out"), "--workers", "2"]
    assert dataclasses.asdict(train.parse(arguments))["tokenizer"] == "bytes"
    assert train.main(arguments) == 0
    printed = capfd.readouterr()
    assert printed.out.count("\n") == 1
    assert "is complete" in printed.out
    assert printed.err == ""
    assert train.main([*arguments, "--tokenizer", "bpe:8k"]) == 2
    assert "error: tokenizer 'bpe:8k': expected bpe:SIZE" in capfd.readouterr().err
