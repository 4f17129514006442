"""Token arrays: mapped files read like one array in memory, and damaged ones are named."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from training.commands.prepare import PrepareConfig, prepare
from training.data.batches import DataError, train_loader, validation_batches
from training.data.token_arrays import (
    MappedTokens,
    TokenArrayWriter,
    is_prepared,
    open_token_arrays,
)

SEQ_LEN = 5


def write_arrays(folder, arrays):
    """Writes each array by itself; returns the paths."""
    paths = []
    for number, array in enumerate(arrays):
        writer = TokenArrayWriter(folder / f"train-{number:05d}.npy", array.dtype)
        writer.append(array)
        writer.finish()
        paths.append(folder / f"train-{number:05d}.npy")
    return paths


@pytest.fixture(scope="module")
def pieces():
    """Arrays of odd lengths, the shortest of one token and shorter than a window."""
    tokens = np.arange(2000, dtype=np.uint16)
    return np.split(tokens, [700, 701, 704, 1500])


@pytest.fixture(scope="module")
def mapped(pieces, tmp_path_factory):
    return MappedTokens(write_arrays(tmp_path_factory.mktemp("arrays"), pieces))


@pytest.fixture
def prepared(tmp_path):
    """A small prepared folder of several arrays."""
    source = tmp_path / "source"
    source.mkdir()
    for i in range(8):
        (source / f"{i}.txt").write_text(f"text {i} " * 20)
    out = tmp_path / "prepared"
    prepare(
        PrepareConfig(data=str(source), out=out, part_bytes=300, workers=1), Console(quiet=True)
    )
    return out


@given(st.lists(st.lists(st.integers(0, 65535)), max_size=5))
def test_an_array_written_in_pieces_is_an_npy_file(tmp_path_factory, pieces):
    path = tmp_path_factory.mktemp("array") / "a.npy"
    writer = TokenArrayWriter(path, np.uint16)
    for piece in pieces:
        writer.append(np.array(piece, np.int32))
    record = writer.finish()
    tokens = [token for piece in pieces for token in piece]
    if not tokens:
        assert record is None
        assert list(path.parent.iterdir()) == []
        return
    loaded = np.load(path)
    assert loaded.dtype == np.uint16
    assert loaded.tolist() == tokens
    assert record["tokens"] == len(tokens)
    assert record["bytes"] == path.stat().st_size


@given(start=st.integers(-2100, 2100), stop=st.integers(-2100, 2100))
def test_mapped_files_are_sliced_like_one_array(mapped, pieces, start, stop):
    tokens = np.concatenate(pieces)
    np.testing.assert_array_equal(mapped[start:stop], tokens[start:stop])
    assert mapped[start:stop].dtype == np.uint16
    assert (len(mapped), mapped.ndim, mapped.shape) == (2000, 1, (2000,))


def test_mapped_files_are_sliced_without_a_step(mapped):
    with pytest.raises(ValueError, match="sliced without a step"):
        mapped[0:10:2]


def test_nothing_of_a_mapped_file_is_in_memory_or_sent_to_another_process(mapped):
    assert all(isinstance(array, np.memmap) for array in mapped._arrays)
    sent = pickle.dumps(mapped)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)[690:710], mapped[690:710])


def test_a_loader_of_mapped_files_gives_what_one_in_memory_gives(mapped, pieces):
    loaders = [train_loader(t, 6, SEQ_LEN, seed=3) for t in (mapped, np.concatenate(pieces))]
    for _ in range(150):  # more than two epochs
        ours, theirs = (next(loader)["tokens"] for loader in loaders)
        assert ours.dtype == theirs.dtype == np.int32
        np.testing.assert_array_equal(ours, theirs)
    assert loaders[0].get_state() == loaders[1].get_state()


def test_validation_batches_of_mapped_files_are_those_in_memory(mapped, pieces):
    for max_batches in (None, 7):
        np.testing.assert_array_equal(
            validation_batches(mapped, 6, SEQ_LEN, max_batches),
            validation_batches(np.concatenate(pieces), 6, SEQ_LEN, max_batches),
        )


def test_a_prepared_folder_is_recognised(prepared, tmp_path):
    assert is_prepared(str(prepared))
    assert not is_prepared(str(tmp_path / "source"))
    assert not is_prepared("stdlib")
    (tmp_path / "source" / "manifest.json").write_text('{"format": "another"}')
    assert not is_prepared(str(tmp_path / "source"))


def test_a_truncated_array_is_named_with_its_sizes(prepared):
    path = prepared / "train-00001.npy"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError) as caught:
        open_token_arrays(prepared)
    assert str(caught.value) == (
        f"{path}: truncated: {size - 10:,} bytes, but {size:,} were written. Prepare the data "
        "again with `train.py prepare` into another folder."
    )


def test_a_missing_array_is_named(prepared):
    (prepared / "train-00002.npy").unlink()
    with pytest.raises(DataError, match=r"train-00002\.npy: this file of the .* is missing"):
        open_token_arrays(prepared)


def test_an_array_with_another_header_is_named(prepared):
    path = prepared / "train-00000.npy"
    tokens = np.load(path)
    np.save(path, tokens.view(np.int16))
    with pytest.raises(DataError, match=r"train-00000\.npy: holds int16 of shape .* but uint16 of"):
        open_token_arrays(prepared)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match=r"train-00000\.npy: not a valid \.npy file"):
        open_token_arrays(prepared)


def test_a_single_changed_token_is_found_by_verifying(prepared):
    path = prepared / "train-00001.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    open_token_arrays(prepared)
    with pytest.raises(DataError, match=r"train-00001\.npy: its checksum differs"):
        open_token_arrays(prepared, verify=True)


def test_an_unfinished_folder_says_how_to_finish_it(prepared):
    (prepared / "manifest.json").rename(prepared / "preparation.json")
    assert is_prepared(str(prepared))
    with pytest.raises(
        DataError, match=r"is not finished\. Run the same `train\.py prepare` again"
    ):
        open_token_arrays(prepared)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], r"manifest\.json: cannot be read: .*Prepare the data again"),
        (
            lambda text: json.dumps(json.loads(text) | {"version": 2}),
            r"manifest\.json: is of format 'lowrank_optax token arrays', version 2; .* version 1",
        ),
    ],
)
def test_a_manifest_that_cannot_be_used_is_named(prepared, change, message):
    path = prepared / "manifest.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message):
        open_token_arrays(prepared)
