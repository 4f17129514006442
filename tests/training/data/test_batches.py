"""Batches: every window once per epoch, the same order from the same seed, exact resumption."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.batches import Windows, endless_batches, evenly_spread_batches, windows_of
from training.errors import DataError

SEQ_LEN = 4
# 23 windows: a prime, so that epochs never end where batches do.
TOKENS = np.arange(23 * SEQ_LEN + 1, dtype=np.uint16)


def loader(batch_size, seed, *shard):
    """Endless batches of the windows of a stream."""
    return endless_batches([Windows(TOKENS, SEQ_LEN)], batch_size, seed, *shard)


def first_tokens(batches):
    """Returns the window number of every row of the batches, in order."""
    return [int(row[0]) // SEQ_LEN for batch in batches for row in batch]


def take(batches, count):
    return [next(batches) for _ in range(count)]


def assert_same_batches(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


@given(num_tokens=st.integers(0, 60), seq_len=st.integers(1, 20))
def test_windows_predict_every_token_once_but_for_an_incomplete_tail(num_tokens, seq_len):
    windows = Windows(np.arange(num_tokens, dtype=np.uint8), seq_len)
    rows = [windows[index] for index in range(len(windows))]
    assert all(row.shape == (seq_len + 1,) and row.dtype == np.int32 for row in rows)
    targets = [token for row in rows for token in row[1:]]
    assert targets == list(range(1, 1 + len(targets)))
    assert num_tokens - 1 - len(targets) < seq_len


def test_batches_are_int32_rows_of_consecutive_tokens():
    tokens = next(loader(5, 0))
    assert tokens.shape == (5, SEQ_LEN + 1)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(np.diff(tokens, axis=1), 1)


def test_each_epoch_holds_every_window_once_in_a_new_order():
    batches = loader(5, 0)
    seen = first_tokens(take(batches, 23))
    epochs = [seen[start : start + 23] for start in range(0, 5 * 23, 23)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, list(range(23))]}) == 6


def test_the_order_follows_from_the_seed():
    assert_same_batches(
        take(loader(5, 7), 12),
        take(loader(5, 7), 12),
    )


def test_different_seeds_share_no_epoch():
    orders = set()
    for seed in range(4):
        seen = first_tokens(take(loader(1, seed), 4 * 23))
        orders |= {tuple(seen[start : start + 23]) for start in range(0, 4 * 23, 23)}
    assert len(orders) == 16


@given(batches_before=st.integers(0, 30), seed=st.integers(0, 2**63))
def test_resume_is_bit_for_bit(batches_before, seed):
    batches = loader(5, seed)
    take(batches, batches_before)
    state = json.loads(json.dumps(batches.get_state()))
    expected = take(batches, 10)
    fresh = loader(5, seed)
    fresh.set_state(state)
    assert_same_batches(take(fresh, 10), expected)


def test_a_loader_can_be_set_back():
    batches = loader(5, 1)
    state = batches.get_state()
    expected = take(batches, 8)
    batches.set_state(state)
    assert_same_batches(take(batches, 8), expected)


@pytest.mark.slow
def test_another_process_resumes_with_the_same_batches():
    batches = loader(5, 3)
    take(batches, 6)
    state = batches.get_state()
    expected = first_tokens(take(batches, 6))
    program = (
        "import json, sys, numpy as np\n"
        "from training.data.batches import Windows, endless_batches\n"
        f"windows = Windows(np.arange({len(TOKENS)}), {SEQ_LEN})\n"
        "batches = endless_batches([windows], 5, seed=3)\n"
        "batches.set_state(json.loads(sys.argv[1]))\n"
        f"rows = [row for _ in range(6) for row in next(batches)[:, 0] // {SEQ_LEN}]\n"
        "print([int(row) for row in rows])\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, json.dumps(state)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert json.loads(result.stdout) == expected
    assert result.stderr == ""


@pytest.mark.parametrize("shard_count", [2, 3, 6])
def test_shards_partition_every_batch(shard_count):
    whole = take(loader(6, 2), 12)
    shards = [take(loader(6, 2, index, shard_count), 12) for index in range(shard_count)]
    for step, batch in enumerate(whole):
        parts = [shard[step] for shard in shards]
        assert {len(part) for part in parts} == {6 // shard_count}
        together = np.concatenate(parts)
        assert sorted(together.tolist()) == sorted(batch.tolist())


def test_a_run_resumes_on_another_number_of_shards():
    whole = loader(6, 2)
    take(whole, 7)
    state = whole.get_state()
    expected = first_tokens([next(whole)])
    seen = []
    for shard_index in range(2):
        shard = loader(6, 2, shard_index, 2)
        shard.set_state(state)
        seen += first_tokens([next(shard)])
    assert sorted(seen) == sorted(expected)


def test_weights_are_the_shares_of_the_sources_in_every_batch():
    sources = [Windows(TOKENS, SEQ_LEN), Windows(1000 + TOKENS[: 7 * SEQ_LEN + 1], SEQ_LEN)]
    batches = endless_batches(sources, 8, seed=4, weights=(3, 1))
    taken = take(batches, 23)
    numbers = [int(row[0]) for batch in taken for row in batch]
    assert {sum(row[0] >= 1000 for row in batch) for batch in taken} == {2}
    for first, count in ((0, 23), (1000, 7)):
        own = [(n - first) // SEQ_LEN for n in numbers if n // 1000 == first // 1000]
        epochs = [own[i : i + count] for i in range(0, len(own) - count + 1, count)]
        assert len(epochs) == 6
        assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
        assert len(set(map(tuple, epochs))) == 6
    shards = [endless_batches(sources, 8, 4, index, 2, (3, 1)) for index in range(2)]
    for shard in shards:
        shard.set_state(batches.get_state())
    parts, whole = [next(shard) for shard in shards], next(batches)
    assert sorted(np.concatenate(parts).tolist()) == sorted(whole.tolist())


def test_sources_without_weights_are_one():
    whole = take(loader(5, 3), 12)
    parts = [Windows(TOKENS[start : start + 9 * SEQ_LEN + 1], SEQ_LEN) for start in (0, 36, 72)]
    assert_same_batches(take(endless_batches(parts, 5, 3), 12), whole)


@given(num_windows=st.integers(1, 40), batch_size=st.integers(1, 8), max_batches=st.integers(1, 10))
def test_validation_windows_are_distinct_and_evenly_spread(num_windows, batch_size, max_batches):
    num_batches = min(num_windows // batch_size, max_batches)
    tokens = np.arange(num_windows * SEQ_LEN + 1, dtype=np.uint16)
    if num_batches == 0:
        with pytest.raises(DataError, match="the validation data are too small"):
            evenly_spread_batches([tokens], batch_size, SEQ_LEN, max_batches)
        return
    batches = evenly_spread_batches([tokens], batch_size, SEQ_LEN, max_batches)
    assert batches.shape == (num_batches, batch_size, SEQ_LEN + 1)
    assert batches.dtype == np.int32
    windows = batches.reshape(-1, SEQ_LEN + 1)
    np.testing.assert_array_equal(np.diff(windows, axis=1), 1)
    chosen = windows[:, 0] // SEQ_LEN
    gaps = np.diff([*chosen, num_windows])
    assert chosen[0] == 0
    assert gaps.min() >= 1
    # Differences of consecutive multiples, rounded down, are at most one apart.
    assert gaps.max() - gaps.min() <= 1


def test_too_small_a_corpus_is_refused_with_the_numbers():
    message = (
        r"the training data are too small: 93 tokens give 23 windows of seq_len 4, and one batch "
        r"takes 24 \(97 tokens\)\. Give more data, or reduce batch_size or seq_len\."
    )
    with pytest.raises(DataError, match=message):
        windows_of([TOKENS], SEQ_LEN, 24, "training")
    assert len(windows_of([TOKENS], SEQ_LEN, 23, "training")[0]) == 23


def test_a_batch_that_cannot_be_divided_over_the_shards_is_refused():
    with pytest.raises(ValueError, match="batch_size 5 is not divisible by the 3 shards that load"):
        loader(5, 0, 0, 3)
