"""Options that several commands have, and how their values are read."""

import re
from pathlib import Path
from typing import Annotated

import typer

from gemma3build.errors import BuildError, ErrorCode
from gemma3build.publish import Rule
from gemma3build.util.text import GIBIBYTE, MEBIBYTE

DEFAULT_MODEL = "gemma3-270m"
ARTIFACTS = Path("artifacts")
# A kilobyte is 1024 bytes here, whichever way it is written, as it is for Docker.
SIZE = re.compile(r"([1-9][0-9]{0,14})([KMG]?)(?:i?B)?", re.ASCII | re.IGNORECASE)
UNITS = {"": 1, "K": 1 << 10, "M": MEBIBYTE, "G": GIBIBYTE}


Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="NAME", help=f"A model that `models` lists. [{DEFAULT_MODEL}]"
    ),
]
Schemes = Annotated[
    list[str] | None,
    typer.Option(
        "--scheme", "-s", metavar="NAME", help="A scheme, a scheme file, or `all`; repeatable."
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="A directory with config.json and safetensors of your own."),
]
Tokenizer = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A tokenizer.model beside --checkpoint.")
]
Name = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the release and of its files.")
]
Prefill = Annotated[
    list[int] | None,
    typer.Option(metavar="N", help="Length of a prefill signature, in tokens; repeatable."),
]
KvCache = Annotated[
    int | None, typer.Option(metavar="N", help="Length of the key-value cache, in tokens.")
]
Mask = Annotated[
    bool,
    typer.Option(
        "--mask-as-input/--no-mask-as-input",
        help="Take the attention mask as an input of the graph.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="Release directory. [artifacts/NAME]"),
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs", "-j", min=1, metavar="N", help="Containers at a time, where memory allows."
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Limit of each container, such as 8G. [the machine's]"),
]
Piqa = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="A folder with PIQA's valid.jsonl and valid-labels.lst."),
]
Limit = Annotated[
    int | None,
    typer.Option(min=2, metavar="N", help="Ask the first so many questions only: a quick look."),
]
Key = Annotated[Path | None, typer.Option(metavar="FILE", help="Private elliptic key, in PEM.")]
Pkcs11 = Annotated[
    str | None, typer.Option(metavar="URI", help="A key in a token, as RFC 7512 names it.")
]
Sigstore = Annotated[
    bool, typer.Option("--sigstore", help="Sign by Sigstore, as yourself; needs the network.")
]
Identity = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Who must have signed by Sigstore, such as an e-mail address."
    ),
]
IdentityProvider = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="URL of the OpenID Connect provider that --identity logs in at."
    ),
]
Private = Annotated[bool, typer.Option("--private", help="Make the repository a private one.")]
Skip = Annotated[
    list[Rule] | None,
    typer.Option(
        metavar="RULE",
        help=f"A rule that need not hold: {', '.join(Rule)}. The card says so; repeatable.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def parse_size(text: str | None) -> int | None:
    """Return the bytes that a text such as 8G, 512MiB or 1000000 means; raises BuildError."""
    if text is None:
        return None
    found = SIZE.fullmatch(text)
    if found is None:
        why = "it must be a number above 0, with K, M, G or nothing"
        raise BuildError(ErrorCode.UNKNOWN_NAME, f"{text!r} is no size", why, "Try 8G.")
    return int(found[1]) * UNITS[found[2].upper()]
