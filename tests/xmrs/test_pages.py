"""Pages of answers: everything escaped, nothing from outside, as many queries as fit."""

from pathlib import Path

import numpy as np
from PIL import Image

from projects.xmrs import pages
from projects.xmrs.attention import Weighed
from projects.xmrs.inference import Answer, Match, mark_pairs, nearest
from projects.xmrs.pages import Searched
from projects.xmrs.recipe1m import Recipe
from projects.xmrs.sources import Pictures, Texts, UserRecipes
from projects.xmrs.tokens import Tokenizer
from projects.xmrs.words import Word
from shared.files import read_json
from tests.xmrs.retrieval_runs import Page
from tests.xmrs.test_user_recipes import PIECES

RUDE = "<script>alert(1)</script> \x1b[31m & \"'"
ODD_NAME = "<img src=x onerror=y>\n.png"


def searched(folder: Path, queries: int = 2, **changes: object) -> Searched:
    """Two pictures, of which one is gone by now, and two recipes with rude texts."""
    Image.new("RGB", (300, 200), "red").save(folder / ODD_NAME)
    sources = Pictures(folder, [ODD_NAME, "gone.png"], side=32, resize=36)
    recipes = [
        Recipe("a", RUDE, [RUDE, *"abcdefghijklmno"], [RUDE], "", ""),
        Recipe(RUDE, "", ["salt"], [], "", ""),
    ]
    own = UserRecipes(recipes, Tokenizer(PIECES), Texts(("title", "ingr", "inst"), 16))
    answers = [Answer(i % 2, (Match(0, 0.5, i % 2 == 0), Match(1, 0.25, False))) for i in range(queries)]
    weighed = [Weighed((Word(RUDE, 0, 1), Word("salt", 1, 2)), np.array([[[0.75, 0.25]]], np.float32))]
    given = {
        "title": f"Found {RUDE}", "model": RUDE, "pictures": sources, "recipes": own, "asked_recipes": own,
        "asked_pictures": sources, "for_recipes": answers, "for_pictures": answers, "weighed": weighed * queries,
        "synthesised": [np.full((64, 64, 3), i, np.uint8) for i in range(queries)], "skipped": [RUDE],
    }  # fmt: skip
    return Searched(**{**given, **changes})


def test_everything_is_escaped_and_inline(tmp_path: Path) -> None:
    page = pages.write(tmp_path / "out", searched(tmp_path))
    text = page.read_text()
    found = Page(text)  # no script, no handler, no address outside
    assert text.count("&lt;script&gt;") >= 8
    assert "onerror=y&gt;" in text
    # of the picture that is there: as a match of 2 recipes and as a query; 2 synthesised ones
    assert found.images == 2 + 1 + 2
    assert "Pictures for recipes" in found.text
    assert "Recipes for pictures" in found.text
    assert "…" in found.text  # a long list of ingredients is cut
    assert "green frame" in found.text
    assert text.count('class="right"') == 1
    assert text.count('class="wide right"') == 1
    assert 'style="background: rgba(214, 69, 65, 0.750)" title="0.7500"' in text
    assert "rgba(214, 69, 65, 0.250)" in text
    for i in (1, 2):
        assert Image.open(tmp_path / "out" / "synthesised" / f"00{i}.jpg").size == (64, 64)


def test_json_and_text_say_the_same(tmp_path: Path) -> None:
    found = searched(tmp_path)
    pages.write(tmp_path / "out", found)
    data = read_json(tmp_path / "out" / "results.json")
    assert data == pages.as_data(found)
    first = data["pictures_for_recipes"][0]
    assert first["query"] == {"recipe": "a", "title": RUDE}
    assert [m["score"] for m in first["matches"]] == [0.5, 0.25]
    assert [m["correct"] for m in first["matches"]] == [True, False]
    assert "\n" not in first["matches"][0]["picture"]
    assert first["synthesised"] == "synthesised/001.jpg"
    assert [word["weight"] for word in first["attention"]] == [0.75, 0.25]
    assert data["skipped"] == [RUDE]
    text = pages.as_text(found, attended=True)
    assert "\x1b" not in text
    assert "   1  +0.500 *  " in text
    assert text.count("  attention: ") == 2
    assert "attention" not in pages.as_text(found)
    assert text.count("<script>") == 2 + 2 + 2 + 2  # titles of queries and matches, an id, words


def test_of_many_queries_the_first_are_shown(tmp_path: Path) -> None:
    plain = {"weighed": (), "synthesised": (), "skipped": [f"skipped {i}" for i in range(203)]}
    found = Page(pages.write(tmp_path / "out", searched(tmp_path, 60, **plain)).read_text())
    assert found.images == 50 + 25
    assert "20 more queries are in results.json" in found.text
    assert "skipped 199" in found.text
    assert "skipped 200" not in found.text
    assert "and 3 more" in found.text
    assert "attention" not in found.text
    assert len(read_json(tmp_path / "out" / "results.json")["pictures_for_recipes"]) == 60


def test_the_nearest_items_and_their_marks() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((9, 4)).astype(np.float32)
    items = np.array([40, 10, 30, 20, 50])
    embeddings = rng.standard_normal((5, 4)).astype(np.float32)
    found = mark_pairs(nearest([10, 99], rows[:2], embeddings, 3, items=items))
    for row, query, answer in zip(rows, (10, 99), found, strict=False):
        scores = embeddings @ row
        best = np.argsort(-scores)[:3]
        assert answer.query == query
        assert [m.position for m in answer.matches] == items[best].tolist()
        np.testing.assert_allclose([m.score for m in answer.matches], scores[best], rtol=1e-5)
        assert [m.correct for m in answer.matches] == [items[i] == query for i in best]
