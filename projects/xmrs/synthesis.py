"""Images from recipe embeddings with a trained generator.

N: recipes   D: joint space   Z: noise   C: condition   S: side of the image
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from projects.xmrs import decode
from projects.xmrs.generator import Generator
from shared.data import item_generator
from shared.errors import InputError

DRAWS_EPOCH = (1 << 62) + 1  # no training epoch: draws of a synthesis never meet those of training


def random_draws(
    generator: Generator, rows: np.ndarray, *, seed: int = 0, zero_noise: bool = False
) -> tuple[Tensor, Tensor]:
    """Noise z [n, Z] and the condition's draws [n, C] of recipes `rows`, each from its own generator.

    zero_noise: z = 0; the condition is drawn all the same, as released.
    """
    sizes = generator.noise_dim, generator.condition_dim
    drawn = np.empty((len(rows), sum(sizes)), np.float32)
    for into, row in zip(drawn, rows, strict=True):
        item_generator(seed, DRAWS_EPOCH, int(row)).standard_normal(out=into, dtype=np.float32)
    noise, draws = torch.from_numpy(drawn).split(sizes, 1)
    return torch.zeros_like(noise) if zero_noise else noise, draws


@torch.inference_mode()
def batches(
    generator: Generator,
    recipes: np.ndarray | Tensor,
    *,
    rows: np.ndarray | None = None,
    seed: int = 0,
    zero_noise: bool = False,
    batch_size: int = 64,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """(rows [n], images [n, 3, S, S] on the generator's device), batch by batch, in evaluation mode.

    recipes: embeddings [N, D]. rows: which of them, all by default; an image depends on its recipe's row and
    the seed, not on the batch. The rest: see `random_draws`. InputError for embeddings of another D.
    """
    recipes = torch.as_tensor(recipes)
    if recipes.ndim != 2 or recipes.shape[1] != generator.embed_dim:
        raise InputError(
            f"the generator wants recipe embeddings [N, {generator.embed_dim}], found {list(recipes.shape)}"
        )
    rows = np.arange(len(recipes)) if rows is None else np.asarray(rows)
    device = next(generator.parameters()).device
    was_training = generator.training
    generator.eval()
    try:
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            noise, draws = random_draws(generator, chosen, seed=seed, zero_noise=zero_noise)
            inputs = recipes[torch.from_numpy(chosen).to(recipes.device)], noise, draws
            yield chosen, generator(*(one.to(device) for one in inputs))[0].float()
    finally:
        generator.train(was_training)


def synthesise(
    generator: Generator,
    recipes: np.ndarray | Tensor,
    *,
    seed: int = 0,
    zero_noise: bool = False,
    batch_size: int = 64,
) -> Tensor:
    """Normalised images [N, 3, S, S] (CPU) of recipe embeddings [N, D]; see `batches`."""
    made = batches(generator, recipes, seed=seed, zero_noise=zero_noise, batch_size=batch_size)
    images = [one.cpu() for _, one in made]
    return torch.cat(images) if images else torch.zeros(0, 3, generator.side, generator.side)


def pictures(
    generator: Generator, recipes: np.ndarray | Tensor, *, seed: int = 0, zero_noise: bool = False
) -> np.ndarray:
    """uint8 [N, S, S, 3]: the pictures to show, colours stretched as `gan_test.py` saves them."""
    images = synthesise(generator, recipes, seed=seed, zero_noise=zero_noise)
    shown = [np.asarray(decode.to_picture(image)) for image in images]
    return np.stack(shown) if shown else np.zeros((0, generator.side, generator.side, 3), np.uint8)
