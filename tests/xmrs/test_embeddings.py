"""Embedding files: released names and keys, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest

from projects.xmrs import embeddings
from shared.errors import InputError


def arrays(count: int = 5, dim: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "img_embeds": rng.standard_normal((count, dim)).astype(np.float32),
        "rec_embeds": rng.standard_normal((count, dim)).astype(np.float32),
        "rec_ids": np.array([f"{i:010x}" for i in range(count)]),
    }


def test_what_is_written_is_read(tmp_path: Path) -> None:
    given = arrays()
    path = tmp_path / "a.npz"
    embeddings.save(path, list(given["rec_ids"]), given["img_embeds"], given["rec_embeds"])
    with np.load(path, allow_pickle=False) as found:  # as the released code reads it
        assert sorted(found.files) == ["img_embeds", "rec_embeds", "rec_ids"]
        assert found["rec_ids"].tolist() == given["rec_ids"].tolist()
    found = embeddings.load(path, dim=4)
    np.testing.assert_array_equal(found.images, given["img_embeds"])
    np.testing.assert_array_equal(found.recipes, given["rec_embeds"])
    assert found.ids == given["rec_ids"].tolist()
    embeddings.save(path, found.ids, found.images)
    assert embeddings.load(path, recipes=False).recipes is None
    with pytest.raises(InputError, match="no array 'rec_embeds'"):
        embeddings.load(path)


def test_names_are_the_released_ones() -> None:
    run, name = Path("/x/20210704-120000__train_de"), "model_BEST_REC_e042_v-1.000_cr-2.4500.pth.tar"
    found = embeddings.file_name(run, name, "test", 3)
    assert found == "foodSpace_vectors_20210704-120000_model_BEST_REC_e042_v-1.000_cr-2.4500_test_3.npz"
    assert embeddings.described(Path(found)) == ("test", 3)
    assert embeddings.described(Path("foodSpace_x_val_de-en.npz")) == ("val", 1)
    assert embeddings.described(Path("mine.npz")) == ("mine", 0)
    assert (
        embeddings.file_name(Path("/x/mini"), "best.pt", "val", 0) == "foodSpace_vectors_mini_best_val_0.npz"
    )


def test_the_newest_file_of_a_split_and_language_is_found(tmp_path: Path) -> None:
    names = ["a_test_0", "b_test_0", "a_test_3", "a_val_0", "a_test_fr"]
    for age, name in enumerate(names):
        path = tmp_path / f"foodSpace_vectors_{name}.npz"
        path.write_bytes(b"")
        os.utime(path, (1000 + age, 1000 + age))
    assert embeddings.find(tmp_path, "test").stem.endswith("b_test_0")
    assert embeddings.find(tmp_path, "test", 3).stem.endswith("a_test_3")
    assert embeddings.find(tmp_path, "test", 5).stem.endswith("a_test_fr")
    with pytest.raises(InputError, match="save_embeddings=true"):
        embeddings.find(tmp_path, "train")


class Malicious:
    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["XMRS_TRAP"],)


CASES = [
    ({"rec_ids": np.array(["a"] * 4)}, "expected 4 rows"),
    ({"rec_ids": np.arange(5)}, "rec_ids: expected a list of texts"),
    ({"img_embeds": np.zeros((5, 6), np.float32)}, "expected 4 dimensions, found 6"),
    ({"rec_embeds": np.zeros((5, 6), np.float32)}, "expected 4 dimensions, found 6"),
    ({"rec_embeds": np.zeros(5, np.float32)}, "expected floats"),
    ({"img_embeds": np.zeros((5, 4), np.int64)}, "expected floats"),
    ({"img_embeds": np.full((5, 4), np.inf, np.float32)}, "NaN or infinity"),
]


@pytest.mark.parametrize(("changed", "words"), CASES)
def test_other_contents_are_an_input_error(
    tmp_path: Path, changed: dict[str, np.ndarray], words: str
) -> None:
    np.savez(tmp_path / "a.npz", **{**arrays(), **changed})
    with pytest.raises(InputError, match=words):
        embeddings.load(tmp_path / "a.npz", dim=4)


def test_images_and_recipes_of_different_size_are_an_input_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{**arrays(), "rec_embeds": np.zeros((5, 6), np.float32)})
    with pytest.raises(InputError, match="other shapes"):
        embeddings.load(tmp_path / "a.npz")


def test_pickles_and_damaged_files_are_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XMRS_TRAP", str(tmp_path / "trapped"))
    np.savez(tmp_path / "a.npz", **{**arrays(), "rec_ids": np.array([Malicious()] * 5, object)})
    with pytest.raises(InputError, match=r"a\.npz"):
        embeddings.load(tmp_path / "a.npz")
    assert not (tmp_path / "trapped").exists()
    np.savez(tmp_path / "b.npz", **arrays())
    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:200])
    with pytest.raises(InputError, match=r"b\.npz"):
        embeddings.load(tmp_path / "b.npz")
    with pytest.raises(InputError, match="no such file"):
        embeddings.load(tmp_path / "absent.npz")


def test_ids_written_as_bytes_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{**arrays(), "rec_ids": np.array([b"00a", b"00b", b"c", b"d", b"e"])})
    assert embeddings.load(tmp_path / "a.npz").ids[:2] == ["00a", "00b"]
