"""A run's folder and its config.json: free for a new run, of the same run for a resumed one."""

import json
from typing import Any

from etils import epath

from training.config.pretraining import PretrainConfig, to_json
from training.config.resuming import changeable_options
from training.errors import UserError
from training.json_files import write_json
from training.runs.distributed import is_first

CONFIG_FILE = "config.json"


def read_config(folder: epath.PathLike) -> dict[str, Any]:
    """The content of a run's config.json; empty if there is none.

    Raises:
        UserError: if it is not JSON.
    """
    path = epath.Path(folder) / CONFIG_FILE
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): restore it from a backup, or start a new run with "
            "another --out"
        ) from error


def check_run_folder(config: PretrainConfig, checksum: str) -> None:
    """Checks that a new run's folder is free, or that a resumed one's configuration is the same.

    Writes nothing, so that a run that fails to start leaves nothing behind.

    Raises:
        UserError: if a new run's folder is in use, if there is no run to resume, or if its
            configuration differs.
    """
    folder = config.out
    try:
        taken = folder.exists() and not _is_free(folder)
    except ImportError as error:  # of what reads buckets
        raise UserError(f"--out {folder}: {error}") from error
    if config.resume:
        saved = read_config(folder)
        if not saved:
            raise UserError(f"--resume: there is no run in {folder} (no {CONFIG_FILE})")
        _check_same(config, saved, to_json(config, checksum))
    elif taken:
        raise UserError(
            f"{folder} exists already: continue that run with --resume, "
            "or give another folder with --out"
        )


def _is_free(folder: epath.Path) -> bool:
    """Whether nothing is there but what a run leaves that is killed as it writes config.json."""
    return folder.is_dir() and {path.name for path in folder.iterdir()} <= {"config.tmp"}


def create_run_folder(config: PretrainConfig, checksum: str) -> None:
    """Creates the run's folder, if it is a new one, with its config.json; the first process does.

    Args:
        config: of the run.
        checksum: of its data.

    Raises:
        UserError: if it cannot be written.
    """
    if not is_first():
        return
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        write_json(config.out / CONFIG_FILE, to_json(config, checksum))
    except OSError as error:
        raise UserError(f"cannot write to {config.out}: {error.strerror}") from error


def origin_options(folder: epath.PathLike) -> dict[str, Any]:
    """How a run began, by its config.json: `init_from` as the one checkpoint, and `init_state`."""
    saved = read_config(folder)
    if not saved.get("init_from"):
        return {}
    return {"init_from": epath.Path(saved["init_from"]), "init_state": saved["init_state"]}


def _check_same(config: PretrainConfig, saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuses another configuration than the saved one.

    An option that is not saved was not known then, and had its default.

    Raises:
        UserError: listing each differing option with its old and new value, and what to do.
    """
    ignored = changeable_options(config)
    if saved.get("schedule") == current["schedule"] == "constant":
        ignored.add("steps")  # a constant rate does not depend on where the run ends
    if config.allow_changed_data:
        ignored.add("data_checksum")
    saved = to_json(PretrainConfig(), "") | saved
    if _is_origin(config.init_from, saved["init_from"]):
        ignored |= {"init_from", "init_state"}  # they are done
    lines = [
        f"  {key}: {saved.get(key)!r} before, {current.get(key)!r} now"
        for key in sorted(saved.keys() | current.keys())
        if key not in ignored and saved.get(key) != current.get(key)
    ]
    if lines:
        begin = "--model" if hasattr(config, "model") else "--init-from"  # of a fine-tuning run
        raise UserError(
            f"cannot resume {config.out}: its configuration differs in\n"
            + "\n".join(lines)
            + "\nUse the former values, or start a new run with another --out; with "
            f"{begin} {config.out} that begins with the parameters of this one."
        )


def _is_origin(given: epath.PathLike | None, saved: str | None) -> bool:
    """Whether a run began with what `--init-from` gives: not at all, this checkpoint or run."""
    if given is None or saved is None:
        return given is None
    origin, saved_path = epath.Path(given).expanduser().resolve(), epath.Path(saved)
    return origin in (saved_path, saved_path.parent.parent)
