"""Size augmentation: the rules against naive loops, and sets that must not become empty."""

import numpy as np
import pytest
import torch

from projects.vseinfty import augmentation
from projects.vseinfty.augmentation import DELETE, KEEP, MASK, REPLACE


def test_regions_stay_above_the_rate() -> None:
    uniforms = np.array([0.0, 0.2, np.nextafter(0.2, 1), 0.9])
    assert augmentation.kept_regions(uniforms).tolist() == [False, False, True, True]


def test_a_set_never_loses_its_last_region() -> None:
    uniforms = np.array([[0.01, 0.19, 0.1], [0.5, 0.1, 0.1], [0.02, 0.02, 0.02]])
    kept = augmentation.kept_regions(uniforms)
    assert kept.tolist() == [[False, True, False], [True, False, False], [True, False, False]]


def naive_drop_grids(features: np.ndarray, r1: np.ndarray, r2: np.ndarray) -> tuple[np.ndarray, list[int]]:
    rows = []
    for sample, own, rate in zip(features, r1, r2, strict=True):
        keep = [g for g in range(len(sample)) if rate <= 0.2 or own[g] > 0.2 * rate]
        rows.append(sample[keep or [int(own.argmax())]])
    longest = max(map(len, rows))
    padded = [np.concatenate([r, np.zeros((longest - len(r), r.shape[1]), r.dtype)]) for r in rows]
    return np.stack(padded), [len(r) for r in rows]


@pytest.mark.parametrize("seed", range(5))
def test_grids_like_the_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((7, 11, 3)).astype(np.float32)
    r1, r2 = rng.random((7, 11)) ** (1 + seed), rng.random(7)  # higher powers: more of them fall
    expected, lengths = naive_drop_grids(features, r1, r2)
    got, got_lengths = augmentation.drop_grids(
        torch.from_numpy(features), torch.from_numpy(r1), torch.from_numpy(r2)
    )
    np.testing.assert_array_equal(got.numpy(), expected)
    assert got_lengths.tolist() == lengths


def test_grids_that_would_all_fall_keep_one() -> None:
    features = torch.arange(6.0).reshape(1, 3, 2)
    kept, lengths = augmentation.drop_grids(features, torch.tensor([[0.01, 0.05, 0.02]]), torch.tensor([0.9]))
    assert kept.tolist() == [[[2.0, 3.0]]]
    assert lengths.tolist() == [1]


def test_gradients_reach_the_kept_grids_only() -> None:
    features = torch.ones(1, 3, 2, requires_grad=True)
    kept, _ = augmentation.drop_grids(features, torch.tensor([[0.9, 0.01, 0.9]]), torch.tensor([0.9]))
    kept.sum().backward()
    assert features.grad is not None
    assert features.grad[0, :, 0].tolist() == [1, 0, 1]


def test_word_actions_at_their_bounds() -> None:
    uniforms = np.array([0.0, 0.0999, 0.1, 0.1199, 0.12, 0.1999, 0.2, 0.9])
    wanted = [MASK, MASK, REPLACE, REPLACE, DELETE, DELETE, KEEP, KEEP]
    by_definition = [
        (MASK if u / 0.2 < 0.5 else REPLACE if u / 0.2 < 0.6 else DELETE) if u < 0.2 else KEEP
        for u in uniforms
    ]
    assert augmentation.word_actions(uniforms).tolist() == by_definition == wanted


def test_word_action_rates() -> None:
    actions = augmentation.word_actions(np.random.default_rng(0).random(200_000))
    shares = np.bincount(actions, minlength=4) / len(actions)
    np.testing.assert_allclose(shares[[KEEP, MASK, REPLACE, DELETE]], [0.8, 0.1, 0.02, 0.08], atol=0.003)


def test_a_caption_that_would_be_empty_keeps_its_luckiest_token() -> None:
    actions = np.array([DELETE, DELETE, KEEP, DELETE], np.int8)
    kept = augmentation.kept_tokens(actions, np.array([0, 0, 1, 1]), 2, np.array([0.13, 0.19, 0.5, 0.15]))
    assert kept.tolist() == [False, True, True, False]
