"""Quantize a float export by a scheme, and check that the file is what the scheme says.

Inputs:
    model: a directory with the float export.
Parameters:
    groups: each ``Group`` of the scheme as JSON, by name.
    file_name: name of the output.
Outputs:
    the quantized ``.tflite``.

Quantizing one export by ``dynamic_int8`` gives the bytes that the upstream script gives, which exports
anew for every scheme.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_quantizer import qtyping, quantizer, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName

from gemma3build.core.export import FLOAT_MODEL
from gemma3build.core.scheme import Group, GroupName, decode_groups
from gemma3build.core.step import StepRequest
from gemma3build.steps.weights import SCOPES, check_weights

ALGORITHMS = {
    "min_max": AlgorithmName.MIN_MAX_UNIFORM_QUANT,
    "octav": AlgorithmName.OCTAV,
    "float_casting": AlgorithmName.FLOAT_CASTING,
}
WEIGHT_OPS = (
    qtyping.TFLOperationName.EMBEDDING_LOOKUP,
    qtyping.TFLOperationName.FULLY_CONNECTED,
)


def run(request: StepRequest, output: Path) -> dict[str, Any]:
    """Quantize the export; return what was found in the file, per group.

    Raises:
        StepError: a weight in the file is not what the scheme says, or cannot be used at run time.
    """
    groups = decode_groups(request.parameters["groups"])
    target = output / request.parameters["file_name"]
    speed_up_comparison()
    model = quantizer.Quantizer(Path(request.inputs["model"]) / FLOAT_MODEL, recipe(groups))
    model.quantize().export_model(target)
    return {"weights": check_weights(target, groups)}


def recipe(groups: Mapping[GroupName, Group]) -> list[dict[str, Any]]:
    """Return the groups as a recipe of ai-edge-quantizer."""
    manager = recipe_manager.RecipeManager()
    for name, group in groups.items():
        for scope in SCOPES[name]:
            for operation in WEIGHT_OPS:
                manager.add_quantization_config(
                    regex=scope,
                    operation_name=operation,
                    op_config=op_config(group),
                    algorithm_key=ALGORITHMS[group.algorithm],
                )
    return list(manager.get_quantization_recipe())


def op_config(group: Group) -> qtyping.OpQuantizationConfig:
    """Return the quantizer's configuration of one group; weights are symmetric around zero."""
    is_float = group.compute == "float"
    return qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=group.bits,
            symmetric=True,
            granularity=qtyping.QuantGranularity[group.granularity.upper()],
            dtype=qtyping.TensorDataType.FLOAT if group.bits == 16 else qtyping.TensorDataType.INT,
        ),
        compute_precision=qtyping.ComputePrecision.FLOAT
        if is_float
        else qtyping.ComputePrecision.INTEGER,
        explicit_dequantize=is_float,
    )


def speed_up_comparison() -> None:
    """Make ai-edge-quantizer 0.10.0 compare arrays with numpy alone.

    To see whether tensors that share a buffer agree, it first compares ``array.data``, and a
    memoryview of float16 compares element by element through ``struct``: 97 s for fp16 of the 270M
    model where numpy needs under one. The answer is the same.
    """

    def equal(left: np.ndarray | None, right: np.ndarray | None) -> bool:
        if left is None or right is None:
            return left is right
        return left is right or np.array_equal(left, right)

    qtyping._compare_array_or_none = equal
