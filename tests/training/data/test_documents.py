"""Corpora: what is read from where, in which order, and which documents are held out."""

import gzip
import json
import os
import shutil
import socket
import sysconfig

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.documents import Document, find_sources, read_documents
from training.data.tables import parse_hub_name
from training.data.tokenization import choose_validation, cut_in_two, document_rank
from training.errors import DataError


def read(data):
    return list(read_documents(find_sources(str(data))))


def documents(**texts):
    """What `read` gives of documents with these names and texts."""
    return [Document(name, text) for name, text in texts.items()]


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder)


def test_the_default_corpus_is_several_megabytes_of_python_in_a_fixed_order():
    files = find_sources("stdlib").files
    names = [name for name, _ in files]
    assert {"argparse.py", "email/message.py"} <= set(names)
    assert names == sorted(names)
    parts = {part for name in names for part in name.split("/")}
    assert not parts & {"site-packages", "encodings", "__pycache__"}
    assert all(name.endswith(".py") and "_sysconfigdata" not in name for name in names)
    found = dict(read("stdlib"))
    assert sum(map(len, found.values())) > 5e6
    # Line by line what is on the disk: some of these files have ends of lines of their own.
    for name, path in files:
        content = path.read_bytes()
        if name in found:
            assert found[name].encode() == content.removeprefix(b"\xef\xbb\xbf")
        else:
            assert content == b"" or content.decode(errors="replace").encode() != content


def test_standard_library_files_that_are_not_utf8_are_left_out(tmp_path, monkeypatch):
    write(tmp_path, {"latin.py": b"# \xff", "plain.py": b"pass"})
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    assert read("stdlib") == documents(**{"plain.py": "pass"})


def test_a_python_without_its_source_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(DataError, match=r"stdlib: no \.py files in .*Give --data the path"):
        find_sources("stdlib")


def test_a_folder_is_read_with_its_subfolders_in_order_of_name(tmp_path):
    files = {
        "b.txt": b"two\r\nlines\rand \n",
        "a/z.md": b"one",
        ".git/config": b"hidden",
        "a/.hidden": b"hidden",
        "__pycache__/c.py": b"cache",
        "empty.txt": b"",
        "picture.png": b"\x89PNG\0\0",
    }
    data = write(tmp_path, files)
    assert read(data) == documents(**{"a/z.md": "one", "b.txt": "two\r\nlines\rand \n"})
    assert find_sources(data).num_binary == 1


def test_a_glob_reads_what_it_matches(tmp_path):
    write(tmp_path, {"a/1.txt": b"1", "a/b/2.txt": b"2", "a/3.md": b"3"})
    assert [name for name, _ in find_sources(f"{tmp_path}/**/*.txt").files] == [
        "a/1.txt",
        "a/b/2.txt",
    ]
    assert [name for name, _ in find_sources(f"{tmp_path}/a/*").files] == ["1.txt", "3.md"]


@pytest.mark.parametrize("name", ["notes[1].txt", "notes[1].jsonl", ".hidden.jsonl"])
def test_a_file_whose_name_looks_like_a_pattern_is_read(tmp_path, name):
    text = json.dumps({"text": "text"}) if "jsonl" in name else "text"
    write(tmp_path, {name: text.encode()})
    assert [text for _, text in read(tmp_path / name)] == ["text"]


def test_home_and_relative_paths_are_understood(tmp_path, monkeypatch):
    write(tmp_path, {"a.txt": b"text"})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for data in ("~/a.txt", "a.txt", ".", "*.txt", "~/*.txt"):
        assert read(data) == documents(**{"a.txt": "text"})


def test_a_byte_order_mark_is_not_text(tmp_path):
    line = json.dumps({"text": "t"}).encode()
    write(tmp_path, {"a.txt": b"\xef\xbb\xbftext", "b.jsonl": b"\xef\xbb\xbf" + line})
    assert [text for _, text in read(tmp_path)] == ["text", "t"]


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "c4-train.00000-of-01024.json.gz"])
def test_json_lines_give_one_document_a_row(tmp_path, name):
    texts = ["first", "", "né\r\n\u2028third"]
    lines = [json.dumps({"text": text, "url": "u"}) for text in texts]
    content = "\n".join([lines[0], "", lines[1], lines[2]]).encode()
    write(tmp_path, {name: gzip.compress(content) if name.endswith(".gz") else content})
    expected = documents(**{f"{name}:1": "first", f"{name}:3": "né\r\n\u2028third"})
    assert read(tmp_path / name) == expected


