"""Parameters from a checkpoint of another run, or of this one once it is finished."""

from typing import Any, NamedTuple

from etils import epath

from training.checkpoints.reader import CheckpointReader, UnreadableCheckpointError
from training.checkpoints.trees import by_path, describe_differences, map_by_path
from training.errors import UserError

CHECKPOINTS = "checkpoints"  # in a run's folder


class Origin(NamedTuple):
    """A checkpoint to read, of a run in which nothing is changed."""

    reader: CheckpointReader
    step: int

    @property
    def run(self) -> epath.Path:
        """The folder of its run."""
        return self.reader.folder.parent

    @property
    def folder(self) -> epath.Path:
        """Its own, RUN/checkpoints/STEP."""
        return self.reader.folder / str(self.step)


def find_origin(folder: epath.PathLike) -> Origin:
    """The newest checkpoint of a run's folder, or the one whose folder it is.

    Raises:
        UserError: there is none.
    """
    folder = epath.Path(folder).expanduser()
    if folder.name.isdecimal() and folder.parent.name == CHECKPOINTS:
        reader, wanted = CheckpointReader(folder.parent), int(folder.name)
        found = [step for step in reader.steps() if step == wanted]
    else:
        reader = CheckpointReader(folder / CHECKPOINTS)
        found = reader.steps()
    if not found:
        raise UserError(
            f"{folder}: there is no complete checkpoint. Give the folder of a run that has written "
            f"one, or of a checkpoint, RUN/{CHECKPOINTS}/STEP"
        )
    return Origin(reader, found[0])


def read_tree(origin: Origin) -> Any:
    """What arrays the checkpoint holds: nested dictionaries and lists of shapes and types.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return origin.reader.read_tree(origin.step)
    except UnreadableCheckpointError as error:
        raise _unreadable(origin, error) from error


def read_arrays(origin: Origin, wanted: dict[str, Any]) -> dict[str, Any]:
    """Arrays by their paths in the checkpoint, from shapes, types and shardings by the same.

    Raises:
        UserError: they cannot be read, or are not what was saved.
    """
    try:
        return origin.reader.read_some(origin.step, wanted)
    except UnreadableCheckpointError as error:
        raise _unreadable(origin, error) from error


def check_parameters(origin: Origin, tree: Any, expected: Any) -> None:
    """Compares what `read_tree` returns with the parameters of a model.

    Raises:
        UserError: naming the arrays that differ.
    """
    differences = describe_differences(tree["params"], expected)
    if differences:
        raise UserError(
            f"checkpoint {origin.folder} is of another model than the options describe. Its "
            f"parameters differ in\n{differences}\nIts own are in {origin.run / 'config.json'}"
        )


def read_parameters(origin: Origin, expected: Any) -> Any:
    """The parameters in a checkpoint; the optimizer's state is not read.

    Args:
        origin: the checkpoint.
        expected: pure dict of shapes, types and shardings.

    Raises:
        UserError: it is damaged or of another model.
    """
    check_parameters(origin, read_tree(origin), expected)
    wanted = {f"params/{path}": array for path, array in by_path(expected).items()}
    arrays = read_arrays(origin, wanted)
    return map_by_path(lambda path, _: arrays[f"params/{path}"], expected)


def _unreadable(origin: Origin, error: UnreadableCheckpointError) -> UserError:
    return UserError(
        f"checkpoint {origin.folder} cannot be read: {error}. Restore it from a backup, or move "
        "the folder away to use the checkpoint before it"
    )
