"""What a compiled program sends between devices, read from its HLO text."""

import dataclasses
import math
import re

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "reduce-scatter",
)
_BITS = re.compile(r"\d+")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")
_INSTRUCTION = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start)?\(")
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_IOTA_GROUPS = re.compile(r"replica_groups=\[\d+,(\d+)\]")
# The devices' order, in between, does not change how many there are in a group.
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^ ]*\))? \{([^}]*)\}")
_ENTERED = {
    "branch": re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%[\w.\-]+)"),
    "loop": re.compile(r"\b(?:body|condition)=(%[\w.\-]+)"),
}
_COMPUTATION = re.compile(r"%[\w.\-]+")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction.

    Attributes:
      kind: one of `KINDS`.
      shapes: of its result on one device, one per array.
      bytes: of its result on one device: what an all-gather ends up with, what an all-reduce
        adds up.
      group: number of devices that take part together; 0 if the text does not say.
      in_branch: whether it is inside a branch of a conditional, so not run at every step.
      in_loop: whether it is inside the body of a loop, so perhaps run more than once; it is
        counted once nevertheless.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    bytes: int
    group: int
    in_branch: bool = False
    in_loop: bool = False


def collectives(hlo: str) -> list[Collective]:
    """The collective instructions of a compiled module.

    Args:
      hlo: the text of a compiled module, `jax.jit(f).lower(...).compile().as_text()`.

    Returns:
      One entry per instruction, in the order of the text. One in the body of a loop counts once,
      however often the loop runs: the text need not say how often.

    Example:
      >>> text = "%r = f32[4,8]{1,0} all-gather(%x), replica_groups={{0,1}}, dimensions={0}"
      >>> [(each.kind, each.shapes, each.bytes, each.group) for each in collectives(text)]
      [('all-gather', ((4, 8),), 128, 2)]
    """
    bodies = _bodies(hlo)
    branches, loops = _within("branch", bodies), _within("loop", bodies)
    return [
        dataclasses.replace(each, in_branch=name in branches, in_loop=name in loops)
        for name, lines in bodies.items()
        for each in map(_collective, lines)
        if each is not None
    ]


def total_bytes(found: list[Collective], kind: str | None = None) -> int:
    """Bytes of all collectives that run at every step, or of one kind of them.

    Example:
      >>> total_bytes([Collective("all-reduce", ((4,),), 16, 8)], "all-gather")
      0
    """
    return sum(each.bytes for each in found if not each.in_branch and kind in (None, each.kind))


def _collective(line: str) -> Collective | None:
    match = _INSTRUCTION.search(line)
    if match is None:
        return None
    arrays = _ARRAY.findall(match[1])
    # An asynchronous start names its operands too, but for an all-reduce's.
    if match[3] and len(arrays) > 1 and match[2] != "all-reduce":
        arrays = arrays[len(arrays) // 2 :]
    shapes = tuple(tuple(int(d) for d in dims.split(",") if d) for _, dims in arrays)
    bits = sum(
        math.prod(shape) * _bits(dtype) for shape, (dtype, _) in zip(shapes, arrays, strict=True)
    )
    return Collective(match[2], shapes, bits // 8, _group_size(line))


def _bits(dtype: str) -> int:
    if dtype == "pred":
        return 8
    match = _BITS.search(dtype)
    assert match is not None
    return int(match[0])


def _group_size(line: str) -> int:
    if (listed := _LISTED_GROUPS.search(line)) is not None:
        return len(listed[1].split(","))
    if (iota := _IOTA_GROUPS.search(line)) is not None:
        return int(iota[1])
    if (named := _MESH_GROUPS.search(line)) is not None:
        sizes = dict(axis.split("=") for axis in named[1].split(","))
        return math.prod(int(sizes[axis]) for axis in named[2].split(","))
    return 0


def _bodies(hlo: str) -> dict[str, list[str]]:
    """The lines of every computation; those outside of any, or of a fragment, are under ""."""
    bodies: dict[str, list[str]] = {"": []}
    name = ""
    for line in hlo.splitlines():
        if line and not line[0].isspace() and line.rstrip().endswith("{"):
            name = line.removeprefix("ENTRY ").split()[0].split("(")[0]
        bodies.setdefault(name, []).append(line)
    return bodies


def _within(kind: str, bodies: dict[str, list[str]]) -> set[str]:
    """Computations that conditionals ("branch") or loops ("loop") enter, and all they call."""
    waiting = [
        name
        for line in (line for lines in bodies.values() for line in lines)
        for match in _ENTERED[kind].finditer(line)
        for name in _COMPUTATION.findall(match[0])
    ]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            mentioned = {other for line in bodies[name] for other in _COMPUTATION.findall(line)}
            waiting += mentioned & bodies.keys()
    return found