def test_local_files_are_read_without_the_network(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        asked.append(arguments)
        raise OSError("no network in tests")

    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    write(tmp_path, {"a.jsonl": b'{"text": "one"}'})
    parquet.write_table(pyarrow.table({"text": ["two"]}), tmp_path / "b.parquet")
    assert [text for _, text in read(tmp_path)] == ["one", "two"]
    assert asked == []


def test_a_parquet_file_gives_one_document_a_row_over_all_row_groups(tmp_path):
    texts = [f"né {i}" if i % 7 else "" for i in range(3000)]
    for kind in (pyarrow.string(), pyarrow.large_string()):
        table = pyarrow.table({"url": ["u"] * 3000, "text": pyarrow.array(texts, kind)})
        parquet.write_table(table, tmp_path / "a.parquet", row_group_size=700)
        assert read(tmp_path) == documents(
            **{f"a.parquet:{row}": text for row, text in enumerate(texts, 1) if text}
        )


def test_a_data_set_by_name_is_streamed(tmp_path):
    """A local folder stands in for the hub: the same builder reads it, only without a network."""
    for shard in range(3):
        lines = [json.dumps({"text": f"{shard}-{i}"}) + "\n" for i in range(4)]
        (tmp_path / f"train-{shard}.jsonl").write_text("".join(lines))
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "held out"}))
    everything = read(f"hf:{tmp_path}")
    texts = [f"{shard}-{i}" for shard in range(3) for i in range(4)]
    names = [f"{tmp_path}:train:{row}" for row in range(1, 13)]
    assert everything == list(map(Document, names, texts))
    assert read(f"hf:{tmp_path}::train[:5]") == everything[:5]
    assert [text for _, text in read(f"hf:{tmp_path}::test")] == ["held out"]


@pytest.mark.parametrize(
    ("data", "parsed"),
    [
        ("hf:allenai/c4", ("allenai/c4", None, "train", None)),
        ("hf:allenai/c4:en:validation", ("allenai/c4", "en", "validation", None)),
        ("hf:allenai/c4:en:train[:100]", ("allenai/c4", "en", "train", 100)),
        ("hf:name::test", ("name", None, "test", None)),
        ("hf:name[:7]", ("name", None, "train", 7)),
    ],
)
def test_a_data_set_is_named_with_its_configuration_and_split(data, parsed):
    assert parse_hub_name(data) == parsed


def test_a_compressed_text_file_is_one_document(tmp_path):
    write(tmp_path, {"book.txt.gz": gzip.compress(b"text")})
    assert read(tmp_path / "book.txt.gz") == documents(**{"book.txt.gz": "text"})


def test_the_same_files_elsewhere_are_the_same_documents(tmp_path):
    write(tmp_path / "here", {"a.txt": b"one", "b/c.txt": b"two"})
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert read(tmp_path / "here") == read(f"{tmp_path}/there/**/*")


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode on Windows")
def test_a_file_name_that_is_not_utf8_does_not_stop_a_run(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.txt")).write_bytes(b"text")
    assert len(read(tmp_path)) == 1


def test_a_split_is_a_hash_of_the_name_and_the_same_on_every_machine():
    ranks = np.array([document_rank(f"{i}.txt") for i in range(12)])
    assert np.all((ranks >= 0) & (ranks < 1))
    assert np.flatnonzero(choose_validation(ranks, 0.3)).tolist() == [2, 7, 9, 10]
    assert choose_validation(np.linspace(0, 1, 1000, endpoint=False), 0.25).sum() == 250


@given(
    ranks=st.lists(st.floats(0, 1, exclude_max=True), min_size=2), fraction=st.floats(0.01, 0.99)
)
def test_a_document_does_not_move_when_others_come_or_go(ranks, fraction):
    chosen = choose_validation(np.array(ranks), fraction)
    below = np.array(ranks) < fraction
    if below.any() and not below.all():
        np.testing.assert_array_equal(chosen, below)
    else:  # one document at least on either side
        assert (chosen != below).sum() == 1
        assert chosen.any()
        assert not chosen.all()


@pytest.mark.parametrize("fraction", [0.055, 0.001])
def test_the_only_text_is_cut_between_characters(fraction):
    cut = cut_in_two(("é" * 100).encode(), "book.txt", fraction)
    assert cut == (188 if fraction > 0.01 else 198)


def test_a_single_character_cannot_be_cut():
    with pytest.raises(DataError, match=r"a\.txt: 2 bytes are too few to be split .* more text"):
        cut_in_two("é".encode(), "a.txt", 0.1)
