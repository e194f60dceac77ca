"""The entry infer.py: search over the user's pictures and recipes, indices kept, pages, bad input."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from projects.xmrs import images, infer, released, text_draws, trained
from projects.xmrs.data import DataSet
from projects.xmrs.recipe1m import Recipe
from projects.xmrs.tokens import build_tokenizer, encode_recipe
from projects.xmrs.trained import Trained
from tests.xmrs.retrieval_runs import Page, assert_one_line, command, inside, results, run, write_run
from tests.xmrs.sets import make_set
from tests.xmrs.training_runs import settings

RECIPES = """[
 {"id": "soup", "title": "w111 <b>w112</b>", "ingredients": ["w113", {"text": "w114"}], "instructions": ["w115"]},
 {"title": "w120", "ingredients": "w121\\nw122"},
 {"title": "w130", "instructions": ["w131 w132 w133"]},
 {"title": " "}
]"""


@pytest.fixture(scope="module")
def model_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("infer")
    return write_run(folder / "run", make_set(folder / "set", train=2, val=2, test=12))


def own_files(folder: Path) -> tuple[Path, Path]:
    """Pictures of several kinds, one of them damaged, and recipes, one of them without text."""
    rng = np.random.default_rng(0)
    for i in range(6):
        path = folder / "pictures" / f"part {i % 2}" / f"<{i}>{['.jpg', '.PNG', '.webp'][i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        low = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
        Image.fromarray(low.repeat(12, 0).repeat(12, 1)).save(path)
    (folder / "pictures" / "notes.txt").write_text("not a picture")
    (folder / "pictures" / "broken.jpg").write_bytes(b"\xff\xd8 cut")
    (folder / "book.json").write_text(RECIPES)
    (folder / "lunch.txt").write_text("w111\nIngredients:\n - w113\nInstructions:\n - 1 w115\n")
    return folder / "pictures", folder / "book.json"


def recipe_row(model: Trained, recipe: Recipe) -> np.ndarray:
    """Its embedding [D], step by step."""
    tokenizer = build_tokenizer(**model.tokenizer)
    row, parts = encode_recipe(tokenizer, recipe)
    lengths = np.array([(parts == part).sum() for part in (1, 2, 3)])
    ids = text_draws.evaluation_ids(row, lengths, ("title", "ingr", "inst"), max_tokens=32)
    with torch.inference_mode():
        return model.model.encode_recipes(torch.from_numpy(ids.astype(np.int64))[None])[0].numpy()


def picture_row(model: Trained, path: Path) -> np.ndarray:
    photo = Image.open(path).convert("RGB")
    with torch.inference_mode():
        return model.model.encode_images(images.evaluation_image(photo, side=32, resize=36)[None])[0].numpy()


def test_both_ways_over_own_files(tmp_path: Path, model_run: Path) -> None:
    """A recipe and a picture asked of own pictures and recipes: scores, order, files, page, the kept index."""
    pictures, book = own_files(tmp_path)
    asked_picture = next(pictures.rglob("*0>.jpg"))
    given = [f"model={model_run}", f"images={pictures}", f"recipes={book}", "top_k=2",
             f"recipe=[{tmp_path / 'lunch.txt'},'w120 w121']", f"picture='{asked_picture}'"]  # fmt: skip
    done = run("infer.py", tmp_path, *given)
    assert done.returncode == 0, done.stderr
    assert "index: 6 pictures, 6 encoded now, 1 could not be read (first: " in done.stdout
    assert (
        "index: 3 recipes, 3 encoded now, 1 could not be read (first: recipe 'book 4': no text" in done.stdout
    )
    assert "attention:" not in done.stdout

    model = trained.load(model_run)
    files = sorted(path for path in pictures.rglob("*") if "<" in path.name)
    rows = np.stack([picture_row(model, path) for path in files])
    lunch = Recipe("", "w111", ["w113"], ["w115"], "", "")
    inline = Recipe("", "w120 w121", [], [], "", "")
    found = results(tmp_path)
    for answer, recipe in zip(found["pictures_for_recipes"], (lunch, inline), strict=True):
        scores = rows @ recipe_row(model, recipe)
        best = np.argsort(-scores)[:2]
        np.testing.assert_allclose([m["score"] for m in answer["matches"]], scores[best], atol=1e-5)
        assert [m["file"] for m in answer["matches"]] == [str(files[i]) for i in best]
        assert [m["rank"] for m in answer["matches"]] == [1, 2]
        assert "correct" not in answer["matches"][0]
        assert answer["attention"][0]["weight"] >= answer["attention"][-1]["weight"] > 0
    assert found["pictures_for_recipes"][0]["query"] == {"recipe": "lunch", "title": "w111"}

    recipes = [
        Recipe("soup", "w111 <b>w112</b>", ["w113", "w114"], ["w115"], "", ""),
        Recipe("book 2", "w120", ["w121", "w122"], [], "", ""),
        Recipe("book 3", "w130", [], ["w131 w132 w133"], "", ""),
    ]
    scores = np.stack([recipe_row(model, one) for one in recipes]) @ picture_row(model, asked_picture)
    best = np.argsort(-scores)[:2]
    [answer] = found["recipes_for_pictures"]
    np.testing.assert_allclose([m["score"] for m in answer["matches"]], scores[best], atol=1e-5)
    assert [m["recipe"] for m in answer["matches"]] == [recipes[i].id for i in best]
    assert len(found["skipped"]) == 2

    text = (tmp_path / "out" / "index.html").read_text()
    page = Page(text)
    assert page.images == 2 * 2 + 1
    assert "<b>w112" not in text
    assert "Left out" in page.text
    assert "layer 2 of 2, mean of the heads" in page.text


def test_an_index_is_kept_and_follows_the_files(
    tmp_path: Path, model_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pictures, _ = own_files(tmp_path)
    given = [f"model={model_run}", f"images={pictures}", "recipe=w111", f"index={tmp_path / 'mine'}"]
    for expected in ("6 pictures, 6 encoded now", "6 pictures, 0 encoded now"):
        code, out, err = inside(infer, monkeypatch, capsys, tmp_path, *given)
        assert code == 0, err
        assert expected in out
    Image.new("RGB", (50, 40), "red").save(pictures / "part 0" / "<0>.jpg")
    Image.new("RGB", (50, 40), "blue").save(pictures / "broken.jpg")
    next(pictures.rglob("*5>*")).unlink()
    code, out, err = inside(infer, monkeypatch, capsys, tmp_path, *given)
    assert code == 0, err
    assert "6 pictures, 2 encoded now;" in out
    other = write_run(tmp_path / "other", model_run.parent / "set", "model.embed_dim=12")
    code, _, err = inside(infer, monkeypatch, capsys, tmp_path, *given, f"model={other}")
    assert_one_line(code, err, "this index was made with another model")


def test_killed_while_it_encodes_the_same_command_continues(tmp_path: Path, model_run: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(60):
        path = tmp_path / "many" / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40, 3)).astype(np.uint8)).save(path)
    asked = [f"model={model_run}", f"images={tmp_path / 'many'}", "recipe=w111", "batch_size=2"]
    script = "from projects.xmrs import infer; from shared import index; index._PART_ROWS = 4; infer.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *command("infer.py", tmp_path, *asked)[1:]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    end = time.monotonic() + 120
    while not list((tmp_path / "cache").glob("*/items-part-*.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = sum(len(p.read_text().splitlines()) for p in (tmp_path / "cache").glob("*/items-part-*.jsonl"))
    done = run("infer.py", tmp_path, *asked)
    assert done.returncode == 0, done.stderr
    assert f"60 pictures, {60 - kept} encoded now" in done.stdout
    assert 0 < kept < 60


def test_without_a_question_it_shows_examples_of_its_own_split(
    tmp_path: Path, model_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    given = [f"model={model_run}", "top_k=12", "attention.show=true", "language=de"]
    code, out, err = inside(infer, monkeypatch, capsys, tmp_path, *given)
    assert code == 0, err
    found = results(tmp_path)
    assert len(found["pictures_for_recipes"]) == len(found["recipes_for_pictures"]) == 4
    for way, key, query in (
        ("pictures_for_recipes", "picture", "recipe"),
        ("recipes_for_pictures", "recipe", "picture"),
    ):
        for answer in found[way]:
            right = [m[key] for m in answer["matches"] if m["correct"]]
            assert right == [answer["query"][query]]
    german = {f"w{i}" for i in range(230, 270)}  # the words of that language in the tiny set
    assert all(answer["query"]["title"] in german for answer in found["pictures_for_recipes"])
    assert out.count("  attention: [CLS]") == 4
    page = Page((tmp_path / "out" / "index.html").read_text())
    assert page.images == 4 * 12 + 4
    assert "green frame" in page.text


def test_rows_of_the_split_by_number_and_id(
    tmp_path: Path, model_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    long = "w111 " * 300  # no name of a file
    code, _, err = inside(infer, monkeypatch, capsys, tmp_path, f"model={model_run}", f"recipe='{long}'")
    assert code == 0, err
    assert len(results(tmp_path)["pictures_for_recipes"][0]["matches"]) == 3
    given = [f"model={model_run}", "recipe=[3]", "picture=['s000000005']", "top_k=1"]
    code, _, err = inside(infer, monkeypatch, capsys, tmp_path, *given)
    assert code == 0, err
    found = results(tmp_path)
    assert found["pictures_for_recipes"][0]["query"]["recipe"] == "s000000003"
    assert found["recipes_for_pictures"][0]["query"]["picture"] == "s000000005"
    split = DataSet(**trained.load(model_run).settings["data"]).open("test")
    assert found["pictures_for_recipes"][0]["matches"][0]["file"] in [
        str(split.picture(i)) for i in range(12)
    ]


def test_a_model_without_attention_answers_all_the_same(
    tmp_path: Path, model_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run_dir = write_run(tmp_path / "average", model_run.parent / "set", "model.text.kind=average")
    given = [f"model={run_dir}", "recipe=0"]
    code, _, err = inside(infer, monkeypatch, capsys, tmp_path, *given)
    assert code == 0, err
    assert "attention" not in results(tmp_path)["pictures_for_recipes"][0]
    code, _, err = inside(infer, monkeypatch, capsys, tmp_path, *given, "attention.show=true")
    assert_one_line(code, err, "no attention")


def test_a_generator_synthesises_a_picture_of_each_asked_recipe(
    tmp_path: Path, model_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from projects.xmrs import gan_files, synthesis
    from projects.xmrs.generator import Generator

    torch.manual_seed(0)
    generator = Generator(embed_dim=16, width=8, side=64, condition_dim=8, noise_dim=4)
    path = tmp_path / "model_e001_v1.pkl"
    torch.save({f"module.{key}": value for key, value in generator.state_dict().items()}, path)
    given = [f"model={model_run}", "recipe=['w111 w113','w120']", f"generator={path}"]
    code, out, err = inside(infer, monkeypatch, capsys, tmp_path, *given)
    assert code == 0, err
    found = results(tmp_path)["pictures_for_recipes"]
    assert [one["synthesised"] for one in found] == ["synthesised/001.jpg", "synthesised/002.jpg"]
    assert "synthesised: synthesised/002.jpg" in out
    model = trained.load(model_run)
    texts = [Recipe("", text, [], [], "", "") for text in ("w111 w113", "w120")]
    rows = np.stack([recipe_row(model, one) for one in texts])
    expected = synthesis.pictures(gan_files.load_generator(path, device="cpu"), rows, seed=0)
    for i in range(2):
        saved = np.asarray(Image.open(tmp_path / "out" / found[i]["synthesised"]), np.float32)
        assert saved.shape == expected[i].shape
        assert np.abs(saved - expected[i]).mean() < 12  # JPEG
    assert Page((tmp_path / "out" / "index.html").read_text()).images == 2 * (3 + 1)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pkl")
    code, _, err = inside(infer, monkeypatch, capsys, tmp_path, *given, f"generator={tmp_path / 'other.pkl'}")
    assert_one_line(code, err, "other.pkl")


def test_a_released_checkpoint_searches_own_files_and_a_set_that_is_named(
    tmp_path: Path, model_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path, root = tmp_path / "theirs.pth.tar", model_run.parent / "set"
    released.write(path, trained.load(model_run).model)
    given = [f"model={path}", f"vocab={root / 'vocab.txt'}"]
    code, _, err = inside(infer, monkeypatch, capsys, tmp_path, *given)
    assert_one_line(code, err, "add data=recipe1m")
    place = [text for text in settings(root) if text.startswith("data")]
    scores = []
    for model in (given[0], f"model={model_run}"):
        code, _, err = inside(infer, monkeypatch, capsys, tmp_path, model, *given[1:], *place, "recipe=w111")
        assert code == 0, err
        scores.append([m["score"] for m in results(tmp_path)["pictures_for_recipes"][0]["matches"]])
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


BAD = [
    (["top_k=0"], "top_k: "),
    (["unreadable=maybe"], "unreadable: expected warn or error"),
    (["model={bad}/absent"], "absent: no such run folder or checkpoint"),
    (["images={bad}/absent"], "images: {bad}/absent: no such file or folder"),
    (["images='{bad}/none'"], "no pictures found"),
    (["images={bad}/broken", "recipe=w111"], "none of the 1 items can be read; the first: "),
    (["images={bad}/some", "recipe=w111", "unreadable=error"], "a.jpg"),
    (["images={bad}/some", "picture={bad}/some/b.png"], "there are no recipes to search"),
    (["recipes={bad}/ok.json", "recipe=w111"], "there are no pictures to search"),
    (["recipes={bad}/empty.json"], "none of the 1 items can be read; the first: recipe 'empty 1': no text"),
    (["recipes={bad}/list.json"], "recipe 1: expected an object"),
    (["recipes={bad}/none"], "no recipes found"),
    (["picture={bad}/absent.jpg"], "absent.jpg: no such picture"),
    (["picture={bad}/broken/a.jpg"], "picture: "),
    (["recipe={bad}/absent.json"], "absent.json: no such file"),
    (["recipe=' '"], "found an empty text"),
    (["recipe={bad}/empty.json"], "no text in title"),
    (["recipe=[1,'w111']"], "not both"),
    (["recipe=99"], "recipe: expected the number of one of 12, found 99"),
    (["split=tset"], "split: expected one of train, val, test"),
    (["language=it"], "languages: expected some of en"),
    (["attention.layer=5", "recipe=w111"], "attention.layer: expected -2 to 1"),
    (["vocab={bad}/list.json"], "list.json"),
    (["vocab={bad}/longer.txt"], "knows 400 words"),
    (["index={bad}", "recipe=w111", "images={bad}/some"], "not an index"),
    (["generator={bad}/absent.pkl"], "generator: "),
]


@pytest.mark.parametrize(("given", "words"), BAD)
def test_bad_input_is_one_line(
    tmp_path: Path,
    model_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    given: list[str],
    words: str,
) -> None:
    bad = tmp_path / "bad"
    for name in ("none", "broken", "some", "pictures"):
        (bad / name).mkdir(parents=True)
    (bad / "pictures" / "x").write_text("no index")
    for name in ("broken", "some"):
        (bad / name / "a.jpg").write_bytes(b"")
    Image.new("RGB", (9, 9)).save(bad / "some" / "b.png")
    for name, text in (("ok", '{"title": "w111"}'), ("empty", '{"title": ""}'), ("list", "[3]")):
        (bad / f"{name}.json").write_text(text)
    vocabulary = (model_run.parent / "set" / "vocab.txt").read_text()
    (bad / "longer.txt").write_text(vocabulary + "more\n")
    asked = [text.format(bad=bad) for text in given]
    code, _, err = inside(infer, monkeypatch, capsys, tmp_path, f"model={model_run}", *asked)
    assert_one_line(code, err, words.format(bad=bad))
    assert not (tmp_path / "out" / "results.json").exists()
