"""Corpora: what is read from where, checksums, and the split into training and validation."""

import gzip
import json
import os
import random
import shutil
import sysconfig
from dataclasses import replace

import datasets
import pyarrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.documents import (
    DataError,
    Document,
    Documents,
    describe,
    load_documents,
    split_documents,
)
from training.data.hub import parse_hub_name
from training.data.parquet import read_parquet
from training.data.sources import find_sources


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder)


def corpus(sizes, unit="files"):
    names = [f"{index}.txt" for index in range(len(sizes))]
    documents = [Document(name, b"x" * size) for name, size in zip(names, sizes, strict=True)]
    return Documents("corpus", tuple(documents), unit)


@pytest.fixture(scope="module")
def stdlib():
    return load_documents("stdlib")


def test_the_default_corpus_is_several_megabytes_of_python_in_a_fixed_order(stdlib):
    names = [document.name for document in stdlib.documents]
    assert "argparse.py" in names
    assert "email/message.py" in names
    assert names == sorted(names)
    assert stdlib.num_bytes > 5e6
    assert load_documents("stdlib") == stdlib


def test_the_default_corpus_leaves_out_packages_and_generated_files(stdlib):
    names = [document.name for document in stdlib.documents]
    parts = {part for name in names for part in name.split("/")}
    assert not parts & {"site-packages", "encodings", "__pycache__"}
    assert all(name.endswith(".py") and "_sysconfigdata" not in name for name in names)


def test_standard_library_files_that_are_not_utf8_are_left_out(tmp_path, monkeypatch):
    write(tmp_path, {"latin.py": b"# \xff", "plain.py": b"pass"})
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    assert load_documents("stdlib").documents == (Document("plain.py", b"pass"),)


def test_a_python_without_its_source_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(DataError, match=r"stdlib: no \.py files in .*Give --data the path"):
        load_documents("stdlib")


def test_a_folder_is_read_with_its_subfolders_in_order_of_name(tmp_path):
    files = {
        "b.txt": b"two",
        "a/z.md": b"one",
        ".git/config": b"hidden",
        "a/.hidden": b"hidden",
        "__pycache__/c.py": b"cache",
        "empty.txt": b"",
        "picture.png": b"\x89PNG\0\0",
    }
    documents = load_documents(write(tmp_path, files))
    assert documents.documents == (Document("a/z.md", b"one"), Document("b.txt", b"two"))
    assert documents.num_skipped == 1
    assert describe(documents) == "2 files, 6 bytes (1 binary left out)"


def test_a_glob_reads_what_it_matches(tmp_path):
    write(tmp_path, {"a/1.txt": b"1", "a/b/2.txt": b"2", "a/3.md": b"3"})
    names = [document.name for document in load_documents(f"{tmp_path}/**/*.txt").documents]
    assert names == ["a/1.txt", "a/b/2.txt"]
    assert len(load_documents(f"{tmp_path}/a/*")) == 2


def test_a_file_whose_name_looks_like_a_glob_is_read(tmp_path):
    write(tmp_path, {"notes[1].txt": b"text"})
    documents = load_documents(f"{tmp_path}/notes[1].txt")
    assert documents.documents == (Document("notes[1].txt", b"text"),)


def test_home_and_relative_paths_are_understood(tmp_path, monkeypatch):
    write(tmp_path, {"a.txt": b"text"})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for data in ("~/a.txt", "a.txt", ".", "*.txt", "~/*.txt"):
        assert load_documents(data).documents == (Document("a.txt", b"text"),)


def test_a_byte_order_mark_is_not_text(tmp_path):
    line = json.dumps({"text": "t"}).encode()
    write(tmp_path, {"a.txt": b"\xef\xbb\xbftext", "b.jsonl": b"\xef\xbb\xbf" + line})
    assert [document.text for document in load_documents(str(tmp_path)).documents] == [
        b"text",
        b"t",
    ]


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "c4-train.00000-of-01024.json.gz"])
def test_json_lines_give_one_document_a_line(tmp_path, name):
    texts = ["first", "", "né\n\u2028third"]
    lines = [json.dumps({"text": text, "url": "u"}) for text in texts]
    content = "\n".join([lines[0], "", lines[1], lines[2]]).encode()
    write(tmp_path, {name: gzip.compress(content) if name.endswith(".gz") else content})
    documents = load_documents(str(tmp_path / name))
    assert documents.documents == (
        Document(f"{name}:1", b"first"),
        Document(f"{name}:4", "né\n\u2028third".encode()),
    )
    assert describe(documents) == "2 documents, 17 bytes"


