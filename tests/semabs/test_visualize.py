"""visualize.py: a scene through all four commands, what is computed once, and the one line for bad input."""

from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from projects.semabs import completion_post, meshes, trained, visualization, visualizing
from projects.semabs import visualize as entry
from projects.semabs.completion import SemAbs3D
from projects.semabs.scene_pickle import read_scene
from projects.semabs.visualization import Completion, LabelMaps, Observed, item_request
from shared.errors import InputError
from shared.files import read_json
from shared.runtime import Runtime
from tests.semabs.tiny_models import DESCRIPTIONS, LABELS, scene_dict, write_clip, write_pickle, write_run
from tests.shared.served import RunServer

PROJECT = Path(visualization.__file__).parent
SERVER = RunServer("projects.semabs.visualize_command", "projects.semabs.films", "projects.semabs.trained")
CPU_SETTINGS = ("runtime.device=cpu", "runtime.threads=1")
TINY = ("grid=14", "points=400", "film={frames: 3, size: 64, fps: 12}", *CPU_SETTINGS)
CPU = Runtime(torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene, a CLIP, runs ovssc, vool, aware, spatial."""
    folder = tmp_path_factory.mktemp("visualize")
    write_pickle(folder / "room.pkl", scene_dict())
    clip = write_clip(folder / "clip.pt")
    write_run(folder / "ovssc", clip)
    write_run(folder / "vool", clip, task="vool")
    write_run(folder / "aware", clip, task="vool", approach="semantic_aware")
    write_run(folder / "spatial", clip, task="vool", approach="clip_spatial")
    write_run(folder / "aware_ovssc", clip, approach="semantic_aware")
    return folder


def run(folder: Path, out: Path, *overrides: str) -> Any:
    return SERVER.entry(
        PROJECT / "visualize.py", out / "run", f"scene={folder / 'room.pkl'}", *TINY, *overrides
    )


def frames_of(path: Path) -> int:
    reader = imageio_ffmpeg.read_frames(str(path))
    assert next(reader)["size"] == (64, 64)
    return sum(1 for _ in reader)


def test_a_scene_is_completed_and_filmed(folder: Path, tmp_path: Path) -> None:
    done = run(folder, tmp_path, "command=ovssc", f"model={folder / 'ovssc'}", "cutoff=-9")
    assert done.returncode == 0, done.stderr
    assert "U-Net passes: 3" in done.stdout
    scene = tmp_path / "run" / "room"
    note = read_json(scene / "scene.json")
    assert note["labels"] == sorted(LABELS)
    assert note["files"]
    assert {path.name for path in scene.glob("*.obj")} == set(note["files"].values())
    own = {"relevancies.png", "scene.png", "overview.png", "scene_rgb.ply", "scene.json", "completion.mp4"}
    assert {path.name for path in scene.iterdir()} == own | set(note["files"].values())
    points, colours = meshes.read_ply(scene / "scene_rgb.ply")
    content = scene_dict()
    assert 0 < len(points) <= int((content["depth"] > 0).sum())
    assert {tuple(one) for one in colours.tolist()} <= {
        tuple(one) for one in content["rgb"].reshape(-1, 3).tolist()
    }
    assert np.asarray(Image.open(scene / "relevancies.png")).std() > 5
    assert frames_of(scene / "completion.mp4") == 3
    np.testing.assert_array_equal(np.asarray(Image.open(scene / "scene.png")), content["rgb"])
    overview = np.asarray(Image.open(scene / "overview.png").convert("RGB"))
    assert overview.shape == (400, 1200, 3)
    assert all((part < 250).any() for part in np.split(overview, 3, axis=1))
    before = {path.name: path.read_bytes() for path in scene.glob("*.obj")}
    done = run(folder, tmp_path, "command=ovssc-inference", f"model={folder / 'ovssc'}", "cutoff=-9")
    assert {path.name: path.read_bytes() for path in scene.glob("*.obj")} == before  # the same seed
    film = ["command=ovssc-visualize", f"output_path={scene}", "film.frames=2"]
    done = run(folder, tmp_path, *film)
    assert done.returncode == 0, done.stderr
    assert frames_of(scene / "completion.mp4") == 2


@pytest.mark.parametrize("model", ["vool", "aware", "spatial"])
def test_described_objects_are_found_and_filmed(folder: Path, tmp_path: Path, model: str) -> None:
    done = run(
        folder,
        tmp_path,
        "command=vool",
        f"model={folder / model}",
        f"dump_path={tmp_path / 'dump'}",
        "margin=2",
    )
    assert done.returncode == 0, done.stderr
    scene = tmp_path / "dump" / "room"
    names = [f"the {target} {relation} the {reference}" for target, relation, reference in DESCRIPTIONS]
    for name in names:
        points, colours = meshes.read_ply(scene / f"{name}.ply")
        assert len(points)
        assert (np.abs(points - [0, 0, 0.9]) <= 1.0001).all()
        assert [127, 0, 0] in colours.tolist()  # the place with the largest logit
        assert frames_of(scene / f"{name}.mp4") == 3
    assert not (tmp_path / "run").exists()  # nothing was written there


def observed(folder: Path, model: str, task: str) -> tuple[Any, Observed]:
    loaded = trained.load(folder / model)
    scene = read_scene(folder / "room.pkl")
    request = item_request(loaded.settings, loaded.approach)
    return loaded, Observed.draw(scene, request, task, count=300, rng=np.random.default_rng(0))


def made_up_maps(labels: tuple[str, ...]) -> LabelMaps:
    maps = np.random.default_rng(1).normal(0, 0.01, (len(labels), 40, 30)).astype(np.float32)
    return LabelMaps(labels, maps - maps.mean(0))


def test_the_network_runs_once_for_each_class(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a forward pass of every class on every point, carved and cut off afterwards."""
    loaded, seen = observed(folder, "ovssc", "ovssc")
    relevancies, network = made_up_maps(("a", "b", "c", "d")), loaded.network.eval()
    calls = []
    inner = SemAbs3D.encode
    monkeypatch.setattr(SemAbs3D, "encode", lambda self, **given: calls.append(1) or inner(self, **given))
    completion = Completion(network, seen, relevancies, CPU)
    found = visualization.completed(completion, seen.scene, side=12, cutoff=-0.05)
    assert len(calls) == completion.passes == 4
    points = completion_post.grid_points(seen.request.settings.bounds, 12)
    features = relevancies.maps.reshape(4, -1)[:, seen.pixels, None] * 50
    with torch.inference_mode():
        logits = network(
            input_xyz_pts=torch.from_numpy(seen.points)[None],
            input_feature_pts=torch.from_numpy(features)[None],
            output_xyz_pts=torch.from_numpy(points).expand(1, 4, -1, -1),
        )[0].numpy()
    expected = logits.argmax(0)
    expected[(logits < -0.05).all(0)] = -1
    view = (seen.scene.depth, seen.scene.intrinsics, seen.scene.pose)
    expected[~completion_post.may_be_filled(points, *view, seen.request.settings.bounds, 12)] = -1
    assert (found.reshape(-1) != expected).mean() < 0.002  # logits that are equal but for rounding
    assert len(np.unique(found)) > 2


def test_colours_make_one_volume_for_all_classes(folder: Path) -> None:
    loaded, seen = observed(folder, "aware_ovssc", "ovssc")
    assert seen.request.network_inputs == ["rgb"]
    features = torch.nn.functional.normalize(
        torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), dim=1
    )
    completion = Completion(
        loaded.network.eval(), seen, made_up_maps(("a", "b", "c")), CPU, text_features=features
    )
    points = completion_post.grid_points(seen.request.settings.bounds, 5)
    logits = [completion.logits(index, points) for index in range(3)]
    assert completion.passes == 1
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_features_of_points_are_those_of_their_pixels(folder: Path) -> None:
    _, seen = observed(folder, "vool", "vool")
    maps = made_up_maps(("a", "b")).maps
    expected = np.stack([[one.reshape(-1)[pixel] * 50 for pixel in seen.pixels] for one in maps])[..., None]
    np.testing.assert_allclose(seen.features(maps), expected, rtol=1e-5)
    both = visualization.ItemRequest(seen.request.settings, network_inputs=["patch_masks", "saliency"])
    for task, threshold in (
        ("ovssc", 0.004),
        ("vool", 0.004 / 50),
    ):  # before or after the factor, as released
        found = Observed(seen.scene, both, task, seen.pixels, seen.points).features(maps)
        values = maps.reshape(2, -1)[:, seen.pixels]
        np.testing.assert_array_equal(found[..., 0], values > threshold)


