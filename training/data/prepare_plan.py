"""The plan of a preparation: what decides its arrays, and whether a folder holds just that."""

import json
from pathlib import Path
from typing import Any

from training.data.token_arrays import FORMAT, MANIFEST_FILE, PLAN_FILE, VERSION, write_json
from training.errors import UserError

_MAX_FILES_SHOWN = 5


def make_plan(**choices: Any) -> dict[str, Any]:
    """Returns a plan.

    Args:
        **choices: JSON-able values, everything that decides the arrays but the files' content.
    """
    return {"format": FORMAT, "version": VERSION, **choices}


def enter_folder(folder: Path, plan: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Creates the folder, or checks that it holds this very preparation.

    Args:
        folder: of the arrays.
        plan: of `make_plan`; its "parts" are lists of file names.

    Returns:
        The plan that the folder was created with, which may join the files differently if their
        sizes have changed since, and whether the preparation is finished.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    for name in (MANIFEST_FILE, PLAN_FILE):
        if (folder / name).exists():
            content = json.loads((folder / name).read_text())
            before = content.get("plan", content)
            _check_same(folder, before, plan)
            return before, name == MANIFEST_FILE
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is not prepared data: give another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / PLAN_FILE, plan)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    return plan, False


def _check_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    differences = [
        f"  {key}: {before.get(key)!r} before, {value!r} now"
        for key, value in now.items()
        if key != "parts" and before.get(key) != value
    ]
    names_before, names_now = (
        {name for part in plan.get("parts", ()) for name in part} for plan in (before, now)
    )
    gone, new = sorted(names_before - names_now), sorted(names_now - names_before)
    differences += [f"  {name} has vanished" for name in gone[:_MAX_FILES_SHOWN]]
    differences += [f"  {name} is new" for name in new[:_MAX_FILES_SHOWN]]
    if differences:
        raise UserError(
            f"{folder} holds data prepared differently:\n"
            + "\n".join(differences)
            + "\nUse the former options and files, or give another folder with --out."
        )
