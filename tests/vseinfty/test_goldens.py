"""The authors' numbers: each row of cases.yaml goes through the function that its `call` names."""

import pytest

from tests.goldens.case import Case, read_cases, unused_files
from tests.vseinfty import goldens_data, goldens_evaluation, goldens_model

CALLS = {**goldens_data.CALLS, **goldens_evaluation.CALLS, **goldens_model.CALLS}
CASES = read_cases("vseinfty", CALLS)


@pytest.mark.golden
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.data["name"])
def test_golden(case: Case) -> None:
    CALLS[case.data["call"]](case)


@pytest.mark.golden
def test_every_golden_file_is_used() -> None:
    """A file of the golden folder that no case reads would be a case left out."""
    unused = unused_files(CASES)
    assert not unused, f"no case of cases.yaml names {unused}"
