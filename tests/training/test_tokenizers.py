"""Tokenizers round-trip any text and refuse what they do not know."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.tokenizers import ByteTokenizer, get_tokenizer


@given(st.text())
def test_any_text_round_trips(text):
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int32
    assert tokens.shape == (len(text.encode()),)
    assert tokenizer.decode(tokens) == text


@given(st.binary())
def test_any_bytes_become_ids_below_end_of_text(data):
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(data)
    assert tokens.tolist() == list(data)
    assert tokenizer.eos_id == tokenizer.vocab_size - 1 == 256
    assert np.all(tokens < tokenizer.eos_id)


@given(st.lists(st.integers(0, 256)))
def test_any_ids_that_a_model_can_emit_decode(tokens):
    tokenizer = ByteTokenizer()
    expected = bytes(token for token in tokens if token < 256).decode(errors="replace")
    assert tokenizer.decode(tokens) == expected


def test_bytes_and_text_encode_alike():
    tokenizer = ByteTokenizer()
    np.testing.assert_array_equal(tokenizer.encode("né"), tokenizer.encode("né".encode()))


@pytest.mark.parametrize("token", [-1, 257])
def test_an_id_outside_the_vocabulary_is_refused(token):
    message = rf"token id {token} is not a byte token: ids are 0 \.\.\. 256"
    with pytest.raises(ValueError, match=message):
        ByteTokenizer().decode([65, token])


def test_a_tokenizer_is_found_by_its_name():
    assert get_tokenizer("bytes").name == "bytes"


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(ValueError, match=r"unknown tokenizer 'byte'\. Did you mean 'bytes'\?"):
        get_tokenizer("byte")


def test_a_name_near_to_none_gets_the_list_only():
    with pytest.raises(ValueError, match=r"unknown tokenizer 'gpt2'\. Known tokenizers: bytes\."):
        get_tokenizer("gpt2")
