"""The entry eval.py: real processes on a tiny set, and its errors in this process."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from projects.xmrs import embeddings, eval, evaluation, released, retrieval, trained
from projects.xmrs.tokens import LANGUAGES
from shared.errors import InputError
from tests.xmrs.retrieval_runs import Page, assert_one_line, inside, results, run, write_run
from tests.xmrs.sets import make_set
from tests.xmrs.training_runs import settings

WAYS = (retrieval.IMAGE_TO_RECIPE, retrieval.RECIPE_TO_IMAGE)


@pytest.fixture(scope="module")
def model_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, beside it the set."""
    folder = tmp_path_factory.mktemp("eval")
    return write_run(folder / "kitchen_1", make_set(folder / "set", train=6, val=12, test=20))


def copy(model_run: Path, to: Path) -> Path:
    return Path(shutil.copytree(model_run, to / model_run.name))


def test_splits_languages_sizes_and_files(tmp_path: Path, model_run: Path) -> None:
    """One run, everything asserted: numbers equal those of the embedding files it writes, ranked again."""
    own = copy(model_run, tmp_path)
    done = run("eval.py", tmp_path, f"model={own}", "splits=[test,val]", "languages=[en,fr]", "medr=[10,5]",
               "save_embeddings=true", "examples=2")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = results(tmp_path)
    assert found["sizes"] == [10, 5]
    assert found["model"]["name"] == "mini"
    assert not found["warnings"]
    for split, size in (("test", 20), ("val", 12)):
        read = [embeddings.load(embeddings.find(own, split, language), dim=16) for language in (0, 5)]
        assert read[0].recipes is not None
        assert read[1].recipes is not None
        np.testing.assert_array_equal(read[0].images, read[1].images)
        assert np.abs(read[0].recipes - read[1].recipes).max() > 0.01
        assert read[0].ids == [f"{'s' if split == 'test' else 'v'}{i:09x}" for i in range(size)]
        for one, language in zip(read, ("en", "fr"), strict=True):
            assert one.recipes is not None
            numbers = found["metrics"][split][language]
            for medr, of_size in ((10, numbers), (5, numbers["medr5"])):
                expected = retrieval.rank_both(one.images, one.recipes, size=medr)
                assert {way: of_size[way] for way in WAYS} == expected
    name = "foodSpace_vectors_kitchen_best_test_0.npz"
    assert (own / name).is_file()
    encoder = released.read_image_encoder(own / "models" / "best_image_encoder.pth.tar")
    data = evaluation.data_set(trained.load(own), None)
    from shared.data import BatchPlan

    pixels = data.open("test").fetch_images(BatchPlan(0, 0, np.arange(3))).images
    with torch.inference_mode():
        rows = encoder(pixels)
    np.testing.assert_allclose(rows, embeddings.load(own / name).images[:3], atol=1e-5)
    assert "test fr 10" in done.stdout
    page = Page((tmp_path / "out" / "index.html").read_text())
    assert page.images == 2 * 3 + 2
    assert "Top 3 of 10: test, en" in page.text
    assert "[SEP]" in page.text  # the attention over the words


