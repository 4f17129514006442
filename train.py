"""Train Llamas with low-rank optimizers from the command line.

python train.py                    a small model, Trion, Python's standard library as text
python train.py pretrain --help    the options of a run
python train.py compare --help     several optimizers on the same model and data
python train.py prepare --help     a corpus tokenised once, into memory-mapped arrays
python train.py finetune --help    a model trained further on questions and answers
python train.py evaluate --help    exact match of a model's answers, or its loss on text
python train.py generate --help    a model's continuation of a text
python train.py export RUN FOLDER  a run's model as a Hugging Face folder
python train.py problems --help    arithmetic word problems, for finetune and evaluate
python train.py report RUN...      the losses of any set of runs, drawn into one page

Options may come from a file: --config FILE.yaml, FILE.json or RUN/config.json; those on the command
line override it.

Several processes: start each with --distributed; see --coordinator in the options of a run.
"""

import functools
import inspect
import operator
import shlex
import sys
from typing import Annotated, Any

import tyro
from rich.console import Console

from training.commands.compare import compare
from training.commands.evaluate import EvaluateConfig, evaluate
from training.commands.export import ExportConfig, export
from training.commands.finetune import finetune
from training.commands.generate import GenerateConfig, generate
from training.commands.prepare import PrepareConfig, prepare
from training.commands.pretrain import pretrain
from training.commands.problems import ProblemsConfig, write_problems
from training.commands.report import ReportConfig, report
from training.config.files import HELP, with_config_file
from training.config.finetuning import FinetuneConfig
from training.config.groups import TrainingOptions
from training.config.pretraining import CompareConfig, PretrainConfig
from training.distributed import is_first, start
from training.errors import TrainingFailedError, UserError
from training.runs.interruption import InterruptedRunError
from training.steps.compiled import keep_compilations

# Name -> its options, and what it does with them and a console.
COMMANDS: dict[str, tuple[Any, Any]] = {
    "pretrain": (PretrainConfig, pretrain),
    "compare": (CompareConfig, compare),
    "prepare": (PrepareConfig, prepare),
    "finetune": (FinetuneConfig, finetune),
    "evaluate": (EvaluateConfig, evaluate),
    "generate": (GenerateConfig, generate),
    "export": (ExportConfig, export),
    "problems": (ProblemsConfig, write_problems),
    "report": (ReportConfig, report),
}


def parse(arguments: list[str]) -> Any:
    """The configuration that the arguments describe; without a subcommand, of `pretrain`.

    Raises:
        UserError: for a --config that cannot be used.
    """
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["pretrain", *arguments]
    if arguments[0] in COMMANDS:
        arguments = [arguments[0], *with_config_file(arguments[1:], COMMANDS[arguments[0]][0])]
    subcommands = []
    for name, (config, _) in COMMANDS.items():
        text = f"{inspect.getdoc(config)}\n\n{HELP}" if name in arguments[:1] else None
        subcommands.append(Annotated[config, tyro.conf.subcommand(name, description=text)])
    command: Any = functools.reduce(operator.or_, subcommands)
    return tyro.cli(
        command,
        args=arguments,
        prog="train.py",
        # Without the list of commands, which the help has by itself.
        description="\n\n".join(part for part in __doc__.split("\n\n") if "--help" not in part),
        config=(tyro.conf.OmitArgPrefixes,),
    )


def run(arguments: list[str]) -> None:
    """Runs a command; raises what it raises."""
    config = parse(arguments)
    command = dict(COMMANDS.values())[type(config)]
    if isinstance(config, TrainingOptions):
        start(config.processes)
    if isinstance(config, TrainingOptions | EvaluateConfig | GenerateConfig):
        keep_compilations()
    if isinstance(config, CompareConfig):
        command = functools.partial(command, command=["train.py", *arguments])
    quiet = isinstance(config, TrainingOptions) and not is_first()
    command(config, Console(soft_wrap=True, quiet=quiet, markup=False, emoji=False))


def main(arguments: list[str]) -> int:
    """Runs a command.

    Args:
        arguments: without the program's name.

    Returns:
        Exit status: 0 done, 1 the run failed, 2 bad input, 130 or 143 interrupted after saving.
    """
    try:
        run(arguments)
    except (UserError, TrainingFailedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except InterruptedRunError as interruption:
        if is_first():
            print(f"{interruption}\ncontinue with: {resume_command(arguments)}", file=sys.stderr)
        return 128 + interruption.signal_number
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def resume_command(arguments: list[str]) -> str:
    """The command line that continues what `arguments` started."""
    compared = arguments[:1] == ["compare"]  # finds its unfinished runs by itself
    extra = [] if compared or "--resume" in arguments else ["--resume"]
    return shlex.join(["python", "train.py", *arguments, *extra])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