def test_a_parquet_file_gives_one_document_a_row_over_all_row_groups(tmp_path):
    texts = [f"né {i}" if i % 7 else "" for i in range(3000)]
    for kind in (pyarrow.string(), pyarrow.large_string()):
        table = pyarrow.table({"url": ["u"] * 3000, "text": pyarrow.array(texts, kind)})
        parquet.write_table(table, tmp_path / "a.parquet", row_group_size=700)
        documents = load_documents(str(tmp_path))
        assert documents.documents == tuple(
            Document(f"a.parquet:{number}", text.encode())
            for number, text in enumerate(texts, 1)
            if text
        )
        assert documents.unit == "documents"


def test_a_parquet_file_is_streamed(tmp_path):
    table = pyarrow.table({"text": ["x" * 1000] * 20_000})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=1000)
    before = pyarrow.total_allocated_bytes()
    rows = read_parquet(tmp_path / "a.parquet")
    allocated = [pyarrow.total_allocated_bytes() - before for _ in rows]
    # 20 MB of text in row groups of 1 MB.
    assert len(allocated) == 20_000
    assert max(allocated) < 8e6


def test_a_data_set_by_name_is_streamed_shard_by_shard(tmp_path, tmp_path_factory, monkeypatch):
    """A local folder stands in for the hub: the same builder reads it, only without a network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    for shard in range(3):
        lines = [json.dumps({"text": f"{shard}-{i}"}) + "\n" for i in range(4)]
        (tmp_path / f"train-{shard}.jsonl").write_text("".join(lines))
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "held out"}))
    everything = load_documents(f"hf:{tmp_path}")
    assert [document.text.decode() for document in everything.documents] == [
        f"{shard}-{i}" for shard in range(3) for i in range(4)
    ]
    assert [source.name for source in find_sources(f"hf:{tmp_path}")] == [
        f"{tmp_path}:train/{shard:05d}" for shard in range(3)
    ]
    first = load_documents(f"hf:{tmp_path}::train[:5]")
    assert [document.text for document in first.documents] == [
        document.text for document in everything.documents[:5]
    ]
    assert load_documents(f"hf:{tmp_path}::test").documents[0].text == b"held out"


@pytest.mark.parametrize(
    ("data", "parsed"),
    [
        ("hf:allenai/c4", ("allenai/c4", None, "train", None)),
        ("hf:allenai/c4:en", ("allenai/c4", "en", "train", None)),
        ("hf:allenai/c4:en:validation", ("allenai/c4", "en", "validation", None)),
        ("hf:allenai/c4:en:train[:100]", ("allenai/c4", "en", "train", 100)),
        ("hf:name::test", ("name", None, "test", None)),
        ("hf:name[:7]", ("name", None, "train", 7)),
    ],
)
def test_a_data_set_is_named_with_its_configuration_and_split(data, parsed):
    assert parse_hub_name(data) == parsed


def test_every_file_has_a_checksum_of_its_content(tmp_path):
    line = json.dumps({"text": "one"}).encode()
    write(tmp_path, {"a.jsonl": line, "b.txt": b"two", "c.png": b"\0"})
    before = load_documents(str(tmp_path)).checksums
    assert list(before) == ["a.jsonl", "b.txt"]
    write(tmp_path, {"b.txt": b"other"})
    after = load_documents(str(tmp_path)).checksums
    assert after["a.jsonl"] == before["a.jsonl"]
    assert after["b.txt"] != before["b.txt"]


def test_a_compressed_text_file_is_one_document(tmp_path):
    write(tmp_path, {"book.txt.gz": gzip.compress(b"text")})
    documents = load_documents(str(tmp_path / "book.txt.gz"))
    assert documents.documents == (Document("book.txt.gz", b"text"),)


def test_the_same_files_elsewhere_are_the_same_corpus(tmp_path):
    write(tmp_path / "here", {"a.txt": b"one", "b/c.txt": b"two"})
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    here, there = load_documents(str(tmp_path / "here")), load_documents(f"{tmp_path}/there/**/*")
    assert here.documents == there.documents
    assert here.checksum == there.checksum
    assert len(here.checksum) == 64


def test_the_checksum_changes_with_names_texts_and_order():
    pairs = [("a", b"bc"), ("d", b"e")]
    variants = [
        pairs,
        pairs[::-1],
        [("ab", b"c"), ("d", b"e")],
        [("a", b"bc"), ("d", b"f")],
        [("a", b"bcd"), ("", b"e")],
    ]
    checksums = {
        Documents("x", tuple(Document(*pair) for pair in variant)).checksum for variant in variants
    }
    assert len(checksums) == len(variants)


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode on Windows")
def test_a_file_name_that_is_not_utf8_does_not_stop_a_run(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.txt")).write_bytes(b"text")
    (tmp_path / "b.txt").write_bytes(b"text")
    documents = load_documents(str(tmp_path))
    assert len(documents.checksum) == 64
    assert len(split_documents(documents, 0.5, seed=0)[0]) == 1


@given(
    sizes=st.lists(st.integers(1, 500), min_size=2, max_size=30),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
def test_a_split_parts_the_files_within_the_fraction(sizes, fraction, seed):
    documents = corpus(sizes)
    training, validation = split_documents(documents, fraction, seed)
    assert training.documents
    assert validation.documents
    names = {document.name for document in training.documents}
    assert names.isdisjoint(document.name for document in validation.documents)
    together = sorted([*training.documents, *validation.documents])
    assert together == sorted(documents.documents)
    room = fraction * documents.num_bytes - validation.num_bytes
    # Nothing more fits, unless nothing did and the smallest was taken all the same.
    assert room < min(len(document.text) for document in training.documents)
    assert room >= 0 or validation.num_bytes == min(sizes)


def test_a_split_depends_on_seed_and_names_only():
    documents = corpus([10] * 40)
    shuffled = list(documents.documents)
    random.Random(0).shuffle(shuffled)
    other_order = replace(documents, documents=tuple(shuffled))
    validation = split_documents(documents, 0.25, seed=0)[1]
    assert len(validation) == 10
    assert set(split_documents(other_order, 0.25, seed=0)[1].documents) == set(validation.documents)
    assert split_documents(documents, 0.25, seed=1)[1] != validation


def test_a_split_is_the_same_on_every_machine():
    # Fixed names: Python's own hash differs from process to process.
    validation = split_documents(corpus([10] * 12), 0.25, seed=0)[1]
    assert [document.name for document in validation.documents] == ["2.txt", "7.txt", "9.txt"]


def test_a_single_file_is_split_at_its_tail_between_characters():
    text = ("é" * 100).encode()
    documents = Documents("book.txt", (Document("book.txt", text),))
    training, validation = split_documents(documents, 0.055, seed=0)
    assert training.documents == (Document("book.txt[:188]", text[:188]),)
    assert validation.documents == (Document("book.txt[188:]", text[188:]),)
    assert validation.documents[0].text.decode() == "é" * 6


def test_a_single_character_cannot_be_split():
    documents = Documents("a.txt", (Document("a.txt", "é".encode()),))
    with pytest.raises(DataError, match=r"a\.txt: 2 bytes are too few to be split .* more text"):
        split_documents(documents, 0.1, seed=0)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(DataError, match=f"between 0 and 1, got {fraction}"):
        split_documents(corpus([1, 1]), fraction, seed=0)


@pytest.mark.parametrize(
    ("sizes", "unit", "line"),
    [
        ([1], "files", "1 file, 1 bytes"),
        ([999, 1], "documents", "2 documents, 1.0 kB"),
        ([28_900] * 1632, "files", "1 632 files, 47.2 MB"),
    ],
)
def test_a_corpus_is_described_in_one_line(sizes, unit, line):
    assert describe(corpus(sizes, unit)) == line
