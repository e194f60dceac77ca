"""Recipes as text: the layout, names of files, looking them up, and the command."""

import subprocess
import sys
from pathlib import Path

import pytest

from projects.xmrs import recipe1m, recipe_text
from projects.xmrs.recipe1m import Recipe
from projects.xmrs.recipe_saving import save_recipe
from shared.errors import InputError
from tests.xmrs.corpus_files import write_corpus

ENTRY = Path(__file__).resolve().parents[2] / "projects" / "xmrs" / "recipe_info.py"


def recipe(title: str) -> Recipe:
    return Recipe("0123456789", title, ["1 cup rice", ""], ["Boil.", "", "Serve."], "test", "u")


def test_the_text() -> None:
    assert recipe_text.as_text(recipe("Rice")).splitlines() == [
        "Rice", "Ingredients:", " - 1 cup rice", " - ", "Instructions:", " - 1 Boil.", " - 2 ", " - 3 Serve.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("title", "stem"),
    [
        ("Mom's <best> cake?", "0123456789-Mom's_best_cake"),
        ("../../etc/passwd", "0123456789-etcpasswd"),
        ('a.b/c\\d*e"f:g?h|i<j>k', "0123456789-abcdefghijk"),
        ("two\nlines\tand\0nothing\x7f", "0123456789-two_lines_and_nothing_"),
        ("", "0123456789-"),
    ],
)
def test_names_of_files(title: str, stem: str, tmp_path: Path) -> None:
    assert recipe_text.file_stem(recipe(title)) == stem
    assert recipe_text.id_of_file(f"some/folder/{stem}.jpg") == "0123456789"
    (tmp_path / f"{stem}.jpg").touch()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("title", ["x" * 400, "米飯" * 200, "é" * 300, "\U0001f600" * 100])
def test_long_titles_fit_into_a_name(title: str, tmp_path: Path) -> None:
    stem = recipe_text.file_stem(recipe(title))
    assert 190 <= len(stem.encode()) <= 200
    assert title.startswith(stem.removeprefix("0123456789-"))
    (tmp_path / f"{stem}.jpeg.part").touch()


def test_recipes_are_found_in_the_order_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = write_corpus(tmp_path, 12)
    wanted = [listed[7].id, listed[2].id, listed[7].id]
    found = recipe_text.find_recipes(tmp_path, wanted, "ru")
    assert [one.id for one in found] == wanted
    assert found[0].title == f"{listed[7].title} ru"
    images = recipe_text.find_images(tmp_path, [*wanted, "unknown"])
    assert images["unknown"] == []
    assert dict(recipe1m.stream_images(tmp_path / "layer2.json"))[listed[2].id] == images[listed[2].id]
    with pytest.raises(InputError, match=r"layer1\.json: no recipe 'aaaaaaaaaa' and 1 others"):
        recipe_text.find_recipes(tmp_path, ["b" * 10, "a" * 10, wanted[0]])
    with open(tmp_path / "layer1.json", "a") as file:
        file.write("broken")  # behind what is looked for: the file is read as far as needed
    assert recipe_text.find_recipes(tmp_path, [listed[0].id])[0] == listed[0]


def test_saving_with_and_without_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "p.JPG"
    picture.write_bytes(b"jpeg")
    text = save_recipe(tmp_path / "out", recipe("Rice"), [tmp_path / "none.jpg", picture])
    assert text.read_text() == recipe_text.as_text(recipe("Rice"))
    assert text.with_suffix(".jpg").read_bytes() == b"jpeg"
    text = save_recipe(tmp_path / "out2", recipe("Rice"), [tmp_path / "none.jpg"])
    assert [path.name for path in (tmp_path / "out2").iterdir()] == ["0123456789-Rice.txt"]


def test_the_command(tmp_path: Path) -> None:
    listed = write_corpus(tmp_path, 9)
    images = dict(recipe1m.stream_images(tmp_path / "layer2.json"))
    first = recipe1m.image_path(tmp_path / "images", listed[5].partition, images[listed[5].id][0])
    first.parent.mkdir(parents=True)
    first.write_bytes(b"jpeg")
    own = [f"data.root={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}", "data=recipe1m", "language=de"]

    def run(*overrides: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ENTRY), *own, *overrides]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = run(f"recipes=[{listed[5].id},{listed[3].id}-any_title.jpg]", "save=shown")
    assert done.returncode == 0, done.stderr
    assert f"{listed[5].id} (test) u5\n{listed[5].title} de\nIngredients:\n" in done.stdout
    assert f"{first}\n" in done.stdout
    assert "(no such file)" in done.stdout
    names = sorted(path.suffix for path in (tmp_path / "shown").iterdir())
    assert names == [".jpg", ".txt", ".txt"]
    done = run("recipes=[ffffffffff]")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: {tmp_path}/layer1_de.json: no recipe 'ffffffffff'")
