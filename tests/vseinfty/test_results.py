"""Results files, ours and the release's, and ensembles of them."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from projects.vseinfty import metrics, results
from shared.errors import InputError


def embeddings(seed: int, num_images: int = 20, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((num_images, dim)).astype(np.float32)
    captions = np.repeat(images, 5, axis=0) + rng.standard_normal((5 * num_images, dim)).astype(np.float32)
    return images, captions


def product(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return pair[0].astype(np.float64) @ pair[1].astype(np.float64).T


def save_as(path: Path, pair: tuple[np.ndarray, np.ndarray], *, similarities: bool) -> results.Results:
    if similarities:
        np.savez(path, npts=len(pair[0]), sims=product(pair))
    else:
        results.save(path, *pair)
    return results.load(path)


def write_released(path: Path, sims: np.ndarray, npts: int | None = None) -> Path:
    np.save(path, {"npts": len(sims) if npts is None else npts, "sims": sims}, allow_pickle=True)
    return path


def test_ours_hold_embeddings_and_no_pickle(tmp_path: Path) -> None:
    pair = embeddings(0)
    results.save(tmp_path / "results_f30k.npz", *pair)
    with np.load(tmp_path / "results_f30k.npz", allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["captions", "images", "npts"]
        assert int(arrays["npts"]) == 20
    found = results.load(tmp_path / "results_f30k.npz")
    np.testing.assert_allclose(found.block(slice(2, 5), slice(10, 70)), product(pair)[2:5, 10:70], rtol=1e-12)


@pytest.mark.parametrize("kind", ["embeddings", "similarities", "released", "plain"])
def test_every_kind_of_file_gives_the_same_metrics(tmp_path: Path, kind: str) -> None:
    pair = embeddings(1)
    if kind == "released":
        path = write_released(tmp_path / "results_coco.npy", product(pair))
    elif kind == "plain":
        path = tmp_path / "sims.npy"
        np.save(path, product(pair))
    else:
        path = tmp_path / "results_coco.npz"
        save_as(path, pair, similarities=kind == "similarities")
    found = results.load(path)
    assert (found.num_images, found.num_captions) == (20, 100)
    assert (found.sims is None) == (kind == "embeddings")
    assert results.ensemble([found]) == pytest.approx(metrics.retrieval(*pair), rel=1e-12)
    folds = results.ensemble([found], folds=5)
    assert folds["mean"] == pytest.approx(metrics.retrieval_folds(*pair)["mean"], rel=1e-12)


@pytest.mark.parametrize("kinds", ["ee", "ss", "es", "eses"])
def test_an_ensemble_ranks_by_the_mean_similarity(tmp_path: Path, kinds: str) -> None:
    """Oracle: the mean of the matrices; all-embedding ensembles, all-matrix ones and mixed ones."""
    pairs = [embeddings(seed, dim=4 + seed) for seed in range(len(kinds))]
    members = []
    for number, (kind, pair) in enumerate(zip(kinds, pairs, strict=True)):
        path = tmp_path / f"results_{number}.npz"
        members.append(save_as(path, pair, similarities=kind == "s"))
    mean = np.mean([product(pair) for pair in pairs], axis=0)
    assert results.ensemble(members) == pytest.approx(
        metrics.retrieval_from_similarities(mean, 20), rel=1e-12
    )
    expected = metrics.retrieval_folds_from_similarities(mean, 20, folds=4)
    assert results.ensemble(members, folds=4)["mean"] == pytest.approx(expected["mean"], rel=1e-12)
    single = results.ensemble(members[:1])
    assert single["rsum"] != results.ensemble(members)["rsum"], (
        "the case cannot tell an ensemble from its first member"
    )


def test_members_must_agree_in_the_number_of_images(tmp_path: Path) -> None:
    members = []
    for number, count in enumerate((20, 19)):
        results.save(tmp_path / f"{number}.npz", *embeddings(0, count))
        members.append(results.load(tmp_path / f"{number}.npz"))
    with pytest.raises(InputError, match=r"same images, found npts .*0\.npz: 20, .*1\.npz: 19"):
        results.ensemble(members)


def test_more_folds_than_images(tmp_path: Path) -> None:
    results.save(tmp_path / "r.npz", *embeddings(0, 3))
    with pytest.raises(InputError, match="3 images cannot be cut into 5 folds"):
        results.ensemble([results.load(tmp_path / "r.npz")], folds=5)


def test_bad_files_are_one_line(tmp_path: Path) -> None:
    images, captions = embeddings(0)
    sims = product((images, captions))
    cases = {
        "npts = 21": write_released(tmp_path / "count.npy", sims, npts=21),
        "found 20 images and 99 captions": write_released(tmp_path / "odd.npy", sims[:, :99]),
        "not finite": write_released(tmp_path / "nan.npy", np.where(np.eye(20, 100) > 0, np.nan, sims)),
        "sims should be a matrix": write_released(tmp_path / "flat.npy", sims[0], npts=20),
        "images have 5 dimensions, captions 6": tmp_path / "dims.npz",
        "expected npts and sims": tmp_path / "other.npz",
        "not an .npy file": tmp_path / "text.npy",
        "no such results file": tmp_path / "absent.npy",
    }
    np.savez(cases["images have 5 dimensions, captions 6"], npts=20, images=images[:, :5], captions=captions)
    np.savez(cases["expected npts and sims"], npts=20, images=images)
    cases["not an .npy file"].write_text("sims")
    for words, path in cases.items():
        with pytest.raises(InputError) as error:
            results.load(path)
        assert words in str(error.value), str(error.value)
        assert path.name in str(error.value)
        assert "\n" not in str(error.value)


def test_a_foreign_global_is_refused_and_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "was_run",))

    array = np.empty((), object)
    array[()] = {"npts": 20, "sims": Payload()}
    with (tmp_path / "results_coco.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(array, file)
    with pytest.raises(InputError, match=r"results_coco\.npy.*refused"):
        results.load(tmp_path / "results_coco.npy")
    assert not (tmp_path / "was_run").exists()


def test_the_matrix_of_a_released_file_stays_on_the_disk(tmp_path: Path) -> None:
    """1 GB each for COCO: an ensemble may not hold them all."""
    path = write_released(tmp_path / "results_coco.npy", product(embeddings(0, 400)))
    sims = results.load(path).sims
    assert sims is not None
    base = sims
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert not base.flags.owndata
    assert not sims.flags.writeable