def test_labels_are_sorted_and_their_mean_is_subtracted() -> None:
    class Fake:
        def maps(self, image: np.ndarray, labels: Any, prompts: Any, *, seed: int) -> np.ndarray:
            return np.stack([np.full((2, 2), len(label), np.float32) for label in labels])

    found = visualization.label_maps(
        np.zeros((2, 2, 3), np.uint8), ["ccc", "a", "ccc"], Fake(), ["{}"], extra=["bb"]
    )
    assert found.labels == ("a", "ccc")
    np.testing.assert_allclose(found.maps[:, 0, 0], [-1, 1])
    with pytest.raises(InputError, match="at least two"):
        visualization.label_maps(np.zeros((2, 2, 3), np.uint8), ["a", "a"], Fake(), ["{}"])


def test_equal_file_names_of_labels_do_not_overwrite(tmp_path: Path) -> None:
    cube = np.zeros((8, 8, 8), np.int16) - 1
    cube[2:4, 2:4, 2:4], cube[5:7, 5:7, 5:7] = 0, 1
    note = visualizing.write_completion(
        tmp_path, cube, ["a/b", "a:b", "none"], np.array([[0, 0, 0], [1, 1, 1]])
    )
    assert note["files"] == {"a/b": "a_b.obj", "a:b": "a_b-2.obj"}
    assert note["voxels"] == {"a/b": 8, "a:b": 8, "none": 0}


