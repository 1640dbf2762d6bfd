"""A cache that goes with the run of the tests; one named in ``ATLAS_LM_CACHE`` is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if "ATLAS_LM_CACHE" not in os.environ:
            patch.setenv("ATLAS_LM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
