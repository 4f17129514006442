"""Bad data gets a message with the file, the cause and the remedy."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest

from training.config.pretraining import CorpusOptions
from training.data import corpus
from training.data.corpus import load_corpus
from training.data.documents import find_sources, read_documents
from training.errors import DataError

GOOD_LINE = json.dumps({"text": "good"}).encode()


def error_of(data):
    """The message of reading a corpus."""
    with pytest.raises(DataError) as caught:
        list(read_documents(find_sources(str(data))))
    return str(caught.value)


def load_error(data):
    with pytest.raises(DataError) as caught:
        load_corpus(CorpusOptions(data=(str(data),)))
    return str(caught.value)


@pytest.mark.parametrize("data", ["", "missing", "missing/a.txt"])
def test_a_missing_path(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    message = error_of(data)
    assert message.startswith(f"{data!r}: no such file or folder. Give the path of a text")
    assert '"stdlib"' in message


def test_a_path_below_a_file(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    assert "no such file or folder" in error_of(tmp_path / "a.txt" / "b.txt")


def test_a_glob_that_matches_nothing(tmp_path):
    data = f"{tmp_path}/*.txt"
    assert error_of(data).startswith(f"{data!r}: the glob matches no files. Check the folder")


def test_a_glob_that_matches_folders_only(tmp_path):
    (tmp_path / "sub").mkdir()
    assert "the glob matches no files" in error_of(f"{tmp_path}/*")


def test_an_empty_folder(tmp_path):
    message = load_error(tmp_path)
    assert message.startswith(f"{tmp_path}: there is no text in it (empty files: 0, binary files:")
    assert "Give a file, folder or glob that holds text" in message


def test_a_folder_without_text_files(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "empty.txt").touch()
    assert "no text in it (empty files: 1, binary files: 1)" in load_error(tmp_path)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.gz"])
def test_an_empty_file(tmp_path, name):
    path = tmp_path / name
    path.touch()
    assert load_error(path).startswith(f"{path}: there is no text in it (empty files: 1")


@pytest.mark.parametrize("whole_folder", [False, True])
def test_an_unreadable_file(tmp_path, monkeypatch, whole_folder):
    path = tmp_path / "a.txt"
    path.write_text("text")

    original = Path.open

    def refuse(self, *arguments, **options):
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return original(self, *arguments, **options)

    # Simulated: permissions do not stop a test that runs as root.
    monkeypatch.setattr(Path, "open", refuse)
    message = error_of(tmp_path if whole_folder else path)
    assert message.startswith(f"{path}: cannot be read: Permission denied. ")


def test_a_path_that_the_system_refuses():
    assert "cannot be read: File name too long" in error_of("x" * 5000)


@pytest.mark.parametrize("compressed", [False, True])
def test_text_that_is_not_utf8(tmp_path, compressed):
    content = b"line one\nline two\ncaf\xe9\n"
    path = tmp_path / ("a.txt.gz" if compressed else "a.txt")
    path.write_bytes(gzip.compress(content) if compressed else content)
    message = error_of(path)
    assert message.startswith(f"{path}: not UTF-8 text ('utf-8' codec can't decode byte 0xe9")
    assert message.endswith("Convert it to UTF-8, or leave it out.")


def test_text_with_a_nul_character(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n" + "two".encode("utf-16-le"))
    assert error_of(path).startswith(f"{path}: not UTF-8 text (a NUL character). Convert it")


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz"])
def test_a_truncated_gzip_file(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"\n".join([GOOD_LINE] * 1000))[:-20])
    for data in (path, tmp_path):
        assert error_of(data).startswith(
            f"{path}: cannot be read: Compressed file ended before the end-of-stream marker"
        )


@pytest.mark.parametrize("name", ["a.txt.gz", "a.json.gz"])
@pytest.mark.parametrize("damage", ["no gzip at all", "damaged"])
def test_an_invalid_gzip_file(tmp_path, name, damage):
    content = gzip.compress(bytes(range(32, 127)) * 50)
    damaged = content[:10] + b"\xff" * 20 + content[30:]
    path = tmp_path / name
    path.write_bytes(damaged if damage == "damaged" else GOOD_LINE)
    cause = "Error -3 while decompressing" if damage == "damaged" else "Not a gzipped file"
    assert error_of(path).startswith(f"{path}: cannot be read: {cause}")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": "a"', "cannot be read: Expecting ',' delimiter"),
        (b"plain text", "cannot be read: Expecting value"),
        (b"[" * 200_000, "cannot be read: maximum recursion depth exceeded"),
        (b'["a"]', "cannot be read: it is a list and not an object"),
        (b"null", "cannot be read: it is a NoneType and not an object"),
        (b'{"content": "a", "url": ""}', "the field \"text\" is missing (its fields: 'content',"),
        (b'{"text": null}', 'the field "text" is missing'),
        (b'{"text": 1}', 'the field "text" is of type int, but must be of type str'),
        (b'{"text": "\\ud800"}', "cannot be read: 'utf-8' codec can't encode character"),
        (b'{"text": "caf\xe9"}', "cannot be read: 'utf-8' codec can't decode byte 0xe9"),
    ],
)
def test_a_bad_json_line_is_explained(tmp_path, line, problem):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD_LINE + b"\n" + line + b"\n")
    message = error_of(path)
    assert message.startswith(f"{path}, row 2: ")
    assert problem in message
    assert len(message) < 400


def test_a_field_may_come_late_and_change_its_type(tmp_path):
    """A library that settles the fields by the first megabytes would refuse the file."""
    lines = [{"text": "x" * 1000, "id": None}] * 11_000
    lines += [{"text": "late", "id": 7, "more": "field"}, {"text": "later", "id": "seven"}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    documents = list(read_documents(find_sources(str(path))))
    assert len(documents) == 11_002
    assert [document.text for document in documents[-2:]] == ["late", "later"]


def write_parquet(path, columns, **options):
    parquet.write_table(pyarrow.table(columns), path, **options)
    return path


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"body": ["a"], "id": [1]}, "there is no field \"text\" (its fields: 'body', 'id')"),
        ({"text": [1, 2]}, 'the field "text" is of type int64, but must be of type string'),
        ({"text": ["a", None]}, ', row 2: the field "text" is missing. Remove'),
    ],
)
def test_a_parquet_file_without_texts_is_named(tmp_path, columns, problem):
    path = write_parquet(tmp_path / "a.parquet", columns)
    message = error_of(path)
    assert message.startswith(f"{path}")
    assert problem in message


def test_a_parquet_text_that_is_not_utf8_is_named(tmp_path):
    raw = pyarrow.array([b"good", b"caf\xe9"], pyarrow.binary())
    texts = pyarrow.StringArray.from_buffers(2, *raw.buffers()[1:])
    path = write_parquet(tmp_path / "a.parquet", {"text": texts})
    assert error_of(path).startswith(
        f"{path}: cannot be read: Column 0: In chunk 0: Invalid: Invalid UTF8"
    )


@pytest.mark.parametrize("kept", [0, 10, -20])
def test_a_truncated_parquet_file_is_named(tmp_path, kept):
    path = write_parquet(tmp_path / "a.parquet", {"text": ["some text"] * 100})
    path.write_bytes(path.read_bytes()[:kept])
    message = error_of(path)
    assert message.startswith(f"{path}: cannot be read: ")
    assert "Repair it, download or copy it again, or leave it out." in message


def test_damaged_parquet_pages_are_named(tmp_path):
    texts = [f"text {i}" for i in range(200)]
    path = write_parquet(tmp_path / "a.parquet", {"text": texts}, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    assert error_of(path).startswith(f"{path}: cannot be read: ")


@pytest.mark.parametrize("data", ["hf:", "hf:a:b:c:d", "hf:a[:0]", "hf:a[1:2]", "hf:a[:x]"])
def test_a_malformed_name_of_a_data_set_is_explained(data):
    message = error_of(data)
    assert message.startswith(f"{data!r}: not the name of a data set. Write hf:NAME:CONFIG:SPLIT")
    assert message.endswith("e.g. hf:allenai/c4:en:train[:100000].")


@pytest.mark.parametrize("data", ["hf:{folder}::test", "hf:{folder}/missing", "hf:{folder}:en"])
def test_a_data_set_that_is_not_there_is_explained(tmp_path, data):
    (tmp_path / "train.jsonl").write_bytes(GOOD_LINE)
    message = error_of(data.format(folder=tmp_path))
    assert message.startswith(f"hf:{tmp_path}")
    assert ": cannot be read: " in message
    assert "Check the name, the configuration" in message


def test_a_data_set_without_texts_is_explained(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"body": "a", "id": 1}\n')
    message = error_of(f"hf:{tmp_path}")
    assert message.startswith(f'hf:{tmp_path}: there is no field "text" (its fields: ')
    assert "'body', 'id')" in message


def test_a_data_set_larger_than_memory_is_refused_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "_MOST_STREAMED_BYTES", 10)
    (tmp_path / "train.jsonl").write_bytes((GOOD_LINE + b"\n") * 5)
    assert load_error(f"hf:{tmp_path}") == (
        f"hf:{tmp_path}: more than 10 bytes of text, too much to be held in memory. Name its "
        f"first documents only, as hf:{tmp_path}[:2], or tokenise it once with `train.py prepare`."
    )
    assert len(load_corpus(CorpusOptions(data=(f"hf:{tmp_path}[:2]",))).training[0]) == 4
