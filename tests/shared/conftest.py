"""Fixtures that several test files of shared/ use."""

from typing import Any

import pytest
import torch

from shared.runtime import Runtime
from tests.shared import two_ranks
from tests.shared.group import processes


@pytest.fixture
def one_process() -> Runtime:
    """A CPU runtime without a group."""
    return Runtime(torch.device("cpu"))


@pytest.fixture(scope="session")
def two_rank_results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `two_ranks.main` found on rank 0 and on rank 1 (two real processes, gloo)."""
    out = tmp_path_factory.mktemp("two_ranks")
    for done in processes(two_ranks.__file__, out):
        assert done.returncode == 0, done.stderr
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
