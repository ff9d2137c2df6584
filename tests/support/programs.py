"""Programs that the tests run: ``python -m tests.support.programs NAME…`` installs those that are missing.

Only root can install Debian packages. Any other user is told the command, before anything runs for
long. Sessions of nox call this first, so it needs the standard library alone.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable

PACKAGES = {  # of Debian, by program
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "faketime": "faketime",
    "git": "git",
    "mount": "mount",
    "openssl": "openssl",
}


def ensure(programs: Iterable[str]) -> str:
    """Install the programs that are missing; return what you have to do instead, empty for nothing."""
    missing = [name for name in programs if shutil.which(name) is None]
    if not missing:
        return ""
    packages = [PACKAGES[name] for name in missing]
    commands = [["apt-get", "update"], ["apt-get", "install", "--yes", *packages]]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        todo = " && ".join(map(" ".join, commands))
        return f"The tests need {', '.join(missing)}. On Debian, run as root: {todo}"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in commands:
        if subprocess.run([*command, "--quiet=2"], env=environment, check=False).returncode:
            return f"The tests need {', '.join(missing)}, and `{' '.join(command)}` failed."
    return ""


if __name__ == "__main__":
    sys.exit(ensure(sys.argv[1:]) or 0)
