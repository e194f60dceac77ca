"""The databases read: by several processes at once, and refused in one line where they are of another layout."""

import os
import pickle
from pathlib import Path
from typing import Any

import lmdb
import pytest

from projects.xmrs import lmdb_writer, recipe1m
from projects.xmrs.lmdb_store import RecipeStore
from shared.data import eval_plans, load
from shared.errors import InputError
from tests.xmrs.corpus_files import tokenizer, write_corpus
from tests.xmrs.test_recipe1m import Malicious


def build(root: Path, output: Path) -> None:
    lmdb_writer.write_stores(root, output, tokenizer(), silent=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    write_corpus(root)
    build(root, root / "loader_data")
    return root / "loader_data"


def test_stores_share_a_database_and_survive_a_fork(whole: Path) -> None:
    one, two = RecipeStore(whole / "train_lmdb"), RecipeStore(whole / "train_lmdb")
    expected = [one.entry(index).rows[0].tolist() for index in range(len(one))]
    plans = eval_plans(len(two), 3)

    def fetch(plan: Any) -> list[list[int]]:
        return [two.entry(int(index)).rows[0].tolist() for index in plan.indices]

    for workers in (0, 2):
        assert [row for batch in load(fetch, plans, workers=workers) for row in batch] == expected
    assert one.entry(0).rows[0].tolist() == expected[0]
    assert pickle.loads(pickle.dumps(one)).entry(1).rows[0].tolist() == expected[1]


def test_a_replaced_database_is_read_anew(tmp_path: Path) -> None:
    for count in (9, 6):
        root = tmp_path / str(count)
        write_corpus(root, count)
        build(root, tmp_path / "loader_data")
        assert len(RecipeStore(tmp_path / "loader_data" / "train_lmdb")) == count // 3
        assert RecipeStore(tmp_path / "loader_data" / "train_lmdb").entry(0).rows
        os.rename(tmp_path / "loader_data", tmp_path / f"was{count}")


def write_value(folder: Path, value: bytes, key: str = "k" * 10) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (
        lmdb.open(str(folder), map_size=1 << 20) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(key.encode(), value)
    recipe1m.write_keys(folder.with_name(f"{folder.name.removesuffix('_lmdb')}_keys.pkl"), [key])


ROWS = {
    "recipe": [[101] * 512] * 6,
    "part_of_recipe": [[-1] + [1] * 511] * 6,
    "classes": 3,
    "imgs": [{"id": "abcd.jpg"}],
}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"jpeg...", "found a value of another layout"),
        (b"", "found a value of another layout"),
        (b"XMR1\0\0", "damaged: 6 bytes"),
        (b"XMR1" + b"\xff" * 100, "damaged: 1179630 tokens in 104 bytes"),
        (b"XMR1" + b"\0" * 40 + b"[{", "its pictures cannot be read"),
        (pickle.dumps([1, 2]), "expected recipe, part_of_recipe, classes and imgs, found list"),
        (pickle.dumps({"ingrs": [1]}), "expected recipe, part_of_recipe, classes and imgs, found ingrs"),
        (
            pickle.dumps({**ROWS, "recipe": [[1, 2], [3]]}),
            "the fields of the recipe are not lists of numbers",
        ),
        (pickle.dumps({**ROWS, "imgs": ["x.jpg"]}), "the fields of the recipe are not lists of numbers"),
        (pickle.dumps({**ROWS, "recipe": [[101] * 512] * 5}), "the fields|expected six rows of tokens"),
        (
            pickle.dumps({**ROWS, "recipe": [[101] * 9] * 5, "part_of_recipe": [[1] * 9] * 5}),
            "expected six rows",
        ),
        (pickle.dumps(ROWS)[:-9], "not a complete pickle"),
        (pickle.dumps({**ROWS, "classes": Malicious(Path("was_run"))}), "refused: the pickle asks for"),
    ],
)
def test_databases_of_another_layout(tmp_path: Path, value: bytes, message: str) -> None:
    write_value(tmp_path / "val_lmdb", value or b"\0")
    with pytest.raises(InputError, match=rf"val_lmdb: kkkkkkkkkk: .*({message})"):
        RecipeStore(tmp_path / "val_lmdb")
    assert not Path("was_run").exists()


def test_no_database_and_too_few_recipes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"val_lmdb: no such LMDB database \(create_lmdb\.py makes it\)"):
        RecipeStore(tmp_path / "val_lmdb")
    (tmp_path / "val_lmdb").mkdir()
    (tmp_path / "val_lmdb" / "data.mdb").write_bytes(b"not a database" * 1000)
    recipe1m.write_keys(tmp_path / "val_keys.pkl", ["a"])
    with pytest.raises(InputError, match="cannot be opened as an LMDB database"):
        RecipeStore(tmp_path / "val_lmdb")
    write_value(tmp_path / "test_lmdb", pickle.dumps(ROWS))
    recipe1m.write_keys(tmp_path / "test_keys.pkl", ["k" * 10, "other"])
    with pytest.raises(InputError, match=r"holds 1 recipes, .*test_keys\.pkl lists 2"):
        RecipeStore(tmp_path / "test_lmdb")
    recipe1m.write_keys(tmp_path / "test_keys.pkl", ["other"])
    with pytest.raises(InputError, match=r"no recipe 'other', though .*test_keys\.pkl lists it"):
        RecipeStore(tmp_path / "test_lmdb")
    recipe1m.write_keys(tmp_path / "test_keys.pkl", ["k" * 10])
    with pytest.raises(InputError, match="no recipe 'zz' in this split"):
        RecipeStore(tmp_path / "test_lmdb").index_of("zz")
