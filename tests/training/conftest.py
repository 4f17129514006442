"""A tiny corpus and model, and training steps compiled once for all tests of this folder."""

import dataclasses
import io
import signal

import fsspec
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem
from rich.console import Console
from run_folders import write_texts

from training.config.model import preset_model
from training.config.options import with_options
from training.config.pretraining import PretrainConfig
from training.data.corpus import load_corpus
from training.runs.folder import check_run_folder
from training.runs.loop import train_run
from training.runs.progress import ProgressLine
from training.runs.resolve import resolve_pretraining
from training.steps.compiled import compile_steps
from training.steps.mesh import make_mesh
from training.steps.objective import next_token


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory):
    """Ten files of text, no two alike."""
    return write_texts(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def cache(tmp_path_factory, monkeypatch):
    """The folder of what is kept for other runs, which no other test has written to."""
    folder = tmp_path_factory.mktemp("cache") / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


class Bucket(MemoryFileSystem):
    """Files under gs://, in memory."""

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("gs://"))


@pytest.fixture
def bucket():
    """gs://bucket, in the memory of this process."""
    for name in ("gs", "gcs"):
        fsspec.register_implementation(name, Bucket, clobber=True)
    yield epath.Path("gs://bucket")
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]


class Trainer:
    """Trains tiny runs; those of one optimizer and shape share their compiled steps."""

    def __init__(self, corpus_folder):
        self.corpus_folder = corpus_folder
        self._steps = {}

    def config(self, out, **changes):
        """A resolved configuration of six steps, its run to be written to `out`."""
        defaults = {
            "optimizer": "adamw",
            "hidden_size": 32,
            "num_layers": 1,
            "seq_len": 16,
            "batch_size": 8,
            "eval_batches": 2,
            "steps": 6,
            "data": (str(self.corpus_folder),),
            "validation_fraction": 0.2,
            "mesh": "data=1",
            "checkpoint_every": 2,
            "eval_every": 3,
        }
        config = with_options(PretrainConfig(), **(defaults | changes), out=out)
        return resolve_pretraining(config)

    def changed(self, config, **changes):
        """The same with other options."""
        return resolve_pretraining(with_options(config.options, **changes))

    def corpus(self, config):
        """The data of a configuration."""
        return load_corpus(config.options.corpus, config.resumed_folder)

    def steps(self, config):
        """The compiled steps for a configuration."""
        vocab_size = self.corpus(config).tokenizer.vocab_size
        model = preset_model(config.options.model, config.options.numbers, vocab_size)
        key = (dataclasses.replace(config.steps, schedule=None), model, tuple(config.mesh.items()))
        if key not in self._steps:
            self._steps[key] = self.compiled(config)
        return self._steps[key]

    def compiled(self, config):
        """The same for this very configuration, its schedule included."""
        vocab_size = self.corpus(config).tokenizer.vocab_size
        model = preset_model(config.options.model, config.options.numbers, vocab_size)
        return compile_steps(config.steps, model, make_mesh(config.mesh), next_token())

    def __call__(self, config, steps=None):
        """Trains; returns (summary, what was printed)."""
        corpus = self.corpus(config)
        check_run_folder(config, corpus)
        console = Console(file=io.StringIO(), width=200)
        summary = train_run(config, steps or self.steps(config), corpus, console)
        return summary, console.file.getvalue()


@pytest.fixture(scope="session")
def trainer(corpus_folder):
    return Trainer(corpus_folder)


@pytest.fixture
def signal_at(monkeypatch):
    """signal_at(step, number) sends this process a signal when that step has been reported."""

    def arrange(step, number):
        show = ProgressLine.show

        def show_and_signal(self, record):
            show(self, record)
            if record["step"] == step:
                signal.raise_signal(number)

        monkeypatch.setattr(ProgressLine, "show", show_and_signal)

    return arrange
