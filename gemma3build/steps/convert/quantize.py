"""Quantize a float export by a scheme, and check that the file is stored as the scheme says.

Inputs:
    model: a directory with the float export.
    importance: the output of ``calibrate``, where the scheme asks for it.
Parameters:
    groups: each ``Group`` of the scheme as JSON, by name.
    equalize: whether scale moves between layers first.
    head_dim: channels of an attention head.
    file_name: name of the output.
Outputs:
    the quantized ``.tflite``.

Quantizing one export by ``upstream_int8`` gives the bytes that the upstream script gives, which exports
again for every scheme.
"""

import functools
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.algorithms.uniform_quantize import (
    common_quantize,
    naive_min_max_quantize,
    uniform_quantize_tensor,
)
from ai_edge_quantizer.algorithms.utils import common_utils
from ai_edge_quantizer.utils import tfl_flatbuffer_utils as flatbuffers

from gemma3build.gemma.graph import DOWN, FLOAT_MODEL, GATE_UP, KINDS, OUTPUT, QKV
from gemma3build.schema.scheme import IMPORTANCE, Group, GroupName, decode_groups
from gemma3build.schema.step import StepRequest
from gemma3build.steps.convert.equalize import equalize
from gemma3build.steps.convert.rounding import round_blockwise
from gemma3build.steps.shared.weights import check_weights, scopes

ALGORITHMS = {
    "min_max": AlgorithmName.MIN_MAX_UNIFORM_QUANT,
    IMPORTANCE: AlgorithmName.MSE,  # see Rounding
    "octav": AlgorithmName.OCTAV,
    "float_casting": AlgorithmName.FLOAT_CASTING,
}
WEIGHT_OPS = (
    qtyping.TFLOperationName.EMBEDDING_LOOKUP,
    qtyping.TFLOperationName.FULLY_CONNECTED,
)
# Which inputs an op multiplies, by the name of its matrix in the converter's module.
INPUTS = {
    r"Linear_qkv_projection": QKV,
    r"Linear_output_projection": OUTPUT,
    r"Linear_w[13]": GATE_UP,
    r"Linear_w2": DOWN,
}


def run(request: StepRequest, output: Path) -> dict[str, Any]:
    """Quantize the export; return how each group is stored in the file; raises StepError."""
    groups = decode_groups(request.parameters["groups"])
    target = output / request.parameters["file_name"]
    speed_up_comparison()
    export = Path(request.inputs["model"]) / FLOAT_MODEL
    with tempfile.TemporaryDirectory() as scratch:
        if "importance" in request.inputs:
            folder = Path(request.inputs["importance"])
            strengths = {kind: np.load(folder / f"{kind}.npy") for kind in KINDS}
            if request.parameters["equalize"]:
                equalized = Path(scratch) / FLOAT_MODEL
                head_dim = request.parameters["head_dim"]
                strengths = equalize(export, equalized, strengths, head_dim)
                export = equalized
            Rounding(strengths).register()
        quantizer.Quantizer(export, recipe(groups)).quantize().export_model(target)
    return {"weights": check_weights(target, groups)}


def recipe(groups: Mapping[GroupName, Group]) -> list[dict[str, Any]]:
    """Return the groups as a recipe of ai-edge-quantizer, in which a later entry wins."""
    manager = recipe_manager.RecipeManager()
    for name, group in groups.items():
        for scope in scopes(name, group):
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


class Rounding:
    """``rounding`` as an algorithm of the quantizer, for weights of fully connected ops."""

    def __init__(self, strengths: Mapping[str, np.ndarray]) -> None:
        """Take how strong inputs are, by kind, whole numbers [layers, inputs]."""
        self._strengths = strengths

    def register(self) -> None:
        """Replace the quantizer's algorithm "MSE".

        ai-edge-quantizer 0.10.0 has a fixed list of algorithms. Its "MSE" has the same aim and
        rejects blocks, so replacing it loses nothing.
        """
        algorithm_manager.register_quantized_op(
            AlgorithmName.MSE,
            qtyping.TFLOperationName.FULLY_CONNECTED,
            naive_min_max_quantize.init_qsvs,
            calibration_func=naive_min_max_quantize.min_max_calibrate,
            materialize_func=self._materialize,
        )

    def _materialize(
        self,
        op_info: qtyping.OpInfo,
        graph_info: qtyping.GraphInfo,
        *arguments: Any,
        **keywords: Any,
    ) -> Any:
        scope = flatbuffers.get_op_scope(op_info.op, graph_info.subgraph_tensors)
        params = functools.partial(quant_params, self._of(scope))
        return common_quantize.materialize_fc_conv(
            params, op_info, graph_info, *arguments, **keywords
        )

    def _of(self, scope: str) -> np.ndarray:
        """Return the strengths of the inputs of the op of this scope."""
        (layer,) = set(re.findall(r"DecoderBlock_(\d+)/", scope))
        (kind,) = {kind for pattern, kind in INPUTS.items() if re.search(pattern, scope)}
        strengths: np.ndarray = self._strengths[kind][int(layer)]
        return strengths


def quant_params(
    strengths: np.ndarray,
    op_info: qtyping.OpInfo,
    config: qtyping.TensorQuantizationConfig,
    content: np.ndarray | None = None,
    statistics: dict[str, Any] | None = None,
) -> qtyping.UniformQuantParams:
    """Return a tensor's parameters for the quantizer: ours for weights, else the quantizer's min-max."""
    block_size = uniform_quantize_tensor.extract_block_size_from_granularity(config.granularity)
    if content is None or config.num_bits != 4 or not block_size:
        return naive_min_max_quantize.get_tensor_quant_params(op_info, config, content, statistics)
    quantized, scales = round_blockwise(content, block_size, strengths)
    return qtyping.UniformQuantParams(
        num_bits=config.num_bits,
        quantized_dimension=common_utils.get_weight_quantized_dim(
            op_info, content, config.granularity
        ),
        scale=scales,
        zero_point=np.zeros_like(scales, dtype=np.int32),
        symmetric=True,
        quantized_data=quantized,
        block_size=block_size,
    )
