"""A folder that is no model is named, with what it lacks."""

import pytest
from huggingface_folders import change_fields
from question_files import model_folder

from training.checkpoints.pretrained import open_model
from training.errors import UserError


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
