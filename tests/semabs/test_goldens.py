"""The authors' numbers: each row of cases.yaml goes through the function that its `call` names."""

import pytest

from tests.goldens.case import Case, read_cases, unused_files
from tests.semabs import (
    goldens_data,
    goldens_evaluation,
    goldens_losses,
    goldens_networks,
    goldens_relevancy,
    goldens_thor,
    goldens_visualize,
)

CALLS = {
    **goldens_data.CALLS,
    **goldens_evaluation.CALLS,
    **goldens_losses.CALLS,
    **goldens_networks.CALLS,
    **goldens_relevancy.CALLS,
    **goldens_thor.CALLS,
    **goldens_visualize.CALLS,
}
CASES = read_cases("semabs", CALLS)


@pytest.mark.golden
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.data["name"])
def test_golden(case: Case) -> None:
    CALLS[case.data["call"]](case)


@pytest.mark.golden
def test_every_golden_file_is_used() -> None:
    """A file of the golden folder that no case reads would be a case left out."""
    unused = unused_files(CASES)
    assert not unused, f"no case of cases.yaml names {unused}"
