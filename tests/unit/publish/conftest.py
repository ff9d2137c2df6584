from pathlib import Path

import pytest

from tests.support.publishing import measured_release


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return measured_release(tmp_path / "release")
