"""infer.py over the user's pictures, features and captions, with models of ours and of the authors."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from projects.vseinfty import infer, mini, released
from projects.vseinfty.captions import build_tokenizer
from projects.vseinfty.model import VSEModel, build_model
from shared import checkpoint, config
from shared.runtime import Runtime

PROJECT = Path(infer.__file__).parent
TINY = Path(__file__).resolve().parents[1] / "goldens" / "vseinfty" / "tiny"
TINY_MODEL = [f"model={TINY / 'model_best.pth'}", f"vocab_path={TINY / 'vocab' / 'f30k_precomp_vocab.json'}"]
TINY_FEATURES = f"features={TINY / 'precomp' / 'test_ims.npy'}"
TINY_CAPTIONS = TINY / "precomp" / "test_caps.txt"
FIXED = ("runtime.device=cpu", "runtime.threads=1", "workers=0")
SIDE = 64


def command(folder: Path, *overrides: str) -> list[str]:
    places = (f"hydra.run.dir={folder / 'out'}", f"cache={folder / 'cache'}")
    return [sys.executable, str(PROJECT / "infer.py"), *FIXED, *places, *overrides]


def run(folder: Path, *overrides: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(folder, *overrides), capture_output=True, text=True, timeout=300, env=environment, **options
    )


def vocabulary_size(path: Path) -> int:
    return build_tokenizer(text_encoder="bigru", vocab_path=path, bert="").vocab_size


def inside(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, folder: Path, *overrides: str
) -> tuple[int, str, str]:
    """The same in this process, which is quicker: exit status, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", command(folder, *overrides)[1:])
    try:
        infer.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capsys.readouterr()


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "results.json").read_text())


def pictures(folder: Path, count: int) -> Path:
    """Pictures of several kinds, in folders in folders."""
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"part {i % 3}" / f"<{i}>{['.jpg', '.PNG', '.webp'][i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40 + i, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels if i % 4 else pixels[:, :, 0]).save(path)
    (folder / "notes.txt").write_text("not a picture")
    return folder


ODD_NAME = b"caf\xe9\n\x1b[31m.jpg"  # not UTF-8, and rude to a terminal


@pytest.fixture(scope="module")
def picture_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[VSEModel, list[str]]:
    """A small model with a CNN in the authors' format, and the settings that name it."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    vocab_path = TINY / "vocab" / "f30k_precomp_vocab.json"
    model = build_model(
        embed_size=16, image_encoder="grid", backbone="imagenet_res50", text_encoder="bigru", word_dim=8,
        vocab_size=vocabulary_size(vocab_path), bert_pretrained=False,
    )  # fmt: skip
    released.save(folder / "model.pth", model, options={"input_scale_factor": SIDE / 256})
    return model.eval(), [f"model={folder / 'model.pth'}", f"vocab_path={vocab_path}"]


@pytest.fixture(scope="module")
def region_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as train.py leaves it, with random weights."""
    folder = tmp_path_factory.mktemp("run")
    root = mini.ensure(folder / "mini-mixed", variant="mixed", train=12, dev=6, test=20)
    cfg = config.section(
        config.compose(PROJECT, "train", [f"data.root={root}", "model.embed_size=16", "seed=3"])
    )
    torch.manual_seed(0)
    vocab_size = vocabulary_size(root / "vocab" / mini.VOCABULARY)
    model = build_model(vocab_size=vocab_size, **cfg["model"])
    (folder / "run").mkdir()
    runtime = Runtime(torch.device("cpu"))
    checkpoint.save(
        folder / "run", runtime=runtime, modules={"model": model}, progress={}, config=cfg, best=True
    )
    return folder / "run"


