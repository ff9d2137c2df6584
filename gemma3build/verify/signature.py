"""``model.sig``: a signature of every file of a release, as the OpenSSF's model-signing makes it.

The file is a Sigstore bundle with an in-toto statement of the digest of each file; ``model_signing verify``
reads it, too. Importing this module takes half a second, so that commands do so at need.
"""

import base64
import importlib.util
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, manifest, signing, verifying

from gemma3build.errors import BuildError, ErrorCode, os_errors, release_error
from gemma3build.release.checksums import SIGNATURE
from gemma3build.schema.manifest import MANIFEST
from gemma3build.util.files import atomic_file, sha256_bytes
from gemma3build.util.text import join_names, truncate
from gemma3build.verify.checks import Trust
from gemma3build.verify.untrusted import UntrustedFolder
from gemma3build.verify.verify import Verified

CURVES = ("secp256r1", "secp384r1", "secp521r1")  # those that model-signing takes
NEW_KEY = "Make one: openssl ecparam -name prime256v1 -genkey -noout -out release.key"
EXTRACT_KEY = "Extract it: openssl ec -in release.key -pubout -out release.pub"


class _Hashing(hashing.Config):
    """Hashes every file but the signature, and notes that it was asked to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.asked = False
        self.use_file_serialization(hashing_algorithm="sha256")
        self.set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)

    def hash(self, *arguments: Any, **options: Any) -> manifest.Manifest:
        self.asked = True
        return super().hash(*arguments, **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """What signs.

    Attributes:
        config: the library's.
        trust: checks a signature by the public half; None for an identity, which has none of its own.
    """

    config: signing.Config
    trust: Trust | None = None


def key_signer(path: Path) -> Signer:
    """Return what signs with an elliptic key in a PEM file; raises BuildError (SIGNING)."""

    def load(data: bytes) -> object:
        return serialization.load_pem_private_key(data, None)

    trust = by_public_half(_load_key(path, "private", load, NEW_KEY))
    return Signer(config=signing.Config().use_elliptic_key_signer(private_key=path), trust=trust)


def by_key(path: Path) -> Trust:
    """Return the check of a signature by a public key in a PEM file.

    Raises:
        BuildError: the file has no such key (SIGNING).
    """
    return by_public_half(_load_key(path, "public", serialization.load_pem_public_key, EXTRACT_KEY))


def _load_key(
    path: Path, half: str, load: Callable[[bytes], object], hint: str
) -> ec.EllipticCurvePublicKey:
    """Return the public half of the key in a file."""
    what = f"The {half} key cannot be used"
    try:
        key = load(path.read_bytes())
    except OSError as error:
        raise BuildError(ErrorCode.SIGNING, what, f"{path}: {error.strerror}", hint) from error
    except TypeError as error:
        hint = "Remove the password, or keep the key in a token: --pkcs11 URI"
        raise BuildError(ErrorCode.SIGNING, what, f"{path} has a password", hint) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        why = f"{path} has no {half} key in PEM"
        raise BuildError(ErrorCode.SIGNING, what, why, hint) from error
    if isinstance(key, ec.EllipticCurvePrivateKey):
        key = key.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        why = f"{path} has no elliptic key on one of {', '.join(CURVES)}"
        raise BuildError(ErrorCode.SIGNING, what, why, hint)
    return key


def token_signer(uri: str) -> Signer:
    """Return what signs with an elliptic key in a PKCS#11 token (URI: RFC 7512).

    Raises:
        BuildError: the token cannot be used, or the library for tokens is not installed (SIGNING).
    """
    what = "The token cannot be used"
    if importlib.util.find_spec("PyKCS11") is None:
        why, hint = (
            "PyKCS11, which reads tokens, is not installed",
            "Install it: python -m pip install PyKCS11",
        )
        raise BuildError(ErrorCode.SIGNING, what, why, hint)
    try:
        config = signing.Config().use_pkcs11_signer(pkcs11_uri=uri)
        token: Any = config._signer  # noqa: SLF001 - the library gives its public half out nowhere else
        return Signer(config=config, trust=by_public_half(token.public_key()))
    except Exception as error:  # noqa: BLE001 - of the library, of PyKCS11, of Python
        why = truncate(without_pin(f"{type(error).__name__}: {error}", uri))
        raise BuildError(ErrorCode.SIGNING, what, why, "Check the URI and what it names.") from None


def without_pin(message: str, uri: str) -> str:
    """Return a message without the PIN that a URI can hold."""
    found = re.search(r"pin-value=([^&;?]+)", uri)
    for pin in (found[1], unquote(found[1])) if found else ():
        message = message.replace(pin, "…")
    return message


def keyless_signer() -> Signer:
    """Return what signs with an identity, by Sigstore; it asks in a browser where it must.

    Raises:
        BuildError: Sigstore cannot be reached (NETWORK).
    """
    try:
        config = signing.Config().use_sigstore_signer(use_ambient_credentials=True)
    except Exception as error:  # of the network, of TUF, of Sigstore
        raise _unreachable(error) from error
    return Signer(config=config)


def sign(verified: Verified, signer: Signer) -> None:
    """Write the signature of a release that was verified, whole or not at all.

    Raises:
        BuildError: no signature could be made (SIGNING); a file changed after it was verified
            (INPUT_CHANGED); the signature cannot be written.
    """
    folder = verified.folder.path
    what = f"{folder / SIGNATURE} cannot be written"
    with os_errors(what), atomic_file(folder / SIGNATURE, outside=True) as staged:
        try:
            signer.config.set_hashing_config(_Hashing()).sign(folder, staged)
        except OSError:
            raise
        except Exception as error:  # of a token, of the network, of Sigstore
            what, hint = "The release could not be signed", "Check the token or the network."
            raise BuildError(ErrorCode.SIGNING, what, _describe(error), hint) from error
        if signed_digests(staged.read_bytes()) != covered(verified.digests):
            what, why = "The release was not signed", "a file of it changed"
            hint = "Stop what writes to it, and sign again."
            raise BuildError(ErrorCode.INPUT_CHANGED, what, why, hint)


def by_public_half(key: ec.EllipticCurvePublicKey) -> Trust:
    """Return the check of a signature by a public key."""
    with tempfile.NamedTemporaryFile() as file:  # the library takes no key, only a file
        file.write(_pem(key))
        file.flush()
        config = verifying.Config().use_elliptic_key_verifier(public_key=file.name)
    own = sha256_bytes(_pem(key))  # by which model-signing names it

    def check(folder: UntrustedFolder, digests: Mapping[str, str]) -> str:
        named = named_key(folder.read(SIGNATURE))
        if named != own:
            why = f"it names the key {named}, and the one that was given is {own}"
            hint = "Give the public key of the signer."
            raise release_error(ErrorCode.KEY, f"{SIGNATURE} is by another key", why, hint)
        check_signed(config, folder, digests)
        return f"of {len(covered(digests))} files, by the key {own}"

    return check


def by_identity(identity: str, provider: str) -> Trust:
    """Return the check of a signature by Sigstore.

    Args:
        identity: whom the provider knows, such as an e-mail address.
        provider: URL of the OpenID Connect provider.

    Raises:
        BuildError: Sigstore's keys cannot be had (NETWORK).
    """
    try:
        config = verifying.Config().use_sigstore_verifier(identity=identity, oidc_issuer=provider)
    except Exception as error:  # of the network, of TUF, of Sigstore
        raise _unreachable(error) from error

    def check(folder: UntrustedFolder, digests: Mapping[str, str]) -> str:
        check_signed(config, folder, digests)
        return f"of {len(covered(digests))} files, by {identity}"

    return check


def check_signed(
    config: verifying.Config, folder: UntrustedFolder, digests: Mapping[str, str]
) -> None:
    """Require a signature that holds, of the files that are there."""
    hashed = _Hashing()
    failure: Exception | None = None
    try:
        config.set_hashing_config(hashed).verify(folder.path, folder.path / SIGNATURE)
    except Exception as error:  # noqa: BLE001 - an untrusted file can break it anywhere
        failure = error
    # The library hashes once the signature holds: what fails before that is the signature.
    if hashed.asked:
        compare_digests(signed_digests(folder.read(SIGNATURE)), covered(digests))
    if failure is not None:
        what = f"{SIGNATURE} does not hold"
        raise release_error(ErrorCode.SIGNATURE, what, _describe(failure)) from failure


def compare_digests(signed: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Require that the files are those that were signed; both are SHA-256 by name."""
    removed, added = signed.keys() - found.keys(), found.keys() - signed.keys()
    changed = {name for name in signed.keys() & found.keys() if signed[name] != found[name]}
    after = "after signing"
    if MANIFEST in changed:
        what, why = f"{MANIFEST} was swapped {after}", "another one was signed"
        raise release_error(ErrorCode.SWAPPED, what, why)
    for names, code, verb, why in (
        (removed, ErrorCode.MISSING, "removed", "signed and not there"),
        (changed, ErrorCode.CHANGED, "changed", "not what was signed"),
        (added, ErrorCode.EXTRA, "added", "not signed"),
    ):
        if names:
            what = f"A file was {verb} {after}"
            raise release_error(code, what, f"{join_names(names)} {why}")


