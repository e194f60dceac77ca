"""Batch norm over the rows of all processes: the numbers of one process on all rows."""

from typing import Any

import pytest
import torch
from torch import nn

from shared.batch_norm import SynchronizedBatchNorm, synchronize_batch_norm
from tests.shared import two_ranks


def test_two_ranks_normalise_like_one(two_rank_results: list[dict[str, Any]]) -> None:
    """Outputs, derivatives with respect to the rows and the weights, running statistics."""
    expected = two_ranks.normalised(0, two_ranks.SHARES[-1][1])
    for (first, last), result in zip(two_ranks.SHARES, two_rank_results, strict=True):
        found = result["normalised"]
        assert found.keys() == expected.keys()
        assert len(found) == 2 * 7
        for name, value in expected.items():
            own = value[first:last] if name.endswith((".y", ".dx")) else value
            torch.testing.assert_close(found[name], own, rtol=1e-5, atol=1e-6, msg=name)


def test_its_own_rows_alone_would_give_other_numbers() -> None:
    """That the test above can fail."""
    first, last = two_ranks.SHARES[0]
    whole, part = two_ranks.normalised(0, two_ranks.SHARES[-1][1]), two_ranks.normalised(first, last)
    assert all(
        (whole[f"{kind}.y"][first:last] - part[f"{kind}.y"]).abs().max() > 0.1 for kind in ("1d", "2d")
    )


def test_in_one_process_it_is_plain_batch_norm() -> None:
    plain = nn.ModuleDict({"norm": nn.BatchNorm1d(5), "other": nn.BatchNorm2d(2)})
    ours = nn.ModuleDict({"norm": nn.BatchNorm1d(5), "other": nn.BatchNorm2d(2)})
    synchronize_batch_norm(ours)
    assert {type(module) for module in ours.values()} == {SynchronizedBatchNorm}
    assert list(ours.state_dict()) == list(plain.state_dict())
    for name, x in (("norm", torch.randn(7, 5)), ("other", torch.randn(3, 2, 4, 4))):
        assert torch.equal(ours[name](x), plain[name](x))
        assert torch.equal(ours[name].eval()(x), plain[name].eval()(x))


def test_only_the_wanted_kinds_are_replaced_and_shapes_are_checked() -> None:
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm1d(3).eval()))
    weight = model[1][1].weight
    synchronize_batch_norm(model, kinds=(nn.BatchNorm1d,))
    kinds = [type(module) for module in model.modules() if not isinstance(module, nn.Sequential)]
    assert kinds == [SynchronizedBatchNorm, nn.BatchNorm2d, SynchronizedBatchNorm]
    assert model[1][1].weight is weight
    assert not model[1][1].training
    with pytest.raises(ValueError, match=r"expected \[R, C\].*found \(5,\)"):
        model[0](torch.randn(5))
