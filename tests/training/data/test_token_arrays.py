"""Token arrays: mapped files read like one array in memory, and damaged ones are named."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from training.commands.prepare import PrepareConfig, prepare
from training.data.batches import train_loader
from training.data.token_arrays import is_prepared, open_token_arrays, write_arrays
from training.errors import DataError


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A small prepared folder."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "source").mkdir()
    for i in range(8):
        (folder / "source" / f"{i}.txt").write_text(f"text {i} " * 20)
    config = PrepareConfig(data=str(folder / "source"), out=folder / "prepared", workers=1)
    prepare(config, Console(quiet=True))
    return folder / "prepared"


@pytest.fixture
def prepared(original, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(original, tmp_path / "prepared")


@given(
    st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 65534))), max_size=8).filter(
        lambda pieces: len({held_out for held_out, _ in pieces}) == 2
    )
)
def test_pieces_become_npy_files_without_a_last_separator(tmp_path_factory, pieces):
    folder = tmp_path_factory.mktemp("arrays")
    streams = {"training": [], "validation": []}
    for held_out, tokens in pieces:
        streams["validation" if held_out else "training"] += [*tokens, 65535]
    arrays = [
        (np.array([*tokens, 65535], np.uint16), np.full(len(tokens) + 1, held_out))
        for held_out, tokens in pieces
    ]
    sizes = {split: len(stream) for split, stream in streams.items()}
    records = write_arrays(folder, arrays, sizes, np.dtype(np.uint16))
    for split, stream in streams.items():
        path = folder / records[split]["file"]
        loaded = np.load(path)
        assert loaded.dtype == np.uint16
        assert loaded.tolist() == stream[:-1]
        assert records[split]["tokens"] == len(loaded)
        assert records[split]["bytes"] == path.stat().st_size


def test_a_loader_of_mapped_tokens_gives_what_one_in_memory_gives(prepared):
    mapped = open_token_arrays(prepared).training
    memory = open_token_arrays(prepared, mapped=False).training
    assert isinstance(mapped.base, np.memmap)
    assert not isinstance(memory.base, np.memmap)
    loaders = [train_loader(tokens, 6, 5, seed=3) for tokens in (mapped, memory)]
    for _ in range(80):  # more than two epochs
        ours, theirs = (next(loader)["tokens"] for loader in loaders)
        assert type(ours) is np.ndarray
        np.testing.assert_array_equal(ours, theirs)
    assert loaders[0].get_state() == loaders[1].get_state()


def test_a_prepared_folder_is_recognised(prepared, tmp_path):
    (tmp_path / "source").mkdir()
    assert is_prepared(str(prepared))
    assert not is_prepared(str(tmp_path / "source"))
    assert not is_prepared("stdlib")
    (tmp_path / "source" / "manifest.json").write_text('{"format": "another"}')
    assert not is_prepared(str(tmp_path / "source"))


def test_a_truncated_array_is_named_with_its_sizes(prepared):
    path = prepared / "train.npy"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError) as caught:
        open_token_arrays(prepared)
    assert str(caught.value) == (
        f"{path}: truncated: {size - 10:,} bytes, but {size:,} were written. Prepare the data "
        "again with `train.py prepare` into another folder."
    )


def test_a_missing_array_is_named(prepared):
    (prepared / "validation.npy").unlink()
    with pytest.raises(DataError, match=r"validation\.npy: this file of the .* is missing"):
        open_token_arrays(prepared)


def test_an_array_with_another_header_is_named(prepared):
    path = prepared / "train.npy"
    tokens = np.load(path)
    np.save(path, tokens.view(np.int16))
    with pytest.raises(DataError, match=r"train\.npy: holds int16 of shape .* but uint16 of"):
        open_token_arrays(prepared)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match=r"train\.npy: not a valid \.npy file"):
        open_token_arrays(prepared)


def test_a_single_changed_token_is_found_by_verifying(prepared):
    path = prepared / "train.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    open_token_arrays(prepared)
    with pytest.raises(DataError, match=r"train\.npy: its checksum differs"):
        open_token_arrays(prepared, verify=True)


def test_an_unfinished_folder_says_how_to_finish_it(prepared):
    prepared.rename(prepared.with_name("prepared.unfinished"))
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
            lambda text: json.dumps(json.loads(text) | {"version": 1}),
            r"manifest\.json: is of format 'lowrank_optax token arrays', version 1; .* version 2",
        ),
    ],
)
def test_a_manifest_that_cannot_be_used_is_named(prepared, change, message):
    path = prepared / "manifest.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message):
        open_token_arrays(prepared)
