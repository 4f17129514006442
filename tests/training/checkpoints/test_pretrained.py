"""A folder that is no model is named, with what it lacks; one in a bucket is like others."""

import chex
import jax.numpy as jnp
import pytest
from huggingface_folders import change_fields
from question_files import model_folder

from training.checkpoints.pretrained import open_model, save_model
from training.data.prompts import Prompt
from training.errors import UserError
from training.steps.mesh import make_mesh


def test_folders_that_are_no_models_are_named(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"empty has no config.json; is it the folder of a model"):
        open_model(empty)
    folder = model_folder(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"there is no .*model/tokenizer.json"):
        open_model(folder)
    folder = model_folder(tmp_path / "small")
    change_fields(folder, vocab_size=60)
    with pytest.raises(UserError, match=r"its tokenizer has 98 tokens and its model only 60"):
        open_model(folder)


def test_a_fine_tuned_model_is_kept_in_a_bucket_and_read_from_there(tmp_path, bucket):
    source, mesh = open_model(model_folder(tmp_path / "model")), make_mesh({"data": 1})
    model, prompt = source.load(mesh), Prompt("{question} =")
    save_model(model, source, prompt, bucket / "tuned")
    kept = open_model(bucket / "tuned")
    assert str(kept.folder) == "gs://bucket/tuned"
    assert kept.prompt == prompt
    assert kept.tokenizer.checksum == source.tokenizer.checksum
    tokens = jnp.array([[1, 2, 3]])
    chex.assert_trees_all_equal(kept.load(mesh)(tokens), model(tokens))
    save_model(model, kept, None, tmp_path / "again")
    assert (tmp_path / "again/tokenizer.json").is_file()
