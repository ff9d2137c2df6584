"""Sessions: each installs what it needs and calls one command.

nox                      lint, types and unit tests
nox -s engine build      make sure that Docker answers, then build the default model
nox -s engine tests      all tests
nox -s build -- ARGS     the same as `gemma3build build ARGS`
nox -s evaluate          measure PIQA, speed and memory of what was built
nox -s verify            check every byte of what was built, and its records
nox -s publish -- ARGS   put it on the Hub
nox -s release -- ARGS   all of that for one model or several, up to publishing
nox -s rebuild           build it again from its manifest, and compare
nox -s reproducibility   build a tiny model under variation; fail on any difference
"""

import hashlib
import os
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"  # for dependency groups
nox.options.sessions = ["lint", "types", "unit"]
nox.options.reuse_venv = "yes"

PROJECT = Path(__file__).parent / "pyproject.toml"
# Nox kills what has not ended half a second after Ctrl-C; to remove containers or downloads takes longer.
PATIENCE = 30.0  # seconds
IMAGES = Path(__file__).parent / "gemma3build" / "pins" / "images.toml"


def install(session: nox.Session, *groups: str) -> None:
    """Install the project and dependency groups, once for each state of pyproject.toml."""
    content = PROJECT.read_bytes() + repr((groups, str(PROJECT.parent))).encode()
    wanted = hashlib.sha256(content).hexdigest()
    stamp = Path(session.virtualenv.location, "installed.sha256")
    if stamp.is_file() and stamp.read_text(encoding="ascii") == wanted:
        return
    packages = [
        package
        for group in groups
        for package in nox.project.dependency_groups(nox.project.load_toml(PROJECT), group)
    ]
    session.install("--quiet", "--editable", ".", *packages)
    stamp.write_text(wanted, encoding="ascii")


def run(session: nox.Session, *arguments: str) -> None:
    """Run a command that has something to remove or to say when it is interrupted."""
    session.run(*arguments, interrupt_timeout=PATIENCE, terminate_timeout=PATIENCE)


@nox.session
def lint(session: nox.Session) -> None:
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    install(session, "lint", "unit")
    session.run("mypy")


@nox.session
def unit(session: nox.Session) -> None:
    install(session, "unit")
    session.run("pytest", "tests/unit", "tests/fuzz", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test; those that need Docker fail if no engine answers."""
    install(session, "e2e")
    run(session, "pytest", "tests", *session.posargs)


@nox.session
def engine(session: nox.Session) -> None:
    """Make sure that a Docker engine answers; on bare Debian, as root, install and start one."""
    install(session)
    session.run("gemma3build", "engine")


@nox.session
def build(session: nox.Session) -> None:
    """Build a release; arguments after -- go to `gemma3build build`."""
    install(session)
    run(session, "gemma3build", "build", *session.posargs)


@nox.session
def evaluate(session: nox.Session) -> None:
    """Measure a release; arguments after -- go to `gemma3build evaluate`."""
    install(session)
    run(session, "gemma3build", "evaluate", *session.posargs)


@nox.session
def verify(session: nox.Session) -> None:
    """Verify a release, offline; arguments after -- go to `gemma3build verify`."""
    install(session)
    run(session, "gemma3build", "verify", *session.posargs)


@nox.session
def sign(session: nox.Session) -> None:
    """Sign a release; arguments after -- go to `gemma3build sign`."""
    install(session)
    session.run("gemma3build", "sign", *session.posargs)


@nox.session
def rebuild(session: nox.Session) -> None:
    """Build a release again and compare; arguments after -- go to `gemma3build rebuild`."""
    install(session)
    run(session, "gemma3build", "rebuild", *session.posargs)


@nox.session
def archive(session: nox.Session) -> None:
    """Archive all that a rebuild needs; arguments after -- go to `gemma3build archive`."""
    install(session)
    run(session, "gemma3build", "archive", *session.posargs)


@nox.session
def publish(session: nox.Session) -> None:
    """Publish a release to the Hub; arguments after -- go to `gemma3build publish`."""
    install(session)
    run(session, "gemma3build", "publish", *session.posargs)


@nox.session
def release(session: nox.Session) -> None:
    """Make releases, up to publishing; arguments after -- go to `gemma3build release`."""
    install(session)
    run(session, "gemma3build", "release", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Compare with the upstream script in one run, in one image."""
    install(session)
    run(session, "python", "benchmarks/bench.py", *session.posargs)


@nox.session
def reproducibility(session: nox.Session) -> None:
    """Build under variation, and fail on any difference; needs root and Debian's faketime."""
    install(session, "unit")
    run(session, "python", "-m", "tests.reproducibility.reproduce", *session.posargs)


@nox.session
def lock(session: nox.Session) -> None:
    """Make the hash-locked requirements of the images anew, then all locks."""
    install(session, "lock")
    images = nox.project.load_toml(IMAGES)
    glibc = "_".join(map(str, images["glibc"]))
    for requirements in sorted(Path("containers").glob("*/requirements.in")):
        folder = requirements.parent
        overrides = folder / "overrides.txt"
        session.run(
            "uv",
            "pip",
            "compile",
            "--quiet",
            "--upgrade",
            "--generate-hashes",
            "--no-header",
            "--no-annotate",
            f"--python-version={images['python_version']}",
            f"--python-platform=x86_64-manylinux_{glibc}",
            *(("--override", str(overrides)) if overrides.is_file() else ()),
            *torch_source(),
            f"--output-file={folder / 'requirements.txt'}",
            str(requirements),
        )
    session.run("gemma3build", "lock")


def torch_source() -> tuple[str, ...]:
    """Return where uv finds CPU builds of torch: pip's own find-links, else PyTorch's index."""
    links = os.environ.get("PIP_FIND_LINKS")
    return ("--find-links", links) if links else ("--torch-backend=cpu",)
