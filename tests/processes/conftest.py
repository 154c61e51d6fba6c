"""Several processes at once."""

from __future__ import annotations

import pytest

from servers import Start, start


@pytest.fixture(scope="session")
def starting() -> Start:
    return start
