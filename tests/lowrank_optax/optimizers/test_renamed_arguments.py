"""An argument of the first edition is refused with the name that it has now."""

import pytest
from drawing import draw
from methods import every_method, make

import lowrank_optax as lro


@pytest.mark.parametrize("scale_by", [lro.scale_by_trion, lro.scale_by_dion])
def test_momentum_dtype_is_mu_dtype_in_the_building_blocks(scale_by):
    with pytest.raises((TypeError, ValueError), match="mu_dtype"):
        scale_by(2, momentum_dtype="bfloat16")


@pytest.mark.parametrize("name", ["trion", "dion"])
def test_momentum_dtype_is_mu_dtype(name):
    with pytest.raises((TypeError, ValueError), match="mu_dtype"):
        make(name, momentum_dtype="bfloat16")


@pytest.mark.parametrize("name", ["trion", "dct_adamw"])
def test_norm_is_select(name):
    with pytest.raises((TypeError, ValueError), match="select"):
        make(name, norm="l2")


def test_norm_is_select_in_the_building_block():
    with pytest.raises((TypeError, ValueError), match="select"):
        lro.scale_by_trion(2, norm="l2")


@pytest.mark.parametrize(("bits", "dtype"), [(8, "int8"), (4, "int4"), (32, "float32")])
@pytest.mark.parametrize("name", ["dct_adamw", "ldadamw"])
def test_bits_of_the_error_feedback_are_a_dtype(name, bits, dtype):
    with pytest.raises((TypeError, ValueError), match=rf"error_feedback={bits} .*'{dtype}'"):
        make(name, error_feedback=bits)


@every_method
def test_unsharded_is_a_tree_of_sides(name):
    params = {"kernel": draw((4, 8))}
    with pytest.raises((TypeError, ValueError), match="unsharded_sides"):
        make(name, compress="unsharded").init(params)
