"""The bench of synthesis runs on tiny inputs, and its sides agree."""

import pytest

from projects.xmrs.bench_gan import CASES
from shared.bench import Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sides_agree(case: Case) -> None:
    outputs = {name: side() for name, side in case.make(True).items()}
    assert case.check(outputs)
    assert {target.side for target in case.targets} <= set(outputs)
