"""``verify`` and ``sign``: whether a release is what it says, and who says so."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from gemma3build.cli.console import err, out, show_findings
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
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.release.checksums import SIGNATURE
from gemma3build.util.files import FileDigest

PUBLISHED = "hf://"  # before the address of a release on the Hub

Release = Annotated[Path, typer.Argument(help="A release.")]
Full = Annotated[
    bool, typer.Option("--full", help="Download also the large files of a published one.")
]


def verify(
    release: Annotated[
        str, typer.Argument(help="A release, or hf://OWNER/NAME@REVISION for a published one.")
    ] = str(ARTIFACTS / DEFAULT_MODEL),
    *,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Public key, in PEM, of whoever must have signed it."),
    ] = None,
    identity: Identity = None,
    identity_provider: IdentityProvider = None,
    full: Full = False,
    as_json: AsJson = False,
) -> None:
    """Check every byte of a release, its records and its signature; offline, in seconds.

    Examples:
    * `gemma3build verify` checks the release of the default model
    * `gemma3build verify artifacts/gemma3-1b-it --key release.pub`
    * `gemma3build verify hf://you/gemma3-1b-it-litert@v1` downloads its records alone
    """
    trust = find_trust(key, identity, identity_provider)
    if release.startswith(PUBLISHED):
        verified = look_at_published(release, trust, full=full)
    else:
        verified = look_at(Path(release).absolute(), trust)
    show_findings(release, verified.findings, as_json=as_json)
    if verified.error is not None:
        raise verified.error
    if not as_json:
        out.print(f"{release} is what it says.", soft_wrap=True)


def sign(
    release: Release = ARTIFACTS / DEFAULT_MODEL,
    *,
    key: Key = None,
    pkcs11: Pkcs11 = None,
    sigstore: Sigstore = False,
) -> None:
    """Sign every file of a release that verifies, into its model.sig.

    Examples:
    * `gemma3build sign --key release.key` signs the release of the default model
    * `gemma3build sign --pkcs11 "pkcs11:token=releases;object=key?pin-source=/run/pin"`
    """
    from gemma3build.verify import signature

    signer = find_signer(key, pkcs11, sigstore=sigstore)
    verified = look_at(release.absolute())
    if verified.error is not None:
        show_findings(release, verified.findings, as_json=False)
        raise verified.error
    signature.sign(verified, signer)
    count = len(signature.covered(verified.digests))
    out.print(f"{release / SIGNATURE} is a signature of {count} files.", soft_wrap=True)


def find_signer(key: Path | None, pkcs11: str | None, *, sigstore: bool) -> Any:
    """Return what signs, by the options; raises BuildError (REQUEST) unless they name one thing."""
    if (key is not None) + (pkcs11 is not None) + sigstore != 1:
        why = "it takes one of --key, --pkcs11 and --sigstore"
        raise BuildError(
            ErrorCode.REQUEST, "The release cannot be signed", why, "Name what signs it."
        )
    from gemma3build.verify import signature

    if key is not None:
        return signature.key_signer(key)
    if pkcs11 is not None:
        return signature.token_signer(pkcs11)
    return signature.keyless_signer()


def find_trust(key: Path | None, identity: str | None, provider: str | None) -> Any:
    """Return the check of a signature that the options ask for; None for none."""
    if key is None and identity is None and provider is None:
        return None
    from gemma3build.verify import signature

    if key is not None and identity is None and provider is None:
        return signature.by_key(key)
    if key is None and identity is not None and provider is not None:
        return signature.by_identity(identity, provider)
    why = "it takes --key, or --identity with --identity-provider"
    raise BuildError(
        ErrorCode.REQUEST, "The signature cannot be checked", why, "Name who must have signed it."
    )


def look_at_published(address: str, trust: Any, *, full: bool) -> Any:
    """Return what was found out about a release on the Hub, which is brought here for it."""
    import dataclasses
    import tempfile

    from gemma3build.verify.verify import Finding, State

    if trust is not None and not full:
        why = "a signature is of bytes, and the large files stay on the Hub"
        raise BuildError(ErrorCode.REQUEST, "The signature cannot be checked", why, "Add --full.")
    with tempfile.TemporaryDirectory(prefix="gemma3build-") as scratch:
        published = download_release(address, Path(scratch), full=full)
        verified = look_at(published.folder, trust, published.remote_digests)
    note = Finding(name="hub", state=State.NOTED, detail=str(published))
    return dataclasses.replace(verified, findings=(note, *verified.findings))


def download_release(address: str, scratch: Path, *, full: bool) -> Any:
    """Return a release on the Hub as ``publish.download`` does it; shows on a terminal how far it is."""
    from gemma3build.pins.resolver import refuse_offline
    from gemma3build.publish import download as published
    from gemma3build.publish.hub import set_output

    refuse_offline(published.WHAT)
    set_output(progress=err.is_terminal)
    with stoppable("The download was stopped"):
        return published.download_release(address, scratch, full=full)


def look_at(release: Path, trust: Any = None, remote_digests: Iterable[FileDigest] = ()) -> Any:
    """Return what was found out about a release; shows on a terminal how far it is."""
    from gemma3build.cli.progress import reading
    from gemma3build.verify.verify import total_bytes
    from gemma3build.verify.verify import verify as run_checks

    with stoppable("The check was stopped"), reading(err, total_bytes(release)) as advance:
        return run_checks(release, trust, advance, remote_digests)


@contextmanager
def stoppable(what: str) -> Iterator[None]:
    """Make an error of Ctrl-C; ``what`` says what it stopped."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        raise BuildError(
            ErrorCode.INTERRUPTED, what, "it got a signal", "Run it again."
        ) from stopped
