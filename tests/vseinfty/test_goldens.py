"""The authors' numbers: each row of cases.yaml goes through the function that its `call` names."""

import pytest

from tests.vseinfty import goldens_data, goldens_evaluation, goldens_model
from tests.vseinfty.golden_case import Case, goldens_root, read_cases

CALLS = {**goldens_data.CALLS, **goldens_model.CALLS, **goldens_evaluation.CALLS}
CASES = read_cases(goldens_root())


@pytest.mark.golden
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.data["name"])
def test_golden(case: Case) -> None:
    CALLS[case.data["call"]](case)


@pytest.mark.golden
def test_every_golden_file_is_used() -> None:
    """A file of the golden folder that no case reads would be a case left out."""
    root = goldens_root()
    named = {text.rstrip("/") for case in CASES for text in _strings(case.data) if text}
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    unused = [
        relative.as_posix()
        for relative in (path.relative_to(root) for path in files)
        if relative.name not in {"README.md", "cases.yaml"}
        if not named & {relative.as_posix(), *(parent.as_posix() for parent in relative.parents)}
    ]
    assert not unused, f"no case of cases.yaml names {unused}"


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return []
