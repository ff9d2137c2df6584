"""Turn a request into a plan."""

import re

from gemma3build.errors import BuildError, ErrorCode
from gemma3build.gemma.architecture import Shape
from gemma3build.gemma.graph import FLOAT_MODEL
from gemma3build.gemma.prompts import LONGEST
from gemma3build.plan import resources
from gemma3build.plan.checkpoint import CheckpointInputs, plan_checkpoint, without_tokenizer
from gemma3build.plan.graph import Artifact, CheckpointSource, Input, Plan, Step, StepOutput
from gemma3build.schema.manifest import REFUSED, Parameters
from gemma3build.schema.scheme import NAME, Scheme
from gemma3build.util.serialize import encode

CHECK, EXPORT = "check", "export"
REFERENCE_STEP, CALIBRATE = "reference", "calibrate"


def plan_build(
    *,
    model: str,
    base_model: str,
    shape: Shape,
    context: int,
    pinned: bool,
    source: CheckpointSource,
    parameters: Parameters,
    schemes: tuple[Scheme, ...],
) -> Plan:
    """Return the plan of a release.

    Args:
        model: name of the release.
        base_model: name on the Hub of what the checkpoint derives from, may be empty.
        shape: sizes of the model's tensors, for the estimates.
        context: longest position that the model was made for, in tokens.
        pinned: whether the checkpoint must have exactly this shape.
        source: where the checkpoint comes from.
        parameters: what the graph looks like.
        schemes: what to build.

    Raises:
        BuildError: the parameters do not go together (REQUEST).
    """
    check_parameters(parameters, context, schemes)
    check_name(model)
    inputs = plan_checkpoint(source, shape)
    checkpoint = inputs.checkpoint
    check = Step(
        name=CHECK,
        module="fetch.check",
        parameters={"shape": encode(shape) if pinned else None},
        inputs={"checkpoint": checkpoint},
        **resources.check_need(shape),
    )
    export = Step(
        name=EXPORT,
        module="convert.export",
        parameters=encode(parameters),
        inputs={"checkpoint": without_tokenizer(checkpoint)},
        after=(CHECK,),
        **resources.export_need(shape, lean=parameters.lean),
    )
    reference = Step(
        name=REFERENCE_STEP,
        module="convert.reference",
        parameters={"longest": longest_prompt(parameters)},
        inputs={"checkpoint": checkpoint},
        after=(CHECK,),
        **resources.reference_need(shape),
    )
    steps = [*inputs.steps, check, export, reference]
    if any(scheme.calibrated for scheme in schemes):
        steps.append(plan_calibration(checkpoint, shape, after=(CHECK,)))
    artifacts: list[Artifact] = []
    for scheme in schemes:
        stem = f"{model}_{scheme.suffix}_ekv{parameters.kv_cache_max_len}"
        new_steps, outputs = plan_scheme(scheme, stem, shape, inputs, parameters)
        steps += new_steps
        artifacts += outputs
    return Plan(
        model=model,
        base_model=base_model,
        shape=shape,
        source=source,
        checkpoint=checkpoint,
        tokenizer=inputs.tokenizer,
        chat_template=inputs.chat_template,
        parameters=parameters,
        schemes=schemes,
        steps=tuple(steps),
        artifacts=tuple(artifacts),
    )


def check_parameters(parameters: Parameters, context: int, schemes: tuple[Scheme, ...]) -> None:
    """Reject parameters that cannot work; raises BuildError (REQUEST)."""
    lengths = parameters.prefill_seq_lens
    if not schemes:
        what, why = "There is nothing to build", "no scheme was given"
        raise BuildError(ErrorCode.REQUEST, what, why, "Add --scheme NAME.")
    if not lengths or min(lengths) < 1 or len(set(lengths)) != len(lengths):
        what = f"The prefill lengths {list(lengths)} cannot be used"
        why = "they must be positive, and each given once"
        raise BuildError(ErrorCode.REQUEST, what, why, "Example: --prefill-seq-lens 128")
    if parameters.kv_cache_max_len <= max(lengths):
        raise BuildError(
            ErrorCode.REQUEST,
            f"A key-value cache of {parameters.kv_cache_max_len} tokens is too short",
            f"the longest prefill ({max(lengths)}) would fill it and leave no room for an answer",
            "Use a larger --kv-cache-max-len or smaller --prefill-seq-lens.",
        )
    if parameters.kv_cache_max_len > context:
        raise BuildError(
            ErrorCode.REQUEST,
            f"A key-value cache of {parameters.kv_cache_max_len} tokens is too long",
            f"the model's context has {context} tokens",
            "Use a smaller --kv-cache-max-len.",
        )


