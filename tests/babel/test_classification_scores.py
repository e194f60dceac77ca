"""Classification of images: against the definitions, released tags, concepts without images, bad scores."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from projects.babel.classification_scores import classification_scores
from shared.errors import InputError

NAMES = ("facade", "window", "chapel", "organ")


def drawn(images: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, first labels, all labels."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, len(NAMES), images)
    first[: len(NAMES)] = np.arange(len(NAMES))
    labels = rng.random((images, len(NAMES))) < 0.2
    labels[np.arange(images), first] = True
    scores = np.round(rng.normal(size=labels.shape) + labels, 1)
    return scores, first, labels.astype(np.float32)


@pytest.mark.parametrize("multi_label", [False, True])
def test_every_number_is_its_definition(multi_label: bool) -> None:
    scores, first, labels = drawn()
    found = classification_scores(scores, first, labels, multi_label=multi_label)
    positives = labels > 0 if multi_label else first[:, None] == np.arange(len(NAMES))
    expected = [average_precision_score(positives[:, c], scores[:, c]) for c in range(len(NAMES))]
    np.testing.assert_allclose(found.ap, expected, atol=1e-12)
    assert found.mean_ap == pytest.approx(np.mean(expected))
    best = [max(range(len(NAMES)), key=lambda c: (row[c], -c)) for row in scores]
    right = [b == f for b, f in zip(best, first, strict=True)]
    assert found.acc == pytest.approx(np.mean(right))
    of_class = [np.mean([r for r, f in zip(right, first, strict=True) if f == c]) for c in range(len(NAMES))]
    np.testing.assert_allclose(found.class_acc, of_class)
    assert found.mean_class_acc == pytest.approx(np.mean(of_class))
    assert found.easy_acc == pytest.approx(np.mean([labels[i, b] for i, b in enumerate(best)]))
    tags = found.scalars(NAMES)
    assert tags["03_chapel/AP"] == pytest.approx(expected[2])
    assert ("03_chapel/acc" in tags) is not multi_label
    assert found.metrics(NAMES)["AP"]["organ"] == pytest.approx(expected[3])
    assert "absent" not in found.metrics(NAMES)


def test_a_concept_without_images_is_named_and_not_averaged() -> None:
    scores, first, labels = drawn()
    kept = (first != 1) & (labels[:, 1] == 0)
    found = classification_scores(scores[kept], first[kept], labels[kept])
    numbers = found.metrics(NAMES)
    assert numbers["absent"] == ["window"]
    assert "window" not in numbers["AP"]
    assert numbers["mAP"] == pytest.approx(
        np.mean([numbers["AP"][name] for name in NAMES if name != "window"])
    )
    assert "02_window/AP" not in found.scalars(NAMES)
    assert all(np.isfinite(value) for value in found.scalars(NAMES).values())


def test_what_cannot_be_scored_is_refused() -> None:
    scores, first, labels = drawn()
    with pytest.raises(InputError, match="no image"):
        classification_scores(scores[:0], first[:0], labels[:0])
    scores[7, 2] = np.nan
    with pytest.raises(InputError, match="image 7 are not finite"):
        classification_scores(scores, first, labels)
    with pytest.raises(ValueError, match="first labels"):
        classification_scores(scores, first[1:], labels)
