"""Tokenizers round-trip any text and refuse what they do not know."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import tokenizers
from training.data.bpe import train_bpe, trained_tokenizer
from training.data.tokenizers import (
    END_OF_TEXT,
    ByteTokenizer,
    Tokenizer,
    get_tokenizer,
    stored_tokenizer,
)
from training.errors import DataError
from training.files import cache_folder

TEXTS = [f"line {i}: the number {i * i} is the square of {i}, naïvely.\n" for i in range(50)]
DEFINITION = train_bpe(TEXTS, 300)
BPE = Tokenizer(DEFINITION, "bpe:300")


@given(st.text())
def test_any_text_round_trips(text):
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == list(text.encode())
    assert tokenizer.eos_id == tokenizer.vocab_size - 1 == 256
    assert tokenizer.decode(tokens) == text


@given(st.lists(st.integers(0, 256)))
def test_any_ids_that_a_model_can_emit_decode(tokens):
    tokenizer = ByteTokenizer()
    expected = bytes(token for token in tokens if token < 256).decode(errors="replace")
    assert tokenizer.decode(tokens) == expected


def test_the_byte_tokenizer_as_a_file_has_the_same_ids():
    text = "né 漢字🙂\n\t<|endoftext|>" + "".join(map(chr, range(600)))
    tokenizer = Tokenizer(ByteTokenizer().definition, "bytes")
    assert tokenizer.encode(text).tolist() == list(text.encode())


@pytest.mark.parametrize("token", [-1, 257])
def test_an_id_outside_the_vocabulary_is_refused(token):
    message = rf"token id {token} is not one of tokenizer bytes: ids are 0 \.\.\. 256"
    with pytest.raises(ValueError, match=message):
        ByteTokenizer().decode([65, token])


def test_a_tokenizer_is_found_by_its_name():
    assert get_tokenizer("bytes").name == "bytes"


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(DataError, match=r"unknown tokenizer 'byte'\. Did you mean 'bytes'\?"):
        get_tokenizer("byte")


def test_a_name_near_to_none_gets_the_list_only():
    message = r"unknown tokenizer 'gpt2'\. Known: bpe:8192, bytes, tokenizer\.json\."
    with pytest.raises(DataError, match=message):
        get_tokenizer("gpt2")


@given(st.text())
def test_a_trained_bpe_round_trips_any_text(text):
    tokens = BPE.encode(text)
    assert tokens.dtype == np.int32
    assert np.all((tokens >= 0) & (tokens < BPE.vocab_size))
    assert BPE.eos_id not in tokens
    assert BPE.decode([*tokens, BPE.eos_id]) == text


def test_an_end_of_text_that_is_spelled_out_is_text():
    text = f"before{END_OF_TEXT}after"
    assert BPE.eos_id not in BPE.encode(text)
    assert BPE.decode(BPE.encode(text)) == text


def test_a_trained_bpe_has_the_size_asked_for_and_shortens_text():
    assert BPE.vocab_size == 300
    text = "".join(TEXTS)
    assert len(BPE.encode(text)) < len(text) / 2


def test_a_corpus_with_few_pairs_gives_a_smaller_vocabulary():
    assert Tokenizer(train_bpe(["ab"], 500), "bpe:500").vocab_size == 258


def test_training_does_not_depend_on_threads():
    program = (
        "import sys, json\n"
        "from training.data.bpe import train_bpe\n"
        "sys.stdout.write(train_bpe(json.loads(sys.argv[1]), 300))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, json.dumps(TEXTS)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "PYTHONIOENCODING": "utf-8"},
    )
    assert result.stdout == DEFINITION


def test_a_trained_tokenizer_is_found_in_the_cache(cache):
    def unread():
        pytest.fail("the texts were read again")
        yield

    first = trained_tokenizer("bpe:300", TEXTS, {"a": "1"}, 0.1)
    (path,) = (cache / "lowrank_optax" / "tokenizers").iterdir()
    assert path.parent == cache_folder("tokenizers")
    assert first.checksum == BPE.checksum
    again = trained_tokenizer("bpe:300", unread(), {"a": "1"}, 0.1)
    assert again.checksum == first.checksum
    for name, checksums, fraction in [
        ("bpe:290", {"a": "1"}, 0.1),
        ("bpe:300", {"a": "2"}, 0.1),
        ("bpe:300", {"a": "1"}, 0.2),
    ]:
        trained_tokenizer(name, TEXTS[:3], checksums, fraction)
    assert len(list(path.parent.iterdir())) == 4


def test_a_damaged_file_in_the_cache_is_named(cache):
    trained_tokenizer("bpe:300", TEXTS, {}, 0.1)
    (path,) = cache_folder("tokenizers").iterdir()
    path.write_text(path.read_text()[:100])
    with pytest.raises(
        DataError,
        match=rf"{path.name}: the trained tokenizer cannot be .* not a valid .* Delete the file",
    ):
        trained_tokenizer("bpe:300", TEXTS, {}, 0.1)


def test_a_cache_that_cannot_be_written_is_explained(cache):
    cache.write_text("a file")
    with pytest.raises(DataError, match=r"cannot be kept there: .*Not a directory.*XDG_CACHE_HOME"):
        trained_tokenizer("bpe:300", TEXTS, {}, 0.1)


@pytest.mark.parametrize("name", ["bpe:", "bpe:8k", "bpe:256", "bpe:-1", "bpe:²"])
def test_a_size_that_is_none_is_refused(name):
    with pytest.raises(DataError, match=f"tokenizer '{name}': expected bpe:SIZE .* at least 257"):
        get_tokenizer(name)


def test_a_bpe_without_a_corpus_asks_for_its_file():
    with pytest.raises(DataError, match=r"'bpe:300' is trained on a corpus, .*tokenizer\.json of"):
        get_tokenizer("bpe:300")


def test_a_tokenizer_json_is_found_by_file_and_by_folder(tmp_path):
    BPE.save(tmp_path)
    for name in (str(tmp_path), str(tmp_path / "tokenizer.json")):
        tokenizer = get_tokenizer(name)
        assert tokenizer.name == name
        assert tokenizer.checksum == BPE.checksum
        np.testing.assert_array_equal(tokenizer.encode("a b"), BPE.encode("a b"))


@pytest.mark.parametrize("eos", ['"</s>"', '{"content": "</s>"}', "null"])
def test_the_end_of_text_is_the_one_in_the_configuration_beside_it(tmp_path, eos):
    definition = DEFINITION.replace(END_OF_TEXT, "</s>")
    (tmp_path / "tokenizer.json").write_text(definition)
    (tmp_path / "tokenizer_config.json").write_text(f'{{"eos_token": {eos}}}')
    assert get_tokenizer(str(tmp_path)).end_of_text == "</s>"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"tokenizer.model": ""},
            r"no .*tokenizer\.json\. A SentencePiece model alone .*AutoT",
        ),
        ({"tokenizer.json": "{}"}, r"not a valid tokenizer\.json \(.*Give the tokenizer\.json"),
        (
            {"tokenizer.json": DEFINITION.replace(END_OF_TEXT, "<end>")},
            r"no end of text \(<\|endoftext\|>, .*\) .* tokenizer_config\.json beside it",
        ),
        (
            {"tokenizer.json": DEFINITION, "tokenizer_config.json": '{"eos_token": "<no>"}'},
            r"no end of text \(<no>\)",
        ),
        (
            {"tokenizer.json": DEFINITION, "tokenizer_config.json": "[]"},
            r"tokenizer\.json or tokenizer_config\.json: cannot be read",
        ),
    ],
)
def test_a_folder_without_a_usable_tokenizer_is_explained(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        get_tokenizer(str(tmp_path))


def test_a_missing_tokenizer_file_is_named():
    with pytest.raises(DataError, match=r"'no/tokenizer.json': there is no no/tokenizer.json"):
        get_tokenizer("no/tokenizer.json")


def test_a_long_text_is_tokenised_in_pieces_and_comes_back(monkeypatch):
    text = "".join(TEXTS)
    whole = BPE.encode(text)
    monkeypatch.setattr(tokenizers, "_PIECE_CHARACTERS", 100)
    pieces = BPE.encode(text)
    assert BPE.decode(pieces) == text
    # Cut after ends of lines, where this tokenizer ends a token anyhow.
    np.testing.assert_array_equal(pieces, whole)
    assert BPE.decode(BPE.encode("x" * 250)) == "x" * 250


@pytest.mark.parametrize(
    "tokenizer",
    [ByteTokenizer(), Tokenizer(DEFINITION.replace(END_OF_TEXT, "<end>"), "name", "<end>")],
    ids=["bytes", "bpe"],
)
def test_a_tokenizer_is_stored_with_a_run(tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    copy = stored_tokenizer(tmp_path, tokenizer.name)
    assert copy.name == tokenizer.name
    assert copy.checksum == tokenizer.checksum
    assert (copy.eos_id, copy.vocab_size) == (tokenizer.eos_id, tokenizer.vocab_size)
    batch = copy.encode_batch(["one", "", "<|endoftext|> <end> 12 naïve"])
    assert [part.tolist() for part in batch] == [
        tokenizer.encode(text).tolist() for text in ("one", "", "<|endoftext|> <end> 12 naïve")
    ]