def check_name(name: str) -> None:
    """Reject a name that is unsafe in a path or a shell, or is for rejected releases; raises BuildError."""
    why = ""
    if not re.fullmatch(NAME, name):
        why = "a name has letters, digits, dots, dashes and underscores only"
    elif name.endswith(REFUSED):
        why = f"names that end with {REFUSED} are for releases that the gate rejected"
    if why:
        raise BuildError(
            ErrorCode.REQUEST, f"{name!r} is not a name for a release", why, "Use --name NAME."
        )


def plan_calibration(checkpoint: Input, shape: Shape, after: tuple[str, ...] = ()) -> Step:
    """Return the step that measures the strength of each matrix's inputs."""
    return Step(
        name=CALIBRATE,
        module="convert.calibrate",
        parameters={},
        inputs={"checkpoint": checkpoint},
        after=after,
        **resources.calibrate_need(shape),
    )


def plan_quantization(
    scheme: Scheme, shape: Shape, *, name: str, export: str, file_name: str
) -> Step:
    """Return the step of this name that quantizes an export by a scheme.

    Args:
        scheme: by which.
        shape: sizes of the model's tensors.
        name: of the step.
        export: name of the step whose output is quantized.
        file_name: of the output.
    """
    inputs: dict[str, Input] = {"model": StepOutput(step=export)}
    if scheme.calibrated:
        inputs["importance"] = StepOutput(step=CALIBRATE)
    return Step(
        name=name,
        module="convert.quantize",
        parameters={
            "groups": encode(scheme.groups),
            "equalize": scheme.equalize,
            "head_dim": shape.head_dim,
            "file_name": file_name,
        },
        inputs=inputs,
        **resources.quantize_need(shape, scheme),
    )


def plan_scheme(
    scheme: Scheme, stem: str, shape: Shape, inputs: CheckpointInputs, parameters: Parameters
) -> tuple[list[Step], list[Artifact]]:
    """Return the steps and artifacts of one scheme; the float one is the export itself."""
    steps = []
    tflite, task, litertlm = (f"{stem}.{kind}" for kind in ("tflite", "task", "litertlm"))
    model = StepOutput(step=EXPORT, path=FLOAT_MODEL)
    size = resources.model_size(shape, scheme)
    if scheme.quantized:
        name = f"quantize-{scheme.name}"
        quantize = plan_quantization(scheme, shape, name=name, export=EXPORT, file_name=tflite)
        steps.append(quantize)
        model = StepOutput(step=quantize.name, path=tflite)
    parts: dict[str, Input] = {"model": model, "tokenizer": inputs.tokenizer}
    templates = {"chat_template": inputs.chat_template} if inputs.chat_template else {}
    bundle = Step(
        name=f"bundle-{scheme.name}",
        module="bundle.task",
        parameters={"file_name": task},
        inputs=parts,
        **resources.bundle_need(size),
    )
    task_output = StepOutput(step=bundle.name, path=task)
    package = Step(
        name=f"package-{scheme.name}",
        module="litertlm.package",
        parameters={"file_name": litertlm, "kv_cache_max_len": parameters.kv_cache_max_len},
        inputs=parts | templates,
        **resources.package_need(size),
    )
    litertlm_output = StepOutput(step=package.name, path=litertlm)
    gate = Step(
        name=gate_step(scheme.name),
        module="evaluate.gate",
        parameters={
            "groups": encode(scheme.groups),
            "limits": encode(scheme.limits),
            "longest": longest_prompt(parameters),
        },
        inputs={
            "model": model,
            "bundle": task_output,
            "package": litertlm_output,
            "tokenizer": inputs.tokenizer,
            "reference": StepOutput(step=REFERENCE_STEP),
        },
        **resources.gate_need(shape, scheme, size),
    )
    steps += [bundle, package, gate]
    artifacts = [
        Artifact(file_name=tflite, scheme=scheme.name, source=model),
        Artifact(file_name=task, scheme=scheme.name, source=task_output),
        Artifact(file_name=litertlm, scheme=scheme.name, source=litertlm_output),
    ]
    return steps, artifacts


def artifacts_size(plan: Plan) -> int:
    """Return about how large the files of a release are, in bytes."""
    sizes = model_sizes(plan)
    return sum(sizes[artifact.scheme] for artifact in plan.artifacts)


def model_sizes(plan: Plan) -> dict[str, int]:
    """Return about how large a file of each scheme is, in bytes, by the scheme's name."""
    return {scheme.name: resources.model_size(plan.shape, scheme) for scheme in plan.schemes}


def gate_step(scheme: str) -> str:
    """Return the name of the step that compares a scheme's files with the checkpoint."""
    return f"gate-{scheme}"


def longest_prompt(parameters: Parameters) -> int:
    """Return how many tokens the prompts of the gate may have, so that the cache holds them."""
    return min(LONGEST, parameters.kv_cache_max_len)
