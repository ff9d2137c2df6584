"""The plan of an evaluation: PIQA and speed of the files of a release."""

from collections.abc import Mapping
from typing import Any

from gemma3build.gemma.architecture import Shape
from gemma3build.gemma.graph import FLOAT_MODEL
from gemma3build.plan import resources
from gemma3build.plan.build import model_sizes, plan_calibration, plan_quantization
from gemma3build.plan.checkpoint import FETCH, IMPORT, without_tokenizer
from gemma3build.plan.graph import ExternalInput, Input, Plan, Step, StepOutput
from gemma3build.schema.scheme import Scheme
from gemma3build.util.files import FileDigest

SCORE_EXPORT = "export-score"
# Questions are packed into calls of this many tokens; the longest of PIQA's fits into one.
SCORE_LENGTH = 256
SPEED_RUNS = 5


def plan_evaluation(
    plan: Plan,
    *,
    schemes: tuple[Scheme, ...],
    models: Mapping[str, ExternalInput],
    bundles: Mapping[str, ExternalInput],
    questions: ExternalInput,
    own: bool,
    limit: int | None,
) -> tuple[Step, ...]:
    """Return the steps that measure a release, in an order in which they can run.

    PIQA is scored by an export of the same checkpoint whose one signature returns the logits after
    every token; quantized by the scheme, its weights are those of the artifact, or the step fails. Speed is measured on
    the bundle itself, again each time.

    Args:
        plan: of a build of the same checkpoint.
        schemes: of the release.
        models: the ``.tflite`` of each scheme, by its name.
        bundles: the ``.task`` of each scheme, by its name.
        questions: the files of PIQA, or a user's own of that form.
        own: whether they are the user's own.
        limit: how many questions are asked; None asks all.
    """
    fetching = [step for step in plan.steps if step.name in (FETCH, IMPORT)]
    export = Step(
        name=SCORE_EXPORT,
        module="convert.export_score",
        parameters={"length": SCORE_LENGTH},
        inputs={"checkpoint": without_tokenizer(plan.checkpoint)},
        **resources.export_need(plan.shape, lean=True),
    )
    steps = [*fetching, export]
    if any(scheme.calibrated for scheme in schemes):
        steps.append(plan_calibration(plan.checkpoint, plan.shape))
    for scheme in schemes:
        steps += plan_piqa(
            scheme,
            plan.shape,
            {"artifact": models[scheme.name], "tokenizer": plan.tokenizer, "data": questions},
            {"limit": limit, "own": own},
        )
    steps += [plan_speed(scheme, plan.shape, bundles[scheme.name]) for scheme in schemes]
    return tuple(steps)


def expect_evaluation(plan: Plan) -> tuple[Step, ...]:
    """Return about the steps that will measure a release that is not there yet, for their estimates."""

    def files(suffix: str) -> dict[str, ExternalInput]:
        return {
            artifact.scheme: ExternalInput(
                name=artifact.file_name,
                files=(
                    FileDigest(path=artifact.file_name, size=sizes[artifact.scheme], sha256=""),
                ),
            )
            for artifact in plan.artifacts
            if artifact.file_name.endswith(suffix)
        }

    sizes = model_sizes(plan)
    return plan_evaluation(
        plan,
        schemes=plan.schemes,
        models=files(".tflite"),
        bundles=files(".task"),
        questions=ExternalInput(name="questions", files=()),
        own=False,
        limit=None,
    )


def plan_piqa(
    scheme: Scheme, shape: Shape, inputs: Mapping[str, Input], parameters: Mapping[str, Any]
) -> list[Step]:
    """Return the steps that run PIQA with one scheme."""
    steps = []
    model = StepOutput(step=SCORE_EXPORT, path=FLOAT_MODEL)
    size = resources.model_size(shape, scheme)
    if scheme.quantized:
        quantize = plan_quantization(
            scheme,
            shape,
            name=f"quantize-score-{scheme.name}",
            export=SCORE_EXPORT,
            file_name="score.tflite",
        )
        steps.append(quantize)
        model = StepOutput(step=quantize.name)
    piqa = Step(
        name=piqa_step(scheme.name),
        module="harness.piqa",
        parameters=parameters,
        inputs={"model": model, **inputs},
        **resources.piqa_need(shape, scheme, size, SCORE_LENGTH),
    )
    return [*steps, piqa]


def plan_speed(scheme: Scheme, shape: Shape, bundle: ExternalInput) -> Step:
    """Return the step that measures the speed of one bundle."""
    (file,) = bundle.files
    return Step(
        name=speed_step(scheme.name),
        module="evaluate.speed",
        parameters={"runs": SPEED_RUNS},
        inputs={"bundle": bundle},
        fresh=True,
        **resources.speed_need(shape, scheme, file.size),
    )


def piqa_step(scheme: str) -> str:
    """Return the name of the step that runs PIQA with a scheme."""
    return f"piqa-{scheme}"


def speed_step(scheme: str) -> str:
    """Return the name of the step that measures the speed of a scheme."""
    return f"speed-{scheme}"
