"""The arrays of the projection axis, by shape; n is the compressed axis of a matrix."""

from jaxtyping import Array, Float, Int

Matrix = Float[Array, "*batch n m"]  # G or A, in weight space or in the domain
Coordinates = Float[Array, "*batch r p"]  # a = Pᵀ A; p is m, unless both sides are compressed
Columns = Float[Array, "*batch n r"]  # P of a learned basis
Indices = Int[Array, "*batch r"]  # of the columns of a fixed basis, ascending
