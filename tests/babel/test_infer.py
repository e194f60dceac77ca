"""The entry infer.py: masks of a list and of a split, the user's photographs, pages, bad input."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from projects.babel import infer, masks, merging, trained
from projects.babel.model import predict
from projects.babel.palette import concept_colours
from projects.babel.splits import read_segmentation_list, read_split
from projects.babel.views import whole_views
from shared.files import read_image
from tests.babel.inference_runs import assert_one_line, inside, results, run, write_run

Mini = tuple[Path, Path]  # a model's run folder, the data


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory, mini_root: Path) -> Mini:
    return write_run(tmp_path_factory.mktemp("infer") / "run", mini_root), mini_root


def step_by_step(run_dir: Path, picture: Path, labels: str = "best", power: float = 4) -> tuple:
    """Labels and scores of one picture, mirrored view and all, without the classes of the entry."""
    model = trained.load(run_dir).model
    pixels = read_image(picture, exif=False)
    images = whole_views(pixels).images
    with torch.inference_mode():
        scores, softmax = predict(model, images)
    mean = (softmax[0] + softmax[1].flip(-1)) / 2
    best = torch.sigmoid(scores).max(0).values
    kept = torch.ones(len(best)) if labels == "all" else (best == best.max()).float()
    weighed = torch.cat([mean[:1] ** power, mean[1:] * kept[:, None, None]])
    return weighed.argmax(0).numpy(), best.numpy()


def test_the_list_of_the_data_as_a_user_runs_it(tmp_path: Path, mini: Mini) -> None:
    """With a model and nothing else: every mask, its picture, the numbers, the page; with the CRF if installed."""
    run_dir, root = mini
    pairs = read_segmentation_list(root / "wikiscenes_val.txt")
    try:
        import pydensecrf.densecrf  # noqa: F401

        crf = ["crf=true"]
    except ImportError:
        crf = []
    done = run("infer.py", tmp_path, f"model={run_dir}", "examples=3", *crf)
    assert done.returncode == 0, done.stderr
    assert f"{len(pairs)} pictures, 0 left out" in done.stdout
    folder = tmp_path / "out" / "masks"
    found = {one["name"]: one for one in results(tmp_path)["pictures"]}
    assert sorted(found) == sorted(picture.stem for picture, _ in pairs)
    for picture, truth in pairs:
        labels, scores = step_by_step(run_dir, picture)
        mask = masks.read_mask(folder / f"{picture.stem}.png")
        assert mask.shape == masks.read_mask(truth).shape
        assert (mask == labels).mean() > 0.999
        np.testing.assert_allclose(list(found[picture.stem]["scores"].values()), scores, atol=1e-4)
        assert (folder / "vis" / f"{picture.stem}_pred.png").is_file()
        if crf:
            refined = masks.read_mask(folder / "crf" / f"{picture.stem}.png")
            assert set(np.unique(refined)) <= {*np.unique(labels), 0}
            shares = found[picture.stem]["shares"]
            assert shares.get("background", 0) == pytest.approx((refined == 0).mean(), abs=1e-5)
    text = (tmp_path / "out" / "index.html").read_text()
    assert text.count("<img") == 3 * 3  # picture, predicted, true
    assert f"{len(pairs) - 3} more pictures are in results.json" in text
    assert "http" not in text.replace("http-equiv", "")


def photographs(folder: Path) -> Path:
    """Pictures of several kinds, equal names, one turned by its EXIF tag, one damaged."""
    rng = np.random.default_rng(0)
    for i, name in enumerate(("<b>&.jpg", "sub/wide.PNG", "sub/<b>&.webp")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        low = rng.integers(0, 256, (4, 6, 3)).astype(np.uint8)
        image = Image.fromarray(low.repeat(30, 0).repeat(20 + 10 * i, 1))
        exif = image.getexif()
        exif[0x0112] = 6  # turned by a quarter
        image.save(path, **({"exif": exif} if name.endswith("jpg") else {}))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 cut")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_photographs(
    tmp_path: Path, mini: Mini, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = photographs(tmp_path / "photos")
    given = [f"model={mini[0]}", f"photos={folder}", "labels=all", "background_power=2"]
    code, out, err = inside(infer, monkeypatch, capsys, tmp_path, *given)
    assert code == 0, err
    found = results(tmp_path)
    assert [one["name"] for one in found["pictures"]] == ["<b>&", "<b>&-2", "wide"]
    assert len(found["skipped"]) == 1
    assert "broken.jpg" in found["skipped"][0]
    turned, _, wide = found["pictures"]
    assert turned["size"] == [120, 120]
    assert wide["size"] == [180, 120]
    assert len(wide["scores"]) == 6
    assert sum(wide["shares"].values()) == pytest.approx(1, abs=1e-4)
    mask = masks.read_mask(tmp_path / "out" / "masks" / wide["files"]["mask"])
    assert mask.shape == (120, 180)  # as large as the photograph, though the network saw 48 pixels
    shown = np.asarray(Image.open(tmp_path / "out" / "masks" / wide["files"]["picture"]))
    expected = masks.overlay(read_image(folder / "sub" / "wide.PNG"), mask, concept_colours(6))
    assert np.abs(shown.astype(int) - expected).mean() < 6  # JPEG
    assert out.count("mask: ") == 3
    text = (tmp_path / "out" / "index.html").read_text()
    assert "<b>&<" not in text
    assert "&lt;b&gt;&amp;" in text
    assert "Left out" in text


def test_a_split_with_several_views(
    tmp_path: Path, mini: Mini, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run_dir, root = mini
    multi = ["split=val_easy", "views.method=multi", "views.scales=[1,0.5]", "vis=voc"]
    code, _, err = inside(infer, monkeypatch, capsys, tmp_path, f"model={run_dir}", *multi)
    assert code == 0, err
    rows = read_split(root / "val_easy.txt", None)
    folder = tmp_path / "out" / "masks"
    names = [one["name"] for one in results(tmp_path)["pictures"]]
    assert len(names) == len(rows)
    assert names[0] == rows[0].path.split("/", 2)[2].rsplit(".", 1)[0]  # as in correspondence.json
    assert all((folder / f"{name}.png").is_file() for name in names)
    crops = [
        "split=val_easy",
        "views.method=crops",
        "views.crop=[40,40]",
        f"output={tmp_path / 'crops'}",
        "vis=none",
    ]
    code, _, err = inside(infer, monkeypatch, capsys, tmp_path, f"model={run_dir}", *crops)
    assert code == 0, err
    assert results(tmp_path)["background_power"] == 1
    assert not (tmp_path / "crops" / "vis").exists()


def test_a_classifier_gives_scores_alone(
    tmp_path: Path, mini_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run_dir = write_run(tmp_path / "run", mini_root, kind="cls", backbone="squeezenet")
    given = [f"model={run_dir}", f"photos={mini_root / 'val_seg' / 'images'}", "examples=2"]
    code, out, err = inside(infer, monkeypatch, capsys, tmp_path, *given)
    assert code == 0, err
    first = results(tmp_path)["pictures"][0]
    assert "shares" not in first
    assert first["files"] == {}
    assert "mask: " not in out
    assert (tmp_path / "out" / "index.html").read_text().count("<img") == 2


BAD = [
    (["model={bad}/absent"], "no such run folder or checkpoint"),
    (["photos={bad}/absent"], "photos: {bad}/absent: no such file or folder"),
    (["photos={bad}/none"], "no pictures found"),
    (["photos={bad}/broken"], "none of the 1 pictures can be read; the first: "),
    (["photos={bad}/broken", "unreadable=error"], "a.jpg"),
    (["photos={bad}/broken", "unreadable=maybe"], "unreadable: expected error or skip"),
    (["photos={bad}/broken", "split=val"], "photos and split: expected one of"),
    (["split=tset"], "split: expected one of"),
    (["list=tset"], "expected a file or one of val, dev, val_easy, found 'tset'"),
    (["list={bad}/absent.txt"], "absent.txt"),
    (["list={bad}/one.txt"], "one.txt:1: expected `picture mask`"),
    (["list={bad}/gone.txt"], "gone.jpg: no such image"),
    (["list={bad}/same.txt"], "2 pictures would be written as x.png"),
    (["labels=some"], "labels: expected one of best, all, ground_truth"),
    (["labels=ground_truth", "split=val"], "labels=ground_truth needs a list with masks"),
    (["vis=all"], "vis: expected one of"),
    (["background_power=0"], "background_power: expected a positive number"),
    (["background_power=x"], "background_power: expected a positive number"),
    (["views.side=large"], "views.side: expected a number of pixels or null"),
    (["views.scales=1"], "views.scales: expected positive numbers"),
    (["views.grid=3"], "views.grid: expected [height,width]"),
    (["crf=maybe"], "crf: expected true or false, found 'maybe'"),
    (["photos=3"], "photos: 3: no such file or folder"),
    (["examples=all"], "examples: expected a whole number"),
    (["views.scales=[1,2]"], "method=multi takes several"),
    (["views.method=multi", "views.pad=[10,10]"], "does not fit into 10 x 10"),
]


@pytest.mark.parametrize(("given", "words"), BAD)
def test_bad_input_is_one_line(
    tmp_path: Path,
    mini: Mini,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    given: list[str],
    words: str,
) -> None:
    bad = tmp_path / "bad"
    for name in ("none", "broken"):
        (bad / name).mkdir(parents=True)
    (bad / "broken" / "a.jpg").write_bytes(b"")
    for name, text in (
        ("one", "x.jpg"),
        ("gone", "gone.jpg gone.png"),
        ("same", "a/x.jpg p.png\nb/x.jpg q.png"),
    ):
        (bad / f"{name}.txt").write_text(text)
    asked = [text.format(bad=bad) for text in given]
    code, _, err = inside(infer, monkeypatch, capsys, tmp_path, f"model={mini[0]}", *asked)
    assert_one_line(code, err, words.format(bad=bad))
    assert not (tmp_path / "out" / "results.json").exists()


def test_the_truth_may_tell_which_concepts_occur(
    tmp_path: Path, mini: Mini, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run_dir, root = mini
    given = [f"model={run_dir}", "labels=ground_truth", f"list={root / 'wikiscenes_dev.txt'}", "examples=0"]
    code, _, err = inside(infer, monkeypatch, capsys, tmp_path, *given)
    assert code == 0, err
    for picture, truth in read_segmentation_list(root / "wikiscenes_dev.txt"):
        mask = masks.read_mask(tmp_path / "out" / "masks" / f"{picture.stem}.png")
        allowed = 1 + np.flatnonzero(merging.mask_labels(masks.read_mask(truth), 6))
        assert set(np.unique(mask)) <= {0, *allowed}
