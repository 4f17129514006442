"""Token arrays: mapped files read like one array in memory, and damaged ones are named."""

import json
import shutil

import numpy as np
import pytest
import run_folders
from hypothesis import given
from hypothesis import strategies as st

from training.data.batches import Windows, endless_batches
from training.data.token_arrays import is_prepared, open_token_arrays, write_arrays
from training.data.tokenizers import ByteTokenizer
from training.errors import DataError


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A small prepared folder."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "source").mkdir()
    for i in range(8):
        (folder / "source" / f"{i}.txt").write_text(f"text {i} " * 20)
    run_folders.prepared(folder / "source", folder / "prepared")
    return folder / "prepared"


@pytest.fixture
def prepared(original, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(original, tmp_path / "prepared")


DOCUMENTS = st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 255), min_size=1)))


@given(DOCUMENTS.filter(lambda pieces: len({held_out for held_out, _ in pieces}) == 2))
def test_documents_become_arrays_without_a_last_separator(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("arrays")
    streams = {"training": [], "validation": []}
    for held_out, tokens in documents:
        streams["validation" if held_out else "training"] += [*tokens, 256]
    pieces = [(held_out, np.array([*tokens, 256], np.int32)) for held_out, tokens in documents]
    write_arrays(folder, pieces, ByteTokenizer(), {"training": {}, "validation": {}})
    for mapped in (True, False):
        manifest, arrays = open_token_arrays(folder, verify=True, mapped=mapped)
        for split, stream in streams.items():
            assert arrays[split].dtype == np.uint16
            assert arrays[split].tolist() == stream[:-1]
            assert manifest[split]["tokens"] == len(stream) - 1


def test_a_split_without_tokens_is_refused(tmp_path):
    pieces = [(False, np.array([7, 256])), (True, np.array([256]))]
    with pytest.raises(DataError, match=r"no token of the validation documents\. Give more"):
        write_arrays(tmp_path, pieces, ByteTokenizer(), {"training": {}, "validation": {}})


def test_a_loader_of_mapped_tokens_gives_what_one_in_memory_gives(prepared):
    mapped = open_token_arrays(prepared)[1]["training"]
    memory = open_token_arrays(prepared, mapped=False)[1]["training"]
    assert isinstance(mapped.base, np.memmap)
    assert not isinstance(memory.base, np.memmap)
    loaders = [endless_batches([Windows(tokens, 5)], 6, 3) for tokens in (mapped, memory)]
    for _ in range(80):  # more than two epochs
        ours, theirs = (next(loader) for loader in loaders)
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


@pytest.mark.parametrize("kept", [None, 10])
def test_a_truncated_or_missing_array_is_named_with_its_sizes(prepared, kept):
    path = prepared / "train.bin"
    size = path.stat().st_size
    content = path.read_bytes()[:kept]
    path.unlink()
    if kept:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_token_arrays(prepared)
    assert str(caught.value) == (
        f"{path}: truncated, changed or missing: {kept or 0} bytes, but {size:,} were written. "
        "Prepare the data again with `train.py prepare` into another folder."
    )


def test_a_single_changed_token_is_found_by_verifying(prepared):
    path = prepared / "train.bin"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    open_token_arrays(prepared)
    with pytest.raises(DataError, match=r"train\.bin: its checksum differs"):
        open_token_arrays(prepared, verify=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], r"manifest\.json: cannot be read: .*Prepare the data again"),
        (
            lambda text: json.dumps(json.loads(text) | {"version": 1}),
            r"manifest\.json: is of format 'lowrank_optax token arrays', version 1; .* version 3",
        ),
    ],
)
def test_a_manifest_that_cannot_be_used_is_named(prepared, change, message):
    path = prepared / "manifest.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message):
        open_token_arrays(prepared)
