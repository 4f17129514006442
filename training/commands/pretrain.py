"""`train.py pretrain`: from options to a trained model and its closing table."""

from typing import Any

from rich.console import Console

from training.checkpoints.pretrained import check_tokenizer
from training.config.model import preset_model
from training.config.pretraining import PretrainConfig
from training.data.corpus import load_corpus
from training.distributed import all_or_none
from training.runs.folder import check_run_folder
from training.runs.loop import train_run
from training.runs.resolve import resolve_pretraining
from training.runs.summary import announce, summary_table
from training.steps.compiled import compile_steps
from training.steps.mesh import make_mesh
from training.steps.objective import next_token


def pretrain(config: PretrainConfig, console: Console) -> dict[str, Any]:
    """Trains one model from random weights, prints the closing table, and returns the content of
    the run's summary.json. Raises as `train_run`."""
    with all_or_none():
        run = resolve_pretraining(config)
        corpus = load_corpus(config.corpus, run.resumed_folder, console)
        model = preset_model(config.model, config.numbers, corpus.tokenizer.vocab_size)
        check_run_folder(run, corpus)
        if run.init.init_from and not run.resumed_folder:
            check_tokenizer(run.init.init_from, corpus.tokenizer)
    announce(run, f"{config.model.preset} Llama", corpus.description, console)
    objective = next_token(corpus.tokenizer.eos_id if config.corpus.document_mask else None)
    steps = compile_steps(run.steps, model, make_mesh(run.mesh), objective)
    summary = train_run(run, steps, corpus, console)
    console.print(summary_table(summary, f"{run.folder} (step {summary['step']})"))
    return summary
