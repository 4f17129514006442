"""The figures that are there already, by commit and device, saved as they come."""

import json
import os
import pathlib
from typing import Any

Result = dict[str, Any]


class Record:
    """A JSON of measurements, of which those of one commit and device count as done.

    Args:
        path: of the JSON; measurements of other commits and devices in it are kept.
        environment: device, versions and commit, as `benchmarks.record.environment` gives it.
        smoke: whether sizes are small.
    """

    def __init__(self, path: pathlib.Path, environment: dict[str, Any], *, smoke: bool):
        self._path = path
        self._environment = environment
        self._setting = {
            "smoke": smoke,
            "device_kind": environment["device_kind"],
            "git_commit": environment["git_commit"],
        }
        self._all: list[dict[str, Any]] = []
        if path.exists():
            self._all = json.loads(path.read_text(encoding="utf-8"))["measurements"]

    def results(self, part: str) -> dict[str, Result]:
        """Item -> result of a part, of this commit and device; failures are not among them."""
        return {
            each["item"]: each["result"]
            for each in self._all
            if self._is_ours(each) and each["part"] == part and "error" not in each["result"]
        }

    def failures(self, part: str) -> dict[str, str]:
        """Item -> error of a part, of this commit and device."""
        return {
            each["item"]: each["result"]["error"]
            for each in self._all
            if self._is_ours(each) and each["part"] == part and "error" in each["result"]
        }

    def add(self, part: str, item: str, result: Result) -> None:
        """Saves one result, in place of an earlier one of the same commit and device."""
        same = lambda each: self._is_ours(each) and (each["part"], each["item"]) == (part, item)
        entry = {"part": part, "item": item, **self._setting, "environment": self._environment}
        self._all = [each for each in self._all if not same(each)] + [entry | {"result": result}]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: the machine may be taken away at any moment.
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps({"measurements": self._all}, indent=1) + "\n", encoding="utf-8")
        os.replace(draft, self._path)

    def _is_ours(self, each: dict[str, Any]) -> bool:
        return all(each[key] == value for key, value in self._setting.items())
