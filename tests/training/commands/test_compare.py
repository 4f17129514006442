"""Comparisons: tuned fairly, resumable, and tabulated as they came out."""

import io
import json
import math
import shutil

import pytest
from rich.console import Console

import training.runs.comparison
from training.commands.compare import compare, parse_learning_rates, parse_optimizers
from training.config.hyperparameters import Hyperparameters
from training.config.options import flat, with_options
from training.config.pretraining import CompareConfig
from training.config.record import to_json
from training.data.corpus import load_corpus
from training.errors import TrainingFailedError, UserError
from training.reports.results import markdown_table, mean_and_deviation
from training.runs.comparison import Comparison, run_config
from training.runs.folder import create_run_folder


def silent():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def config(corpus_folder, tmp_path):
    return with_options(
        CompareConfig(),
        optimizers="adamw,sgd",
        seeds=2,
        hidden_size=32,
        num_layers=1,
        seq_len=16,
        batch_size=8,
        steps=4,
        eval_every=2,
        eval_batches=2,
        data=(str(corpus_folder),),
        validation_fraction=0.2,
        mesh="data=1",
        out=tmp_path / "comparison",
    )


def test_a_comparison_writes_table_results_and_curves_and_reuses_its_runs(config, monkeypatch):
    results = compare(config, silent(), ["train.py", "compare"])
    assert (config.out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((config.out / "results.json").read_text()) == results
    assert results["command"] == "python train.py compare"
    assert {"python", "jax", "optax"} <= results["versions"].keys()
    assert [run["seed"] for run in results["runs"]["sgd"]] == [0, 1]
    assert results["runs"]["sgd"][0]["val_loss"] != results["runs"]["sgd"][1]["val_loss"]
    table = (config.out / "table.md").read_text()
    assert table.startswith("| | adamw | sgd |\n")
    for row in ("Train loss", "Validation perplexity", "Optimizer state", "Training time"):
        assert f"| {row}" in table
    monkeypatch.setattr(training.runs.comparison, "train_run", None)  # would fail if called
    assert compare(config, silent(), ["train.py", "compare"])["runs"] == results["runs"]


def test_runs_of_a_comparison_see_the_same_data_as_a_single_run(config, trainer, tmp_path):
    run = run_config(config, "adamw", 0.003, 1)
    alone = trainer.config(tmp_path / "alone", seed=1, steps=4, eval_every=2, learning_rate=0.003)
    expected = flat(alone.options)
    differing = {name for name, value in flat(run.options).items() if value != expected[name]}
    assert differing == {"out", "checkpoint_every"}


def test_a_comparison_on_data_that_changed_is_refused_by_their_names(config, tmp_path, monkeypatch):
    data = shutil.copytree(config.corpus.data[0], tmp_path / "data")
    config = with_options(config, data=(str(data),))
    run = run_config(config, "adamw", None, 0)
    create_run_folder(run.folder, to_json(run.options, "checksum"))
    load_corpus(config.corpus).save_to_run(run.folder)
    (data / "3.txt").write_text("something else\n" * 100)
    monkeypatch.setattr(training.runs.comparison, "train_run", None)  # would fail if called
    with pytest.raises(UserError) as failure:
        compare(config, silent(), ["train.py", "compare"])
    message = str(failure.value)
    assert "its data are not what they were:\n  3.txt has changed\n" in message
    assert "Restore the files, or compare anew in another --out." in message


def test_options_go_to_the_optimizers_that_take_them(config):
    shared = with_options(config, b1=0.8, rotate=False, rank=4)
    adamw, dct_adamw, trion = (
        run_config(shared, name, None, 0).steps.method for name in ("adamw", "dct_adamw", "trion")
    )
    assert adamw.hyperparameters == Hyperparameters(b1=0.8)
    assert (adamw.rank, dct_adamw.rank) == (None, 4)
    assert trion.hyperparameters == Hyperparameters()


class Valley(Comparison):
    """A comparison whose validation loss is known: lowest at the learning rate `best`."""

    def __init__(self, best):
        self.best = best
        self.tried = []

    def run(self, optimizer, learning_rate, seed):
        assert seed == 0
        self.tried.append(learning_rate)
        if learning_rate > 100 * self.best:
            return {"failure": "loss is nan"}
        return {"val_loss": 1 + abs(math.log2(learning_rate / self.best))}


@pytest.mark.parametrize("best", [0.01, 0.04, 0.00125, 0.32])
def test_tuning_goes_on_until_the_best_rate_is_inside_the_grid(best):
    valley = Valley(best)
    grid = valley.tune("adamw", 0.01)
    rates = list(grid)
    assert min(grid, key=grid.__getitem__) == pytest.approx(best)
    assert rates[0] < best < rates[-1]
    assert rates == sorted(rates)
    assert len(valley.tried) == len(set(valley.tried)) == len(rates)


def test_tuning_takes_a_divergence_for_a_bad_rate():
    valley = Valley(1e-4)
    grid = valley.tune("adamw", 0.0128)
    assert min(grid, key=grid.__getitem__) == pytest.approx(1e-4)
    assert max(grid.values()) == math.inf


def test_a_diverging_run_is_kept_as_such_and_not_repeated(config, monkeypatch):
    calls = []

    def diverging(run, steps, corpus, console):
        calls.append(run.folder)
        run.folder.mkdir(parents=True)
        raise TrainingFailedError("loss is nan at step 2", diverged=True)

    monkeypatch.setattr(training.runs.comparison, "train_run", diverging)
    monkeypatch.setattr(Comparison, "_compiled", lambda self, run: None)
    results = compare(config, silent(), ["train.py", "compare"])
    assert results["runs"]["sgd"][0]["failure"] == "loss is nan at step 2"
    assert "diverged" in (config.out / "table.md").read_text()
    assert len(calls) == 4


def test_the_table_shows_mean_and_sample_deviation():
    assert mean_and_deviation([1.0, 2.0, 3.0], 2) == "2.00 ± 1.00"
    assert mean_and_deviation([1.5], 2) == "1.50"
    run = {
        "learning_rate": 0.01,
        "train_loss": 1.0,
        "val_loss": 2.0,
        "train_perplexity": 2.7,
        "val_perplexity": 7.4,
        "optimizer_state_bytes": 500_000,
        "adamw_state_bytes": 1_000_000,
        "seconds": 12.0,
        "tokens_per_second": 1000.0,
    }
    failed = {"learning_rate": 0.01, "failure": "loss is nan"}
    table = markdown_table({"trion": [run, {**run, "val_loss": 4.0}, failed]})
    assert "| Validation loss | 3.0000 ± 1.4142 (1 of 3 diverged) |" in table
    assert "| Optimizer state | 500.00 kB (50% of AdamW's) |" in table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--optimizers is empty"),
        ("adamw,adamw", "adamw more than once"),
        ("adamw,trian", "unknown optimizer 'trian'. Did you mean 'trion'"),
    ],
)
def test_bad_lists_of_optimizers_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse_optimizers(text)


def test_a_value_that_an_optimizer_refuses_is_refused_before_the_first_run(config):
    chosen = with_options(config, optimizers="normuon,trion", momentum="none")
    with pytest.raises(UserError, match="--momentum none is for normuon and tandem; trion needs"):
        compare(chosen, silent(), ["train.py", "compare"])
    assert not config.out.exists()


@pytest.mark.parametrize("text", ["trion", "trion=fast", "trion=0", "trion=inf", "muon=0.1"])
def test_bad_learning_rates_are_refused_and_shown(text):
    with pytest.raises(UserError, match=f"--learning-rates {text}: "):
        parse_learning_rates(text, ["trion", "adamw"])


def test_learning_rates_are_read_by_name():
    assert parse_learning_rates("trion=0.02, adamw=3e-3", ["trion", "adamw"]) == {
        "trion": 0.02,
        "adamw": 0.003,
    }
