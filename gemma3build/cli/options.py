"""Options that several commands share, and the parser of sizes."""

import re
from pathlib import Path
from typing import Annotated

import typer

from gemma3build.errors import BuildError, ErrorCode
from gemma3build.publish import Rule
from gemma3build.util.text import GIBIBYTE, MEBIBYTE

DEFAULT_MODEL = "gemma3-270m"
ARTIFACTS = Path("artifacts")
# K means 1024 bytes, as for Docker.
SIZE = re.compile(r"([1-9][0-9]{0,14})([KMG]?)(?:i?B)?", re.ASCII | re.IGNORECASE)
UNITS = {"": 1, "K": 1 << 10, "M": MEBIBYTE, "G": GIBIBYTE}


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help=f"Name of a pinned model; `models` lists them. [{DEFAULT_MODEL}]",
    ),
]
Schemes = Annotated[
    list[str] | None,
    typer.Option(
        "--scheme",
        "-s",
        metavar="NAME",
        help="Quantization scheme, scheme file, or `all`; repeatable.",
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder of your own checkpoint, with config.json and safetensors."
    ),
]
Tokenizer = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File of a tokenizer, for --checkpoint.")
]
Name = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the release and its files.")
]
Prefill = Annotated[
    list[int] | None,
    typer.Option(metavar="N", help="Prefill length in tokens; repeatable, one signature for each."),
]
KvCache = Annotated[
    int | None, typer.Option(metavar="N", help="Length of the key-value cache in tokens.")
]
Mask = Annotated[
    bool,
    typer.Option(
        "--mask-as-input/--no-mask-as-input",
        help="Whether the attention mask is an input of the graph.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="Folder of the release. [artifacts/NAME]"),
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs", "-j", min=1, metavar="N", help="Number of containers at a time, if memory allows."
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Memory limit of each container, such as 8G. [all memory]"),
]
Piqa = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder with valid.jsonl and valid-labels.lst of PIQA."),
]
Limit = Annotated[
    int | None,
    typer.Option(min=2, metavar="N", help="Ask only the first N questions, for a quick estimate."),
]
Key = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Private elliptic-curve key, in PEM.")
]
Pkcs11 = Annotated[
    str | None,
    typer.Option(metavar="URI", help="Key in a hardware token, as a PKCS#11 URI (RFC 7512)."),
]
Sigstore = Annotated[
    bool, typer.Option("--sigstore", help="Sign with your identity at Sigstore; needs the network.")
]
Identity = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Expected signer at Sigstore, such as an e-mail address."),
]
IdentityProvider = Annotated[
    str | None,
    typer.Option(metavar="URL", help="URL of the OpenID Connect provider of --identity."),
]
Private = Annotated[bool, typer.Option("--private", help="Create a private repository.")]
Skip = Annotated[
    list[Rule] | None,
    typer.Option(
        metavar="RULE",
        help=f"Ignore a rule: {', '.join(Rule)}. The model card names it; repeatable.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result, or the error, as JSON.")]


def parse_size(text: str | None) -> int | None:
    """Return the bytes of a size such as 8G, 512MiB or 1000000; raises BuildError (REQUEST)."""
    if text is None:
        return None
    found = SIZE.fullmatch(text)
    if found is None:
        why = "a size is a number above 0, optionally with K, M or G"
        raise BuildError(ErrorCode.REQUEST, f"{text!r} is not a size", why, "Example: 8G")
    return int(found[1]) * UNITS[found[2].upper()]
