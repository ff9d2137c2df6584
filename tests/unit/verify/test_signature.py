import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_signing import hashing, signing

from gemma3build.cli.verify import find_trust
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.release.checksums import SIGNATURE
from gemma3build.schema.evaluation import EVALUATION, REPORT
from gemma3build.schema.manifest import MANIFEST
from gemma3build.verify import signature
from gemma3build.verify.verify import verify
from tests.support.command import run_command
from tests.support.errors import raises
from tests.support.release import TFLITE, seal, write_provenance, write_release

NO_PASSWORD = serialization.NoEncryption()


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Path:
    """Write a private key, and the public one next to it as ``.pub``."""
    pem, format_ = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(pem, format_, NO_PASSWORD))
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    path.with_suffix(".pub").write_bytes(key.public_key().public_bytes(pem, public))
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(tmp_path / "release.key", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def release(tmp_path: Path, key: Path) -> Path:
    """A signed release."""
    folder = write_release(tmp_path / "release")
    signature.sign(verify(folder), signature.key_signer(key))
    return folder


def check(folder: Path, key: Path) -> BuildError | None:
    """Return what is wrong with the signature alone."""
    found = verify(folder, signature.by_key(key.with_suffix(".pub"))).findings
    (item,) = (item for item in found if item.name == SIGNATURE)
    return item.error


def test_a_signed_release_verifies_and_nothing_else_is_left(
    release: Path, key: Path, tmp_path: Path
) -> None:
    verified = verify(release, signature.by_key(key.with_suffix(".pub")))
    assert verified.error is None
    assert verified.findings[-1].detail.startswith("of 11 files, by the key ")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "release",
        "release.key",
        "release.pub",
    ]


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_larger_keys_sign_too_and_replace_a_signature(
    release: Path, tmp_path: Path, curve: ec.EllipticCurve
) -> None:
    other = write_key(tmp_path / "other.key", ec.generate_private_key(curve))
    signature.sign(verify(release), signature.key_signer(other))
    assert check(release, other) is None


def test_a_signature_is_one_that_the_library_reads(release: Path, key: Path) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(release)]
    options = ["--signature", str(release / SIGNATURE)]
    public = ["--public_key", str(key.with_suffix(".pub"))]
    done = subprocess.run(
        [*command, *options, *public], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_another_key_is_told_from_a_bad_signature(release: Path, tmp_path: Path) -> None:
    other = write_key(tmp_path / "other.key", ec.generate_private_key(ec.SECP256R1()))
    error = check(release, other)
    assert error is not None
    assert (error.code, error.what) == (ErrorCode.KEY, "model.sig is by another key")


def test_a_release_without_a_signature_is_not_signed(release: Path, key: Path) -> None:
    (release / SIGNATURE).unlink()
    error = check(release, key)
    assert error is not None
    assert error.code == ErrorCode.UNSIGNED


def change_report(folder: Path) -> None:
    (folder / REPORT).write_text("<html>better figures</html>")


def swap(folder: Path) -> None:
    """Put in all of another release, which verifies but for the signature."""
    other = write_release(folder.with_name("other"), {"m_fp16.tflite": b"x"})
    for path in other.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())


def remove_evaluation(folder: Path) -> None:
    (folder / EVALUATION).unlink()


def change_model(folder: Path) -> None:
    (folder / TFLITE).write_bytes(b"other")
    seal(folder)


@pytest.mark.parametrize(
    ("tamper", "code", "message"),
    [
        (change_report, ErrorCode.CHANGED, "A file was changed after signing: report.html is not"),
        (change_model, ErrorCode.CHANGED, f"signing: SHA256SUMS, {TFLITE} are not what was signed"),
        (
            write_provenance,
            ErrorCode.EXTRA,
            "A file was added after signing: provenance.intoto.jsonl is",
        ),
        (
            remove_evaluation,
            ErrorCode.MISSING,
            "A file was removed after signing: evaluation.json is",
        ),
        (swap, ErrorCode.SWAPPED, "manifest.json was swapped after signing"),
    ],
)
def test_what_was_done_after_signing_is_named(
    release: Path, key: Path, tamper: Callable[[Path], None], code: ErrorCode, message: str
) -> None:
    tamper(release)
    error = check(release, key)
    assert error is not None
    assert (error.code, message in str(error)) == (code, True), error


def test_a_payload_that_nobody_signed_is_not_believed(release: Path, key: Path) -> None:
    (release / TFLITE).write_bytes(b"other")
    path = release / SIGNATURE
    bundle = json.loads(path.read_text())
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    for item in payload["predicate"]["resources"]:
        item["digest"] = verify(release).digests[item["name"]]
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    path.write_text(json.dumps(bundle))
    error = check(release, key)
    assert error is not None
    assert (error.code, error.what) == (ErrorCode.SIGNATURE, "model.sig does not hold")


@pytest.mark.parametrize("name", [REPORT, MANIFEST])
def test_a_signature_that_leaves_a_file_out_is_none_of_the_release(
    release: Path, key: Path, name: str
) -> None:
    partly = hashing.Config().set_ignored_paths(paths=[name, SIGNATURE])
    config = signing.Config().use_elliptic_key_signer(private_key=key)
    config.set_hashing_config(partly).sign(release, release / SIGNATURE)
    error = check(release, key)
    assert error is not None
    assert (error.code, name in error.why) == (ErrorCode.EXTRA, True)


