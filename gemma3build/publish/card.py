"""The model card: README.md of a published release, made from its manifest and its evaluation."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma3build.errors import BuildError, ErrorCode
from gemma3build.formats.registry import FORMATS
from gemma3build.publish.rules import AGREEMENT, NOTICE, Violation
from gemma3build.release.checksums import CHECKSUMS
from gemma3build.release.manifest import LOCAL
from gemma3build.report.rendering import environment
from gemma3build.report.report import Page
from gemma3build.schema.evaluation import EVALUATION, Evaluation
from gemma3build.schema.manifest import MANIFEST, ArtifactRecord, Manifest
from gemma3build.schema.scheme import NAME
from gemma3build.util.files import read_bounded_text
from gemma3build.util.git import GitRevision
from gemma3build.util.text import MEGABYTE, escape_control_chars

TEMPLATE = Path(__file__).with_name("card.md.j2")
RUNTIME = "litert-lm-api"
FENCE = "---"  # around front matter
TERMS, POLICY = "ai.google.dev/gemma/terms", "ai.google.dev/gemma/prohibited_use_policy"
TAGS = ("gemma3", "gemma", "litert", "litert-lm", "mediapipe", "on-device", "gemma3build")
GATED: Mapping[str, Any] = {
    "extra_gated_heading": "Access these Gemma files on Hugging Face",
    "extra_gated_prompt": (
        "These files are a Model Derivative of Gemma. To access them you are required to review and"
        f" agree to the Gemma Terms of Use (https://{TERMS}), with the use restrictions of section"
        f" 3.2 and the Gemma Prohibited Use Policy (https://{POLICY})."
    ),
    "extra_gated_button_content": "Agree to the Gemma Terms of Use",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a card is about.

    Attributes:
        repo: ``owner/name`` that it is published to.
        tag: that its commit gets; empty for none.
        manifest: what was built from what.
        evaluation: what was measured; None for nothing.
        source: which source built it, if that is known.
        skipped: rules that do not hold and were skipped.
        prose: of the publisher's own, before the generated part; empty for none.
    """

    repo: str
    tag: str = ""
    manifest: Manifest
    evaluation: Evaluation | None
    source: GitRevision | None = None
    skipped: tuple[Violation, ...] = ()
    prose: str = ""

    @property
    def page(self) -> Page | None:
        """What the report says about the figures."""
        return Page(self.manifest, self.evaluation) if self.evaluation else None

    @property
    def address(self) -> str:
        """What ``verify`` and ``rebuild`` find it by, also once the branch has a later release."""
        return f"hf://{self.repo}@{self.tag}" if self.tag else f"hf://{self.repo}"

    @property
    def runtime(self) -> str:
        """The requirement of the runtime that the gate ran the files in, as pip takes it."""
        schemes = self.evaluation.schemes if self.evaluation else ()
        versions = {item.gate.runtime.get(RUNTIME, "") for item in schemes}
        version = versions.pop() if len(versions) == 1 else ""
        return f"{RUNTIME}=={version}" if re.fullmatch(NAME, version) else RUNTIME

    @property
    def local(self) -> bool:
        """Whether the checkpoint was a directory of a user."""
        return self.manifest.checkpoint.source == LOCAL

    def first(self, suffix: str) -> ArtifactRecord | None:
        """Return the first artifact with this suffix."""
        return next((item for item in self.manifest.artifacts if item.path.endswith(suffix)), None)


def render_card(subject: Subject) -> str:
    """Return the text of a card: the same bytes for the same argument."""
    template = environment(
        TEMPLATE.parent,
        html=False,  # `cell` escapes what Markdown obeys, and the Hub cleans the HTML that comes of it
        cell=cell,
        reader=lambda path: kind.runtime if (kind := FORMATS.get(Path(path).suffix)) else "",
    ).get_template(TEMPLATE.name)
    return template.render(
        subject=subject,
        manifest=subject.manifest,
        checkpoint=subject.manifest.checkpoint,
        page=subject.page,
        front_matter=front_matter(subject.manifest).strip(),
        millions=f"{subject.manifest.checkpoint.parameters / MEGABYTE:,.0f}",
        names={
            "agreement": AGREEMENT,
            "checksums": CHECKSUMS,
            "evaluation": EVALUATION,
            "manifest": MANIFEST,
            "notice": NOTICE,
        },
        terms=TERMS,
        policy=POLICY,
    )


def front_matter(manifest: Manifest) -> str:
    """Return what the Hub reads of a card, in YAML."""
    from huggingface_hub import ModelCardData

    base_model = manifest.checkpoint.base_model
    # Keys of the Hub that the client does not name.
    more: dict[str, Any] = {"base_model_relation": "quantized"} if base_model else {}
    data = ModelCardData(
        license="gemma",
        base_model=base_model or None,
        pipeline_tag="text-generation",
        library_name="litert-lm",
        tags=list(TAGS),
        **more,
        **GATED,
    )
    return str(data.to_yaml())


def read_prose(path: Path) -> str:
    """Return a publisher's own text for a card; raises BuildError (PUBLICATION)."""
    what = f"{path} cannot be put into the card"
    try:
        text = read_bounded_text(path).strip()
    except OSError as error:
        raise BuildError(
            ErrorCode.PUBLICATION, what, error.strerror or str(error), "Check it."
        ) from error
    except ValueError as error:
        raise BuildError(
            ErrorCode.PUBLICATION, what, "it is not a small UTF-8 text file", "Fix it."
        ) from error
    if text.startswith(FENCE):
        hint = f"Remove what is between the lines of {FENCE}."
        raise BuildError(
            ErrorCode.PUBLICATION, what, "it has front matter, which is generated", hint
        )
    return text


def cell(text: str) -> str:
    """Return a text as it can stand in a table or a line of Markdown, obeyed in nothing."""
    line = " ".join(escape_control_chars(text).split())
    return "".join(
        f"\\{character}" if character in "\\`*_[]<>|" else character for character in line
    )