class Page(HTMLParser):
    """Balanced tags, nothing that reaches outside, thumbnails counted."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.images = 0
        self.text = ""
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list) -> None:
        assert tag != "script"
        if tag not in ("meta", "br", "img"):
            self.stack.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in ("src", "href") or value.startswith(("data:image/", "#"))
        self.images += tag == "img"

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_answers_equal_the_authors_similarities(tmp_path: Path) -> None:
    """Both directions of the released tiny model, against the similarity matrix of the authors' code."""
    queries = '["0","7"]'
    given = [
        TINY_FEATURES,
        f"queries={TINY_CAPTIONS}",
        f"captions={TINY_CAPTIONS}",
        f"query_image={queries}",
        "top_k=4",
    ]
    result = run(tmp_path, *TINY_MODEL, *given)
    assert result.returncode == 0, result.stderr
    sims = np.load(TINY / "expected_sims.npz")["sims"]  # [30, 150]
    texts = TINY_CAPTIONS.read_text().split("\n")[:150]
    found = results(tmp_path)
    assert [a["query"] for a in found["images_for_texts"]] == [text.strip() for text in texts]
    for caption, answer in enumerate(found["images_for_texts"]):
        rows = [int(m["image"].removeprefix("row ")) for m in answer["matches"]]
        np.testing.assert_allclose(
            [m["score"] for m in answer["matches"]], np.sort(sims[:, caption])[::-1][:4], atol=2e-5
        )
        np.testing.assert_allclose(sims[rows, caption], np.sort(sims[:, caption])[::-1][:4], atol=2e-5)
    for image, answer in zip((0, 7), found["captions_for_images"], strict=True):
        best = np.sort(sims[image])[::-1][:4]
        np.testing.assert_allclose([m["score"] for m in answer["matches"]], best, atol=2e-5)
        for match, score in zip(answer["matches"], best, strict=True):
            same = [sims[image, c] for c, text in enumerate(texts) if text.strip() == match["caption"]]
            np.testing.assert_allclose(same, score, atol=2e-5)
    assert "150 more queries" not in (tmp_path / "out" / "index.html").read_text()
    assert "100 more queries are in results.json" in (tmp_path / "out" / "index.html").read_text()


def test_without_a_question_a_run_shows_examples_of_its_own_split(tmp_path: Path, region_run: Path) -> None:
    result = run(tmp_path, f"model={region_run}")
    assert result.returncode == 0, result.stderr
    assert "index: 20 images, 20 encoded now" in result.stdout
    found = results(tmp_path)
    assert len(found["images_for_texts"]) == len(found["captions_for_images"]) == 4
    for answer in found["images_for_texts"] + found["captions_for_images"]:
        scores = [match["score"] for match in answer["matches"]]
        assert scores == sorted(scores, reverse=True)
        assert all(isinstance(match["correct"], bool) for match in answer["matches"])
    texts = (region_run.parent / "mini-mixed" / "precomp" / "test_caps.txt").read_text().splitlines()
    for answer in found["images_for_texts"]:
        for match in answer["matches"]:
            image = int(match["image"].removeprefix("test image "))
            assert match["correct"] == (answer["query"] in texts[5 * image : 5 * image + 5])
    for sizes in found["coefficients"].values():
        for size, theta in sizes.items():
            assert len(theta) == int(size)
            assert sum(theta) == pytest.approx(1, abs=1e-5)
    assert (tmp_path / "out" / "coefficients.png").read_bytes().startswith(b"\x89PNG")
    page = Page((tmp_path / "out" / "index.html").read_text())
    assert "Learned pooling" in page.text


