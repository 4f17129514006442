"""What one update of one matrix sends, in closed form.

All in bytes of float32, counted as `benchmarks.collectives` counts: the size of each collective's
result on one device, at every step, refreshes apart. `benchmarks.measure.communication` compares
every formula with what the compiler makes of the update.
"""

import dataclasses
from collections.abc import Callable

FLOAT = 4
FLAG = 1
NEWTON_SCHULZ_STEPS = 5
BLOCKS = 4
"""That tandem's rest is in."""


@dataclasses.dataclass(frozen=True)
class Split:
    """A matrix (m, n), m ≥ n, compressed to (m, r), and how it is spread over devices.

    Attributes:
      m: rows.
      n: columns, the compressed side.
      r: rank.
      rows: number of parts that the rows of the parameter are in.
      columns: number of parts that its columns are in.
      zero: number of further parts that ZeRO splits the rows of the state into.
      known: whether the optimizer knows where the parameter is (`Explicit` axes, or
        `lro.with_shardings`), or only the compiler does.
    """

    m: int
    n: int
    r: int
    rows: int = 1
    columns: int = 1
    zero: int = 1
    known: bool = True

    @property
    def low_rank(self) -> int:
        """Entries of the low-rank array, of the rows that the parameter's part has."""
        return self.m // self.rows * self.r

    @property
    def basis(self) -> int:
        """Entries of a learned basis (n, r), of the columns that the parameter's part has."""
        return self.n // self.columns * self.r

    @property
    def part(self) -> int:
        """Entries of the matrix on one device."""
        return self.m * self.n // (self.rows * self.columns)

    @property
    def by_rows(self) -> bool:
        """Whether sums over rows go over devices."""
        return self.rows * self.zero > 1


def trion(split: Split) -> int:
    """Sums of the n column norms, of the r × r Gram matrix and of 1 scalar."""
    return _dct(split) + FLOAT * (1 + split.r**2) * (split.by_rows or split.columns > 1)