def test_two_ranks_equal_one(
    tmp_path: Path, model_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Encoding is shared out over processes; embeddings and numbers are those of one."""
    given = (f"model={model_run}", "medr=10", "save_embeddings=true", "examples=0", "batch_size=3")
    code, _, err = inside(
        eval, monkeypatch, capsys, tmp_path / "1", *given, f"output={tmp_path / '1' / 'files'}"
    )
    assert code == 0, err
    done = run("eval.py", tmp_path / "2", *given, f"output={tmp_path / '2' / 'files'}", ranks=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written: ") == 3  # one rank speaks
    one, two = (embeddings.load(next((tmp_path / str(ranks) / "files").glob("*.npz"))) for ranks in (1, 2))
    assert one.ids == two.ids
    np.testing.assert_allclose(two.images, one.images, atol=1e-6)
    assert one.recipes is not None
    assert two.recipes is not None
    np.testing.assert_allclose(two.recipes, one.recipes, atol=1e-6)
    expected = retrieval.rank_both(two.images, two.recipes, size=10)  # not of `one`: the last bit may differ
    assert results(tmp_path / "2")["metrics"] == {"test": {"en": expected}}


def test_a_released_run_folder_gives_the_same_numbers(
    tmp_path: Path, model_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The same weights as the released train.py leaves them, with opts.txt, and the files of test.py beside it."""
    from projects.xmrs import released_options

    theirs = tmp_path / "20210704-120000__train"
    model = trained.load(model_run).model
    name = released_options.checkpoint_name("REC", 3, 2.0, 1.5)
    released.write(theirs / "models" / name, model, epoch=3)
    released_options.write(theirs, {"embDim": 16, "language": 3})
    root = model_run.parent / "set"
    data = [text for text in settings(root) if text.startswith("data")]
    given = [f"model={theirs}", *data, "medr=10", "save_embeddings=true", "examples=1"]
    code, out, err = inside(
        eval, monkeypatch, capsys, tmp_path / "theirs", *given, f"data.vocab={root / 'vocab.txt'}"
    )
    assert code == 0, err
    code, _, err = inside(
        eval, monkeypatch, capsys, tmp_path / "ours", f"model={model_run}", "medr=10", "examples=0"
    )
    assert code == 0, err
    assert results(tmp_path / "theirs")["metrics"] == results(tmp_path / "ours")["metrics"]
    stem = name.removesuffix(".pth.tar")
    assert (theirs / f"foodSpace_vectors_20210704-120000_{stem}_test_0.npz").is_file()
    assert (theirs / "models" / f"{stem}_image_encoder.pth.tar").is_file()
    assert "index.html" in out
    assert evaluation.find_model(f"{theirs}/models/model_BEST_REC*").name == name  # not the image encoder
    # the extracted image encoder is not taken for a checkpoint
    assert trained.find_checkpoint(theirs).name == name


def test_embedding_files_are_ranked_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((30, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    path = tmp_path / "foodSpace_vectors_x_val_4.npz"
    embeddings.save(path, [str(i) for i in range(30)], rows, rows)
    code, _, err = inside(eval, monkeypatch, capsys, tmp_path, f"embeddings=[{path}]", "medr=20", "seed=7")
    assert code == 0, err
    found = results(tmp_path)["metrics"]["val"]["ru"]
    assert found["image_to_recipe"]["r1"] == found["recipe_to_image"]["r1"] == 1.0
    other = tmp_path / "other_val_4.npz"
    embeddings.save(other, [str(i) for i in range(30)], rows, rows[::-1])
    code, _, err = inside(eval, monkeypatch, capsys, tmp_path, f"embeddings=[{path},{other}]", "medr=20")
    assert code == 0, err
    found = {name: one["ru"]["image_to_recipe"]["r1"] for name, one in results(tmp_path)["metrics"].items()}
    assert found[str(path)] == 1.0
    assert found[str(other)] < 0.5
    code, _, err = inside(eval, monkeypatch, capsys, tmp_path / "b", f"embeddings=[{path}]", "medr=31")
    assert_one_line(code, err, "only 30 pairs")


def test_text_inputs_change_what_is_read(
    tmp_path: Path, model_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    found = []
    for i, parts in enumerate(("[title,ingr,inst]", "[ingr]")):
        given = [f"model={model_run}", "medr=20", "examples=0", f"text_inputs={parts}"]
        code, _, err = inside(eval, monkeypatch, capsys, tmp_path / str(i), *given)
        assert code == 0, err
        found.append(results(tmp_path / str(i))["metrics"]["test"]["en"]["image_to_recipe"]["meanr"])
    assert found[0] != found[1]


def test_an_unreadable_picture_is_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    model = write_run(tmp_path / "run", make_set(tmp_path / "set", train=2, val=2, test=6))
    split = evaluation.data_set(trained.load(model), None).open("test")
    path = split.picture(4)
    assert path is not None
    path.write_bytes(b"no picture")
    code, out, err = inside(eval, monkeypatch, capsys, tmp_path, f"model={model}", "medr=6", "examples=1")
    assert code == 0, err
    found = results(tmp_path)
    assert found["warnings"] == {"unreadable picture": 1}
    assert str(path) in found["unreadable"][0]
    assert "1 pictures could not be read" in out


BAD = [
    (["medr=21"], "subsets of 21 pairs asked for, but the split test has 20"),
    (["medr=0"], "medr: expected"),
    (["medr=[]"], "medr: expected"),
    (["splits=[tset]"], "splits: expected some of train, val, test, found 'tset'"),
    (["languages=[it]"], "languages: expected some of en"),
    (["languages=[9]"], "languages: expected some of en"),
    (["text_inputs=[titel]"], "text_inputs: expected"),
    (["model={bad}/absent"], "absent"),
    (["model={bad}"], "no checkpoint in this folder"),
    (["model='{bad}/*.npz'"], "expected one match, found 2: one.npz, pickled.npz"),
    (["model='{bad}/*.gz'"], "expected one match, found 0"),
    (["model={bad}/text.pt"], "text.pt"),
    (["embeddings=[{bad}/absent.npz]"], "absent.npz: no such file"),
    (["embeddings=[{bad}/pickled.npz]"], "pickled.npz"),
    (["embeddings=[{bad}/one.npz]"], "no array 'rec_embeds'"),
    (["runs=0"], "runs: "),
    (["medrr=3"], "medrr: no such setting"),
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
    bad.mkdir()
    (bad / "text.pt").write_text("no checkpoint")
    np.savez(bad / "pickled.npz", img_embeds=np.array([{}], object), rec_ids=["a"], rec_embeds=[[0.0]])
    np.savez(bad / "one.npz", img_embeds=np.zeros((1, 2), np.float32), rec_ids=["a"])
    asked = [text.format(bad=bad) for text in given]
    code, _, err = inside(eval, monkeypatch, capsys, tmp_path, f"model={model_run}", "medr=10", *asked)
    assert_one_line(code, err, words)
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_released_run_needs_to_be_told_where_the_data_are(tmp_path: Path, model_run: Path) -> None:
    released.write(tmp_path / "a.pth.tar", trained.load(model_run).model)
    with pytest.raises(InputError, match="add data=recipe1m"):
        evaluation.data_set(trained.load(tmp_path / "a.pth.tar"), None)


def test_languages_by_name_number_and_all() -> None:
    assert evaluation.languages_of("all") == list(range(len(LANGUAGES)))
    assert evaluation.languages_of(["de", "0", 5, "de"]) == [3, 0, 5]
    assert evaluation.languages_of("ru-en") == [2]
    assert evaluation.sizes_of(None) == [1000]
    assert evaluation.sizes_of(None, {"validation": {"medr": 300}}) == [300]
    assert evaluation.sizes_of([1000, 10000]) == [1000, 10000]