def test_a_folder_of_pictures_is_searched_and_kept_up_to_date(
    tmp_path: Path,
    picture_model: tuple[VSEModel, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    _, model = picture_model
    folder = pictures(tmp_path / "pictures", 6)
    Image.new("RGB", (30, 30)).save(tmp_path / "odd.jpg")
    os.rename(tmp_path / "odd.jpg", os.fsencode(folder) + b"/" + ODD_NAME)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "part 1" / "<1>.PNG").read_bytes()[:200])
    asked = [*model, f"images={folder}", "query='two <b>red</b> balls'", "top_k=3"]
    code, out, err = inside(monkeypatch, capsys, tmp_path, *asked)
    assert code == 0, err
    assert "7 images, 7 encoded now, 2 could not be read" in out
    found = results(tmp_path)
    assert sorted(Path(s["name"]).name for s in found["skipped"]) == ["cut.png", "empty.jpg"]
    assert "\x1b" not in out
    assert all(s["name"] in s["reason"] for s in found["skipped"])
    matches = found["images_for_texts"][0]["matches"]
    assert all(Path(m["file"]).is_file() for m in matches if "caf" not in m["file"])
    page = Page((tmp_path / "out" / "index.html").read_text())
    assert page.images == 3
    assert "two <b>red</b> balls" in page.text
    first = {m["image"]: m["score"] for m in found["images_for_texts"][0]["matches"]}

    (folder / "part 0" / "<0>.jpg").unlink()
    shutil.copy(folder / "part 1" / "<1>.PNG", folder / "cut.png")  # mended: the same picture twice
    shutil.move(folder / "part 2" / "<2>.webp", folder / "moved.webp")
    code, out, _ = inside(monkeypatch, capsys, tmp_path, *asked, "top_k=9")
    assert code == 0
    assert "7 images, 2 encoded now, 1 could not be read" in out
    again = {m["image"]: m["score"] for m in results(tmp_path)["images_for_texts"][0]["matches"]}
    assert len(again) == 7
    assert again["cut.png"] == pytest.approx(again["part 1/<1>.PNG"], abs=1e-6)
    for name in first.keys() & again.keys():
        assert again[name] == pytest.approx(first[name], abs=1e-6)
    _, out, _ = inside(monkeypatch, capsys, tmp_path, *asked)
    assert "7 images, 0 encoded now" in out