def tandem(split: Split) -> int:
    """Scores of the columns, Gram matrices of the chosen ones and of the rest's blocks, neurons."""
    total = _gathered(split) + _neurons(split)
    if split.columns > 1:
        total += FLOAT * (2 * split.low_rank + split.n)
    if split.by_rows:
        total += FLOAT * (split.n // split.columns + split.r + split.r**2 + 1)
    if split.rows > 1:
        total += FLOAT * (split.n**2 // BLOCKS + BLOCKS) // split.columns
    if split.columns > BLOCKS:
        # A block is on several devices, and the compiler gathers it and all that is made of it.
        total += FLOAT * (2 * split.m * split.n // BLOCKS + split.n**2 + 2)
    return total


def muon(split: Split) -> int | None:
    """The n × n Gram matrix and 1 scalar, once; the step or whole rows of the momentum, if parts.

    Columns that only the compiler knows to be split it gathers in each iteration: no formula.
    """
    if split.columns > 1 and not split.known:
        return None
    whole = split.m // split.rows * split.n * (split.columns * split.zero > 1)
    return FLOAT * (whole + (split.n**2 + 1) * split.by_rows)


def normuon(split: Split) -> int | None:
    """As Muon, and the neurons."""
    of_muon = muon(split)
    return None if of_muon is None else of_muon + _neurons(split)


def dct_adamw(split: Split) -> int:
    """Sums of the n column norms."""
    return _dct(split)


def dion(split: Split) -> int:
    """QR of the gathered m × r, and a sum of n × r."""
    total = FLOAT * split.m * split.r if split.by_rows else 0
    return total + _power_iteration(split)


def dion_cholesky_qr(split: Split) -> int:
    """Two Gram matrices and scalings instead of the gathered m × r."""
    total = FLOAT * 2 * (split.r + split.r**2) if split.by_rows else 0
    return total + _power_iteration(split)


def galore(split: Split) -> int:
    """Nothing but the m × r if columns are split or ZeRO splits rows; GoLore's too."""
    return _gathered(split) + (FLOAT * split.low_rank if split.columns > 1 else 0)


def ldadamw(split: Split) -> int:
    """As GaLore, and four r × r products with the columns split."""
    total = galore(split)
    return total + (FLOAT * 4 * split.r**2 + FLAG if split.columns > 1 else 0)


def frugal(split: Split) -> int:
    """DCT there and back, refreshed now and then: no column norms."""
    if split.columns == 1:
        return _gathered(split)
    exchanges, sums = (2, 1) if split.known else (4, 2)
    return FLOAT * (exchanges * split.part + sums * split.low_rank)


def fira(split: Split) -> int:
    """As FRUGAL, with one norm; ZeRO gathers a second m × r."""
    if split.columns > 1 and split.known:
        return frugal(split) + FLOAT
    if split.columns > 1:
        norms = split.m // split.rows + 1 + (split.rows > 1)
        # One a column, gathered over the benchmark's mesh axis of 2 and then over that of 4.
        factors = split.n // 4 + split.n
        return FLOAT * (4 * split.part + split.low_rank + norms + factors)
    return 2 * _gathered(split) if split.zero > 1 else FLOAT * (split.rows > 1)


def online_subspace_descent(split: Split) -> int:
    """A sum of the basis' gradient (n, r)."""
    total = _gathered(split)
    if split.by_rows:
        total += FLOAT * (split.basis + split.r**2 + 1)
    if split.columns > 1:
        total += FLOAT * (split.low_rank + split.r**2 + 1) + FLAG
    return total


def contrib_muon(split: Split) -> int | None:
    """The compiler's choice: in each iteration a sum of n × n, or gathers if columns are split."""
    if split.rows > 1 and split.columns > 1:
        return None
    if split.rows == split.columns == 1:
        return 0
    iteration = split.n**2 + (2 * split.m * split.n if split.columns > 1 else 0)
    return FLOAT * (NEWTON_SCHULZ_STEPS * iteration + 1)


def muon_gathered(split: Split) -> int:
    """A Muon that gathers the momentum once and works on the whole matrix."""
    return FLOAT * split.m * split.n * (split.rows * split.columns > 1)


def contrib_galore(split: Split) -> int | None:
    """Gathers and sums of m × r and n × r."""
    if split.rows > 1 and split.columns > 1:
        return None
    if split.columns > 1:
        return FLOAT * 2 * split.n * split.r
    return FLOAT * (split.m + split.n) * split.r * (split.rows > 1)


FORMULAS: dict[str, Callable[[Split], int | None]] = {
    "tandem": tandem,
    "normuon": normuon,
    "muon": muon,
    "trion": trion,
    "dct_adamw": dct_adamw,
    "dion (qr)": dion,
    "dion (cholesky_qr)": dion_cholesky_qr,
    "galore": galore,
    "golore": galore,
    "ldadamw": ldadamw,
    "frugal (dct)": frugal,
    "fira (dct)": fira,
    "online_subspace_descent": online_subspace_descent,
    "optax.contrib.muon": contrib_muon,
    "optax.contrib.galore": contrib_galore,
}


def _dct(split: Split) -> int:
    """Transform, column norms, and the low-rank result to where the parameter is.

    A device's part changes places (all-to-all) once if the optimizer knows the split, and works on
    whole rows from there; else it changes places around the transform, and once more.
    """
    if split.columns > 1:
        exchanges = 1 if split.known else 3
        return FLOAT * (exchanges * split.part + split.n + split.low_rank)
    return _gathered(split) + FLOAT * split.n * split.by_rows


def _gathered(split: Split) -> int:
    """ZeRO's gather of the low-rank step."""
    return FLOAT * split.low_rank if split.zero > 1 else 0


def _neurons(split: Split) -> int:
    """Two lengths of the step, and the neurons' mean squares if a neuron is on several devices."""
    squares = split.m // split.rows if split.columns > 1 else 0
    return FLOAT * (2 * ((split.rows > 1) + (split.columns > 1)) + squares)


def _power_iteration(split: Split) -> int:
    """What both orthogonalizations of Dion share."""
    total = _gathered(split)
    if split.by_rows:
        total += FLOAT * split.basis + FLAG
    if split.columns > 1:
        total += FLOAT * (split.low_rank + split.r)
    return total
