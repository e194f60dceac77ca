"""The CLIP stand-in: its pictures, its losses against naive ones, training, the weights file."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from projects.semabs import mini_clip
from projects.semabs import mini_clip_training as training
from projects.semabs.clip_weights import load_clip
from projects.semabs.mini_clip_pictures import IGNORED, Pictures, patch_names
from projects.semabs.mini_names import NAMES, SYNONYMS
from shared.errors import InputError

TINY = {"steps": 2, "batch_size": 6, "sprites": 1, "rooms": 3, "room_side": 64}


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return Pictures(seed=3, sprites=1, rooms=4, room_side=96, side=56, patch=8)


def test_a_batch_holds_what_it_says(pictures: Pictures) -> None:
    batch = pictures.batch(np.random.default_rng(0), 24)
    assert batch.images.shape == (24, 3, 56, 56)
    assert batch.patches.shape == (24, 49)
    assert batch.shown.shape == (24, len(NAMES))
    assert torch.isfinite(batch.images).all()
    named = (batch.patches >= 0) & (batch.patches < len(NAMES))
    assert named.any()
    assert (batch.patches == len(NAMES)).any()
    for picture, patches in enumerate(batch.patches):
        for name in patches[named[picture]].unique():
            assert batch.shown[picture, name], "a quarter of a patch is more than the least that is seen"
    assert batch.pairs
    for picture, first, second in batch.pairs:
        assert batch.shown[picture, first]
        assert batch.shown[picture, second]
    again = pictures.batch(np.random.default_rng(0), 24)
    assert torch.equal(batch.images, again.images)


def test_names_of_patches_against_the_definition() -> None:
    rng = np.random.default_rng(1)
    ids = np.where(rng.random((3, 16, 16)) < 0.6, -1, rng.integers(0, 3, (3, 16, 16)))
    ids[0, :8, :8] = -1
    found = patch_names(ids, 8)
    for picture in range(3):
        for row in range(2):
            for column in range(2):
                cell = ids[picture, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].ravel()
                counts = [(cell == name).sum() for name in range(3)]
                if (cell == -1).all():
                    expected = len(NAMES)
                else:
                    expected = int(np.argmax(counts)) if max(counts) >= 16 else IGNORED
                assert found[picture, 2 * row + column] == expected


def test_contrast_against_the_definition() -> None:
    torch.manual_seed(0)
    logits, positive = torch.randn(5, 7), torch.rand(5, 7) < 0.3
    positive[2] = False
    positive[:, 4] = False

    def one_way(scores: torch.Tensor, fits: torch.Tensor) -> float:
        rows = []
        for row, fit in zip(scores, fits, strict=True):
            if fit.any():
                rows.append(float(-row.log_softmax(0)[fit].mean()))
        return sum(rows) / len(rows)

    expected = one_way(logits, positive) + 0.3 * one_way(logits.T, positive.T)
    assert float(training.contrast(logits, positive)) == pytest.approx(expected, rel=1e-5)
    assert float(training.contrast(logits, torch.zeros(5, 7, dtype=torch.bool))) == 0


def test_captions_do_not_tell_which_patch_shows_what(pictures: Pictures) -> None:
    batch = pictures.batch(np.random.default_rng(0), 8)
    logits = torch.randn(8, 49, len(NAMES) + 1)
    turned = logits[:, torch.randperm(49)]
    captions = [float(training.region_loss(one, batch, "captions")) for one in (logits, turned)]
    names = [float(training.region_loss(one, batch, "names")) for one in (logits, turned)]
    assert captions[0] == pytest.approx(captions[1], rel=1e-5)
    assert names[0] != pytest.approx(names[1], rel=1e-3)
    expected = F.cross_entropy(logits.reshape(-1, len(NAMES) + 1), batch.patches.reshape(-1))
    assert names[0] == pytest.approx(float(expected), rel=1e-5)


def test_made_once_and_read_again(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.random.get_rng_state()
    steps: list[int] = []
    path = mini_clip.ensure(tmp_path, **TINY, after_step=lambda done: steps.append(done.step))
    assert steps == [1, 2]
    assert torch.equal(torch.random.get_rng_state(), state)
    clip = load_clip(str(path))
    assert clip.image_size == 56
    texts = [*NAMES, *SYNONYMS.values(), "tv on the left of a plant in a pot"]
    features = clip.model.encode_text(clip.tokenizer(texts))
    assert features.shape == (len(texts), 64)
    assert len(torch.unique(features.round(decimals=4), dim=0)) == len(texts), "every word is known"
    monkeypatch.setattr(mini_clip, "_trained", lambda *_: pytest.fail("trained again"))
    assert mini_clip.ensure(tmp_path) == path
    with pytest.raises(InputError, match="regions is 'names', expected 'captions'"):
        mini_clip.ensure(tmp_path, regions="captions")


def test_training_lowers_the_loss_and_is_repeatable(pictures: Pictures) -> None:
    losses: list[list[float]] = []
    for _ in range(2):
        tokenizer = mini_clip.WordTokenizer(mini_clip.words(), context=32)
        torch.manual_seed(0)
        model = mini_clip.build_clip(**mini_clip.SIZES, vocabulary=tokenizer.vocabulary)
        found: list[float] = []
        training.train(
            model, tokenizer, pictures, steps=12, batch_size=16, seed=0,
            after_step=lambda done, found=found: found.append(done.loss),
        )  # fmt: skip
        losses.append(found)
    assert losses[0] == losses[1]
    assert np.mean(losses[0][-3:]) < losses[0][0] - 0.5


def test_an_unknown_kind_of_regions_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"clip.regions: expected one of names, captions, found 'masks'"):
        mini_clip.ensure(tmp_path, **TINY, regions="masks")
    assert not mini_clip.weights_path(tmp_path).exists()
