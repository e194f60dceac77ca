"""The entries eval.py and eval_ensemble.py: real processes on the tiny official checkpoint and on a run of
ours.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from projects.vseinfty import evaluation, metrics, results, trained
from projects.vseinfty.captions import build_tokenizer
from projects.vseinfty.data import DataSet
from projects.vseinfty.model import build_model
from shared import checkpoint
from shared.errors import InputError
from shared.runtime import Runtime
from tests.vseinfty.sets import write_regions

PROJECT = Path(evaluation.__file__).parent
TINY = Path(__file__).resolve().parents[1] / "goldens" / "vseinfty" / "tiny"
GOLDENS = TINY.parent
ON_TINY = (
    "data=f30k",
    f"data.root={TINY}",
    f"data.vocab_path={TINY / 'vocab' / 'f30k_precomp_vocab.json'}",
    "workers=0",
    "runtime.device=cpu",
)


def run(entry: str, *overrides: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *start, str(PROJECT / entry), *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def fails(entry: str, *overrides: str) -> str:
    """The one line of an expected error."""
    done = run(entry, *overrides)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def write_cxc(folder: Path, num_images: int = 30) -> Path:
    """Annotations for the tiny set: every image's own captions, and ratings that follow nothing."""
    rng = np.random.default_rng(0)
    images, captions = [str(i) for i in range(num_images)], [str(1000 + i) for i in range(5 * num_images)]
    folder.mkdir(parents=True)
    tables = {
        "it": {
            "t2i": {name: [[images[row // 5], 5.0]] for row, name in enumerate(captions)},
            "i2t": {name: [[c, 5.0] for c in captions[5 * i : 5 * i + 5]] for i, name in enumerate(images)},
        },
        "t2t": {name: [] for name in captions},
        "i2i": {name: [[images[(i + 1) % num_images], 4.0]] for i, name in enumerate(images)},
    }
    for part, table in tables.items():
        (folder / f"cxc_{part}.json").write_text(json.dumps(table))
    (folder / "test_ids.txt").write_text("".join(f"{name}\n" * 5 for name in images))
    (folder / "test_capids.txt").write_text("".join(f"{name}\n" for name in captions))
    for task, (left, right) in {
        "sts": (captions, captions),
        "sis": (images, images),
        "sits": (captions, images),
    }.items():
        pairs = [(rng.choice(left), rng.choice(right), rng.uniform(0, 5)) for _ in range(200)]
        lines = [f"COCO:sentid:{a},COCO_{b},{rating:.2f},x" for a, b, rating in pairs]
        (folder / f"{task}_test.csv").write_text("a,b,agg_score,method\n" + "\n".join(lines) + "\n")
    return folder


def test_all_protocols_share_the_embeddings(tmp_path: Path) -> None:
    done = run(
        "eval.py",
        f"checkpoint={TINY / 'model_best.pth'}",
        *ON_TINY,
        "protocols=[folds,full,cxc,correlation]",
        "protocol.folds=3",
        f"protocol.cxc_folder={write_cxc(tmp_path / 'cxc_annots')}",
        "protocol.correlation_samples=20",
        "save_results=true",
        f"output={tmp_path / 'out'}",
    )
    assert done.returncode == 0, done.stderr
    found = read(tmp_path / "out")["metrics"]
    saved = results.load(tmp_path / "out" / "results_f30k.npz")
    assert saved.images is not None
    assert saved.captions is not None
    assert found["full"] == pytest.approx(metrics.retrieval(saved.images, saved.captions))
    assert found["folds"] == json.loads(
        json.dumps(metrics.retrieval_folds(saved.images, saved.captions, folds=3))
    )
    # every caption of an image is its positive, so CxC between the modalities is plain retrieval
    assert found["cxc"]["i2t"]["r1"] == pytest.approx(found["full"]["r1"])
    assert found["cxc"]["t2i"]["r10"] == pytest.approx(found["full"]["r10i"])
    assert set(found["correlation"]) == {"sts", "sis", "sits"}
    for words in ("mean of the folds", "all images", "t2t ", "SITS"):
        assert words in done.stdout


def test_the_authors_list_of_models(tmp_path: Path) -> None:
    """Those of the set that are there, each with its results file beside it, as in the release."""
    for name in ("f30k_butd_region_bigru", "f30k_butd_grid_bigru", "coco_butd_region_bigru"):
        (tmp_path / name).mkdir()
        shutil.copy(TINY / "model_best.pth", tmp_path / name)
    output = tmp_path / "runs"
    done = run(
        "eval.py", f"released_root={tmp_path}", *ON_TINY, "save_results=true", f"hydra.run.dir={output}"
    )
    assert done.returncode == 0, done.stderr
    models = read(output)["models"]
    assert [model["model"] for model in models] == ["f30k_butd_region_bigru", "f30k_butd_grid_bigru"]
    expected = json.loads((TINY / "expected.json").read_text())
    for model in models:
        found = model["metrics"]["full"]
        assert [found[key] for key in metrics.IMAGE_TO_TEXT] == pytest.approx(expected["i2t"])
        assert (tmp_path / model["model"] / "results_f30k.npz").is_file()
    assert not (tmp_path / "coco_butd_region_bigru" / "results_f30k.npz").exists()

    ensemble = run(
        "eval_ensemble.py",
        f"paths=[{tmp_path}/f30k_butd_region_bigru/results_f30k.npz,{tmp_path}/f30k_butd_grid_bigru/results_f30k.npz]",
        "folds=0",
        f"hydra.run.dir={tmp_path / 'ensemble'}",
    )
    assert ensemble.returncode == 0, ensemble.stderr
    assert read(tmp_path / "ensemble")["metrics"]["full"] == pytest.approx(models[0]["metrics"]["full"])


@pytest.fixture(scope="module")
def our_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as train.py leaves it, with an untrained small model on a small region set."""
    folder = tmp_path_factory.mktemp("ours")
    root = folder / "set"
    write_regions(root, split="test", num_images=7, dim=8, repeated=True)
    words = sorted({word for line in (root / "precomp" / "test_caps.txt").open() for word in line.split()})
    listed = ["<pad>", "<start>", "<end>", "<unk>", *words]
    vocabulary = root / "vocab.json"
    index = {word: i for i, word in enumerate(listed)}
    vocabulary.write_text(
        json.dumps({"word2idx": index, "idx2word": {str(i): w for w, i in index.items()}, "idx": len(listed)})
    )
    data = {**vars(DataSet(name="small", root=str(root), vocab_path=str(vocabulary)))}
    sizes = {
        "embed_size": 16,
        "image_dim": 8,
        "word_dim": 8,
        "text_encoder": "bigru",
        "bert": "bert-base-uncased",
    }
    torch.manual_seed(0)
    tokenizer = build_tokenizer(text_encoder="bigru", vocab_path=vocabulary)
    model = build_model(vocab_size=tokenizer.vocab_size, **sizes)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint.save(
        folder / "run",
        runtime=Runtime(torch.device("cpu")),
        modules={"model": model, "optimizer": optimizer},
        progress={"epoch": 1},
        config={"name": "small", "model": sizes, "data": data},
        best=True,
    )
    return folder / "run"


def plain_rsum(run_folder: Path) -> float:
    """Every caption and its image encoded one by one, full sorts."""
    model = trained.load(run_folder)
    split = DataSet(**model.data_settings).open("test", tokenizer=model.tokenizer)
    features = np.load(Path(model.data_settings["root"]) / "precomp" / "test_ims.npy")[::5]
    with torch.no_grad():
        images = [
            model.model.encode_images(torch.from_numpy(row[None]), torch.tensor([4])) for row in features
        ]
        texts = [torch.tensor([model.tokenizer.encode(line)]) for line in split.texts]
        captions = [model.model.encode_captions(ids, torch.tensor([ids.shape[1]])) for ids in texts]
    sims = (torch.cat(images).double() @ torch.cat(captions).double().T).numpy()
    total = 0.0
    for k in (1, 5, 10):
        total += 100 * np.mean([(np.argsort(-row)[:k] // 5 == i).any() for i, row in enumerate(sims)])
        total += 100 * np.mean([c // 5 in np.argsort(-column)[:k] for c, column in enumerate(sims.T)])
    return total


def test_a_run_of_ours_brings_its_own_data(our_run: Path, tmp_path: Path) -> None:
    done = run(
        "eval.py", f"run={our_run}", f"output={tmp_path}", "workers=0", "runtime.device=cpu", "batch_size=3"
    )
    assert done.returncode == 0, done.stderr
    found = read(tmp_path)
    assert found["data"] == "small"
    assert found["metrics"]["full"]["rsum"] == pytest.approx(plain_rsum(our_run))


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(our_run: Path, tmp_path: Path) -> None:
    """7 images and 35 captions do not divide by 2; rank 0 alone writes."""
    settings = (f"run={our_run}", "workers=0", "runtime.device=cpu", "batch_size=4", "save_results=true")
    for ranks in (1, 2):
        done = run("eval.py", *settings, f"output={tmp_path / str(ranks)}", ranks=ranks)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("all images") == 1
    assert read(tmp_path / "1")["metrics"] == read(tmp_path / "2")["metrics"]
    one, two = (results.load(tmp_path / ranks / "results_small.npz") for ranks in ("1", "2"))
    assert one.images is not None
    np.testing.assert_allclose(two.images, one.images, atol=1e-6)


def test_without_a_trained_run_it_says_what_to_do(tmp_path: Path) -> None:
    line = fails("eval.py", f"default_run={tmp_path / 'runs' / 'mini'}", f"hydra.run.dir={tmp_path / 'eval'}")
    assert "not trained yet" in line
    assert "python train.py" in line
    assert not (tmp_path / "eval").exists()


def test_an_output_that_cannot_be_written(our_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = fails(
        "eval.py", f"run={our_run}", f"output={tmp_path / 'file'}", "workers=0", "runtime.device=cpu"
    )
    assert str(tmp_path / "file") in line


def test_ensemble_of_the_release_where_it_is_absent() -> None:
    line = fails("eval_ensemble.py")
    assert "release_weights/coco_butd_grid_bert/results_coco.npy: no such results file" in line


def test_ensemble_of_released_files(tmp_path: Path) -> None:
    paths = ",".join(str(GOLDENS / f"results_model{i}.npy") for i in range(2))
    done = run("eval_ensemble.py", f"paths=[{paths}]", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    found = read(tmp_path)["metrics"]
    assert found["full"]["rsum"] == pytest.approx(525.0)
    assert found["folds"]["mean"]["rsum"] == pytest.approx(577.0)


def targets(**given: str | None) -> list[evaluation.Target]:
    absent: dict[str, Any] = {"run": None, "checkpoint": None, "released_root": None, "data": None}
    return evaluation.targets(**{**absent, **given}, default=Path("runs") / "mini")


def test_which_models_are_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mini").mkdir(parents=True)
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "model_best.pth").touch()
    assert [target.name for target in targets()] == ["mini"]
    assert targets(run="other")[0].path == Path("runs") / "other"
    assert targets(run="runs/other")[0].folder == Path("runs") / "other"
    released = targets(checkpoint="model_best.pth")[0]
    assert released.is_released
    assert released.name == tmp_path.name
    for given, words in (
        ({"run": "other", "checkpoint": "model_best.pth"}, "expected one of them, found 2"),
        ({"run": "absent"}, "absent: no such run folder"),
        ({"checkpoint": "absent.pth"}, "absent.pth: no such run folder or checkpoint"),
        ({"released_root": "."}, "which set"),
        ({"released_root": ".", "data": "coco"}, "expected coco_butd_region_bert/model_best.pth, "),
    ):
        with pytest.raises(InputError, match=words):
            targets(**given)


def test_a_released_grid_model_decides_how_images_are_prepared() -> None:
    model: Any = trained.Trained
    grid = model(None, None, {"kind": "pixels", "image_side": 512, "backbone": "wsl"}, "coco_wsl_grid_bert")
    data = evaluation.data_set(grid, {"name": "coco", "root": "data/coco", "kind": "regions", "folds": 5})
    assert (data.kind, data.image_side, data.root, data.folds) == ("pixels", 512, "data/coco", 5)
    with pytest.raises(InputError, match="add data=coco or data=f30k"):
        evaluation.data_set(grid, None)


def opened(our_run: Path) -> tuple[trained.Trained, DataSet, Any]:
    model = trained.load(our_run)
    data = DataSet(**model.data_settings)
    return model, data, evaluation.open_split(model, data, "test")


def test_protocols_follow_the_set(our_run: Path) -> None:
    _, small, split = opened(our_run)
    coco = replace(small, folds=5)
    assert evaluation.read_protocols(None, small, split, "test").names == ("full",)
    assert evaluation.read_protocols(None, coco, split, "test").names == ("folds", "full")
    assert evaluation.read_protocols(["full"], coco, split, "test").names == ("full",)


@pytest.mark.parametrize(
    ("names", "given", "words"),
    [
        (["5k"], {}, "protocols: expected some of folds, full, cxc, correlation, found 5k"),
        ([], {}, "found none"),
        (["folds"], {"folds": 8}, "7 images cannot be cut into 8 folds"),
        (["cxc"], {}, r"cxc_annots/test_capids\.txt|cxc_annots/test_ids\.txt"),
    ],
)
def test_what_does_not_fit_is_said_before_encoding(
    our_run: Path, names: list[str], given: dict[str, Any], words: str
) -> None:
    _, data, split = opened(our_run)
    with pytest.raises(InputError, match=words):
        evaluation.read_protocols(names, data, split, "test", **given)


def test_annotations_and_ratings_are_checked_before_encoding(our_run: Path, tmp_path: Path) -> None:
    _, data, split = opened(our_run)
    with pytest.raises(InputError, match="annotates 30 images and 150 captions"):
        evaluation.read_protocols(["cxc"], data, split, "test", cxc_folder=str(write_cxc(tmp_path / "30")))
    folder = write_cxc(tmp_path / "7", num_images=7)
    (folder / "sis_test.csv").unlink()
    with pytest.raises(InputError, match=r"sis_test\.csv: missing"):
        evaluation.read_protocols(["correlation"], data, split, "test", cxc_folder=str(folder))


def test_a_model_with_broken_weights_is_not_evaluated(our_run: Path) -> None:
    model, data, split = opened(our_run)
    model.model.img_enc.fc.bias.data[3] = np.nan
    embedded = evaluation.embed(model, split, Runtime(torch.device("cpu")), batch_size=4, workers=0)
    with pytest.raises(InputError, match="7 of 7 queries hold NaN"):
        evaluation.evaluate(*embedded, evaluation.read_protocols(["full"], data, split, "test"))
