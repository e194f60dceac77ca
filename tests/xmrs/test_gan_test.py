"""gan_test.py: the five steps on disk, controls, distances, the figure; one line for a mistake."""

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from projects.xmrs import (
    decode,
    gan_data,
    gan_evaluation,
    gan_files,
    gan_page,
    gan_testing,
    recipe1m,
    recipe_text,
    synthesis,
)
from projects.xmrs.embeddings import load as load_embeddings
from projects.xmrs.frozen_encoder import FrozenEncoder, features
from projects.xmrs.gan_setup import open_retrieval
from projects.xmrs.recipe1m import Recipe
from tests.xmrs.gan_runs import CPU, DATA, GAN_TEST, MACHINE, run, trained, world

TITLE = 'Soup: <b>of "bands"</b> / no. 1'


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def gan(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(root, tmp_path_factory.mktemp("runs") / "drawer", "optim.learning_rate=5e-3")


@pytest.fixture(scope="module")
def texts(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the layer1.json of the test split."""
    folder = tmp_path_factory.mktemp("recipes")
    ids = recipe1m.read_keys(root / "set" / "loader_data" / "test_keys.pkl")
    recipes = [Recipe(one, TITLE, ["1 band <red>"], ["paint & stack"], "test", "") for one in ids]
    recipe1m.write_recipes(folder / "layer1.json", recipes)
    return folder


def settings(root: Path, gan: Path, *overrides: str) -> list[str]:
    return [*DATA, f"data.root={root / 'set'}", f"generator={gan}", "medr=10", *MACHINE, *overrides]


@pytest.fixture(scope="module")
def tested(root: Path, gan: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A test with everything on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.jit.script(Mean())
    network = tmp_path_factory.mktemp("fid") / "mean.pt"
    program.save(str(network))
    folder = tmp_path_factory.mktemp("tests") / "tested"
    given = settings(
        root, gan, f"recipes={texts}", "controls=true", "full_ranking=true", "collated=5", "grid.recipes=3",
        "grid.samples=2", f"fid.network={network}", "fid.trust_program=true",
    )  # fmt: skip
    finished = run(GAN_TEST, folder, *given)
    assert finished.returncode == 0, finished.stderr[-3000:]
    (folder / "stdout.txt").write_text(finished.stdout)
    return folder


class Mean(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean((2, 3))


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_images_on_disk(root: Path, gan: Path, tested: Path) -> None:
    """Every recipe has its image without noise (the last batch included); the collated ones photo and text."""
    ids = recipe1m.read_keys(root / "set" / "loader_data" / "test_keys.pkl")
    files = {path.stem[:10]: path for path in (tested / "GAN_zero_noise" / "drawer").iterdir()}
    assert sorted(files) == sorted(ids)
    title = recipe_text.file_stem(Recipe(ids[0], TITLE, [], [], "test", ""))[10:]
    assert {path.stem[10:] for path in files.values()} == {title}
    assert not set(title) & set('\\*":?|<>')
    folders = sorted((tested / "GAN_generated_collated").iterdir())
    assert [folder.name[:10] for folder in folders] == sorted(ids[:5])
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {"drawer.jpg", "image.jpg", "full_recipe.txt"}
        assert "1 band <red>" in (folder / "full_recipe.txt").read_text()

    # one image again from the generator: same seed, z = 0, contrast, JPEG
    generator = gan_files.load_generator(gan)
    embedded = load_embeddings(next(tested.glob("foodSpace*_test_0.npz")))
    assert embedded.recipes is not None
    image = synthesis.synthesise(generator, embedded.recipes, seed=0, zero_noise=True)[3]
    expected = gan_evaluation.through_jpeg(decode.to_picture(image))
    found = Image.open(files[embedded.ids[3]])
    assert found.size == (64, 64)
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_embeddings_are_those_of_the_files(root: Path, tested: Path) -> None:
    found = load_embeddings(tested / "GAN_zero_noise_embeddings" / "img_embed.npz", recipes=False)
    assert len(found.ids) == 20
    encoder = FrozenEncoder(open_retrieval(root / "retrieval", CPU).encoder, 32)
    for row in (0, 19):
        (path,) = (tested / "GAN_zero_noise" / "drawer").glob(f"{found.ids[row]}*.jpg")
        pixels = gan_data.resized(Image.open(path), 32)
        expected = features(encoder, pixels[None])[0].numpy()
        np.testing.assert_allclose(found.images[row], expected, atol=1e-5)


def test_numbers(tested: Path) -> None:
    found = result(tested)["metrics"]
    with open(tested / "rank_random_result.csv", newline="") as file:
        rows = {(row["mode"], row["fold"]): row for row in csv.DictReader(file)}
    assert len(rows) == 4 * 11
    for mode in ("fi2t", "t2fi", "fi2i", "i2fi"):
        assert float(rows[mode, "mean"]["R@5"]) == pytest.approx(found[mode]["r5"])
        assert found["full"][mode]["medr"] >= 1
    assert set(json.loads((tested / "best_ranks.json").read_text())) == {"fi2t", "t2fi", "fi2i", "i2fi"}
    assert len((tested / "rank_full_result.csv").read_text().splitlines()) == 21
    splits = json.loads((tested / "GAN_test_splits.json").read_text())["rows"]
    assert np.array(splits).shape == (10, 10)
    for control in ("shuffled", "class_mean"):
        assert 0 <= found[control]["fi2t"]["r1"] <= 1
        assert -1 <= found[control]["cos_recipe"] <= 1
    assert found["shuffled"]["cos_recipe"] != found["cos_recipe"]
    assert found["frechet_image_encoder"] > 0
    assert found["fid"] > 0
    assert found["inception_score"] is None
    printed = (tested / "stdout.txt").read_text()
    for label in ("fi2t", "shuffled fi2t", "class_mean fi2i", "FID"):
        assert label in printed


def test_figure(tested: Path) -> None:
    """A line per recipe: photo, z = 0, two draws of noise; texts of recipes are escaped."""
    sheet = Image.open(tested / gan_page.GRID)
    assert sheet.size == (4 * 68 + 4, 3 * 68 + 4)
    page = (tested / gan_page.PAGE).read_text()
    assert page.count("data:image/jpeg") == 12
    assert "Soup: &lt;b&gt;" in page
    assert "<b>of" not in page
    assert "paint &amp; stack" in page


def test_without_weights_the_reason_is_given(root: Path, gan: Path, tmp_path: Path) -> None:
    """Also: released files, embeddings of the generator's output itself, no texts, no controls."""
    released = tmp_path / "GAN_runs" / "GAN_x"
    released.mkdir(parents=True)
    name = gan_files.find_model(gan, "v1").name
    assert name == "best.pt"
    (source,) = (path for path in gan.glob("model_e*_v1.pkl"))
    (released / source.name).write_bytes(source.read_bytes())
    (released / "training_options.json").write_bytes((gan / "training_options.json").read_bytes())
    folder = tmp_path / "plain"
    given = settings(root, released, "jpeg=false", "collated=0", "recipes=null", f"embeddings={gan}")
    finished = run(GAN_TEST, folder, *given)
    assert finished.returncode == 0, finished.stderr[-3000:]
    found = result(folder)["metrics"]
    assert found["fid"] is None
    assert "fid.network=FILE" in found["fid_note"]
    assert "fid.network=FILE" in finished.stdout
    assert "shuffled" not in found
    assert not (folder / "GAN_generated_collated").exists()
    assert (folder / "GAN_zero_noise" / source.stem).is_dir()
    assert not (folder / "GAN_zero_noise_embeddings").exists()


def test_the_retrieval_run_of_a_released_folder_that_was_moved(gan: Path, tmp_path: Path) -> None:
    """<encoder_dir>/GAN_runs/GAN_<time>/: the options name a folder of another machine."""
    folder = tmp_path / "encoder" / "GAN_runs" / "GAN_20200101-000000"
    folder.mkdir(parents=True)
    (source,) = (path for path in gan.glob("model_e*_v1.pkl"))
    (folder / source.name).write_bytes(source.read_bytes())
    gan_files.write_options(folder, {"encoder_dir": "/home/somebody/runs/20200101__train"})
    assert gan_testing.trained_on(folder) == str(tmp_path / "encoder")
    gan_files.write_options(folder, {"encoder_dir": str(gan)})
    assert gan_testing.trained_on(folder / source.name) == str(gan)


def test_mistakes_end_in_one_line(root: Path, gan: Path, tmp_path: Path) -> None:
    stray = tmp_path / "stray"
    stray.mkdir()
    (source,) = (path for path in gan.glob("model_e*_v1.pkl"))
    (stray / source.name).write_bytes(source.read_bytes())
    mistakes = [
        ([f"generator={tmp_path}/nowhere"], "nowhere: no such file or run folder of gan_train.py"),
        ([f"generator={stray}"], "nothing beside it names its retrieval run: set encoder="),
        (["medr=21"], "medr: subsets of 21 pairs asked for, but there are only 20 pairs"),
        (["medr=0"], "medr: expected a whole number, at least 1, found 0"),
        (["collated=some"], "collated: expected null or a number of recipes, found 'some'"),
        (["split=nowhere"], "nowhere"),
        ([f"embeddings={stray}/none"], "embeddings: no such folder"),
        (["fid.network=nowhere.pth"], "fid.network: no such file nowhere.pth"),
        (["grid.recipes=0"], "grid: expected at least 1 recipe"),
    ]
    commands = [
        [f"hydra.run.dir={tmp_path / str(i)}", *settings(root, gan, *given)]
        for i, (given, _) in enumerate(mistakes)
    ]
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    script = Path(__file__).with_name("many_commands.py")
    finished = run(script, tmp_path, arguments=(str(GAN_TEST), str(tmp_path / "commands.json")))
    assert finished.returncode == 0, finished.stderr[-3000:]
    answers = json.loads(finished.stdout.splitlines()[-1])
    for (given, message), (code, stderr) in zip(mistakes, answers, strict=True):
        lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
        assert (code, len(lines)) == (2, 1), (given, stderr)
        assert message in lines[0], (given, lines)
