"""generate_relevancy.py as a command: pictures, data sets, kills, two processes, mistakes."""

import shutil
import signal
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from projects.semabs import relevancy_dataset
from projects.semabs.clip_weights import save_clip
from projects.semabs.extractor import RelevancyExtractor
from projects.semabs.relevancy_command import RELEASED_LABELS
from projects.semabs.relevancy_dataset import PHOTO_PROMPT, RENDER_PROMPT, released_prompts
from projects.semabs.relevancy_picture import heat_strength, panels
from projects.semabs.scene_file import SceneFile, has_saliencies
from projects.semabs.vocabulary import labels_of_scene, visible_names
from shared.errors import InputError
from tests.semabs.tiny_clip import tiny_clip
from tests.semabs.training_runs import PROJECT, SERVER
from tests.shared.runs import KILL_DRIVER

Done = subprocess.CompletedProcess[str]
SCENES = 3
OPTIONS = ("augmentations=1", "runtime.device=cpu", "runtime.threads=1", "batch_size=512")


def generate(
    run_dir: Path, *overrides: str, script: str = "generate_relevancy.py", **options: object
) -> Done:
    arguments = options.pop("arguments", ())
    return SERVER.entry(PROJECT / script, run_dir, *overrides, arguments=arguments, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    save_clip(path, tiny_clip().model, tiny_clip().tokenizer)
    return path


def some_scenes(mini_root: Path, folder: Path) -> Path:
    """Copies of a few rooms: test rooms, which have a second picture, and training rooms."""
    folder.mkdir()
    found = sorted(mini_root.glob("*.hdf5"))
    for path in [found[0], *found[-SCENES + 1 :]]:
        shutil.copy(path, folder / path.name)
    return folder


def contents(folder: Path) -> dict[str, np.ndarray]:
    """All maps, labels and features by scene."""
    found = {}
    for path in sorted(folder.glob("*.hdf5")):
        with h5py.File(path) as file:
            found[f"{path.name}/maps"] = file["saliencies"][()]
            for name, entry in file["data/saliencies"].items():
                if "|saliency" in name:
                    found[f"{path.name}/{name}"] = entry[()]
    return found


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name


@pytest.fixture(scope="module")
def generated(mini_root: Path, clip_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes after one uninterrupted run of the command."""
    folder = some_scenes(mini_root, tmp_path_factory.mktemp("generated") / "scenes")
    done = generate(
        folder.parent / "run", "command=dataset", f"file_path={folder}", f"clip={clip_file}", *OPTIONS
    )
    assert done.returncode == 0, done.stderr
    assert f"{SCENES} scenes got maps, 0 had them, 0 left out" in done.stdout
    return folder


def test_maps_of_a_scene(generated: Path) -> None:
    """Both images and configs; the values are the extractor's."""
    path = max(generated.glob("*.hdf5"), key=lambda path: SceneFile(path).has_randomized())
    made = RelevancyExtractor(tiny_clip(), config="chefer_et_al")
    with SceneFile(path) as scene:
        assert len(scene.saliency_sets()) == (4 if scene.has_randomized() else 2)
        visible = visible_names(np.unique(scene.segmentation()), scene.classes)
        labels = labels_of_scene(visible, scene.descriptions())
        assert scene.visible_labels() == visible
        assert scene.text_labels("rgb", "chefer_et_al") == labels
        found = scene.saliency("rgb", "chefer_et_al", released_mean=False)
        expected = made.dataset_maps(scene.rgb(), labels, [RENDER_PROMPT]).numpy()
        np.testing.assert_allclose(found.maps, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.mean, expected.mean(0), rtol=1e-4, atol=1e-6)
        assert not np.allclose(scene.saliency("rgb", "ours").maps, expected, rtol=0.01)


def test_a_killed_run_goes_on(generated: Path, mini_root: Path, clip_file: Path, tmp_path: Path) -> None:
    """Killed while it replaces its second scene: that one is whole and without maps, and the rest follows."""
    folder = some_scenes(mini_root, tmp_path / "scenes")
    overrides = ("command=dataset", f"file_path={folder}", f"clip={clip_file}", *OPTIONS)
    script = PROJECT / "generate_relevancy.py"
    done = SERVER.entry(KILL_DRIVER, tmp_path / "run", *overrides, arguments=(str(script), "os:replace", "2"))
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
    assert sum(has_saliencies(path) for path in folder.glob("*.hdf5")) == 1
    assert list(folder.glob(".*.tmp"))
    again = generate(tmp_path / "run", *overrides)
    assert again.returncode == 0, again.stderr
    assert f"{SCENES - 1} scenes got maps, 1 had them" in again.stdout
    assert not list(folder.glob(".*"))
    assert_equal(contents(folder), contents(generated))


def test_two_processes_share_the_scenes(
    generated: Path, mini_root: Path, clip_file: Path, tmp_path: Path
) -> None:
    folder = some_scenes(mini_root, tmp_path / "scenes")
    overrides = ("command=dataset", f"file_path={folder}", f"clip={clip_file}", *OPTIONS)
    done = generate(tmp_path / "run", *overrides, ranks=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{SCENES} scenes got maps, 0 had them") == 1
    assert_equal(contents(folder), contents(generated))

    asked = generate(tmp_path / "run", *overrides, "replace=true")
    assert asked.returncode == 2
    assert "deletes the relevancy maps of all scenes" in asked.stderr
    assert all(has_saliencies(path) for path in folder.glob("*.hdf5"))
    deleted = generate(tmp_path / "run", *overrides, "replace=true", "yes=true")
    assert f"maps deleted from {SCENES} scenes" in deleted.stdout
    assert not any(has_saliencies(path) for path in folder.glob("*.hdf5"))


def test_a_damaged_scene_stops_the_run_or_is_counted(
    mini_root: Path, clip_file: Path, tmp_path: Path
) -> None:
    folder = some_scenes(mini_root, tmp_path / "scenes")
    first = max(folder.glob("*.hdf5"))
    content = first.read_bytes()
    first.write_bytes(content[: len(content) // 3])
    overrides = ("command=dataset", f"file_path={folder}", f"clip={clip_file}", *OPTIONS)
    stopped = generate(tmp_path / "run", *overrides, "configs=[chefer_et_al]")
    assert stopped.returncode == 2
    last = stopped.stderr.strip().splitlines()[-1]  # after the progress
    assert last.startswith("error: ")
    assert str(first) in last
    skipped = generate(tmp_path / "run", *overrides, "configs=[chefer_et_al]", "unreadable=skip")
    assert skipped.returncode == 0, skipped.stderr
    assert f"{SCENES - 1} scenes got maps, 0 had them, 1 left out\n  left out: {first}" in skipped.stdout


def test_a_picture(clip_file: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    overrides = (f"file_path={tmp_path / 'photo.png'}", f"clip={clip_file}", *OPTIONS)
    done = generate(tmp_path / "run", *overrides, "labels=[mug,table,'$x^2$']", "prompts=['a {}']", "seed=3")
    assert done.returncode == 0, done.stderr
    assert "photo: 3 labels, 3 of them in" in done.stdout
    with np.load(tmp_path / "run" / "relevancies.npz") as found:
        assert found["labels"].tolist() == ["mug", "table", "$x^2$"]
        made = RelevancyExtractor(tiny_clip(), augmentations=1)
        expected = made.maps(pixels, ["mug", "table", "$x^2$"], ["a {}"], seed=3)
        np.testing.assert_allclose(found["maps"], expected, rtol=1e-4, atol=1e-6)
    with Image.open(tmp_path / "run" / "grads.png") as grid:
        assert min(grid.size) > 300


def test_with_no_argument_an_embedded_room(mini_root: Path, clip_file: Path, tmp_path: Path) -> None:
    done = generate(tmp_path / "run", f"root={mini_root}", f"clip={clip_file}", *OPTIONS)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "run" / "relevancies.npz") as found:
        assert found["prompts"].tolist() == [RENDER_PROMPT]
        assert len(found["labels"]) == len(set(found["labels"].tolist())) > 0
        assert found["maps"].shape == (len(found["labels"]), 56, 56)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("file_path=nowhere.png",), "nowhere.png: no such image"),
        (
            ("command=dataset", "file_path=nowhere"),
            "nowhere: expected scenes (*.hdf5) in this folder, found none",
        ),
        (("command=film",), "command: expected one of image, dataset, found 'film'"),
        (("configs=[theirs]",), "configs: expected some of ours, chefer_et_al"),
        (("heat=[1]",), "heat: expected [low,range] or null"),
        (("labels=['']",), "labels: found an empty label"),
        (("prompts=[mug]",), "prompts: expected {} for the label in 'mug'"),
    ],
)
def test_mistakes_in_one_line(
    overrides: tuple[str, ...], message: str, mini_root: Path, clip_file: Path, tmp_path: Path
) -> None:
    done = generate(tmp_path / "run", f"root={mini_root}", f"clip={clip_file}", *OPTIONS, *overrides)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.strip().startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_released_defaults() -> None:
    assert len(RELEASED_LABELS) == 9
    assert released_prompts("a/thor") == [RENDER_PROMPT]
    assert released_prompts("a/NYU_ovssc") == released_prompts("matterport/x") == [PHOTO_PROMPT]
    with pytest.raises(InputError, match="unreadable: expected one of error, skip"):
        relevancy_dataset.generate("x", tiny_clip(), runtime=None, unreadable="x")  # type: ignore[arg-type]


def test_heat_is_under_the_photograph() -> None:
    """No relevancy: 70 % photograph over the coldest colour; 0.008 above the mean: full heat, no photograph."""
    strength = heat_strength(np.array([[[0.0, 0.002, 0.005, 0.008, 1.0]]]))
    np.testing.assert_allclose(strength[0, 0], [0, 0, 0.5, 1, 1])
    drawn = panels(np.full((1, 5, 3), 200, np.uint8), strength)[0, 0]
    assert drawn[0].tolist() == [140, 140, 178]
    assert drawn[4].tolist() == [128, 0, 0]
    assert torch.tensor(drawn).shape == (5, 3)
