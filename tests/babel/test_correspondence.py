"""Correspondences: equal to plain dicts on random files, made once, shared by processes, faults in one line."""

import json
import multiprocessing
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from projects.babel import bench_correspondence, correspondence_arrays
from projects.babel.correspondence import Correspondence
from projects.babel.correspondence_json import read_images, write_images
from shared.errors import InputError

Content = dict[str, dict[str, list[float]]]


def random_content(seed: int, *, images: int = 30, prefix: str = "") -> Content:
    """Images of 0 to 40 keypoints on 60 points; ids of several lengths, not in order."""
    rng = np.random.default_rng(seed)
    names = [f"{n % 3}/{n}/pictures/Façade «{n}» (1).JPG" for n in rng.permutation(images).tolist()]
    return {
        name: {
            f"{prefix}{point}": rng.random(2).round(6).tolist()
            for point in rng.permutation(60)[: rng.integers(0, 41)].tolist()
        }
        for name in names
    }


def put(folder: Path, content: Any) -> Path:
    path = folder / "correspondence.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("prefix", ["", "4_", "landmark-with-a-long-name_"])
def test_it_is_what_plain_dicts_say(tmp_path: Path, prefix: str) -> None:
    content = random_content(3, prefix=prefix)
    found = Correspondence.open(put(tmp_path, content), silent=True)
    assert [found.image_id(i) for i in range(len(found))] == sorted(content, key=str.encode)
    assert found.num_keypoints == sum(map(len, content.values()))
    assert found.num_points == len({point for one in content.values() for point in one})
    for i in range(len(found)):
        points, rowcol = found.keypoints(i)
        own = content[found.image_id(i)]
        assert (np.diff(points) > 0).all()
        assert [found.point_id(point) for point in points] == sorted(own, key=str.encode)
        expected = [[own[found.point_id(point)][1], own[found.point_id(point)][0]] for point in points]
        np.testing.assert_allclose(rowcol, np.reshape(expected, (-1, 2)), atol=1e-7)
    for i, j in [(0, 1), (5, 9), (7, 7), (11, 2)]:
        points, first, second = found.shared(i, j)
        left, right = content[found.image_id(i)], content[found.image_id(j)]
        assert [found.point_id(point) for point in points] == sorted(
            left.keys() & right.keys(), key=str.encode
        )
        np.testing.assert_allclose(first[:, 1], [left[found.point_id(p)][0] for p in points], atol=1e-7)
        np.testing.assert_allclose(second[:, 0], [right[found.point_id(p)][1] for p in points], atol=1e-7)


def test_images_are_found_by_their_id(tmp_path: Path) -> None:
    found = Correspondence.open(put(tmp_path, random_content(1)), silent=True)
    ids = [found.image_id(i) for i in range(len(found))]
    assert found.indices_of(ids) == list(range(len(found)))
    longer, cut = ids[4] + "é" * 300, ids[4][:-1]
    assert found.indices_of([longer, cut, "", "zzz"]) == [None] * 4
    assert found.index_of(ids[4]) == 4


def test_it_is_made_once_by_content(tmp_path: Path) -> None:
    """The same file again: the same folder, untouched. Another content: a folder of its own, at once."""
    path = put(tmp_path, random_content(1))
    first = Correspondence.open(path, silent=True)
    before = {file: file.stat().st_mtime_ns for file in first.folder.glob("*.npy")}
    assert Correspondence.open(path, silent=True).folder == first.folder
    assert {file: file.stat().st_mtime_ns for file in first.folder.glob("*.npy")} == before
    size = path.stat().st_size
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("0.1", "0.2"), encoding="utf-8")
    assert path.stat().st_size == size
    other = Correspondence.open(path, silent=True)
    assert other.folder != first.folder
    assert (np.asarray(other.rowcol) != np.asarray(first.rowcol)).any()
    elsewhere = Correspondence.open(path, cache=tmp_path / "x" / "cache", silent=True)
    assert elsewhere.folder.parent == tmp_path / "x" / "cache"