@pytest.mark.parametrize(
    "hashes",
    [
        hashing.Config().use_file_serialization(hashing_algorithm="blake2"),
        hashing.Config().use_shard_serialization(shard_size=100),
    ],
)
def test_a_signature_by_another_method_is_refused(
    release: Path, key: Path, hashes: hashing.Config
) -> None:
    (release / SIGNATURE).unlink()
    config = signing.Config().use_elliptic_key_signer(private_key=key)
    config.set_hashing_config(hashes).sign(release, release / SIGNATURE)
    assert check(release, key) is not None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.binary(max_size=6), st.integers(0, 40))
def test_no_change_of_a_signature_is_a_traceback(
    release: Path, key: Path, where: float, filler: bytes, removed: int
) -> None:
    content = (release / SIGNATURE).read_bytes()
    at = int(where * len(content))
    try:
        (release / SIGNATURE).write_bytes(content[:at] + filler + content[at + removed :])
        error = check(release, key)
    finally:
        (release / SIGNATURE).write_bytes(content)
    assert error is None or error.code in (ErrorCode.SIGNATURE, ErrorCode.KEY)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b"null", b"[" * 100_000, b"{}", b'{"verificationMaterial": {}}'],
)
def test_what_is_no_signature_is_refused(release: Path, key: Path, content: bytes) -> None:
    (release / SIGNATURE).write_bytes(content)
    error = check(release, key)
    assert error is not None
    assert (error.code, error.why) == (ErrorCode.SIGNATURE, "it names no key")


def test_keys_of_other_kinds_are_refused_in_words(tmp_path: Path) -> None:
    pem = serialization.Encoding.PEM
    other = write_key(tmp_path / "rsa.key", rsa.generate_private_key(65537, 2048))
    odd = write_key(tmp_path / "odd.key", ec.generate_private_key(ec.SECP256K1()))
    locked = tmp_path / "locked.key"
    best = serialization.BestAvailableEncryption(b"secret")
    locked.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            pem, serialization.PrivateFormat.PKCS8, best
        )
    )
    (tmp_path / "text").write_text("no key")
    for name, message in {
        "rsa.key": "has no elliptic key",
        "odd.key": "has no elliptic key",
        "locked.key": "has a password",
        "text": "has no private key in PEM",
        "nowhere": "No such file",
    }.items():
        with raises(ErrorCode.SIGNING, match=message):
            signature.key_signer(tmp_path / name)
    for path, message in {
        other.with_suffix(".pub"): "has no elliptic key",
        odd.with_suffix(".pub"): "has no elliptic key",
        odd: "has no public key in PEM",
        tmp_path / "nowhere": "No such file",
    }.items():
        with raises(ErrorCode.SIGNING, match=message):
            signature.by_key(path)


def test_a_token_that_cannot_be_used_is_refused_without_its_pin() -> None:
    with raises(ErrorCode.SIGNING, match="The token cannot be used") as refused:
        signature.token_signer("pkcs11:object=key?pin-value=hunter%32&module-path=/nowhere")
    assert "hunter" not in str(refused.value)
    message = signature.without_pin("of hunter2 and hunter%32", "pkcs11:a?pin-value=hunter%32&b")
    assert message == "of … and …"


def test_a_file_that_changes_while_it_is_signed_leaves_no_signature(
    tmp_path: Path, key: Path
) -> None:
    folder = write_release(tmp_path / "release")
    verified = verify(folder)
    (folder / TFLITE).write_bytes(b"other")
    with raises(ErrorCode.INPUT_CHANGED, match="a file of it changed"):
        signature.sign(verified, signature.key_signer(key))
    assert not (folder / SIGNATURE).exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "options", [(Path("a"), "b", "c"), (None, "a", None), (None, None, "a"), (Path("a"), "b", None)]
)
def test_whom_to_trust_is_one_thing(
    options: tuple[Path | None, str | None, str | None],
) -> None:
    with raises(ErrorCode.REQUEST, match="it takes --key, or --identity"):
        find_trust(*options)
    assert find_trust(None, None, None) is None


def test_the_commands_sign_and_verify(tmp_path: Path, key: Path) -> None:
    folder = write_release(tmp_path / "release")
    done = run_command("sign", folder, "--key", key)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{folder}/model.sig signs 11 files.\n"
    done = run_command("verify", folder, "--key", key.with_suffix(".pub"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "✓ model.sig " in done.stdout


def test_what_does_not_verify_is_not_signed(tmp_path: Path, key: Path) -> None:
    folder = write_release(tmp_path / "release")
    (folder / "more").write_text("")
    done = run_command("sign", folder, "--key", key)
    assert done.returncode == ErrorCode.EXTRA.exit_code
    assert "more is not listed in SHA256SUMS" in done.stderr
    assert not (folder / SIGNATURE).exists()
    assert run_command("sign", folder).returncode == ErrorCode.REQUEST.exit_code
    assert (
        run_command("sign", folder, "--key", key.with_suffix(".pub")).returncode
        == ErrorCode.SIGNING.exit_code
    )
