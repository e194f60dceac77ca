"""One step of the GAN by a group of processes or by one; run as a script by test_gan_torchrun."""

import sys
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from projects.xmrs import bench_gan, gan_engine
from projects.xmrs.frozen_encoder import FrozenEncoder
from projects.xmrs.gan_data import GanBatch
from projects.xmrs.gan_engine import LossWeights
from shared import runtime
from shared.runtime import Runtime

SHARES = ((0, 3), (3, 8))  # the rows of each rank
NO_MOVE = 1e-12  # the generator meets the discriminator as it was: its gradients can be compared


def stepped(here: Runtime, first: int, stop: int, *, sync_batchnorm: bool) -> dict[str, Tensor]:
    """Losses, gradients and running statistics after a step on rows first..stop of the batch."""
    generator, discriminator, encoder = bench_gan.networks(quick=True)
    torch.manual_seed(1)
    whole = bench_gan.random_batch(generator, 9, 8)
    whole.classes[:] = torch.tensor([0, 3, 0, 8, 1, 0, 5, 5])  # a rank has fewer labels than the other
    batch = GanBatch(**{field.name: getattr(whole, field.name)[first:stop] for field in fields(whole)})
    networks = gan_engine.build_networks(
        generator,
        discriminator,
        FrozenEncoder(encoder, 64),
        here,
        learning_rate=NO_MOVE,
        sync_batchnorm=sync_batchnorm,
    )
    losses = gan_engine.train_step(networks, batch, weights=LossWeights(), runtime=here)
    found = {f"loss {name}": torch.tensor(value) for name, value in losses.items()}
    for part in (networks.generator, networks.discriminator):
        found |= {name: p.grad for name, p in part.named_parameters() if p.grad is not None}
        found |= {name: b.clone() for name, b in part.named_buffers() if "num_batches" not in name}
    recipes = whole.recipe_embeddings.numpy()
    embedded = gan_engine.embed_synthesised(generator, networks.encoder, recipes, here, seed=0, batch_size=2)
    return found | {"embedded": torch.from_numpy(embedded)}


def main(out: Path) -> None:
    """Write what this rank found, with and without synchronised batch norm."""
    with runtime.start(device="cpu", threads=1) as here:
        found = {
            str(synchronised): stepped(here, *SHARES[here.rank], sync_batchnorm=synchronised)
            for synchronised in (True, False)
        }
        torch.save(found, out / f"rank{here.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
