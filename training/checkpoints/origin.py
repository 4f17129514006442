"""Parameters from a checkpoint of another run, or of this one once it is finished."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from etils import epath
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.configs import LlamaConfig
from models.llama import Llama
from training.checkpoints.reader import CheckpointReader
from training.checkpoints.trees import by_path, map_by_path, tree_differences
from training.errors import UserError
from training.steps.compiled import abstract_parameters
from training.steps.ema import mean_weights

CHECKPOINTS = "checkpoints"  # in a run's folder


class Origin(NamedTuple):
    """A checkpoint to read, of a run in which nothing is changed."""

    reader: CheckpointReader
    step: int

    @property
    def folder(self) -> epath.Path:
        """RUN/checkpoints/STEP."""
        return self.reader.folder / str(self.step)


def find_origin(folder: epath.PathLike) -> Origin:
    """The newest checkpoint of a run's folder, or the one whose folder it is."""
    folder = epath.Path(folder)
    single = folder.name.isdecimal() and folder.parent.name == CHECKPOINTS
    reader = CheckpointReader(folder.parent if single else folder / CHECKPOINTS)
    found = [step for step in reader.steps() if not single or step == int(folder.name)]
    if not found:
        raise UserError(
            f"{folder}: there is no complete checkpoint. Give the folder of a run that has written "
            f"one, or of a checkpoint, RUN/{CHECKPOINTS}/STEP"
        )
    return Origin(reader, found[0])


def read_parameters(
    origin: Origin, expected: Any, more: dict[str, Any] | None = None, *, place: str = "params"
) -> tuple[Any, dict[str, Any]]:
    """The parameters in a checkpoint, and by path the other arrays that are asked for; no more are
    read.

    A checkpoint that is damaged or of another model is a `UserError`.

    Args:
        expected: pure dict of the parameters' shapes, types and shardings.
        more: the same of other arrays, by their paths in the checkpoint.
        place: of the parameters in the checkpoint.
    """
    saved = origin.reader.read_tree(origin.step)
    for name in place.split("/"):
        saved = saved[name]
    if differences := tree_differences(saved, expected):
        raise UserError(
            f"checkpoint {origin.folder} is of another model than the options describe. Its "
            f"parameters differ in\n{differences}\nThe config.json of its run has its options"
        )
    wanted = {f"{place}/{path}": array for path, array in by_path(expected).items()}
    arrays = origin.reader.read_some(origin.step, wanted | (more or {}))
    return map_by_path(lambda path, _: arrays.pop(f"{place}/{path}"), expected), arrays


def newest_parameters(
    run: epath.PathLike, config: LlamaConfig, mesh: Mesh, ema_decay: float = 0.0
) -> Any:
    """The parameters in a run's newest checkpoint, a pure dict of arrays; with a decay, their
    average.

    The optimizer's state is not read, and nothing in the run's folder is changed.
    """
    expected = abstract_parameters(config, mesh)
    if not ema_decay:
        return read_parameters(find_origin(run), expected)[0]
    wide = jax.tree.map(lambda x: x.update(dtype=jnp.float32), expected)
    count = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec()))
    more = {"ema/count": count}
    ema, found = read_parameters(find_origin(run), wide, more, place="ema/ema")
    with jax.set_mesh(mesh):
        return mean_weights(optax.EmaState(found["ema/count"], ema), ema_decay, expected)


def with_parameters(config: LlamaConfig, params: Any) -> Llama:
    """The model that has these parameters, a pure dict."""
    structure, state = nnx.split(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(structure, state)
