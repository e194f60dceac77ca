"""Bench cases of synthesis: a whole step of the GAN, beside a plain restatement of the released one.

The released step: enlarging and convolving one after the other, the condition tiled and joined, gradients of the
discriminator's parameters in the generator's step (which are thrown away), the image encoder with its norms.
"""

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from projects.xmrs import gan_engine
from projects.xmrs.discriminator import Discriminator
from projects.xmrs.frozen_encoder import FrozenEncoder
from projects.xmrs.gan_data import GanBatch
from projects.xmrs.gan_engine import LossWeights
from projects.xmrs.generator import Generator
from projects.xmrs.image_encoder import FoodSpaceImageEncoder
from shared.bench import Case, Sides, Target
from shared.runtime import Runtime

WEIGHTS = LossWeights()
BATCH = 8  # the paper's 48 in six parts: what two CPU cores do in seconds


def plain_generator(
    generator: Generator, recipes: Tensor, noise: Tensor, draws: Tensor
) -> tuple[Tensor, ...]:
    """The generator layer by layer, as the modules say."""
    mu, log_variance = generator.ca_net(recipes)
    condition = mu + draws * (0.5 * log_variance).exp()
    first, second = generator.h_net1, generator.h_net2
    x = first.fc(torch.cat([condition, noise], 1)).view(len(recipes), first.channels, 4, 4)
    for level in range(1, first.doublings + 1):
        x = _layers(first.get_submodule(f"upsample{level}"), x)
    tiled = condition[:, :, None, None].expand(-1, -1, *x.shape[2:])
    x = second.residual(second.jointConv(torch.cat([tiled, x], 1)))
    return generator.img_net2(_layers(second.upsample, x)), mu, log_variance


def _layers(block: nn.Module, x: Tensor) -> Tensor:
    for layer in block.children():
        x = layer(x)
    return x


def plain_features(encoder: FoodSpaceImageEncoder, images: Tensor) -> Tensor:
    """The image encoder on images enlarged to its side."""
    large = functional.interpolate(images, size=(224, 224), mode="bilinear", align_corners=True)
    pooled = encoder.visionMLP.visionMLP(large).flatten(1)
    return functional.normalize(encoder.align_img(encoder.align(encoder.visual_embedding(pooled))))


class Released:
    """Both networks, their optimizers and the released step."""

    def __init__(
        self, generator: Generator, discriminator: Discriminator, encoder: FoodSpaceImageEncoder
    ) -> None:
        self.generator, self.discriminator, self.encoder = generator.train(), discriminator.train(), encoder
        how: dict[str, Any] = {"lr": 1e-4, "betas": (0.5, 0.999), "foreach": False, "fused": False}
        self.of_generator = torch.optim.Adam(generator.parameters(), **how)
        self.of_discriminator = torch.optim.Adam(discriminator.parameters(), **how)
        weights = torch.ones(discriminator.semantic_branch.out_features)
        weights[0] = 0
        self.real_or_fake, self.classify = nn.BCELoss(), nn.CrossEntropyLoss(weights)
        self.cosine = nn.CosineEmbeddingLoss(0.3)

    def step(self, batch: GanBatch) -> dict[str, float]:
        """One step of the discriminator and one of the generator."""
        ones, zeros = torch.ones(len(batch.images)), torch.zeros(len(batch.images))
        inputs = batch.recipe_embeddings, batch.noise, batch.draws
        fake, mu, log_variance = plain_generator(self.generator, *inputs)
        self.of_discriminator.zero_grad()
        real, real_scores = self.discriminator(batch.images, mu.detach())
        made, made_scores = self.discriminator(fake.detach(), mu.detach())
        loss_d = self.real_or_fake(real, ones) + self.real_or_fake(made, zeros)
        loss_d = (
            loss_d + self.classify(real_scores, batch.classes) + self.classify(made_scores, batch.classes)
        )
        loss_d.backward()
        self.of_discriminator.step()

        self.of_generator.zero_grad()
        judged, scores = self.discriminator(fake, mu)
        seen = plain_features(self.encoder, fake)
        kl = -0.5 * (1 + log_variance - mu.square() - log_variance.exp()).mean()
        loss_g = self.real_or_fake(judged, ones) + self.classify(scores, batch.classes) + 2 * kl
        loss_g = loss_g + 32 * self.cosine(seen, batch.image_embeddings, ones)
        loss_g = loss_g + 32 * self.cosine(seen, batch.recipe_embeddings, ones)
        loss_g.backward()
        self.of_generator.step()
        return {"discriminator": float(loss_d.detach()), "generator": float(loss_g.detach())}


