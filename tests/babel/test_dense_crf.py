"""The optional dense CRF: against a mean field written out, and the message where it is not installed."""

import sys

import numpy as np
import pytest

from projects.babel import dense_crf
from shared.errors import InputError


def test_the_first_step_of_a_flat_picture_smooths_neighbours() -> None:
    """On a picture of one colour a lone pixel of another label is outvoted, and probabilities sum to 1."""
    pytest.importorskip("pydensecrf")
    masks = np.full((2, 12, 14), 0.1, np.float32)
    masks[0] = 0.9
    masks[:, 5, 6] = (0.45, 0.55)
    picture = np.full((12, 14, 3), 90, np.uint8)
    picture.setflags(write=False)  # Pillow's pixels are
    found = dense_crf.refine(picture, masks)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-4)
    assert (found.argmax(0) == 0).all()
    assert masks[1, 5, 6] > masks[0, 5, 6]


def test_colours_keep_regions_apart() -> None:
    pytest.importorskip("pydensecrf")
    picture = np.full((16, 20, 3), 20, np.uint8)
    picture[:, 10:] = 230
    masks = np.full((2, 16, 20), 0.5, np.float32)
    masks[0, :, :10], masks[1, :, :10] = 0.6, 0.4
    masks[0, :, 10:], masks[1, :, 10:] = 0.4, 0.6
    masks[:, ::5, ::5] = masks[::-1, ::5, ::5].copy()  # noise
    found = dense_crf.refine(picture, masks).argmax(0)
    assert (found[:, :10] == 0).all()
    assert (found[:, 10:] == 1).all()


def test_without_the_package_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(InputError, match=r"requirements-crf\.txt, or crf=false") as caught:
        dense_crf.require()
    assert "\n" not in str(caught.value)
