"""The bench of relevancy compares like with like, on tiny inputs; whether ratios are reached, a quiet machine says."""

import pytest

from projects.semabs.bench_relevancy import CASES
from shared.bench import Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sides_agree_and_another_result_would_be_noticed(case: Case) -> None:
    outputs = {name: side() for name, side in case.make(True).items()}
    assert case.check(outputs)
    assert {name for target in case.targets for name in (target.side, target.than)} <= set(outputs)
    ours = outputs["ours"]
    wrong = [part * 1.01 for part in ours] if isinstance(ours, list) else ours * 1.01
    with pytest.raises(AssertionError, match="differ"):
        case.check({**outputs, "ours": wrong})


def test_the_targets_are_those_that_were_set() -> None:
    ratios = [target.ratio for case in CASES if case.name == "relevancy" for target in case.targets]
    assert ratios == [2.8, 1 / 1.2, 8.0, None]