def test_scores_are_the_models_own(
    tmp_path: Path,
    picture_model: tuple[VSEModel, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    from projects.vseinfty.images import preprocess
    from shared.files import read_image

    network, model = picture_model
    folder = pictures(tmp_path / "pictures", 3)
    captions = tmp_path / "captions.txt"
    captions.write_text("a cat\n\n  two dogs play  \na cat\n")
    picture = folder / "part 1" / "<1>.PNG"
    code, _, err = inside(
        monkeypatch, capsys, tmp_path, *model, f"images={folder}", "query=a cat", f"query_image='{picture}'",
        f"captions={captions}", "top_k=10",
    )  # fmt: skip
    assert code == 0, err
    tokenizer = build_tokenizer(text_encoder="bigru", vocab_path=Path(model[1].partition("=")[2]), bert="")
    with torch.inference_mode():

        def text(caption: str) -> np.ndarray:
            ids = torch.tensor([tokenizer.encode(caption)])
            return network.encode_captions(ids, torch.tensor([ids.shape[1]]))[0].numpy()

        def image(path: Path) -> np.ndarray:
            pixels = preprocess(read_image(path), SIDE, backbone="imagenet_res50")
            return network.encode_images(torch.from_numpy(pixels)[None])[0].numpy()

        cat, dogs, asked = text("a cat"), text("two dogs play"), image(picture)
        found = results(tmp_path)
        for match in found["images_for_texts"][0]["matches"]:
            assert match["score"] == pytest.approx(float(cat @ image(folder / match["image"])), abs=1e-5)
        scores = {"a cat": float(cat @ asked), "two dogs play": float(dogs @ asked)}
        matches = found["captions_for_images"][0]["matches"]
        assert len(matches) == 3  # every line, the blank one left out
        for match in matches:
            assert match["score"] == pytest.approx(scores[match["caption"]], abs=1e-5)


def test_captions_for_a_picture_need_no_folder(
    tmp_path: Path,
    picture_model: tuple[VSEModel, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    folder = pictures(tmp_path / "pictures", 1)
    given = [f"query_image='{folder}/part 0/<0>.jpg'", f"captions={TINY_CAPTIONS}", "coefficients.image=[4]"]
    code, _, err = inside(monkeypatch, capsys, tmp_path, *picture_model[1], *given)
    assert code == 0, err
    assert results(tmp_path)["index"] is None
    assert list(results(tmp_path)["coefficients"]["image"]) == ["4"]
    assert Page((tmp_path / "out" / "index.html").read_text()).images == 1


def test_names_and_pictures_of_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{i}.jpg\n" for i in range(30)))
    (tmp_path / "shown").mkdir()
    for i in range(30):
        Image.new("RGB", (9, 7), (i, 0, 0)).save(tmp_path / "shown" / f"{i}.jpg")
    given = [
        TINY_FEATURES,
        f"names={names}",
        f"pictures={tmp_path / 'shown'}",
        "query=a dog",
        "query_image=3.jpg",
    ]
    code, _, err = inside(monkeypatch, capsys, tmp_path, *TINY_MODEL, *given, f"captions={TINY_CAPTIONS}")
    assert code == 0, err
    assert results(tmp_path)["captions_for_images"][0]["query"] == "3.jpg"
    assert Page((tmp_path / "out" / "index.html").read_text()).images == 5 + 1


def test_killed_while_it_encodes_the_same_command_continues(
    tmp_path: Path, picture_model: tuple[VSEModel, list[str]]
) -> None:
    folder = pictures(tmp_path / "pictures", 60)
    asked = [*picture_model[1], f"images={folder}", "query=a dog", "batch_size=2"]
    script = (
        "from projects.vseinfty import infer; from shared import index; index._PART_ROWS = 4; infer.main()"
    )
    arguments = [sys.executable, "-c", script, *command(tmp_path, *asked)[2:]]
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    end = time.monotonic() + 120
    while not list((tmp_path / "cache").glob("*/items-part-*.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = sum(len(p.read_text().splitlines()) for p in (tmp_path / "cache").glob("*/items-part-*.jsonl"))
    result = run(tmp_path, *asked)
    assert result.returncode == 0, result.stderr
    assert f"60 images, {60 - kept} encoded now" in result.stdout
    assert 0 < kept < 60


def bad(tmp_path: Path) -> Path:
    """Files that cannot be used."""
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "empty.txt").write_text("\n \n")
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")
    (folder / "two.txt").write_text("a\nb\n")
    (folder / "no pictures").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "a.jpg").write_bytes(b"")
    np.save(folder / "wide.npy", np.zeros((30, 4, 7), np.float32))
    np.save(
        folder / "nan.npy",
        np.full((30, 4, np.load(TINY / "precomp" / "test_ims.npy").shape[2]), np.nan, np.float32),
    )
    return folder


BAD_FOR_REGIONS = [
    (["query=''"], "query: expected words, found an empty text"),
    (["query=['a','  ']"], "query: expected words"),
    (["images={bad}"], "takes region features, not pictures"),
    (["query=a"], "nothing to search"),  # the authors' checkpoints do not know where data are
    ([TINY_FEATURES, "queries={bad}/empty.txt"], "queries: "),
    ([TINY_FEATURES, "queries={bad}/latin.txt"], "latin.txt"),
    ([TINY_FEATURES, "queries={bad}/absent.txt"], "absent.txt"),
    ([TINY_FEATURES, "query=a", "captions={bad}/empty.txt"], "captions: "),
    ([TINY_FEATURES, "query_image=3"], "there are no captions to search"),
    ([TINY_FEATURES, "query_image=300", "captions={bad}/two.txt"], "number (below 30) or the name"),
    ([TINY_FEATURES, "names={bad}/two.txt", "query=a"], "expected 30 lines, one per row"),
    (["features={bad}/wide.npy", "query=a"], "dimensions (image_dim), found 7"),
    (["features={bad}/nan.npy", "query=a"], "NaN or infinity"),
    (["features={bad}/absent.npy", "query=a"], "absent.npy"),
    ([TINY_FEATURES, "query=a", "top_k=0"], "top_k: "),
    ([TINY_FEATURES, "query=a", "model={bad}/absent"], "absent"),
    ([TINY_FEATURES, "query=a", "vocab_path={bad}/two.txt"], "two.txt"),
    ([TINY_FEATURES, "query=a", "index={bad}"], "not an index"),
    ([TINY_FEATURES, "query=a", "unreadable=maybe"], "unreadable: expected warn or error"),
    ([TINY_FEATURES, "query=a", "coefficients.text=[0]"], "coefficients.text: "),
]
BAD_FOR_PICTURES = [
    ([TINY_FEATURES, "query=a"], "takes pictures, not features"),
    (["images={bad}/absent", "query=a"], "absent: no such folder"),
    (["images='{bad}/no pictures'", "query=a"], "no pictures found"),
    (["images={bad}/broken", "query=a"], "none of the 1 items can be read; the first: "),
    (["images={bad}/broken", "query=a", "unreadable=error"], "a.jpg: empty file"),
    (["query_image={bad}/absent.jpg", "captions={bad}/two.txt"], "absent.jpg: no such picture"),
    (["query_image={bad}/broken/a.jpg", "captions={bad}/two.txt"], "a.jpg: empty file"),
    (["images={bad}/broken", TINY_FEATURES], "only one of them"),
]


@pytest.mark.parametrize(
    ("regions", "given", "words"),
    [(True, *case) for case in BAD_FOR_REGIONS] + [(False, *case) for case in BAD_FOR_PICTURES],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    picture_model: tuple[VSEModel, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    regions: bool,
    given: list[str],
    words: str,
) -> None:
    folder = bad(tmp_path)
    model = TINY_MODEL if regions else picture_model[1]
    code, _, err = inside(monkeypatch, capsys, tmp_path, *model, *(text.format(bad=folder) for text in given))
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "results.json").exists()


def test_bad_input_of_the_command_ends_with_2_and_one_line(tmp_path: Path) -> None:
    result = run(tmp_path, *TINY_MODEL, "images=/nowhere", "query=a")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    result = run(tmp_path, f"model={tmp_path / 'runs' / 'mini'}")
    assert result.returncode == 2
    assert "train.py" in result.stderr


def test_an_index_of_another_model_is_refused(
    tmp_path: Path, region_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    given = [f"index={tmp_path / 'mine'}", "query=a dog"]
    code, _, err = inside(monkeypatch, capsys, tmp_path, f"model={region_run}", *given)
    assert code == 0, err
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "mine").iterdir())
    code, _, err = inside(monkeypatch, capsys, tmp_path, *TINY_MODEL, TINY_FEATURES, *given)
    assert code == 2
    assert f"{tmp_path / 'mine'}: this index was made with another model" in err
    assert sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "mine").iterdir()) == before


@pytest.mark.parametrize("pooling", ["avg", "max", "kmax", "gem"])
def test_coefficients_of_other_poolings(pooling: str) -> None:
    from projects.vseinfty import figure

    network = build_model(
        embed_size=8, image_dim=4, word_dim=4, vocab_size=9, image_pooling=pooling, text_pooling="gpo",
        image_kmax=2, bert_pretrained=False,
    )  # fmt: skip
    found = figure.coefficients(network, {"image": [1, 4]})
    expected = {"avg": [0.25] * 4, "max": [1, 0, 0, 0], "kmax": [0.5, 0.5, 0, 0]}
    if pooling == "gem":
        assert list(found) == ["text"]
    else:
        assert found["image"] == {1: [1.0], 4: expected[pooling]}
    assert list(found["text"]) == [8, 13, 20]
    assert figure.draw(found) is not None
