"""Round weights to int4 in blocks, each with the scale that loses least.

The quantizer's own scale maps the largest weight of a block to 7 ("min-max"). One outlier then makes
the grid coarse for the other weights of its block, and the level -8 is never used. Here each block
tries a fixed list of scales and keeps the one with the least squared error, in which an input that is
strong at work counts for more: what it multiplies is what comes out wrong.

Everything that decides a rounding is an elementwise IEEE operation in a fixed order. No BLAS, no
reduction of numpy or libm takes part: their results may differ between CPUs, and then the bytes would.
"""

import ml_dtypes
import numpy as np

from gemma3build.schema.step import StepError, StepErrorCode

# Candidate scales of a block are its largest magnitude divided by these. 7 is min-max; 8 and above
# let a negative extreme use the level -8; below 7 clips nothing but spreads the grid, which helps
# when the other weights then fall nearer to levels. Finer or wider lists gain less than 1 %.
DIVISORS = (5.5, 6.0, 6.4, 6.7, 7.0, 7.25, 7.5, 7.75, 8.0, 8.4)
LEAST_LEVEL = -8
GREATEST_LEVEL = 7
# Keeps the scale of an all-zero block above zero as a float16, whose least positive value is 6e-8:
# XNNPACK rejects a model with a zero scale (ai-edge-quantizer issue 678).
LEAST_SCALE = np.float32(2.0**-14)
ROWS_AT_A_TIME = 1024
# How near the middle of two whole numbers a logarithm may be. What float64 gives differs between
# processors by some 1e-12: see ``calibrate``.
LEAST_MARGIN = 1e-9
LEAST_EXPONENT = -40  # an input this much weaker than the strongest counts no less


def block_scales(blocks: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Return each block's scale, out of ``DIVISORS``, with the least squared error."""
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    best_scales = storable(largest / np.float32(DIVISORS[0]))
    least_errors = squared_errors(blocks, best_scales, importance)
    for divisor in DIVISORS[1:]:
        scales = storable(largest / np.float32(divisor))
        errors = squared_errors(blocks, scales, importance)
        # On a tie the first candidate stays, so the order of DIVISORS is part of the result.
        is_better = errors < least_errors
        best_scales = np.where(is_better, scales, best_scales)
        least_errors = np.where(is_better, errors, least_errors)
    return best_scales


def storable(scales: np.ndarray) -> np.ndarray:
    """Round scales to what the file holds: float16, with the 8 significant bits XNNPACK keeps.

    XNNPACK's blockwise kernels take bfloat16 scales; ai-edge-quantizer rounds for the same reason.
    """
    held: np.ndarray = np.maximum(scales, LEAST_SCALE).astype(ml_dtypes.bfloat16)
    return held.astype(np.float32)


def levels(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return the int4 levels of weights as float32, rounded half to even; shapes as above."""
    rounded: np.ndarray = np.clip(np.rint(blocks / scales), LEAST_LEVEL, GREATEST_LEVEL)
    return rounded


def squared_errors(blocks: np.ndarray, scales: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Return the weighted sum of squared errors of each block, float32 [rows, blocks, 1]."""
    errors = levels(blocks, scales) * scales - blocks
    return sum_last_axis(errors * errors * importance)


def sum_last_axis(terms: np.ndarray) -> np.ndarray:
    """Sum over the last axis by folding it in half, in an order that no CPU changes.

    ``np.sum`` may add in another order where vectors are wider. The axis stays, with length 1. The
    argument is overwritten.
    """
    length = terms.shape[-1]
    while length > 1:
        half = length // 2
        terms[..., :half] += terms[..., length - half : length]
        length -= half
    return terms[..., :1]


def round_blockwise(
    weights: np.ndarray, block_size: int, strengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Quantize a matrix to int4 in blocks along its input channels.

    Args:
        weights: float32 [output channels, input channels].
        block_size: input channels that share a scale; divides their number.
        strengths: base-2 logarithm of the mean square of each input, whole numbers [input channels].

    Returns:
        Levels, int8 of the weights' shape, -8 to 7; scales, float32 [output channels, blocks].
    """
    rows, columns = weights.shape
    quantized = np.empty((rows, columns), np.int8)
    scales = np.empty((rows, columns // block_size), np.float32)
    # Powers of two, around one so that no product leaves the range of a float32.
    exponents = np.clip(strengths.astype(np.int32) - strengths.max(), LEAST_EXPONENT, 0)
    importance = np.ldexp(np.float32(1), exponents).reshape(-1, block_size)
    for start in range(0, rows, ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        blocks = weights[part].reshape(-1, columns // block_size, block_size)
        best = block_scales(blocks, importance)
        quantized[part] = levels(blocks, best).reshape(-1, columns).astype(np.int8)
        scales[part] = best[..., 0]
    return quantized, scales


def round_strengths(logarithms: np.ndarray) -> tuple[np.ndarray, float]:
    """Round logarithms of strengths to whole numbers, which every processor must round alike.

    Args:
        logarithms: to base 2, float64, of any shape, above -128.

    Returns:
        Whole numbers, int8 of the same shape; how far the nearest logarithm was from being rounded
        the other way.

    Raises:
        StepError: that is no further than processors may differ.
    """
    rounded = np.rint(logarithms)
    margin = float(0.5 - np.abs(logarithms - rounded).max())
    if margin < LEAST_MARGIN:
        raise StepError(
            StepErrorCode.ROUNDING,
            "The checkpoint cannot be calibrated",
            f"a logarithm is {margin:.0e} from the middle of two whole numbers; processors round it"
            f" alike only from {LEAST_MARGIN:.0e} on",
            "Use a scheme without the algorithm importance.",
        )
    return rounded.astype(np.int8), margin