def test_an_old_file_is_not_read_again(tmp_path: Path) -> None:
    """A file that has not changed for a while is known by size and time; a touched one by its content."""
    path = put(tmp_path, random_content(1))
    past = time.time() - 100
    os.utime(path, (past, past))
    folder = Correspondence.open(path, silent=True).folder
    damaged = path.read_bytes()[:-1] + b"x"
    path.write_bytes(damaged)
    os.utime(path, (past, past))
    assert Correspondence.open(path, silent=True).folder == folder  # it was not opened
    os.utime(path, (past + 1, past + 1))
    with pytest.raises(InputError, match=r"something follows|not valid JSON"):
        Correspondence.open(path, silent=True)


def _open(path: Path, start: Any, results: Any) -> None:
    start.wait()
    found = Correspondence.open(path, silent=True)
    results.put((found.folder.name, int(found.points.sum())))


def test_two_processes_at_once(tmp_path: Path) -> None:
    path = put(tmp_path, random_content(2, images=200))
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_open, args=(path, start, results)) for _ in range(2)]
    for process in processes:
        process.start()
    answers = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(answers) == 1
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [answers.pop()[0]]


def _open_and_die(path: Path) -> None:
    correspondence_arrays._number = lambda *_: os._exit(9)
    Correspondence.open(path, silent=True)


def test_a_process_killed_meanwhile_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    path = put(tmp_path, random_content(1))
    process = multiprocessing.get_context("fork").Process(target=_open_and_die, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert [entry.name[0] for entry in (tmp_path / "cache").iterdir()] == ["."]
    assert len(Correspondence.open(path, silent=True)) == 30


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    path = put(tmp_path, random_content(1))
    cache = tmp_path / "cache"
    gone, fresh, alive = (
        cache / f".correspondence-0123456789abcdef.{name}.tmp"
        for name in ("4194303-0", "4194302-0", f"{os.getpid()}-0")
    )
    for folder in (gone, fresh, alive):
        folder.mkdir(parents=True)
        (folder / "names.tmp").write_bytes(b"x")
    past = time.time() - 1000
    for folder in (gone, alive):
        os.utime(folder / "names.tmp", (past, past))
        os.utime(folder, (past, past))
    Correspondence.open(path, silent=True)
    assert not gone.exists()
    assert fresh.exists()
    assert alive.exists()


def test_a_copy_for_a_worker_is_the_name_of_the_folder(tmp_path: Path) -> None:
    found = Correspondence.open(put(tmp_path, random_content(1, images=200)), silent=True)
    sent = pickle.dumps(found)
    assert len(sent) < 500
    again = pickle.loads(sent)  # our own bytes
    assert (again.points == found.points).all()


def test_no_image_and_images_without_keypoints(tmp_path: Path) -> None:
    empty = Correspondence.open(put(tmp_path, {}), silent=True)
    assert len(empty) == 0
    assert empty.index_of("0/a.jpg") is None
    bare = Correspondence.open(put(tmp_path, {"0/a.jpg": {}, "0/b.jpg": {"1": [0, 1]}}), silent=True)
    assert [len(bare.keypoints(i)[0]) for i in range(2)] == [0, 1]
    assert len(bare.shared(0, 1)[0]) == 0
    assert bare.keypoints(1)[1].tolist() == [[1, 0]]


def test_a_few_keypoints_outside_are_left_out_and_counted(tmp_path: Path) -> None:
    content = {"0/a.jpg": {str(n): [0.5, 0.5] for n in range(300)}}
    content["0/a.jpg"]["7"] = [1.0001, 0.5]
    content["0/a.jpg"]["8"] = [0.5, -0.1]
    found = Correspondence.open(put(tmp_path, content), silent=True)
    assert found.num_outside == 2
    assert found.num_keypoints == 298
    assert "7" not in [found.point_id(point) for point in found.points]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"0/a.jpg": {"1": [30.0, 40.5], "2": [0.5, 0.5]}},
            "'1' of '0/a.jpg': [30.0, 40.5]; expected fractions",
        ),
        ('{"0/a.jpg": {"1": [0.1, 0.2]}, "0/a.jpg": {}}', "image '0/a.jpg' is there twice"),
        ('{"0/a.jpg": {"1": [0.1, 0.2], "1": [0.1, 0.2]}}', "point '1' is there twice"),
        ({"0/a.jpg": {"1": [0.1]}}, "point '1': expected [x, y], found [0.1]"),
        ({"0/a.jpg": {"1": [0.1, "0.2"]}}, "point '1': expected [x, y]"),
        ({"0/a.jpg": {"1": [0.1, True]}}, "point '1': expected [x, y]"),
        ({"0/a.jpg": {"1": [0.1, None]}}, "point '1': expected [x, y]"),
        ({"0/a.jpg": {"1": 0.1}}, "point '1': expected [x, y]"),
        ('{"0/a.jpg": {"1": [0.1, NaN]}}', "point '1': expected [x, y]"),
        ('{"0/a.jpg": {"1": [0.1, %s]}}' % ("9" * 400), "point '1': expected [x, y]"),
        ({"0/a.jpg": {"": [0.1, 0.2]}}, "a point without an id"),
        ({"0/a.jpg": [[0.1, 0.2]]}, "expected image '0/a.jpg': an object of keypoints"),
        ([1], "expected a JSON object of images"),
        ('{"0/a.jpg": {"1": [0.1, 0.2]}, "0/b.jpg": {"1": [0.', "not valid JSON in image 2"),
        ('{"0/a.jpg": {"1": [0.1, 0.2]}', "not valid JSON in image 2: expected , or }"),
        ('{"0/a.jpg": ', "not valid JSON in image 1: the file ends"),
        ('{"0/a.jpg": {}} {', "something follows"),
        ("", "expected a JSON object of images, found ''"),
        ("{" + '"a": {"b": ' + "[" * 100000, "not valid JSON in image 1"),
    ],
)
def test_faults_are_one_line_and_leave_nothing(tmp_path: Path, content: Any, says: str) -> None:
    path = put(tmp_path, content)
    with pytest.raises(InputError) as caught:
        Correspondence.open(path, silent=True)
    message = str(caught.value)
    assert says in message
    assert str(path) in message
    assert "\n" not in message
    assert not list((tmp_path / "cache").iterdir())


