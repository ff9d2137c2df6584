import importlib
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma3build.schema.step import StepError, StepErrorCode
from gemma3build.steps.convert.rounding import (
    DIVISORS,
    LEAST_SCALE,
    block_scales,
    levels,
    round_blockwise,
    round_strengths,
    squared_errors,
    storable,
    sum_last_axis,
)


def weights(seed: int, rows: int = 8, columns: int = 256) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.standard_normal((rows, columns)).astype(np.float32) * np.float32(0.05)


def alike(block_size: int, columns: int = 256) -> np.ndarray:
    """Every input counts the same."""
    return np.ones((columns // block_size, block_size), np.float32)


EVEN = np.zeros(256, np.int8)


@pytest.mark.parametrize("block_size", [32, 128])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_no_candidate_scale_loses_less(block_size: int, seed: int) -> None:
    blocks = weights(seed).reshape(8, -1, block_size)
    counts = alike(block_size)
    least = squared_errors(blocks, block_scales(blocks, counts), counts)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    for divisor in DIVISORS:
        scales = storable(largest / np.float32(divisor))
        assert (least <= squared_errors(blocks, scales, counts)).all()


def test_it_loses_less_than_min_max() -> None:
    blocks = weights(0).reshape(8, -1, 32)
    min_max = storable(np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(7))
    counts = alike(32)
    ours = squared_errors(blocks, block_scales(blocks, counts), counts).sum()
    assert ours < 0.8 * squared_errors(blocks, min_max, counts).sum()


def test_strong_inputs_lose_less_than_without_knowing_them() -> None:
    random = np.random.default_rng(3)
    strengths = random.integers(-12, 4, 256).astype(np.int8)
    counts = np.ldexp(np.float32(1), strengths.astype(np.int32))

    def loss(known: np.ndarray) -> float:
        quantized, scales = round_blockwise(weights(3), 32, known)
        errors = quantized * scales.repeat(32, axis=1) - weights(3)
        return float((errors * errors * counts).sum())

    assert loss(strengths) < 0.9 * loss(EVEN)


def test_only_differences_of_strength_matter() -> None:
    strengths = np.arange(256).astype(np.int8) % 5
    one, other = (round_blockwise(weights(4), 32, strengths + shift) for shift in (0, 7))
    assert (one[0] == other[0]).all()
    assert (one[1] == other[1]).all()


def test_levels_and_scales_have_the_shapes_and_ranges_that_the_file_holds() -> None:
    quantized, scales = round_blockwise(weights(1), 32, EVEN)
    assert quantized.shape == (8, 256)
    assert quantized.dtype == np.int8
    assert quantized.min() >= -8
    assert quantized.max() <= 7
    assert scales.shape == (8, 8)
    assert (scales == scales.astype(np.float16)).all()
    assert (scales == scales.astype(ml_dtypes.bfloat16)).all()


def test_a_block_of_zeros_has_a_scale_that_is_not_zero() -> None:
    quantized, scales = round_blockwise(np.zeros((2, 64), np.float32), 32, EVEN[:64])
    assert not quantized.any()
    assert (scales >= LEAST_SCALE).all()
    assert scales.astype(np.float16).min() > 0


def test_rows_are_rounded_alike_however_many_there_are() -> None:
    many = weights(2, rows=1500, columns=64)
    whole, scales = round_blockwise(many, 32, EVEN[:64])
    part, part_scales = round_blockwise(many[1020:1030], 32, EVEN[:64])
    assert (whole[1020:1030] == part).all()
    assert (scales[1020:1030] == part_scales).all()


def test_values_on_the_grid_stay() -> None:
    grid = np.tile(np.arange(-8, 8, dtype=np.float32), 2)[None] * np.float32(0.25)
    quantized, scales = round_blockwise(grid, 32, EVEN[:32])
    assert (quantized * scales.repeat(32, axis=1) == grid).all()
    assert (levels(grid, np.full((1, 1), 0.25, np.float32)) == grid * 4).all()


DIGEST = """
import hashlib
import numpy as np
from gemma3build.steps.convert.rounding import round_blockwise
random = np.random.default_rng(5)
weights = random.standard_normal((64, 1024)).astype(np.float32)
found = round_blockwise(weights, 32, random.integers(-9, 3, 1024).astype(np.int8))
print(hashlib.sha256(b"".join(part.tobytes() for part in found)).hexdigest())
"""


def test_vector_units_change_no_bit() -> None:
    umath = importlib.import_module("numpy._core._multiarray_umath")

    wide = [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name]]
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(disabled)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for disabled in ([], wide)
    }
    assert len(digests) == 1


@pytest.mark.parametrize("length", [1, 2, 3, 32, 37, 128])
def test_folding_adds_every_term_once(length: int) -> None:
    terms = np.arange(length, dtype=np.float32)[None]
    assert sum_last_axis(terms.copy())[0, 0] == terms.sum()


def test_strengths_are_rounded_with_their_distance_from_the_middle() -> None:
    rounded, margin = round_strengths(np.array([[-100.0, 0.1], [2.75, -3.4]]))
    assert rounded.tolist() == [[-100, 0], [3, -3]]
    assert rounded.dtype == np.int8
    assert margin == pytest.approx(0.1)


@pytest.mark.parametrize("value", [2.5, -0.5, 1.5 - 1e-10, 1.5 + 1e-10])
def test_a_strength_that_processors_could_round_differently_is_rejected(value: float) -> None:
    with pytest.raises(StepError, match="cannot be calibrated") as caught:
        round_strengths(np.array([0.1, value]))
    assert caught.value.failure.code == StepErrorCode.ROUNDING
    round_strengths(np.array([0.1, value + 1e-8]))
