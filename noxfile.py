"""Sessions: each installs what it needs and calls one command.

nox                      lint, types, unit tests and the docs
nox -s engine build      make sure that Docker answers, then build the default model
nox -s engine tests      all tests
nox -s build -- ARGS     the same as `gemma3build build ARGS`; COMMANDS has more of them
nox -s docs              build the docs into build/site
nox -s reproducibility   build a tiny model under variation; fail on any difference
nox -s bench             compare with the converter's own script
nox -s lock              lock the newest requirements of the images, then all models
"""

import hashlib
import os
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"  # for dependency groups
nox.options.sessions = ["lint", "types", "unit", "docs"]
nox.options.reuse_venv = "yes"
nox.options.stop_on_first_error = True  # without an engine, no later session can succeed

PROJECT = Path(__file__).parent / "pyproject.toml"
# Nox kills what still runs half a second after Ctrl-C; removing containers or downloads takes longer.
PATIENCE = 30.0  # seconds
IMAGES = Path(__file__).parent / "gemma3build" / "pins" / "images.toml"
COMMANDS = {  # a session for each, which passes on the arguments after --
    "build": "Build a release.",
    "evaluate": "Measure PIQA, speed and memory of a release.",
    "verify": "Check every byte of a release, offline.",
    "sign": "Sign a release.",
    "rebuild": "Build a release again from its manifest, and compare.",
    "archive": "Archive all that a rebuild needs.",
    "publish": "Publish a release to the Hub.",
    "release": "Run the release pipeline, up to publishing.",
}


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
    """Run a command that cleans up when it is interrupted."""
    session.run(*arguments, interrupt_timeout=PATIENCE, terminate_timeout=PATIENCE)


def require(session: nox.Session, *programs: str) -> None:
    """Install the Debian packages of programs that are missing; tells a user without root how."""
    session.run("python", "-m", "tests.support.programs", *programs)


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
    require(session, "git", "openssl")
    install(session, "unit")
    session.run("pytest", "tests/unit", "tests/fuzz", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test; those that need Docker fail if no engine answers. Lint, types and docs follow."""
    if os.geteuid() != 0 and not session.posargs:
        session.error(
            "All tests together need root, to mount small disks. Or: nox -s tests -- tests/unit"
        )
    if not session.posargs:
        for check in ("lint", "types", "docs"):
            session.notify(check)
    require(session, "chromedriver", "chromium", "git", "mount", "openssl")
    install(session, "e2e")
    run(session, "pytest", "tests", *session.posargs)


@nox.session
def engine(session: nox.Session) -> None:
    """Make sure that a Docker engine answers; on bare Debian, as root, install and start one."""
    install(session)
    session.run("gemma3build", "engine")


def make_session(command: str, summary: str) -> None:
    """Make the session that installs the package and runs one of its commands."""

    def run_command(session: nox.Session) -> None:
        install(session)
        run(session, "gemma3build", command, *session.posargs)

    run_command.__doc__ = f"{summary} Arguments after -- go to `gemma3build {command}`."
    nox.session(name=command)(run_command)


for _command, _summary in COMMANDS.items():
    make_session(_command, _summary)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the docs into build/site; a broken link or anchor is an error."""
    install(session, "docs")
    session.run("python", "tools/build_docs.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Compare with the converter's own script in one run, in one image."""
    install(session)
    run(session, "python", "benchmarks/bench.py", *session.posargs)


@nox.session
def reproducibility(session: nox.Session) -> None:
    """Build under variation, and fail on any difference; needs root."""
    require(session, "faketime", "git")
    install(session, "unit")
    run(session, "python", "-m", "tests.reproducibility.reproduce", *session.posargs)


@nox.session
def lock(session: nox.Session) -> None:
    """Lock the newest requirements of the images by their hashes, then every model."""
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
