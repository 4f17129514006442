"""Which options a resume may change: each says so itself, in the metadata of its field.

Those touch neither the sequence of updates nor, but for rounding on another mesh or with other
micro-batches, the losses in metrics.jsonl.
"""

import dataclasses
from typing import Any

CHANGEABLE = {"a resume may change it": True}


def changeable_options(config: Any) -> set[str]:
    """The names of those options, of a configuration and of the groups in it."""
    names: set[str] = set()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            names |= changeable_options(value)
        elif field.metadata == CHANGEABLE:
            names.add(field.name)
    return names