def networks(quick: bool) -> tuple[Generator, Discriminator, FoodSpaceImageEncoder]:
    """Generator, discriminator and image encoder of the paper's sizes."""
    torch.manual_seed(0)
    if not quick:
        return Generator(), Discriminator(), FoodSpaceImageEncoder().eval()
    return (
        Generator(embed_dim=32, width=4, noise_dim=8, condition_dim=8, side=64),
        Discriminator(condition_dim=8, width=4, num_classes=9, side=64),
        FoodSpaceImageEncoder(embed_dim=32, head_dim=16, backbone="resnet18", width=4).eval(),
    )


def random_batch(generator: Generator, num_classes: int, rows: int) -> GanBatch:
    """A training batch of random numbers."""
    embedded = functional.normalize(torch.randn(2, rows, generator.embed_dim), dim=2)
    images = torch.randn(rows, 3, generator.side, generator.side)
    classes = torch.randint(0, num_classes, (rows,))
    classes[0] = 1
    noise, draws = torch.randn(rows, generator.noise_dim), torch.randn(rows, generator.condition_dim)
    return GanBatch(images, embedded[0], embedded[1], classes, noise, draws, torch.arange(rows))


def training(quick: bool) -> Sides:
    """One step of both networks, batch 8."""
    parts = networks(quick)
    batch = random_batch(parts[0], parts[1].semantic_branch.out_features, 4 if quick else BATCH)
    plain = copy.deepcopy(parts)
    plain[2].requires_grad_(False)
    sides: Sides = {"released": partial(Released(*plain).step, batch)}
    for precision in ("fp32", "bf16"):
        own = copy.deepcopy(parts)
        runtime = Runtime(torch.device("cpu"), precision)
        built = gan_engine.build_networks(
            own[0], own[1], FrozenEncoder(own[2], 224), runtime, learning_rate=1e-4
        )
        step = partial(gan_engine.train_step, built, batch, weights=WEIGHTS, runtime=runtime)
        sides[f"ours {precision}"] = step
    return sides


def check_training(outputs: Mapping[str, Any]) -> str:
    """The losses of the first step (all sides start from the same weights)."""
    expected = outputs["released"]
    for side, tolerance in (("ours fp32", 2e-4), ("ours bf16", 5e-2)):
        for name, value in expected.items():
            off = abs(outputs[side][name] / value - 1)
            assert off < tolerance, f"{side}: loss of the {name} {outputs[side][name]:.5f} is not {value:.5f}"
    return ", ".join(
        f"{side}: losses {losses['discriminator']:.4f} and {losses['generator']:.4f}"
        for side, losses in outputs.items()
    )


def drawing(quick: bool) -> Sides:
    """Eight images in evaluation mode."""
    generator = networks(quick)[0].eval()
    batch = random_batch(generator, 2, 4 if quick else BATCH)
    inputs = batch.recipe_embeddings, batch.noise, batch.draws

    def released() -> Tensor:
        with torch.no_grad():
            return plain_generator(generator, *inputs)[0]

    def ours() -> Tensor:
        with torch.no_grad():
            images: Tensor = generator(*inputs)[0]
            return images

    return {"released": released, "ours": ours}


def check_drawing(outputs: Mapping[str, Any]) -> str:
    """The images are equal."""
    worst = float((outputs["ours"] - outputs["released"]).abs().max())
    assert worst < 1e-4, f"images differ by {worst:.1e}"
    return f"images agree to {worst:.0e}"


CASES = [
    Case(
        "gan_step",
        "one step of discriminator and generator, batch 8, 128 x 128",
        training,
        check_training,
        (Target("ours fp32", "released", 1.3), Target("ours bf16", "ours fp32")),
    ),
    Case(
        "gan_images",
        "8 images from recipe embeddings, 128 x 128",
        drawing,
        check_drawing,
        (Target("ours", "released", 1.0),),
    ),
]