def signed_digests(bundle: bytes) -> dict[str, str]:
    """Return what a signature is of, whether it holds or not: SHA-256 by name."""
    try:
        payload = base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"], validate=True)
        resources = json.loads(payload)["predicate"]["resources"]
        # A digest of another kind equals none of SHA-256.
        return {item["name"]: item["digest"] for item in resources}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        what = f"{SIGNATURE} cannot be read"
        raise release_error(ErrorCode.SIGNATURE, what, _describe(error)) from error


def named_key(bundle: bytes) -> str:
    """Return the id of the key that a signature says it is by."""
    try:
        return truncate(str(json.loads(bundle)["verificationMaterial"]["publicKey"]["hint"]))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        what, why = f"{SIGNATURE} cannot be read", "it names no key"
        hint = "One by Sigstore is checked with --identity and --identity-provider."
        raise release_error(ErrorCode.SIGNATURE, what, why, hint) from error


def find_key(bundle: bytes) -> str:
    """Return the id of the key that a signature says it is by; empty for one that names none."""
    try:
        return named_key(bundle)
    except BuildError:
        return ""


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def covered(digests: Mapping[str, str]) -> dict[str, str]:
    """Return the files that a signature is of: all but itself."""
    return {name: digest for name, digest in digests.items() if name != SIGNATURE}


def _unreachable(error: Exception) -> BuildError:
    what, hint = "Sigstore cannot be reached", "Check the network, or use --key."
    return BuildError(ErrorCode.NETWORK, what, _describe(error), hint)


def _describe(error: Exception) -> str:
    return truncate(f"{type(error).__name__}: {error}")
