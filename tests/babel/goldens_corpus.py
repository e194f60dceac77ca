"""Golden calls of the corpus: split files, correspondences, the image graph."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from projects.babel.correspondence import Correspondence
from projects.babel.graph import image_graph
from projects.babel.splits import image_id, read_split, write_split
from tests.goldens.case import Case


def corpus(case: Case) -> None:
    """Every field of every line, every link of the graph, the keypoints of the first image as (row, col)."""
    golden = case.json()
    with TemporaryDirectory() as folder:
        split, source = Path(folder, "split.txt"), Path(folder, "correspondence.json")
        split.write_text("\n".join(golden["split_lines"]), encoding="utf-8")
        source.write_text(json.dumps(golden["correspondence"]), encoding="utf-8")
        rows = read_split(split)
        assert [row.path for row in rows] == golden["images"]
        assert [list(row.labels) for row in rows] == golden["labels"]
        assert [row.caption for row in rows] == golden["captions"]
        assert [row.tags for row in rows] == golden["tags"]
        write_split(split, rows)
        assert split.read_text(encoding="utf-8") == "\n".join([*golden["split_lines"], ""])

        points = Correspondence.open(source, silent=True)
        assert points.num_points == golden["n_corr_index"]
        images = points.indices_of([image_id(row.path) for row in rows])
        graph = image_graph(points, images, case.data["threshold"])
        found = {str(row): graph.of(row).tolist() for row in range(len(graph)) if len(graph.of(row))}
        assert found == golden["image_graph"]

        first = images[0]
        assert first is not None
        ids, rowcol = points.keypoints(first)
        expected = golden["keypoints_rowcol_of_image_0"]
        names = [points.point_id(point) for point in ids.tolist()]
        assert sorted(names) == sorted(expected)
        case.close(rowcol, [expected[name] for name in names], what="keypoints of image 0")


CALLS: dict[str, Callable[[Case], None]] = {"corpus": corpus}