def test_a_room_file_is_a_scene(rooms_root: Path, folder: Path, tmp_path: Path) -> None:
    """The bare command's scene: the first test room of the data that the network was trained on."""
    model = write_run(tmp_path / "model", folder / "clip.pt", root=rooms_root)
    done = SERVER.entry(
        PROJECT / "visualize.py",
        tmp_path / "run",
        *TINY,
        "command=ovssc-inference",
        f"model={model}",
        "cutoff=-9",
    )
    assert done.returncode == 0, done.stderr
    scenes = [path for path in (tmp_path / "run").iterdir() if path.is_dir()]
    assert len(scenes) == 1
    assert "FloorPlan" in scenes[0].name
    assert read_json(scenes[0] / "scene.json")["labels"]


BAD = [
    (["command=ovssc_inference"], "command: expected one of ovssc, vool, ovssc-inference"),
    (["model={folder}/absent"], "absent: no such run folder or checkpoint"),
    (["model={folder}/vool"], "expected a network for ovssc, found one for vool"),
    (["model={folder}/ovssc", "command=vool"], "expected a network for vool, found one for ovssc"),
    (["scene={folder}/absent.pkl", "model={folder}/ovssc"], "absent.pkl: no such file"),
    (["model={folder}/ovssc", "labels=[]"], "ovssc_obj_classes: expected labels, found none"),
    (["model={folder}/ovssc", "labels=[chair,'']"], "labels: empty label"),
    (["model={folder}/ovssc", "labels=[chair]"], "labels: expected at least two"),
    (["model={folder}/vool", "command=vool", "descriptions=[[mug,near,table]]"], "unknown relation 'near'"),
    (["model={folder}/ovssc", "grid=two"], "grid: expected a whole number"),
    (["model={folder}/ovssc", "film.size=63"], "film.size: expected an even number, found 63"),
    (["model={folder}/ovssc", "film.frames=0"], "film.frames: expected a whole number, at least 1"),
    (["model={folder}/ovssc", "clip={folder}/absent.pt"], "absent.pt"),
    (["model={folder}/ovssc", "prompts=[chair]"], "prompts: expected {{}} for the label"),
    (["command=ovssc-visualize"], "output_path: expected the folder that ovssc-inference wrote"),
    (["command=ovssc-visualize", "output_path={folder}/absent"], "no such folder"),
    (["command=vool-visualize", "output_path={folder}"], "expected point clouds"),
]


@pytest.mark.parametrize(
    ("given", "words"), BAD, ids=lambda part: " ".join(part) if isinstance(part, list) else ""
)
def test_bad_input_is_one_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    given: list[str],
    words: str,
) -> None:
    asked = [text.format(folder=folder) for text in given]
    scene = [] if any(text.startswith("scene=") for text in asked) else [f"scene={folder / 'room.pkl'}"]
    argv = [str(PROJECT / "visualize.py"), *TINY, f"hydra.run.dir={tmp_path / 'run'}", *scene, *asked]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as stop:
        entry.main()
    err = capsys.readouterr().err.strip()
    assert stop.value.code == 2, err
    assert err.startswith("error: "), err
    assert "\n" not in err, err
    assert words.format() in err, err
    assert not list(tmp_path.rglob("*.obj"))
