"""The image graph against the definition: count common points of every pair."""

import json
from pathlib import Path

import numpy as np
import pytest

from projects.babel import graph
from projects.babel.correspondence import Correspondence
from projects.babel.graph import Neighbours, image_graph


def write(folder: Path, seen: list[set[int]]) -> Correspondence:
    content = {f"0/{n:03}.jpg": {str(point): [0.5, 0.5] for point in points} for n, points in enumerate(seen)}
    path = folder / "correspondence.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return Correspondence.open(path, silent=True)


def as_lists(found: Neighbours) -> list[list[int]]:
    return [found.of(row).tolist() for row in range(len(found))]


@pytest.mark.parametrize("block", [1, 300, 1 << 25])
def test_it_is_the_definition(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of the blocks it is worked through in; rows without keypoints, rows twice, rows without
    image."""
    monkeypatch.setattr(graph, "_BLOCK", block)
    rng = np.random.default_rng(0)
    seen = [set(rng.permutation(40)[: rng.integers(0, 30)].tolist()) for _ in range(40)]
    seen[7] = set()
    points = write(tmp_path, seen)
    rows: list[int | None] = [*rng.permutation(40)[:30].tolist(), None, 7, 3, 3, None]
    found = image_graph(points, rows, threshold=10)
    sets = [seen[row] if row is not None else set() for row in rows]
    expected = [[j for j, other in enumerate(sets) if len(own & other) >= 10] for own in sets]
    assert as_lists(found) == expected
    assert found.columns.dtype == np.int32
    assert found.num_connected == sum(map(bool, expected))
    assert any(len(row) > 1 for row in expected)


def test_thresholds_and_images_of_their_own(tmp_path: Path) -> None:
    points = write(tmp_path, [set(range(9)), set(range(10)), set(range(30)), set(range(100, 103))])
    assert as_lists(image_graph(points, [0, 1, 2, 3])) == [[], [1, 2], [1, 2], []]
    assert as_lists(image_graph(points, [0, 1, 2, 3], 3)) == [[0, 1, 2]] * 3 + [[3]]
    with pytest.raises(ValueError, match="positive"):
        image_graph(points, [0], 0)


def test_nothing_gives_an_empty_graph(tmp_path: Path) -> None:
    points = write(tmp_path, [set()])
    assert as_lists(image_graph(points, [])) == []
    assert as_lists(image_graph(points, [None, 0])) == [[], []]
