"""Which text is read: the released probabilities, the parts, the ids."""

from collections import Counter

import numpy as np
import pytest

from projects.xmrs import text_draws
from projects.xmrs.text_draws import TextAugmentation, parse_augmentation, parse_parts
from shared.data import item_generator
from shared.errors import InputError

ROW = np.array([101, 11, 12, 21, 22, 23, 31, 32, 33, 34], np.int32)
LENGTHS = np.array([2, 3, 4], np.int32)
NONE = TextAugmentation()
DRAWS = 24_000


def shares(sources: str, original: int = 0) -> np.ndarray:
    """How often each row is drawn."""
    augmentation = parse_augmentation(sources)
    rng = item_generator(0, 0, 0)
    choose = text_draws.chooser(rng)
    rows = [text_draws.draw_row(choose, augmentation, original) for _ in range(DRAWS)]
    found: np.ndarray = np.bincount(rows, minlength=6) / DRAWS
    return found


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ("english,de,ru,fr", [1 / 4, 1 / 8, 1 / 8, 1 / 6, 1 / 6, 1 / 6]),
        ("english", [1 / 2, 1 / 4, 1 / 4, 0, 0, 0]),
        ("de,ru,fr", [1 / 2, 0, 0, 1 / 6, 1 / 6, 1 / 6]),
        ("english,de", [1 / 4, 1 / 8, 1 / 8, 1 / 2, 0, 0]),
        ("ru", [1 / 2, 0, 0, 0, 1 / 2, 0]),
        ("", [1, 0, 0, 0, 0, 0]),
    ],
)
def test_rows_have_the_released_probabilities(sources: str, expected: list[float]) -> None:
    found = shares(sources)
    assert np.abs(found - expected).max() < 0.012
    assert [share > 0 for share in found] == [share > 0 for share in expected]


def test_without_augmentation_the_row_is_the_sets_language() -> None:
    assert shares("", original=4)[4] == 1


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ("title,ingr,inst", ROW.tolist()),
        ("title", [101, 11, 12]),
        ("ingr", [101, 21, 22, 23]),
        ("inst", [101, 31, 32, 33, 34]),
        ("inst,title", [101, 11, 12, 31, 32, 33, 34]),
        ("ingr,inst", [101, 21, 22, 23, 31, 32, 33, 34]),
    ],
)
def test_parts_are_chosen_in_their_order(parts: str, expected: list[int]) -> None:
    kept = parse_parts(parts)
    assert text_draws.evaluation_ids(ROW, LENGTHS, kept).tolist() == [*expected, 102]
    rng = item_generator(0, 0, 0)
    assert text_draws.training_ids(ROW, LENGTHS, kept, rng, NONE).tolist() == expected, "no [SEP] in training"
    with_separator = text_draws.training_ids(ROW, LENGTHS, kept, rng, NONE, separator=True)
    assert with_separator.tolist() == [*expected, 102]
    assert ROW.tolist() == [101, 11, 12, 21, 22, 23, 31, 32, 33, 34], "the stored row is not changed"


@pytest.mark.parametrize(
    ("max_tokens", "expected"),
    [
        (12, [*ROW, 102]),
        (11, [*ROW, 102]),
        (10, [*ROW[:9], 102]),
        (9, [*ROW[:8], 102]),
        (2, [101, 102]),
    ],
)
def test_a_full_text_ends_in_the_separator(max_tokens: int, expected: list[int]) -> None:
    kept = parse_parts("title,ingr,inst")
    assert text_draws.evaluation_ids(ROW, LENGTHS, kept, max_tokens=max_tokens).tolist() == expected
    found = text_draws.training_ids(ROW, LENGTHS, kept, item_generator(0, 0, 0), NONE, max_tokens=max_tokens)
    assert found.tolist() == ROW[:max_tokens].tolist()


def test_a_cut_row_has_only_the_tokens_that_are_there() -> None:
    """A recipe of more than 512 tokens is stored cut, with the parts' lengths as far as they are there."""
    row, lengths = ROW[:5], np.array([2, 2, 0])
    assert text_draws.evaluation_ids(row, lengths, ("inst",)).tolist() == [101, 102]
    assert text_draws.evaluation_ids(row, lengths, ("title", "inst")).tolist() == [101, 11, 12, 102]


def test_parts_are_drawn_from_the_seven_subsets() -> None:
    augmentation = parse_augmentation("textinput")
    rng = item_generator(0, 0, 0)
    texts = Counter(
        tuple(text_draws.training_ids(ROW, LENGTHS, ("title",), rng, augmentation).tolist())
        for _ in range(7_000)
    )
    assert len(texts) == 7
    assert all(abs(count - 1000) < 120 for count in texts.values())
    assert tuple(ROW.tolist()) in texts, "whatever text_inputs says"


def test_masks_hit_up_to_a_quarter_of_the_tokens() -> None:
    """The number is uniform below a quarter of the length, places may repeat, [CLS] may be hit."""
    augmentation = parse_augmentation(["mask"])
    row = np.arange(1000, 1024, dtype=np.int32)
    lengths = np.array([23, 0, 0])
    rng = item_generator(0, 0, 0)
    every = ("title", "ingr", "inst")
    found = np.array(
        [text_draws.training_ids(row, lengths, every, rng, augmentation) == 103 for _ in range(6_000)]
    )
    counts = np.bincount(found.sum(1), minlength=6)
    assert found.sum(1).max() == 5
    assert abs(counts[0] / 6_000 - 1 / 6) < 0.02
    assert (found.mean(0) > 0.05).all(), "each place, [CLS] among them"
    mean = np.mean([24 * (1 - (23 / 24) ** k) for k in range(6)])
    assert abs(found.sum(1).mean() - mean) < 0.1


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_text_too_short_to_mask_stays_as_it_is(length: int) -> None:
    augmentation = parse_augmentation("mask")
    row, lengths = ROW[:length], np.array([length - 1, 0, 0])
    found = text_draws.training_ids(
        row, lengths, ("title", "ingr", "inst"), item_generator(0, 0, 0), augmentation
    )
    assert found.tolist() == row.tolist()


def test_names_are_lists_or_comma_texts() -> None:
    assert parse_parts("inst, title") == parse_parts(["title", "inst"]) == ("title", "inst")
    assert parse_augmentation("de,english") == parse_augmentation(["english", "de"])
    assert parse_augmentation([]) == parse_augmentation("") == NONE
    assert parse_augmentation("english,de,ru,fr,textinput,mask") == TextAugmentation(
        True, (3, 4, 5), True, True
    )


def test_wrong_names_are_refused() -> None:
    with pytest.raises(
        InputError, match="text_inputs: expected some of title, ingr, inst, found 'ingredients'"
    ):
        parse_parts(["title", "ingredients"])
    with pytest.raises(InputError, match="text_inputs: expected at least one"):
        parse_parts("")
    with pytest.raises(InputError, match=r"text_augmentation: .*found 'ko'"):
        parse_augmentation("english,ko")


def test_the_legacy_draws_are_numpys_calls_in_the_released_order() -> None:
    """Image, back-translation, English or that, translation, the one or the other."""
    random, again = np.random.RandomState(5), np.random.RandomState(5)
    augmentation = parse_augmentation("english,de,ru,fr")
    for _ in range(50):
        image = again.choice(4)
        back = again.choice([1, 2])
        english = again.choice([0, back])
        language = again.choice([3, 4, 5])
        expected = int(image), int(again.choice([english, language]))
        assert text_draws.legacy_draws(random, 4, 5, augmentation) == expected
