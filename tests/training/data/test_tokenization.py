"""What `train.py prepare` reads, cuts and tokenises is what a run would."""

import json

import numpy as np
import pytest
from run_folders import prepared

from training.config.pretraining import CorpusOptions
from training.data import documents, tokenization
from training.data.corpus import load_corpus
from training.data.tokenizers import Tokenizer
from training.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


def test_a_single_file_is_given_to_the_tokenizer_many_documents_at_a_time(tmp_path, monkeypatch):
    """Its library tokenises them by a thread for every core."""
    lines = [json.dumps({"text": f"document {i} " * 9}) for i in range(500)]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    sizes = []
    original = Tokenizer.encode_batch

    def counted(self, texts):
        sizes.append(len(texts))
        return original(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "encode_batch", counted)
        patch.setattr(tokenization, "_BATCH_CHARACTERS", 10_000)
        prepared(tmp_path / "lines.jsonl", tmp_path / "small", tokenizer="bpe:300")
    assert sum(sizes) == 500
    assert max(sizes) > 50
    prepared(tmp_path / "lines.jsonl", tmp_path / "large", tokenizer="bpe:300")
    for path in (tmp_path / "small").iterdir():
        assert path.read_bytes() == (tmp_path / "large" / path.name).read_bytes()


def test_a_data_set_by_name_is_read_once(tmp_path, monkeypatch):
    """A local folder stands in for the hub: the same builder reads it, only without a network."""
    folder = tmp_path / "data"
    folder.mkdir()
    for shard in range(3):
        lines = [json.dumps({"text": f"shard {shard} text {i} " * 5}) + "\n" for i in range(30)]
        (folder / f"train-{shard}.jsonl").write_text("".join(lines))
    reads = []
    original = documents.read_hub
    monkeypatch.setattr(
        documents, "read_hub", lambda hub, *rest: reads.append(hub) or original(hub, *rest)
    )
    prepared(f"hf:{folder}", tmp_path / "out", tokenizer="bpe:300")
    assert len(reads) == 1
    direct = load_corpus(CorpusOptions(data=(f"hf:{folder}",), tokenizer="bpe:300"))
    found = load_corpus(CorpusOptions(data=(str(tmp_path / "out"),), tokenizer="bpe:300"))
    np.testing.assert_array_equal(found.training[0], direct.training[0])
    np.testing.assert_array_equal(found.validation[0], direct.validation[0])
    with pytest.raises(UserError, match=r"holds data prepared differently:\n  data: 'hf:"):
        prepared(f"hf:{folder}[:50]", tmp_path / "out", tokenizer="bpe:300")


def test_a_single_text_is_cut_as_a_run_would_cut_it(tmp_path):
    (tmp_path / "book.txt").write_text("né" * 500)
    prepared(tmp_path / "book.txt", tmp_path / "out")
    direct = load_corpus(CorpusOptions(data=(str(tmp_path / "book.txt"),)))
    found = load_corpus(CorpusOptions(data=(str(tmp_path / "out"),)))
    np.testing.assert_array_equal(found.training[0], direct.training[0])
    assert bytes(found.validation[0].tolist()).decode() == "né" * 25


def test_a_file_that_changes_while_it_is_prepared_is_noticed(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("text " * 100)
    (data / "b.txt").write_text("text " * 100)

    def read_and_write(path, **options):
        path.write_text("other")
        return "other"

    with monkeypatch.context() as patch:
        patch.setattr(documents, "_read_text", read_and_write)
        with pytest.raises(UserError, match="data: a file has changed while it was read"):
            prepared(data, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
