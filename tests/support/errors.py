"""Expect an error by its code, not by its text alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gemma3build.errors import BuildError, ErrorCode


@contextmanager
def raises(
    code: ErrorCode, *, match: str | None = None
) -> Iterator[pytest.ExceptionInfo[BuildError]]:
    """Expect a ``BuildError`` of this code, whose text matches."""
    with pytest.raises(BuildError, match=match) as caught:
        yield caught
    assert caught.value.code is code
