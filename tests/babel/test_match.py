"""match.py on the tiny embedded set and on photographs."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from projects.babel import match, match_pages, matching
from projects.babel.correspondence import Correspondence
from projects.babel.graph import image_graph
from projects.babel.masks import write_picture
from projects.babel.photo_matching import corners
from projects.babel.splits import image_id, read_split
from shared.files import read_image
from tests.babel import inference_runs
from tests.babel.inference_runs import assert_one_line, results

Inside = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, mini_root: Path) -> Path:
    return inference_runs.write_run(tmp_path_factory.mktemp("match") / "tiny", mini_root)


@pytest.fixture
def inside(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, run_folder: Path
) -> Inside:
    def call(*overrides: str) -> tuple[int, str, str]:
        given = (f"model={run_folder}", "workers=0", *overrides)
        return inference_runs.inside(match, monkeypatch, capsys, tmp_path, *given)

    return call


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two windows of one picture, the second moved by (12, 20) pixels; a picture of one colour in a folder apart."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(0, 256, (20, 24, 3), np.uint8), (192, 160), interpolation=cv2.INTER_CUBIC)
    write_picture(folder / "a.png", wall[:128, :160])
    write_picture(folder / "b <i>.png", wall[12:140, 20:180])
    write_picture(folder / "flat/c.png", np.full((60, 60, 3), 99, np.uint8))
    return folder


def test_a_split_as_a_user_runs_it(tmp_path: Path, mini_root: Path, run_folder: Path) -> None:
    done = inference_runs.run(
        "match.py", tmp_path, f"model={run_folder}", "layers=[decoder,conv3]", "workers=1"
    )
    assert done.returncode == 0, done.stderr
    found = results(tmp_path)
    table = found["metrics"]["matching"]
    assert list(table) == ["decoder", "conv3"]
    rows = read_split(mini_root / "val.txt", inference_runs.config.section(
        inference_runs.config.compose(inference_runs.PROJECT, "match", ["data=mini"]).data)["concepts"])  # fmt: skip
    correspondence = Correspondence.open(mini_root / "correspondence.json", silent=True)
    images = correspondence.indices_of([image_id(row.path) for row in rows])
    pairs = matching.choose_pairs(correspondence, image_graph(correspondence, images, 10), images)
    for scores in table.values():
        assert scores["pairs"] == len(pairs) > 3
        assert scores["points"] == len(pairs.points)
        assert 0 <= scores["r1"] <= 100
        assert scores["pck_chance"] < scores["pck"], "even random features follow the picture"
        assert f"{scores['r1']:5.1f} %" in done.stdout
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("<section") == min(6, len(pairs))
    assert page.count('class="right"') + page.count('class="wrong"') == 6 * 5, "6 searches, 5 nearest each"
    assert "http" not in page


def test_photographs(inside: Inside, tmp_path: Path, photos: Path) -> None:
    """Windows of one picture: the matches move by what the window moved."""
    code, out, err = inside(f"photos=[{photos}/a.png,'{photos}/b <i>.png']", "layers=conv3", "size=128")
    assert code == 0, err
    (pair,) = results(tmp_path)["pairs"]
    assert f"{len(pair['matches'])} matches" in out
    moved = np.array([np.subtract(one["second"], one["first"]) * [128, 160] for one in pair["matches"]])
    right = np.abs(moved - [-12, -20]).max(axis=1) <= 4
    assert right[:20].mean() >= 0.7, "the best ones"
    assert right.mean() > 0.4
    similarity = [one["similarity"] for one in pair["matches"]]
    assert similarity == sorted(similarity, reverse=True)
    drawn = read_image(tmp_path / "out" / pair["picture"])
    assert drawn.shape == (320, 2 * 400 + 8, 3)
    page = (tmp_path / "out/index.html").read_text()
    assert "b &lt;i&gt;.png" in page
    assert "<i>" not in page


def test_searches_leave_out_the_query_and_know_the_right_answer() -> None:
    """Point 0 is in images 0, 1, 2; the search from image 0 finds it there and not in itself."""
    pairs = matching.Pairs(
        np.array([0, 0, 1]),
        np.array([1, 2, 0]),
        np.array([0, 2, 4, 5]),
        np.array([0, 1, 0, 2, 0]),
        np.full((5, 4), 0.5, np.float32),
    )
    rows = np.eye(3, dtype=np.float32)[pairs.points]
    pictures = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), np.uint8)
    features = matching.Features(rows, rows)
    cards = list(match_pages.search_cards(features, pairs, lambda row: pictures[row], 5))
    assert len(cards) == 5
    of_first_images = [[one["right"] for one in card["nearest"]] for card in cards]
    assert of_first_images == [
        [True, True, False, False],  # point 0 from image 0: in 1 and 2, then points 1 and 2
        [True, False, False, False],
        [True, True, False, False],
        [True, False, False, False],
        [True, True, False],  # point 0 from image 1: in 2 and 0
    ]


def test_a_drawn_match_goes_from_point_to_point() -> None:
    black, blue = np.zeros((40, 80, 3), np.uint8), np.full((80, 80, 3), (0, 0, 200), np.uint8)
    drawn = match_pages.draw(black, blue, np.array([[0.5, 0.25, 1.5, 0.5]]), np.array([[255, 0, 0]]))
    assert drawn.shape == (320, 640 + 8 + 320, 3)
    assert drawn[160, 160].tolist() == [255, 0, 0]
    assert drawn[319, 648 + 160].tolist() == [255, 0, 0], "what lies outside ends at the edge"
    assert drawn[5, 645].tolist() == [255, 255, 255]
    assert drawn[5, 960].tolist() == [0, 0, 200]


def test_a_patch_is_around_its_point() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[:50] = 255
    cut = match_pages.patch(picture, np.array([0.0, 0.0]))
    assert cut.shape == (128, 128, 3)
    assert (cut[:, 0] == 255).all(), "the edge is repeated"
    low = match_pages.patch(picture, np.array([0.5, 0.5]))
    assert low[10, 10, 0] == 255
    assert low[120, 10, 0] == 0


def test_corners_are_where_the_texture_is() -> None:
    picture = np.zeros((60, 90, 3), np.uint8)
    picture[20:40, 30:50] = 255
    found = corners(picture, 4) * [60, 90]
    assert len(found) == 4
    for row, column in ((20, 30), (20, 50), (40, 30), (40, 50)):
        assert np.abs(found - [row, column]).max(axis=1).min() <= 1.5
    assert corners(np.zeros((9, 9, 3), np.uint8), 5).shape == (0, 2)


def test_mistakes_are_one_line(inside: Inside, tmp_path: Path, photos: Path, mini_root: Path) -> None:
    for overrides, words in (
        ((f"photos={photos}/a.png",), "photos: expected at least two pictures, found 1"),
        ((f"photos=[{photos}/a.png,{photos}/flat]",), "no point with any texture"),
        ((f"photos=[{photos}/a.png,{photos}/none.png]",), "no such file or folder"),
        ((f"photos={photos}", "layers=[fc8,sg]"), "one layer for photographs, found 2"),
        (("scores.candidates=1",), "scores.candidates: expected a whole number, at least 2"),
        (("pairs.points_per_pair=0",), "pairs.points_per_pair: expected a whole number, at least 1"),
        (("scores.within=far",), "scores.within: expected a positive number, found 'far'"),
        (("examples=many",), "examples: expected a whole number, at least 0"),
        (("layers=fc9",), "feature layer: expected one of"),
        (("split=test",), "split: expected one of train, val_easy, dev, val"),
        (("data=mini", f"data.root={mini_root}", "data.graph_threshold=5000"), "share enough points"),
        (("data=mini", f"data.root={mini_root}", "data.correspondence=null"), "data.correspondence: is null"),
        (("model=nowhere",), "no such run folder"),
    ):
        code, _, err = inside(*overrides)
        assert_one_line(code, err, words)
    assert not (tmp_path / "out/results.json").exists()


def test_layers_default_to_that_of_the_loss(inside: Inside, tmp_path: Path) -> None:
    code, _, err = inside("examples=0", "pairs.max_pairs=2", "scores.candidates=16")
    assert code == 0, err
    found = json.loads((tmp_path / "out/results.json").read_text())["metrics"]["matching"]
    assert list(found) == ["decoder"]
    assert (found["decoder"]["pairs"], found["decoder"]["candidates"]) == (2, 16)
