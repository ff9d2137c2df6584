"""What a plan is made of."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from gemma3build.gemma.architecture import Shape
from gemma3build.pins.lockfile import LockedModel
from gemma3build.schema.manifest import Parameters
from gemma3build.schema.scheme import Scheme
from gemma3build.util.files import FileDigest, sha256_bytes
from gemma3build.util.serialize import Record, canonical_json


class StepOutput(Record):
    """The output of an earlier step: one file, or all of them but some.

    Attributes:
        step: name of the step.
        path: the one file; empty for all of them.
        without: files that the reader does not need, so that its key does not depend on them.
    """

    step: str
    path: str = ""
    without: tuple[str, ...] = ()

    def select(self, digests: tuple[FileDigest, ...]) -> tuple[FileDigest, ...]:
        """Return the files of the step that this input is made of."""
        if self.path:
            return tuple(file for file in digests if file.path == self.path)
        return tuple(file for file in digests if file.path not in self.without)


class ExternalInput(Record):
    """Files from outside of the build, by digest; the engine knows their paths."""

    name: str
    files: tuple[FileDigest, ...]


Input: TypeAlias = StepOutput | ExternalInput


class Step(Record):
    """One container to run.

    Attributes:
        name: unique in the plan, such as ``quantize-dynamic_int8``.
        module: a module of ``gemma3build.steps``, its package first: ``convert.export``.
        parameters: what the module's docstring lists.
        inputs: what the module's docstring lists, to where it comes from.
        after: names of steps that must have succeeded, besides those whose output it reads.
        network: whether the container has one.
        fresh: whether it runs although the cache has a result, because it measures this machine now.
        memory: estimated peak, in bytes.
        disk: estimated size of what it writes, in bytes.
    """

    name: str
    module: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, Input]
    after: tuple[str, ...] = ()
    network: bool = False
    fresh: bool = False
    memory: int
    disk: int

    @property
    def image(self) -> str:
        """Name of the image that it runs in: that of the package of its module."""
        return self.module.partition(".")[0]

    @property
    def needs(self) -> frozenset[str]:
        """Names of all steps that must have succeeded before this one starts."""
        outputs = (item.step for item in self.inputs.values() if isinstance(item, StepOutput))
        return frozenset((*self.after, *outputs))


class Artifact(Record):
    """A file of the release.

    Attributes:
        file_name: its name in the release.
        scheme: name of its scheme.
        source: the step's output that it is.
    """

    file_name: str
    scheme: str
    source: StepOutput


class CheckpointSource(Record):
    """Where the checkpoint comes from: a lock, or files of the user.

    Attributes:
        locked: for a model by name.
        checkpoint: for a user's directory: its files, under their names.
    """

    locked: LockedModel | None = None
    checkpoint: ExternalInput | None = None


class Plan(Record):
    """All steps in an order in which they can run, and what becomes of their outputs.

    Attributes:
        model: name of the release, and first part of its file names.
        base_model: name on the Hub of what it derives from; empty for a user's own checkpoint.
        shape: sizes of its tensors.
        source: where the checkpoint comes from.
        checkpoint: the input that is the checkpoint's directory, without a chat template.
        tokenizer: the input that is tokenizer.model.
        chat_template: the input that is the file with the chat template, if there is one.
        parameters: what a person chose.
        schemes: what is built.
        steps: what is run.
        artifacts: what is released.
    """

    model: str
    base_model: str
    shape: Shape
    source: CheckpointSource
    checkpoint: Input
    tokenizer: Input
    chat_template: Input | None
    parameters: Parameters
    schemes: tuple[Scheme, ...]
    steps: tuple[Step, ...]
    artifacts: tuple[Artifact, ...]


def identities(steps: Iterable[Step]) -> dict[str, str]:
    """Return what steps do by their names: the same text for steps of two plans that share a result.

    Args:
        steps: in an order in which they can run, with all those whose outputs they read.
    """
    found: dict[str, str] = {}
    for step in steps:
        inputs = {
            name: [item, found[item.step] if isinstance(item, StepOutput) else ""]
            for name, item in step.inputs.items()
        }
        done = {
            "image": step.image,
            "inputs": inputs,
            "module": step.module,
            "parameters": step.parameters,
        }
        found[step.name] = sha256_bytes(canonical_json(done))
    return found
