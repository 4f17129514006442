"""Tokenizers round-trip any text and refuse what they do not know."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from training.data import huggingface_tokenizer
from training.data.bpe import END_OF_TEXT, cache_folder, train_bpe, trained_tokenizer
from training.data.huggingface_tokenizer import HuggingFaceTokenizer
from training.data.tokenizers import ByteTokenizer, get_tokenizer, stored_tokenizer
from training.errors import DataError, UserError

TEXTS = [
    f"line {i}: the number {i * i} is the square of {i}, naïvely.\n".encode() for i in range(50)
]
DEFINITION = train_bpe(TEXTS, 300)
BPE = HuggingFaceTokenizer(DEFINITION, "bpe:300")


def sentencepiece_model(**options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(text.decode() for text in TEXTS),
        model_writer=model,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def model():
    return sentencepiece_model()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
    with pytest.raises(DataError, match=r"unknown tokenizer 'byte'\. Did you mean 'bytes'\?"):
        get_tokenizer("byte")


def test_a_name_near_to_none_gets_the_list_only():
    message = r"unknown tokenizer 'gpt2'\. Known tokenizers: bytes, bpe:SIZE .* tokenizer\.json"
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
    text = b"".join(TEXTS)
    assert len(BPE.encode(text)) < len(text) / 2


def test_a_corpus_with_few_pairs_gives_a_smaller_vocabulary():
    assert HuggingFaceTokenizer(train_bpe([b"ab"], 500), "bpe:500").vocab_size == 258


def test_training_does_not_depend_on_threads():
    program = (
        "import sys, json\n"
        "from training.data.bpe import train_bpe\n"
        "sys.stdout.write(train_bpe([t.encode() for t in json.loads(sys.argv[1])], 300))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, json.dumps([text.decode() for text in TEXTS])],
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
    assert path.parent == cache_folder()
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
    (path,) = cache_folder().iterdir()
    path.write_text(path.read_text()[:100])
    with pytest.raises(DataError, match=rf"{path.name}: this trained .* Delete the file"):
        trained_tokenizer("bpe:300", TEXTS, {}, 0.1)


def test_a_cache_that_cannot_be_written_is_explained(cache):
    cache.write_text("a file")
    with pytest.raises(DataError, match=r"cannot be kept there: Not a directory.*XDG_CACHE_HOME"):
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
        ({}, r"neither tokenizer\.json nor tokenizer\.model in this folder"),
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
            r"tokenizer_config\.json: not a valid tokenizer_config\.json",
        ),
        ({"tokenizer.model": "text"}, "not a valid SentencePiece model"),
    ],
)
def test_a_folder_without_a_usable_tokenizer_is_explained(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        get_tokenizer(str(tmp_path))


def test_a_missing_tokenizer_file_is_named():
    with pytest.raises(DataError, match=r"tokenizer 'no/tokenizer.json': no such file"):
        get_tokenizer("no/tokenizer.json")


def test_a_long_text_is_tokenised_in_pieces_and_comes_back(monkeypatch):
    text = "".join(text.decode() for text in TEXTS)
    whole = BPE.encode(text)
    monkeypatch.setattr(huggingface_tokenizer, "_PIECE_CHARACTERS", 100)
    pieces = BPE.encode(text)
    assert BPE.decode(pieces) == text
    # Cut after ends of lines, where this tokenizer ends a token anyhow.
    np.testing.assert_array_equal(pieces, whole)
    assert BPE.decode(BPE.encode("x" * 250)) == "x" * 250


def test_a_sentencepiece_model_tokenises_text(tmp_path, model):
    (tmp_path / "small.model").write_bytes(model)
    tokenizer = get_tokenizer(str(tmp_path / "small.model"))
    text = "the square of 12 is 144"
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int32
    assert len(tokens) < len(text)
    assert tokenizer.decode([*tokens, tokenizer.eos_id]) == text
    assert tokenizer.encode(text.encode()).tolist() == tokens.tolist()
    assert tokenizer.vocab_size == 320


def test_a_sentencepiece_model_without_an_end_of_text_is_refused(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(eos_id=-1))
    with pytest.raises(DataError, match=r"has no end of text\. Train it with an eos_id"):
        get_tokenizer(str(tmp_path))


def test_a_missing_sentencepiece_names_the_extra(tmp_path, model, monkeypatch):
    (tmp_path / "tokenizer.model").write_bytes(model)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match=r'not installed\. .*pip install -e "\.\[sentencepiece\]"'):
        get_tokenizer(str(tmp_path))


@pytest.mark.parametrize("kind", ["bytes", "bpe", "sentencepiece"])
def test_a_tokenizer_is_stored_with_a_run_and_sent_to_other_processes(tmp_path, model, kind):
    if kind == "sentencepiece":
        (tmp_path / "m.model").write_bytes(model)
    makers = {
        "bytes": ByteTokenizer,
        "bpe": lambda: HuggingFaceTokenizer(DEFINITION.replace(END_OF_TEXT, "<end>"), "n", "<end>"),
        "sentencepiece": lambda: get_tokenizer(str(tmp_path / "m.model")),
    }
    tokenizer = makers[kind]()
    folder = tmp_path / "run"
    folder.mkdir()
    tokenizer.save(folder)
    for copy in (stored_tokenizer(folder, tokenizer.name), pickle.loads(pickle.dumps(tokenizer))):
        assert copy.name == tokenizer.name
        assert copy.checksum == tokenizer.checksum
        assert (copy.eos_id, copy.vocab_size) == (tokenizer.eos_id, tokenizer.vocab_size)
        text = "<|endoftext|> <end> 12 naïve"
        assert copy.encode(text).tolist() == tokenizer.encode(text).tolist()
        batch = copy.encode_batch([b"one", b"", b"two 2"])
        assert [part.tolist() for part in batch] == [
            tokenizer.encode(text).tolist() for text in ("one", "", "two 2")
        ]
    with pytest.raises(ValueError, match=rf"token id {tokenizer.vocab_size} is not"):
        tokenizer.decode([tokenizer.vocab_size])