def test_a_missing_file_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Correspondence.open(tmp_path / "correspondence.json")
    path = tmp_path / "correspondence.json"
    path.write_bytes(b'{"0/\xff.jpg": {}}')
    with pytest.raises(InputError, match="not UTF-8"):
        Correspondence.open(path, silent=True)


def test_reading_in_pieces_is_reading_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = random_content(4)
    path = put(tmp_path, json.dumps(content, indent=1))
    monkeypatch.setattr("shared.json_stream._CHUNK", 7)
    sizes: list[int] = []
    found = {name: dict(keypoints) for name, keypoints in read_images(path, sizes.append)}
    assert found == content
    assert sum(sizes) == path.stat().st_size


def test_writing_rounds_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "correspondence.json"
    assert (
        write_images(path, iter([("0/é.jpg", {"5": (1 / 3, float(np.float32(0.25)))}), ("0/b.jpg", {})])) == 2
    )
    assert json.loads(path.read_text(encoding="utf-8")) == {"0/é.jpg": {"5": [0.333333, 0.25]}, "0/b.jpg": {}}


@pytest.mark.parametrize("case", bench_correspondence.CASES, ids=lambda case: case.name)
def test_the_bench_agrees_with_the_released_way(case: bench_correspondence.Case) -> None:
    outputs = {name: side() for name, side in case.make(True).items()}
    assert case.check(outputs)
    assert {name for target in case.targets for name in (target.side, target.than)} <= set(outputs)


def test_the_bench_would_notice_a_missing_link() -> None:
    case = bench_correspondence.CASES[0]
    outputs = {name: side() for name, side in case.make(True).items()}
    outputs["ours"].columns[3] += 1
    with pytest.raises(AssertionError, match="ours"):
        case.check(outputs)
