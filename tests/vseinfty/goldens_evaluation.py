"""Golden calls of the evaluation: metrics, results files and ensembles, CxC, the tiny model end to end."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from projects.vseinfty import cxc, metrics, results
from tests.goldens.case import Case

PROJECT = Path(metrics.__file__).parent
NAMES = (*metrics.IMAGE_TO_TEXT, *metrics.TEXT_TO_IMAGE)


def embeddings(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, D] and captions [5n, D] of the case: l2-normalised rows, captions near their image."""
    images = case.input(f"{case.data['inputs']}/img", (case.data["images"], case.data["dim"]))
    noise = case.input(f"{case.data['inputs']}/cap", (5 * len(images), case.data["dim"]))
    captions = np.repeat(images, 5, axis=0) + np.float32(case.data["noise"]) * noise
    return tuple(rows / np.sqrt((rows**2).sum(axis=1, keepdims=True)) for rows in (images, captions))


def retrieval_metrics(case: Case) -> None:
    """Both directions, ranks and top-1 where stored, five captions per image and one."""
    expected, name = case.npz(), case.data["arrays"]
    images, captions = embeddings(case)
    found = metrics.retrieval(images, captions)
    for direction, names in (("i2t", metrics.IMAGE_TO_TEXT), ("t2i", metrics.TEXT_TO_IMAGE)):
        case.close([found[key] for key in names], expected[f"{name}_{direction}"], what=direction)
    if f"{name}_rsum" in expected:
        case.close(found["rsum"], expected[f"{name}_rsum"], what="rsum")
    plain = metrics.retrieval(images, captions[::5], captions_per_image=1)
    for direction, names in (("i2t", metrics.IMAGE_TO_TEXT), ("t2i", metrics.TEXT_TO_IMAGE)):
        case.close(
            [plain[key] for key in names], expected[f"{name}_plain_{direction}"], what=f"plain {direction}"
        )
    if f"{name}_i2t_ranks" in expected:
        ranks = metrics.ranks(images, captions)
        case.close(ranks.queries, expected[f"{name}_i2t_ranks"], what="i2t ranks")
        case.close(ranks.items, expected[f"{name}_t2i_ranks"], what="t2i ranks")
        case.close(metrics.nearest(images, captions), expected[f"{name}_i2t_top1"], what="i2t top1")
        case.close(metrics.nearest(captions, images), expected[f"{name}_t2i_top1"], what="t2i top1")


def retrieval_protocols(case: Case) -> None:
    """Five folds with their mean, and the whole set."""
    expected = case.npz()
    images, captions = embeddings(case)
    columns = (*NAMES, "ar", "ari", "rsum")
    folds = metrics.retrieval_folds(images, captions, folds=case.data["folds"])
    for row, fold in zip(expected["fold5"], folds["folds"], strict=True):
        case.close([fold[key] for key in columns], row, what="fold")
    case.close([folds["mean"][key] for key in columns], expected["fold5_mean"], what="mean of the folds")
    case.close([metrics.retrieval(images, captions)[key] for key in NAMES], expected["full5k"], what="5K")


def running_mean(case: Case) -> None:
    """The log's running average after the case's updates."""
    meter = metrics.RunningMean()
    for value, count in case.data["updates"]:
        meter.update(value, count)
    case.close([meter.last, meter.mean, meter.total, meter.count], case.npz()["meter"])


def ensemble(case: Case) -> None:
    """The release's pickled results files, averaged: the printed lines of the original."""
    expected = case.json()
    members = [results.load(case.path(name)) for name in expected["files"]]
    assert sorted(expected["files"]) == sorted(case.data["results"])
    assert summary_lines(results.ensemble(members)) == expected["full"]
    folds = results.ensemble(members, folds=case.data["folds"])
    lines = [line for fold in folds["folds"] for line in fold_lines(fold)]
    assert lines == expected["fold5"][: len(lines)]
    assert summary_lines(folds["mean"]) == expected["fold5"][-5:]


def summary_lines(found: dict) -> list[str]:
    """The original's log of one set."""
    return [
        f"rsum: {found['rsum']:.1f}",
        f"Average i2t Recall: {found['ar']:.1f}",
        "Image to text: " + " ".join(f"{found[key]:.1f}" for key in metrics.IMAGE_TO_TEXT),
        f"Average t2i Recall: {found['ari']:.1f}",
        "Text to image: " + " ".join(f"{found[key]:.1f}" for key in metrics.TEXT_TO_IMAGE),
    ]


def fold_lines(found: dict) -> list[str]:
    """The original's log of one fold."""
    return [
        "Image to text: " + ", ".join(f"{found[key]:.1f}" for key in metrics.IMAGE_TO_TEXT),
        "Text to image: " + ", ".join(f"{found[key]:.1f}" for key in metrics.TEXT_TO_IMAGE),
        f"rsum: {found['rsum']:.1f} ar: {found['ar']:.1f} ari: {found['ari']:.1f}",
    ]


def cxc_recalls(case: Case) -> None:
    """CxC retrieval in all four directions from stored embeddings and annotation files."""
    arrays, expected = case.npz(), case.json(case.data["expected"])
    found = cxc.retrieval(arrays["images"], arrays["captions"], cxc.read(case.path(case.data["annotations"])))
    for direction in ("t2i", "i2t", "i2i", "t2t"):
        case.close([found[direction][f"r{k}"] for k in (1, 5, 10)], expected[direction], what=direction)


def end_to_end(case: Case) -> None:
    """An official checkpoint through `eval.py`: metrics, and similarities from the results file that it
    saves.
    """
    expected = case.json(f"{case.data['folder']}/expected.json")
    sims = case.npz(f"{case.data['folder']}/expected_sims.npz")["sims"]
    folder = case.path(case.data["folder"])
    with TemporaryDirectory() as scratch:
        command = [
            sys.executable,
            str(PROJECT / "eval.py"),
            f"checkpoint={folder / 'model_best.pth'}",
            "data=f30k",
            f"data.root={folder}",
            f"data.vocab_path={folder / case.data['vocabulary']}",
            f"batch_size={case.data['batch_size']}",
            "save_results=true",
            f"output={scratch}",
            "runtime.device=cpu",
            "workers=0",
        ]
        environment = {**os.environ, "WORDSIGHT_DATA": scratch, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads((Path(scratch) / "results.json").read_text())["metrics"]["full"]
        saved = results.load(Path(scratch) / "results_f30k.npz")
    case.close(saved.block(slice(None), slice(None)), sims, what="similarities")
    for names, direction in ((metrics.IMAGE_TO_TEXT, "i2t"), (metrics.TEXT_TO_IMAGE, "t2i")):
        np.testing.assert_allclose([found[key] for key in names], expected[direction], rtol=1e-12)
    assert summary_lines(found) == expected["log"][-5:]


CALLS: dict[str, Callable[[Case], None]] = {
    "retrieval_metrics": retrieval_metrics,
    "retrieval_protocols": retrieval_protocols,
    "running_mean": running_mean,
    "ensemble": ensemble,
    "cxc_recalls": cxc_recalls,
    "end_to_end": end_to_end,
}
