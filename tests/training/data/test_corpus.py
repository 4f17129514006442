"""The corpus of a run: its tokenizer, bits per byte, and data that change between two runs."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import tempfile

import numpy as np
import pytest
from run_folders import prepared

from training.config.pretraining import CorpusOptions
from training.config.resolved import BatchShape
from training.data.changes import check_unchanged
from training.data.corpus import load_corpus
from training.data.tokenizers import stored_tokenizer
from training.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def data(corpus_folder, tmp_path):
    """A copy of the test corpus that may be changed."""
    return shutil.copytree(corpus_folder, tmp_path / "data")


def test_a_bpe_is_trained_on_the_training_text_only(tmp_path):
    words = [f"word{chr(97 + i) * 6}" for i in range(20)]
    for i, word in enumerate(words):
        (tmp_path / f"{i}.txt").write_text(f"{word} " * 50)
    corpus = load_corpus(
        CorpusOptions(data=(str(tmp_path),), tokenizer="bpe:600", validation_fraction=0.1)
    )
    held_out = corpus.tokenizer.decode(corpus.validation[0].tolist())
    lengths = {word: len(corpus.tokenizer.encode(f" {word}")) for word in words}
    assert {word for word in words if word in held_out}
    # A word that was seen is one token; the letters of an unseen one have no merges.
    assert {word for word, length in lengths.items() if length > 1} == {
        word for word in words if word in held_out
    }


def test_a_bpe_trained_for_a_preparation_is_the_one_of_a_run(data, tmp_path):
    folder = prepared(data, tmp_path / "out", tokenizer="bpe:300")
    tokenizer = stored_tokenizer(tmp_path / "out", "bpe:300")
    config = CorpusOptions(data=(str(data),), tokenizer="bpe:300")
    assert load_corpus(config).tokenizer.checksum == tokenizer.checksum
    mapped = load_corpus(CorpusOptions(data=(folder,), tokenizer="bpe:300"))
    assert mapped.tokenizer.checksum == tokenizer.checksum


def test_documents_are_separated_by_end_of_text(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.txt").write_text(f"{i}")
    corpus = load_corpus(CorpusOptions(data=(str(tmp_path),), validation_fraction=0.3))
    (source,) = corpus.sources
    assert source.training.dtype == np.uint16
    parts = [bytes(ids[::2].tolist()).decode() for ids in (source.validation, source.training)]
    # In order of their names, and every document in one part.
    assert parts == ["279", "0134568"]
    assert set(source.training[1::2].tolist()) == {256}
    assert len(source.training) == 13


def test_every_file_has_the_checksum_of_its_content(data):
    corpus = load_corpus(CorpusOptions(data=(str(data),)))
    digest = hashlib.sha256((data / "3.txt").read_bytes()).hexdigest()
    assert corpus.checksums["3.txt"] == digest
    assert len(corpus.checksums) == 10
    (data / "3.txt").rename(data / "33.txt")
    assert load_corpus(CorpusOptions(data=(str(data),))).checksum != corpus.checksum


def test_a_data_set_by_name_has_the_checksum_of_its_texts(tmp_path):
    lines = [json.dumps({"text": f"text {i}"}) for i in range(20)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    config = CorpusOptions(data=(f"hf:{tmp_path}",), tokenizer="bpe:270")
    first = load_corpus(config)
    assert list(first.checksums) == [f"hf:{tmp_path}"]
    os.utime(tmp_path / "train.jsonl", (1, 1))
    assert load_corpus(config).checksums == first.checksums
    (tmp_path / "train.jsonl").write_text("\n".join([*lines[:-1], '{"text": "other"}']))
    assert load_corpus(config).checksums != first.checksums


def test_nothing_is_left_of_a_corpus_that_is_not_prepared(data, tmp_path, monkeypatch, capfd):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    load_corpus(CorpusOptions(data=(str(data),)))
    assert list(temporary.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_bits_per_byte_do_not_depend_on_the_tokenizer(data, tokenizer):
    """A model that gives every byte, and so every token of n bytes, 2**-3 a byte has 3 of them."""
    corpus = load_corpus(CorpusOptions(data=(str(data),), tokenizer=tokenizer))
    (source,) = corpus.sources
    text = corpus.tokenizer.decode(source.validation.tolist())
    num_bytes = source.num_bytes("validation")
    assert num_bytes == len(text.encode())
    val_loss = 3 * math.log(2) * num_bytes / len(source.validation)
    assert corpus.bits_per_byte(val_loss) == pytest.approx(3, rel=1e-12)
    total = sum(path.stat().st_size for path in data.iterdir())
    assert source.num_bytes("training") + num_bytes == total


def test_another_tokenizer_than_that_of_prepared_data_is_refused(data, tmp_path):
    folder = prepared(data, tmp_path / "out", tokenizer="bpe:300")
    with pytest.raises(UserError) as caught:
        load_corpus(CorpusOptions(data=(folder,)))
    assert str(caught.value) == (
        f"{folder}: these data were prepared with the tokenizer bpe:300, and --tokenizer is bytes. "
        "Give --tokenizer bpe:300, or prepare the data again with the other one."
    )
    with pytest.raises(UserError, match="prepared with the tokenizer bpe:300"):
        load_corpus(CorpusOptions(data=(folder,), tokenizer="bpe:400"))


def test_a_changed_tokenizer_file_of_prepared_data_is_refused(data, tmp_path):
    folder = prepared(data, tmp_path / "out", tokenizer="bpe:300")
    definition = tmp_path / "out" / "tokenizer.json"
    definition.write_text(definition.read_text() + "\n")
    with pytest.raises(UserError, match="the tokenizer's file in this folder has changed"):
        load_corpus(CorpusOptions(data=(folder,), tokenizer="bpe:300"))


def test_sources_are_split_and_prepared_one_by_one(data, tmp_path):
    (tmp_path / "book.txt").write_text("the first book of numbers " * 80)
    names = (str(data), str(tmp_path / "book.txt"))
    options = {"tokenizer": "bpe:300", "data_weights": (1.0, 2.5)}
    corpus = load_corpus(CorpusOptions(data=names, **options))
    folder = prepared(names[0], tmp_path / "out", tokenizer="bpe:300")
    book = prepared(names[1], tmp_path / "out2", tokenizer=folder)
    mapped = load_corpus(CorpusOptions(data=(folder, book), **options))
    alone = load_corpus(CorpusOptions(data=names[:1], tokenizer="bpe:300"))
    np.testing.assert_array_equal(corpus.training[0], alone.training[0])
    for split in ("training", "validation"):
        for ours, theirs in zip(getattr(corpus, split), getattr(mapped, split), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    size = BatchShape(batch_size=7, seq_len=16, eval_batches=3)
    np.testing.assert_array_equal(*(next(each.train_batches(size, 5)) for each in (corpus, mapped)))
    assert corpus.tokenizer.decode(corpus.validation[1].tolist()).endswith("book of numbers ")
    assert corpus.description.splitlines()[1].startswith(f"{names[1]} (weight 2.5): 1 document, ")
    assert {f"{data}: 3.txt", f"{names[1]}: book.txt"} <= set(corpus.checksums)
    with pytest.raises(UserError, match=r"out2: these data were prepared with another tokenizer"):
        load_corpus(CorpusOptions(data=(names[0], book)))
    with pytest.raises(UserError, match=r"book.txt: its \d+ tokens to train on are no row of seq"):
        corpus.train_batches(BatchShape(batch_size=1, seq_len=1900, eval_batches=3), 5)


def test_a_validation_set_is_all_of_a_text_or_what_prepared_data_hold_out(data, tmp_path):
    folder = prepared(data, tmp_path / "out")
    sets = (f"text={data}/3.txt", f"held={folder}")
    corpus = load_corpus(CorpusOptions(data=(str(data),), validation_sets=sets))
    assert bytes(corpus.others["text"].tolist()) == (data / "3.txt").read_bytes()
    np.testing.assert_array_equal(corpus.others["held"], corpus.validation[0])
    size = BatchShape(batch_size=2, seq_len=16, eval_batches=3)
    batches = corpus.validation_batches(size)
    assert list(batches) == ["val_loss", "val_loss/text", "val_loss/held"]
    np.testing.assert_array_equal(batches["val_loss/held"], batches["val_loss"])
    short = dataclasses.replace(corpus, others={"text": corpus.others["text"][:20]})
    with pytest.raises(UserError, match=r"the --validation-sets text data are too small"):
        short.validation_batches(size)


def test_verify_reaches_prepared_data(data, tmp_path):
    folder = prepared(data, tmp_path / "out")
    path = tmp_path / "out" / "train.bin"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    load_corpus(CorpusOptions(data=(folder,)))
    with pytest.raises(UserError, match=r"train\.bin: its checksum differs"):
        load_corpus(CorpusOptions(data=(folder,), verify=True))


def test_a_moved_prepared_folder_is_the_same_corpus(data, tmp_path):
    first = load_corpus(CorpusOptions(data=(prepared(data, tmp_path / "out"),)))
    (tmp_path / "out").rename(tmp_path / "moved")
    second = load_corpus(CorpusOptions(data=(str(tmp_path / "moved"),)))
    assert second.checksum == first.checksum
    np.testing.assert_array_equal(first.training[0], second.training[0])


def test_damaged_checksums_of_a_run_are_named(tmp_path):
    (tmp_path / "data.json").write_text('{"a.txt": ')
    with pytest.raises(UserError, match=r"data\.json is damaged \(Expecting value.*a backup"):
        check_unchanged(tmp_path, {})


class TestAResumedRun:
    """A run of four steps, its data changed, resumed for two more."""

    @pytest.fixture
    def config(self, trainer, data, tmp_path):
        config = trainer.config(tmp_path / "run", data=(str(data),), steps=4, schedule="constant")
        config = trainer.changed(config, warmup_steps=0)
        trainer(config)
        return trainer.changed(config, resume=True, steps=6)

    @pytest.mark.slow
    def test_goes_on_with_unchanged_data(self, trainer, config):
        assert trainer(config)[0]["step"] == 6

    def test_keeps_checksums_and_tokenizer(self, config, data):
        checksums = json.loads((config.folder / "data.json").read_text())
        assert sorted(checksums) == sorted(path.name for path in data.iterdir())
        assert stored_tokenizer(config.folder, "bytes").name == "bytes"

    @pytest.mark.product(every=3)
    @pytest.mark.parametrize(
        ("change", "difference"),
        [
            (lambda folder: (folder / "3.txt").unlink(), "  3.txt has vanished"),
            (lambda folder: (folder / "3.txt").write_text("else " * 300), "  3.txt has changed"),
            (lambda folder: (folder / "new.txt").write_text("x"), "  new.txt is new"),
        ],
    )
    def test_refuses_changed_data_unless_allowed(self, trainer, config, data, change, difference):
        change(data)
        before = {path: path.read_bytes() for path in config.folder.glob("*.json*")}
        with pytest.raises(UserError) as caught:
            trainer(config)
        assert str(caught.value) == (
            f"cannot resume {config.folder}: its data are not what they were:\n{difference}\n"
            "Restore the files, or go on with the data as they are by --allow-changed-data."
        )
        assert {path: path.read_bytes() for path in before} == before
        allowed = trainer.changed(config, allow_changed_data=True)
        assert trainer(allowed)[0]["step"] == 6
        # From now on these are the run's data.
        trainer(trainer.changed(config, steps=7))

    def test_keeps_its_trained_tokenizer_when_the_data_change(self, data, tmp_path, trainer):
        config = trainer.config(tmp_path / "run", data=(str(data),), tokenizer="bpe:300")
        corpus = trainer.corpus(config)
        config.folder.mkdir()
        corpus.save_to_run(config.folder)
        for path in data.iterdir():
            path.write_text(path.read_text().replace("numbers", "integers"))
        resumed = trainer.changed(config, resume=True, allow_changed_data=True)
        assert trainer.corpus(resumed).tokenizer.checksum == corpus.tokenizer.checksum
        fresh = trainer.changed(config, out=tmp_path / "fresh")
        assert trainer.corpus(fresh).tokenizer.checksum != corpus.tokenizer.checksum
