"""Embeddings of a split: each item once, in order, whatever the batches."""

import numpy as np
import pytest
import torch

from projects.xmrs import encoding, trained
from projects.xmrs.data import DataSet, Split
from projects.xmrs.model import FoodSpaceNet
from shared.data import BatchPlan
from shared.runtime import Runtime
from tests.xmrs.retrieval_runs import write_run
from tests.xmrs.sets import make_set

CPU = Runtime(torch.device("cpu"))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[FoodSpaceNet, Split]:
    folder = tmp_path_factory.mktemp("encoding")
    root = make_set(folder / "set", train=2, val=2, test=11)
    model = trained.load(write_run(folder / "run", root))
    return model.model, DataSet(**model.settings["data"]).open("test")


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_each_row_is_that_of_the_item_alone(given: tuple[FoodSpaceNet, Split], batch_size: int) -> None:
    model, split = given
    images = encoding.encode_images(model, split, CPU, batch_size=batch_size, workers=0)
    recipes = encoding.encode_recipes(model, split, CPU, batch_size=batch_size, workers=0)
    assert images.shape == recipes.shape == (11, model.embed_dim)
    assert images.dtype == recipes.dtype == np.float32
    with torch.inference_mode():
        for item in range(11):
            plan = BatchPlan(0, 0, np.array([item]))
            image = model.encode_images(split.fetch_images(plan).images)[0]
            recipe = model.encode_recipes(split.fetch_recipes(plan).tokens)[0]
            np.testing.assert_allclose(images[item], image, atol=2e-6)
            np.testing.assert_allclose(recipes[item], recipe, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(recipes, axis=1), 1, atol=1e-5)
    assert len(np.unique(recipes.round(5), axis=0)) == 11


def test_it_encodes_in_evaluation_mode_and_puts_training_back(given: tuple[FoodSpaceNet, Split]) -> None:
    model, split = given
    before = encoding.encode_recipes(model, split, CPU, workers=0)
    model.train()
    try:
        np.testing.assert_array_equal(encoding.encode_recipes(model, split, CPU, workers=0), before)
        assert model.training
    finally:
        model.eval()
