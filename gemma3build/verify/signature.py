"""``model.sig``: a signature of every file of a release, as the OpenSSF's model-signing makes it.

The file is a Sigstore bundle with an in-toto statement of the digest of each file; ``model_signing verify``
reads it, too. Importing this module takes half a second, so that commands do so at need.
"""

import base64
import importlib.util
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, manifest, signing, verifying

from gemma3build.errors import BuildError, ErrorCode, from_os_error, release_error
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
    """Return what signs with an elliptic key in a PEM file.

    Raises:
        BuildError: the file has no such key, or has it under a password (SIGNING).
    """
    what = "The private key cannot be used"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise BuildError(ErrorCode.SIGNING, what, f"{path}: {error.strerror}", NEW_KEY) from error
    except TypeError as error:
        hint = "Take the password away, or keep the key in a token: --pkcs11 URI"
        raise BuildError(ErrorCode.SIGNING, what, f"{path} has a password", hint) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BuildError(
            ErrorCode.SIGNING, what, f"{path} has no private key in PEM", NEW_KEY
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        why = f"{path} has no elliptic key on one of {', '.join(CURVES)}"
        raise BuildError(ErrorCode.SIGNING, what, why, NEW_KEY)
    config = signing.Config().use_elliptic_key_signer(private_key=path)
    return Signer(config=config, trust=by_public_half(key.public_key()))


def token_signer(uri: str) -> Signer:
    """Return what signs with an elliptic key in a PKCS#11 token (URI: RFC 7512).

    Raises:
        BuildError: the token cannot be used, or the library for tokens is not installed (SIGNING).
    """
    what = "The token cannot be used"
    if importlib.util.find_spec("PyKCS11") is None:
        hint = "Install it: python -m pip install PyKCS11"
        raise BuildError(
            ErrorCode.SIGNING, what, "PyKCS11, which reads tokens, is not installed", hint
        )
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
    try:
        with atomic_file(folder / SIGNATURE, outside=True) as staged:
            _write(signer.config, folder, staged)
            if signed_digests(staged.read_bytes()) != covered(verified.digests):
                hint = "Let whatever writes to it end, and sign again."
                raise BuildError(
                    ErrorCode.INPUT_CHANGED,
                    "The release was not signed",
                    "a file of it changed",
                    hint,
                )
    except OSError as error:
        raise from_os_error(f"{folder / SIGNATURE} cannot be written", error) from error


def _write(config: signing.Config, folder: Path, staged: Path) -> None:
    try:
        config.set_hashing_config(_Hashing()).sign(folder, staged)
    except OSError:
        raise
    except Exception as error:  # of a token, of the network, of Sigstore
        why = truncate(f"{type(error).__name__}: {error}")
        hint = "Check the token or the network."
        raise BuildError(ErrorCode.SIGNING, "The release could not be signed", why, hint) from error


def by_key(path: Path) -> Trust:
    """Return the check of a signature by a public key in a PEM file.

    Raises:
        BuildError: the file has no such key (SIGNING).
    """
    what = "The public key cannot be used"
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise BuildError(
            ErrorCode.SIGNING, what, f"{path}: {error.strerror}", EXTRACT_KEY
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BuildError(
            ErrorCode.SIGNING, what, f"{path} has no public key in PEM", EXTRACT_KEY
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        why = f"{path} has no elliptic key on one of {', '.join(CURVES)}"
        raise BuildError(ErrorCode.SIGNING, what, why, EXTRACT_KEY)
    return by_public_half(key)


def by_public_half(key: ec.EllipticCurvePublicKey) -> Trust:
    """Return the check of a signature by a public key."""
    with tempfile.NamedTemporaryFile() as file:  # the library takes no key, only a file
        file.write(public_pem(key))
        file.flush()
        config = verifying.Config().use_elliptic_key_verifier(public_key=file.name)
    own = key_id(key)

    def check(folder: UntrustedFolder, digests: Mapping[str, str]) -> str:
        named = named_key(folder.read(SIGNATURE))
        if named != own:
            why = f"it names the key {named}, and the one that was given is {own}"
            hint = "Give the public key of whoever signed it."
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
    """Require a signature that holds, of the files that are there.

    Raises:
        BuildError: it does not, or is of other files.
    """
    hashed = _Hashing()
    failure: Exception | None = None
    try:
        config.set_hashing_config(hashed).verify(folder.path, folder.path / SIGNATURE)
    except Exception as error:  # noqa: BLE001 - a file that nobody vouches for can break it anywhere
        failure = error
    # The library hashes once the signature holds: what fails before that is the signature.
    if hashed.asked:
        compare(signed_digests(folder.read(SIGNATURE)), covered(digests))
    if failure is not None:
        why = truncate(f"{type(failure).__name__}: {failure}")
        raise release_error(ErrorCode.SIGNATURE, f"{SIGNATURE} does not hold", why) from failure


def compare(signed: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Require that the files are those that were signed.

    Args:
        signed: SHA-256 by name, of a signature that holds.
        found: SHA-256 by name, of the files that are there.

    Raises:
        BuildError: saying which is not.
    """
    removed, added = signed.keys() - found.keys(), found.keys() - signed.keys()
    changed = {name for name in signed.keys() & found.keys() if signed[name] != found[name]}
    if MANIFEST in changed:
        what, why = f"{MANIFEST} was swapped after signing", "another one was signed"
        raise release_error(ErrorCode.SWAPPED, what, why)
    if removed:
        what, why = (
            "A file was removed after signing",
            f"{join_names(removed)} signed and not there",
        )
        raise release_error(ErrorCode.MISSING, what, why)
    if changed:
        what, why = "A file was changed after signing", f"{join_names(changed)} not what was signed"
        raise release_error(ErrorCode.CHANGED, what, why)
    if added:
        what, why = "A file was added after signing", f"{join_names(added)} not signed"
        raise release_error(ErrorCode.EXTRA, what, why)


def signed_digests(bundle: bytes) -> dict[str, str]:
    """Return what a signature is of: SHA-256 by name. Whether it holds is another question.

    Raises:
        BuildError: the signature is of another kind.
    """
    try:
        payload = base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"], validate=True)
        resources = json.loads(payload)["predicate"]["resources"]
        # A digest of another kind equals none of SHA-256.
        return {item["name"]: item["digest"] for item in resources}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        why = truncate(f"{type(error).__name__}: {error}")
        raise release_error(ErrorCode.SIGNATURE, f"{SIGNATURE} cannot be read", why) from error


def named_key(bundle: bytes) -> str:
    """Return the id of the key that a signature says it is by; ``key_id`` makes it.

    Raises:
        BuildError: it names none.
    """
    try:
        return truncate(str(json.loads(bundle)["verificationMaterial"]["publicKey"]["hint"]))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        why = "it names no key"
        hint = "One by Sigstore is checked with --identity and --identity-provider."
        what = f"{SIGNATURE} cannot be read"
        raise release_error(ErrorCode.SIGNATURE, what, why, hint) from error


def find_key(bundle: bytes) -> str:
    """Return the id of the key that a signature says it is by; empty for one that names none."""
    try:
        return named_key(bundle)
    except BuildError:
        return ""


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of a public key's PEM text, by which model-signing names it."""
    return sha256_bytes(public_pem(key))


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key as PEM text."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def covered(digests: Mapping[str, str]) -> dict[str, str]:
    """Return the files that a signature is of: all but itself."""
    return {name: digest for name, digest in digests.items() if name != SIGNATURE}


def _unreachable(error: Exception) -> BuildError:
    why = truncate(f"{type(error).__name__}: {error}")
    return BuildError(
        ErrorCode.NETWORK, "Sigstore cannot be reached", why, "Check the network, or use --key."
    )
