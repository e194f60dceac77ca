"""PAMR beside its definition, pixel by pixel."""

import pytest
import torch
from torch import Tensor

from projects.babel import bench_pamr, pamr
from projects.babel.pamr import PAMR


def by_definition(image: Tensor, masks: Tensor, dilations: list[int], iterations: int) -> Tensor:
    """image [3, h, w], masks [K, h, w] in float64."""
    height, width = image.shape[1:]

    def neighbours(row: int, column: int) -> list[tuple[int, int]]:
        return [
            (min(max(row + d * i, 0), height - 1), min(max(column + d * j, 0), width - 1))
            for d in dilations
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
            if (i, j) != (0, 0)
        ]

    for _ in range(iterations):
        refined = torch.zeros_like(masks)
        for row in range(height):
            for column in range(width):
                places = neighbours(row, column)
                here = image[:, row, column]
                around = torch.stack([image[:, i, j] for i, j in places])
                samples = torch.cat([around, here.expand(len(dilations), -1)])
                deviation = samples.std(0, unbiased=True)
                weights = (-(around - here).abs() / (1e-8 + 0.1 * deviation)).mean(1).softmax(0)
                values = torch.stack([masks[:, i, j] for i, j in places])
                refined[:, row, column] = (weights[:, None] * values).sum(0)
        masks = refined
    return masks


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 6, 9, generator=generator)
    images[1, :, :3] = 0.5  # a flat region: no deviation at all
    return images, torch.rand(3, 4, 6, 9, generator=generator)


@pytest.mark.parametrize(("dilations", "iterations"), [([1], 1), ([1, 3], 2), ([2, 12], 1)])
def test_it_is_its_definition(inputs: tuple[Tensor, Tensor], dilations: list[int], iterations: int) -> None:
    """Also with neighbours further away than the image is wide."""
    found = PAMR(dilations, iterations)(*inputs)
    for image, masks, refined in zip(*inputs, found, strict=True):
        expected = by_definition(image.double(), masks.double(), dilations, iterations)
        torch.testing.assert_close(refined, expected.float(), rtol=1e-4, atol=1e-5)


def test_images_at_a_time_make_no_difference(
    inputs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = PAMR([1, 2], 3)
    whole = module(*inputs)
    monkeypatch.setattr(pamr, "CHUNK_BYTES", 1)
    assert torch.equal(module(*inputs), whole)
    assert torch.equal(module(inputs[0], inputs[1][:, 2:3]), whole[:, 2:3])  # masks do not mix


def test_masks_take_the_image_s_size_and_no_gradient(inputs: tuple[Tensor, Tensor]) -> None:
    images, masks = inputs
    small = masks[:, :, :3, :4].clone().requires_grad_()
    found = PAMR([1], 1)(images, small)
    assert found.shape == (3, 4, 6, 9)
    assert not found.requires_grad
    torch.testing.assert_close(PAMR([1], 0)(images, masks), masks)


def test_kernels_shift_by_one_pixel() -> None:
    """The constant buffers of released checkpoints."""
    state = PAMR().state_dict()
    assert [list(value.shape) for value in state.values()] == [[8, 1, 3, 3], [8, 1, 3, 3], [9, 1, 3, 3]]
    assert state["aff_x.kernel"].sum((2, 3)).eq(0).all()
    assert state["aff_m.kernel"].sum((2, 3)).eq(1).all()
    assert torch.equal(state["aff_std.kernel"].sum(0)[0], torch.ones(3, 3))


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="expected dilations >= 1"):
        PAMR([])
    with pytest.raises(ValueError, match="expected dilations >= 1"):
        PAMR([0, 1])


def test_bench_sides_agree() -> None:
    (case,) = bench_pamr.CASES
    remark = case.check({name: side() for name, side in case.make(True).items()})
    assert "agree" in remark
