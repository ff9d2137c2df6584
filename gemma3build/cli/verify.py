"""``verify`` and ``sign``: check the files and the signature of a release, or sign it."""

import dataclasses
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gemma3build.cli.console import err, out
from gemma3build.cli.options import (
    ARTIFACTS,
    DEFAULT_MODEL,
    AsJson,
    Identity,
    IdentityProvider,
    Key,
    Pkcs11,
    Sigstore,
)
from gemma3build.cli.results import show_findings
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.release.checksums import SIGNATURE
from gemma3build.util.files import FileDigest

if TYPE_CHECKING:
    from gemma3build.publish.download import PartialDownload
    from gemma3build.verify.checks import Trust
    from gemma3build.verify.signature import Signer
    from gemma3build.verify.verify import Verified

PUBLISHED = "hf://"  # before the address of a release on the Hub
UNCHECKED = "The signature cannot be verified"

Release = Annotated[Path, typer.Argument(help="Folder of a release.")]
Full = Annotated[
    bool, typer.Option("--full", help="For a published release: also download the large files.")
]


def verify(
    release: Annotated[
        str,
        typer.Argument(
            help="Folder of a release, or hf://OWNER/NAME@REVISION for a published one."
        ),
    ] = str(ARTIFACTS / DEFAULT_MODEL),
    *,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Public key of the expected signer, in PEM."),
    ] = None,
    identity: Identity = None,
    identity_provider: IdentityProvider = None,
    full: Full = False,
    as_json: AsJson = False,
) -> None:
    """Verify a release: every byte, its records, and with --key its signature.

    Verifying a folder takes seconds, and needs neither network nor Docker.

    Examples:
    * `gemma3build verify` verifies the release of the default model
    * `gemma3build verify artifacts/gemma3-1b-it --key release.pub`
    * `gemma3build verify hf://you/gemma3-1b-it-litert@v1` downloads only the small files
    """
    trust = find_trust(key, identity, identity_provider)
    if release.startswith(PUBLISHED):
        verified = check_published(release, trust, full=full)
    else:
        verified = run_checks(Path(release).absolute(), trust)
    show_findings(release, verified, as_json=as_json)
    if not as_json:
        out.print(f"{release} is verified.", soft_wrap=True)


def sign(
    release: Release = ARTIFACTS / DEFAULT_MODEL,
    *,
    key: Key = None,
    pkcs11: Pkcs11 = None,
    sigstore: Sigstore = False,
) -> None:
    """Verify a release, then sign all of its files; write the signature to model.sig.

    Examples:
    * `gemma3build sign --key release.key` signs the release of the default model
    * `gemma3build sign --pkcs11 "pkcs11:token=releases;object=key?pin-source=/run/pin"`
    """
    from gemma3build.verify import signature

    signer = find_signer(key, pkcs11, sigstore=sigstore)
    verified = require_verified(release)
    signature.sign(verified, signer)
    count = len(signature.covered(verified.digests))
    out.print(f"{release / SIGNATURE} signs {count} files.", soft_wrap=True)


def find_signer(key: Path | None, pkcs11: str | None, *, sigstore: bool) -> "Signer":
    """Return the signer that the options name; raises BuildError (REQUEST) unless they name one."""
    if (key is not None) + (pkcs11 is not None) + sigstore != 1:
        what, why = "The release cannot be signed", "it takes one of --key, --pkcs11 and --sigstore"
        raise BuildError(ErrorCode.REQUEST, what, why, "Use one of these options.")
    from gemma3build.verify import signature

    if key is not None:
        return signature.key_signer(key)
    if pkcs11 is not None:
        return signature.token_signer(pkcs11)
    return signature.keyless_signer()


def find_trust(key: Path | None, identity: str | None, provider: str | None) -> "Trust | None":
    """Return the check of a signature that the options name; None for none."""
    if key is None and identity is None and provider is None:
        return None
    from gemma3build.verify import signature

    if key is not None and identity is None and provider is None:
        return signature.by_key(key)
    if key is None and identity is not None and provider is not None:
        return signature.by_identity(identity, provider)
    what, why = UNCHECKED, "it takes --key, or --identity with --identity-provider"
    raise BuildError(ErrorCode.REQUEST, what, why, "Name the expected signer in one of these ways.")


def check_published(address: str, trust: "Trust | None", *, full: bool) -> "Verified":
    """Download a release on the Hub, with ``full`` all of it, and run its checks."""
    from gemma3build.verify.verify import Finding, State

    if trust is not None and not full:
        why = "it signs all files, and gemma3build downloads only the small ones"
        raise BuildError(ErrorCode.REQUEST, UNCHECKED, why, "Add --full.")
    with tempfile.TemporaryDirectory(prefix="gemma3build-") as scratch:
        published = fetch_published(address, Path(scratch), full=full)
        verified = run_checks(published.folder, trust, published.remote_digests)
    note = Finding(name="hub", state=State.NOTED, detail=str(published))
    return dataclasses.replace(verified, findings=(note, *verified.findings))


def fetch_published(address: str, scratch: Path, *, full: bool) -> "PartialDownload":
    """Download a release on the Hub; show progress on a terminal."""
    from gemma3build.pins.resolver import refuse_offline
    from gemma3build.publish import download
    from gemma3build.publish.hub import set_output

    refuse_offline(download.WHAT)
    set_output(progress=err.is_terminal)
    return download.download_release(address, scratch, full=full)


def run_checks(
    folder: Path, trust: "Trust | None" = None, remote_digests: Iterable[FileDigest] = ()
) -> "Verified":
    """Run all checks of a release; show progress on a terminal."""
    from gemma3build.cli.progress import reading
    from gemma3build.verify import verify as checks

    with reading(err, checks.total_bytes(folder)) as advance:
        return checks.verify(folder, trust, advance, remote_digests)


def require_verified(release: Path) -> "Verified":
    """Return the checks of a release; show them and raise BuildError if one failed."""
    verified = run_checks(release.absolute())
    if verified.error is not None:
        show_findings(release, verified, as_json=False)
    return verified
