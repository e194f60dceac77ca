"""Distillation: rules on small trees, agreement with the released labels, the choice of concepts, the splits."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from projects.babel import agreement, vocabulary
from projects.babel.concept_words import WORDS, ConceptWords, english_forms
from projects.babel.concepts import CONCEPTS
from projects.babel.correspondence import Correspondence
from projects.babel.distillation import Tally, distil, labels_of
from projects.babel.graph import image_graph
from projects.babel.split_drawing import draw
from projects.babel.splits import Row, landmark_of, read_split, write_split
from projects.babel.tree import Picture
from shared.errors import InputError

AuthorData = Callable[[str], Path]
ENGLISH = ConceptWords()
TRAIN = "babel/train_10classes_20639_63landmark_balanced.txt"
VAL = "babel/val_10classes_20639_7landmark.txt"


def picture(name: str, *categories: str, caption: str = "", language: str | None = None) -> Picture:
    """`name` is <landmark>/<file>."""
    landmark, file = name.split("/")
    properties = (language,) if language else ()
    path = f"WikiScenes/cathedrals/{landmark}/{'/'.join('0' for _ in categories)}/pictures/{file}"
    return Picture(path, landmark, caption, "", properties, categories)


@pytest.mark.parametrize(
    ("categories", "caption", "labels", "source"),
    [
        (("Exterior of X", "Portals of X"), "the tower", ("portal",), "leaf"),
        (("Exterior of X",), "the tower and a window", ("tower",), "caption"),
        (("Facades of X", "Details"), "a lion", ("facade",), "ancestor"),
        (("Towers of X", "Facades of X", "Details"), "", ("facade", "tower"), "ancestor"),
        (("Chapels of X", "Saint Anne"), "its altar", ("altar", "chapel"), "caption"),
        (("Chapels of X", "Statues in the chapel"), "", ("statue", "chapel"), "leaf"),
        (("Windows of X", "Windows of the chapel"), "in the chapel", ("window", "chapel"), "leaf"),
        (("Interior of X",), "organist with navel, towering, windowsill", (), ""),
        ((), "the tower", ("tower",), "caption"),
        (("TOWERS",), "", ("tower",), "leaf"),
    ],
)
def test_the_rules(categories: tuple[str, ...], caption: str, labels: tuple[str, ...], source: str) -> None:
    assert labels_of(categories, caption, ENGLISH) == (labels, source)


def test_captions_are_read_in_their_own_language() -> None:
    """The property decides: "tours" are towers in French alone, and an unknown language is read as English."""
    caption = "Les tours et les vitraux"
    assert labels_of(("Exterior",), caption, ENGLISH, "fr") == (("tower",), "caption")
    assert labels_of(("Exterior",), caption, ENGLISH) == ((), "")
    assert labels_of(("Exterior",), caption, ENGLISH, "en") == ((), "")
    assert labels_of(("Exterior",), "Das Südportal", ENGLISH, "de") == (("portal",), "caption")
    assert labels_of(("Exterior",), "Das Südportal", ENGLISH, "xx") == ((), "")
    assert labels_of(("Exterior",), caption, ConceptWords(languages=()), "fr") == ((), "")
    assert ENGLISH.mentions("Fac\u0327ade", "fr") == ["facade"]  # the accent as a character of its own
    assert ENGLISH.mentions("altar with a statue", "es") == ["altar", "statue"]  # English words count as well


def test_every_language_names_every_concept() -> None:
    for language, words in WORDS.items():
        assert set(words) == set(CONCEPTS), language
    told = {
        "fr": "les chœurs", "de": "Hochaltäre", "es": "vidrieras", "it": "facciate", "nl": "kapellen",
        "pt": "órgãos", "ca": "capelles", "pl": "wieża", "ru": "башня", "sv": "fönstret",
    }  # fmt: skip
    expected = ["choir", "altar", "window", "facade", "chapel", "organ", "chapel", "tower", "tower", "window"]
    assert [ENGLISH.mentions(text, language) for language, text in told.items()] == [
        [one] for one in expected
    ]


def test_plurals_and_other_concepts() -> None:
    words = ConceptWords(["minaret", "gallery", "arch"])
    assert words.mentions("Galleries, arches and a minaret") == ["gallery", "arch", "minaret"]
    assert words.mentions("archive") == []
    assert words.mentions("la torre", "es") == []
    assert english_forms("Tower") == "towers?"


def test_a_tree_becomes_rows_and_what_is_left_out_is_counted() -> None:
    tally = Tally()
    pictures = [
        picture("0/a.jpg", "Towers of A", caption="one: two\nthree"),
        picture("0/a.jpg", "Portals of A", caption="the same picture again"),
        picture("1/a.jpg", "Portals of B", "Details"),
        picture("1/b.jpg", "Details"),
        picture("1/c.jpg", caption="a tower, in no category"),
        picture("1/d:e.jpg", "Towers"),
    ]
    rows = list(distil(pictures, ENGLISH, tally))
    assert [(row.path[22:], row.labels) for row in rows] == [
        ("0/0/pictures/a.jpg", ("tower",)),
        ("1/0/0/pictures/a.jpg", ("portal",)),
    ]
    assert rows[1].tags == "Portals of B, Details"
    assert tally.summary() == {
        "pictures": 6,
        "class from the leaf": 1,
        "class from the caption": 0,
        "class from the ancestor": 1,
        "left out: a colon or a line break in the path": 1,
        "left out: in another category already": 1,
        "left out: in no category below the landmark": 1,
        "left out: no concept named": 1,
    }


def test_agreement_with_the_released_files(author_data: AuthorData) -> None:
    """Rates on the 10,613 released rows whose categories a split file still tells; captions are cut there."""
    train, val = (read_split(author_data(name)) for name in (TRAIN, VAL))
    rates = [
        agreement.compare(rows, agreement.relabel(agreement.pictures_of(rows), ENGLISH))
        for rows in (train, val)
    ]
    assert rates[0].classes > 0.975
    assert rates[0].label_sets > 0.975
    assert rates[1].classes > 0.985
    assert rates[1].label_sets > 0.99
    both = [*train, *val]
    pictures = agreement.pictures_of(both)
    labelled = agreement.relabel(pictures, ENGLISH)
    whole = agreement.compare(both, labelled)
    assert whole.missing < 0.015 * whole.rows  # no source among the 100 characters that are kept
    assert whole.classes + whole.missing / whole.rows > 0.992
    # rule by rule, as the released files show them
    rules: dict[str, Counter[bool]] = {}
    for row, one in zip(both, pictures, strict=True):
        labels, source = labels_of(one.categories, one.caption, ENGLISH)
        if source == "leaf":
            leaf, told = ENGLISH.mentions(one.categories[-1]), ENGLISH.mentions(one.caption)
            if len(leaf) > 1:
                source = "leaf with several"
            elif told:
                source = "leaf and caption agree" if leaf[0] in told else "leaf against caption"
        rules.setdefault(source, Counter())[labels[:1] == row.labels[:1]] += 1
    shares = {source: (count[True] / count.total(), count.total()) for source, count in rules.items()}
    for source, (least, rows_at_least) in {
        "leaf": (0.999, 6000),
        "leaf and caption agree": (0.995, 1500),
        "leaf against caption": (0.89, 250),
        "leaf with several": (0.8, 50),
        "caption": (0.985, 1500),
    }.items():
        assert shares[source][0] > least, (source, shares[source])
        assert shares[source][1] > rows_at_least, (source, shares[source])


def test_a_released_split_distilled_and_written_is_readable(author_data: AuthorData, tmp_path: Path) -> None:
    rows = read_split(author_data(VAL))
    ours = [row for row in agreement.relabel(agreement.pictures_of(rows), ENGLISH) if row.labels]
    write_split(tmp_path / "val.txt", ours)
    again = read_split(tmp_path / "val.txt")
    assert [row.path for row in again] == [row.path for row in ours]
    assert agreement.compare(rows, again).classes > 0.985


def test_names_with_commas_are_told_apart() -> None:
    """By the number of folders, by other rows of the same folder, by parts that come again."""
    base = "WikiScenes/cathedrals/4"
    rows = [
        Row(f"{base}/0/pictures/a.jpg", ("nave",), "", "Interior of X, Y"),
        Row(f"{base}/0/1/pictures/b.jpg", ("nave",), "", "Interior of X, Y, Nave, West"),
        Row(f"{base}/2/3/pictures/c.jpg", ("nave",), "", "Outside, Towers of X, Y"),
        Row(f"{base}/2/3/5/pictures/d.jpg", ("nave",), "", "Outside, Towers of X, Y, Y, Top"),
        Row(f"{base}/2/pictures/e.jpg", ("nave",), "", "Outside"),
        Row(f"{base}/7/8/pictures/f.jpg", ("nave",), "", "Z, exterior, Z, portals"),
    ]
    assert [one.categories for one in agreement.pictures_of(rows)] == [
        ("Interior of X, Y",),
        ("Interior of X, Y", "Nave, West"),
        ("Outside", "Towers of X, Y"),
        ("Outside", "Towers of X, Y", "Y, Top"),
        ("Outside",),
        ("Z, exterior", "Z, portals"),
    ]


def test_agreement_counts_what_it_says() -> None:
    released = [Row(f"WikiScenes/c/0/pictures/{n}", labels, "", "") for n, labels in enumerate(
        [("nave",), ("nave", "altar"), ("altar", "nave"), ("tower",)]
    )]  # fmt: skip
    ours = [
        Row(row.path, labels, "", "")
        for row, labels in zip(released, [("nave",), ("altar", "nave"), ("altar", "nave")], strict=False)
    ]
    found = agreement.compare(released, ours)
    assert (found.classes, found.label_sets, found.label_lists, found.missing) == (0.5, 0.75, 0.5, 1)
    assert found.wrong == {("nave", "altar"): 1, ("tower", "none"): 1}
    assert found.summary()["class"] == 50


# --- which words become concepts


def test_the_ten_concepts_are_the_words_of_most_landmarks(author_data: AuthorData) -> None:
    """Of all words of the released leaf names, the ten that most landmarks share are the released concepts."""
    rows = [row for name in (TRAIN, VAL) for row in read_split(author_data(name))]
    pictures = agreement.pictures_of(rows)
    found = vocabulary.find_candidates(pictures)
    choice = vocabulary.Choice(min_landmarks=0.15)
    chosen = vocabulary.choose(found, choice, num_landmarks=len({one.landmark for one in pictures}))
    assert {one.word for one in chosen if one.kept} == set(CONCEPTS)
    assert {one.word for one in found[:10]} == set(CONCEPTS)


def test_words_are_nouns_in_the_singular() -> None:
    assert (
        vocabulary.nouns("North Towers, galleries & arches of St. Mary's Cathedral (2)")
        == {
            "tower",
            "gallery",
            "arch",
            "mary",
        }
        - vocabulary._OTHER_WORDS
    )
    assert [vocabulary.singular(word) for word in ("crosses", "apses", "glass", "chassis", "altar", "ties")] == [
        "cross", "apse", "glass", "chassis", "altar", "tie",
    ]  # fmt: skip


def test_a_word_must_be_shared_frequent_and_hang_together(tmp_path: Path) -> None:
    """Towers see the same points as towers; "banana" pictures see those of others; "zebra" is in one landmark."""
    pictures, content = [], {}
    for landmark in range(4):
        for number in range(6):
            word = ("Towers", "Bananas")[number % 2]
            one = picture(f"{landmark}/{number}.jpg", word if landmark < 3 else "Zebras", caption="a tower")
            pictures.append(one)
            # towers of a landmark share points; a banana shares its points with a tower only
            group = 0 if number % 2 == 0 else number
            seen = [*range(100 * group, 100 * group + 12)] + ([*range(12)] if number % 2 else [])
            content[one.path[22:]] = {f"{landmark}_{point}": [0.5, 0.5] for point in seen}
    path = tmp_path / "correspondence.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    points = Correspondence.open(path, silent=True)
    graph = image_graph(points, points.indices_of([one.path[22:] for one in pictures]))
    found = {one.word: one for one in vocabulary.find_candidates(pictures, graph)}
    assert (found["tower"].landmarks, found["tower"].pictures, found["tower"].captions) == (3, 9, 9)
    tower, banana = found["tower"].coherence, found["banana"].coherence
    assert tower is not None
    assert banana is not None
    assert tower == pytest.approx(2 / 5)  # of five neighbours two are towers
    assert banana == pytest.approx(2 / 5)
    assert found["zebra"].coherence is None

    def kept(**settings: float) -> list[str]:
        base = {"min_landmarks": 0.5, "min_pictures": 5, "min_coherence": 0.3}
        choice = vocabulary.Choice(**(base | settings))  # type: ignore[arg-type]
        every = vocabulary.choose(found.values(), choice, num_landmarks=4)
        return [one.word for one in every if one.kept]

    assert kept() == ["banana", "tower"]
    assert kept(min_coherence=0.5) == []
    assert kept(min_pictures=10) == []
    assert kept(size=1) == ["banana"]
    assert kept(min_landmarks=0.9) == []


# --- which picture goes where


def rows_of(landmarks: int, per_landmark: int) -> list[Row]:
    return [
        Row(f"WikiScenes/cathedrals/{n}/0/pictures/{k}.jpg", (CONCEPTS[k % 3],), "", "x")
        for n in range(landmarks)
        for k in range(per_landmark)
    ]


def test_landmarks_are_held_out_whole_and_classes_are_capped() -> None:
    rows = rows_of(10, 60)
    drawn = draw(rows, unseen=["3", 7], per_concept=100, easy_share=0.1, seed=1)
    assert {landmark_of(row.path) for row in drawn.val} == {"3", "7"}
    assert len(drawn.val) == 120
    known = [*drawn.train, *drawn.val_easy]
    assert Counter(row.labels[0] for row in known) == {"facade": 100, "window": 100, "chapel": 100}
    assert len(drawn.val_easy) == 30
    assert not {row.path for row in drawn.train} & {row.path for row in drawn.val_easy}
    assert not {"3", "7"} & {landmark_of(row.path) for row in known}
    assert draw(rows, unseen=["3", 7], per_concept=100, easy_share=0.1, seed=1) == drawn
    assert draw(rows, unseen=["3", 7], per_concept=100, easy_share=0.1, seed=2) != drawn


def test_drawn_landmarks_and_none() -> None:
    rows = rows_of(10, 6)
    drawn = draw(rows, unseen=4, per_concept=None, easy_share=0)
    assert len(drawn.unseen) == len({landmark_of(row.path) for row in drawn.val}) == 4
    assert len(drawn.train) == 36
    assert not drawn.val_easy
    assert not draw(rows, unseen=0).val
    for unseen, says in ((10, "expected 0 to 9"), (["12"], "landmark '12'"), ([*range(10)], "none is left")):
        with pytest.raises(InputError, match=says):
            draw(rows, unseen=unseen)
