"""summarize.py: the paper's tables from released frames and from evaluations of ours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from projects.semabs import summary, summary_text
from projects.semabs.evaluation_metrics import evaluation_metrics
from projects.semabs.stats import Stats
from shared.errors import InputError
from tests.semabs.evaluation_runs import error_line
from tests.semabs.training_runs import PROJECT, SERVER

GOLDEN = PROJECT.parents[1] / "tests/goldens/semabs/summarize.npz"
FRAMES = {
    "semaware/ovssc/": "semaware/ovssc/ovssc_eval_stats.pkl",
    "chefer_et_al/ovssc/": "chefer_et_al/ovssc/ovssc_eval_stats.pkl",
    "ours/ovssc/": "ours/ovssc/ovssc_eval_stats.pkl",
    **{f"{name}/vool/": f"{name}/vool/vool_eval_stats.pkl" for name in summary_text.APPROACHES},
    "nyu_supervised/": "ours/ovssc/ovssc_eval_stats_supervised_nyu_merged.pkl",
    "nyu_zs/": "ours/ovssc/ovssc_eval_stats_zs_nyu_merged.pkl",
}


def golden(prefix: str) -> Stats:
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        return Stats({key[len(prefix) :]: arrays[key] for key in arrays.files if key.startswith(prefix)})


def summarized(out: Path, *overrides: str) -> Any:
    return SERVER.entry(PROJECT / "summarize.py", out, *overrides)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the released layout, its frames written by pandas."""
    pandas = pytest.importorskip("pandas")
    root = tmp_path_factory.mktemp("released") / "models"
    for prefix, name in FRAMES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pandas.DataFrame(dict(golden(prefix).columns)).to_pickle(root / name)
    return root


def test_tables_of_the_released_layout(models: Path, tmp_path: Path) -> None:
    finished = summarized(tmp_path / "out", f"models={models}")
    assert finished.returncode == 0, finished.stderr[-2000:]
    printed = [line.split("  ") for line in finished.stdout.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in printed]
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        for table in ("table_ovssc", "table_vool", "table_nyu"):
            for row in arrays[table].tolist():
                assert [cell for cell in row if cell] in cells, row
    assert (tmp_path / "out" / "summary.txt").read_text() == finished.stdout
    assert "tuned on the split" not in finished.stdout  # released frames have no split of their own for it


def test_named_files_and_a_validation_split(tmp_path: Path) -> None:
    """With a split `val` whose best cutoff is another one, both tables are printed."""
    stats = golden("ours/ovssc/")
    cutoffs = np.unique(stats["cutoff"])
    best = summary.best_cutoff(stats, summary.METRIC)
    other = next(float(cutoff) for cutoff in cutoffs if cutoff != best)
    rows = stats.where(stats["split"] == "unseen_instances")
    scores = np.where(rows["cutoff"] == other, 0.9, 0.1)
    val = dict(rows.columns) | {summary.METRIC: scores, "split": np.full(len(rows), "val")}
    both = Stats({name: np.concatenate([stats[name], val[name]]) for name in stats.columns})
    both.write(tmp_path / "eval" / "ovssc_eval_stats.npz")
    stats.write(tmp_path / "plain.csv")
    runs = f"runs={{A: {{ovssc: {tmp_path / 'eval'}}}, B: {{ovssc: {tmp_path / 'plain.csv'}}}}}"
    finished = summarized(tmp_path / "out", runs)
    assert finished.returncode == 0, finished.stderr[-2000:]
    test, validation = finished.stdout.split("\n\n")
    expected = summary_text.ovssc_rows({"Ours": summary.tuned(stats)})[0][1:]
    for name in "AB":
        assert [name, *expected] in [line.split() for line in test.splitlines()]
    assert f"A {best:.2f}" in test
    assert f"cutoffs: A {other:.2f}" in validation
    at = stats.where(stats["cutoff"] == other)
    assert summary_text.ovssc_rows({"A": summary.Tuned(other, at)})[0] in [
        line.split() for line in validation.splitlines()
    ]
    bare = summarized(tmp_path / "bare", f"evaluations={tmp_path}", f"models={tmp_path / 'none'}")
    assert ["eval", *expected] in [line.split() for line in bare.stdout.splitlines()], bare.stderr[-2000:]


def test_bad_input(models: Path, tmp_path: Path) -> None:
    nothing = ("models=nothing", f"evaluations={tmp_path / 'none'}")
    assert "no statistics in nothing" in error_line(summarized(tmp_path / "a", *nothing))
    bad = tmp_path / "bad.pkl"
    bad.write_bytes(b"cos\nsystem\n(S'touch x'\ntR.")
    line = error_line(summarized(tmp_path / "b", f"runs={{A: {{ovssc: {bad}}}}}"))
    assert f"{bad}: byte 0: refused: the pickle asks for os.system" in line
    nyu = models / FRAMES["nyu_zs/"]
    line = error_line(summarized(tmp_path / "c", f"runs={{A: {{ovssc: {nyu}}}}}"))
    assert f"{nyu}: no column 'voxel32x32x32_iou'" in line
    assert "runs.A: expected a file for some of" in error_line(
        summarized(tmp_path / "d", "runs={A: {sscc: x}}")
    )
    assert "no ovssc_eval_stats.npz" in error_line(
        summarized(tmp_path / "e", f"runs={{A: {{ovssc: {tmp_path}}}}}")
    )


def test_no_value_no_cutoff() -> None:
    stats = golden("nyu_zs/")
    empty = Stats(dict(stats.columns) | {summary.NYU_METRIC: np.full(len(stats), np.nan)})
    with pytest.raises(InputError, match="there is no cutoff to choose"):
        summary.best_cutoff(empty, summary.NYU_METRIC)


def test_rooms() -> None:
    stats = Stats({"scene_id": np.array(["00001|FloorPlan227_physics", "7|FloorPlan3_physics"])})
    assert summary.rooms(stats).tolist() == [227, 3]
    with pytest.raises(InputError, match="expected a name with FloorPlan"):
        summary.rooms(Stats({"scene_id": np.array(["kitchen"])}))


def test_numbers_of_an_evaluation_are_the_tables(tmp_path: Path) -> None:
    """The nested numbers of results.json, in percent, are the golden tables."""
    how: dict[str, Any] = {"metric": summary.METRIC, "validation": "val", "novel": summary.NOVEL_CLASSES}
    found = evaluation_metrics(golden("ours/ovssc/"), "ovssc", **how)
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        expected = arrays["table_ovssc"].tolist()[-1][1:]
        vool = {row[1]: row[2:] for row in arrays["table_vool"].tolist()[-7:]}
    assert [f"{value:.1f}" for value in found["test_tuned"]["table"].values()] == expected
    assert "validation_tuned" not in found
    table = evaluation_metrics(golden("ours/vool/"), "vool", **how)["test_tuned"]["table"]
    names = {"on the left of": "left", "on the right of": "right", "in front of": "front"}
    for relation, cells in vool.items():
        own = table[names.get(relation, relation)]
        assert [f"{value:.1f}" for value in own.values()] == cells
