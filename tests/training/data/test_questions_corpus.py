"""What fine-tuning reads: which examples are held out, how long rows are, and their batches."""

import numpy as np
import pytest
from question_files import TEMPLATE, model_folder, sums, write_questions

from training.checkpoints.pretrained import open_model
from training.config.finetuning import QuestionOptions
from training.config.resolved import BatchShape
from training.data.answer_batches import TOKENS
from training.data.questions import Example, split_examples
from training.data.questions_corpus import load_finetune_data


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """load(**options): forty sums for a tiny model, 38 of them to train on."""
    folder = tmp_path_factory.mktemp("files")
    data = write_questions(folder / "train.jsonl", sums(40))
    model = open_model(model_folder(folder / "tiny_llama"))

    def load(**options):
        options = {"template": TEMPLATE, "seq_len": 40} | options
        questions = QuestionOptions(data=str(data), **options)
        return load_finetune_data(
            questions, model.tokenizer, model.prompt, model.config.max_position
        )

    return load


def test_held_out_questions_do_not_depend_on_the_order_of_the_lines():
    examples = [Example(**record, where="") for record in sums(30)]
    training, held_out = split_examples(examples, 0.1)
    assert len(held_out) == 3
    again = split_examples(examples[::-1], 0.1)
    assert {e.question for e in again[1]} == {e.question for e in held_out}
    assert not {e.question for e in training} & {e.question for e in held_out}
    doubled = split_examples(examples + examples, 0.1)
    assert len(doubled[1]) == 6


def test_rows_are_as_long_as_the_longest_example_or_four_times_that_when_packed(load):
    padded = load(seq_len=None)
    examples = (*padded.training.examples, *padded.validation.examples)
    assert padded.training.seq_len == max(len(example.tokens) for example in examples) - 1 < 40
    packed = load(seq_len=None, packing=True)
    assert packed.training.seq_len == 64  # as far as the model takes them
    assert len(packed.training) < len(padded.training) / 1.5


def test_batches_hold_every_example_once_an_epoch(load):
    batches = load().train_batches(BatchShape(8, 40, 1), 0, 0, 1)
    seen = [row.tobytes() for _ in range(19) for row in next(batches)[TOKENS]]
    assert {seen.count(row) for row in seen} == {4}  # 19 batches of 8 are 4 passes over 38


def test_shards_hold_together_the_rows_of_the_whole_batch(load):
    whole = next(load().train_batches(BatchShape(8, 40, 1), 3, 0, 1))
    parts = [next(load().train_batches(BatchShape(8, 40, 1), 3, i, 2)) for i in range(2)]
    for name, rows in whole.items():
        np.testing.assert_array_equal(rows[0::2], parts[0][name])
        np.testing.assert_array_equal(rows[1::2], parts[1][name])
