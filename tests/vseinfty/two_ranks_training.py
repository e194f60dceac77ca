"""The gradients of one step, computed by a group of processes or by one; run as a script by test_torchrun."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from projects.vseinfty import engine
from projects.vseinfty.data import Batch, DataSet
from projects.vseinfty.losses import triplet_loss
from projects.vseinfty.model import VSEModel, build_model
from shared import collectives, runtime
from shared.runtime import Runtime

SHARES = ((0, 4), (4, 10))  # the rows of each rank: unequal, and each with another longest set
CASES = {
    "synchronised": {"sync_batchnorm": True},
    "per replica": {"sync_batchnorm": False},
    "micro batch": {"sync_batchnorm": False, "micro_batch": 2},
}
TEXT_ENCODERS = ("bigru", "bert")


def build(text_encoder: str) -> VSEModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = build_model(
        embed_size=12,
        image_dim=8,
        text_encoder=text_encoder,
        vocab_size=50,
        word_dim=6,
        bert_pretrained=False,
        bert_config={
            **sizes,
            "vocab_size": 50,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
    )
    return model.train()


def whole_batch() -> Batch:
    rng = torch.Generator().manual_seed(1)
    image_lengths = torch.tensor([2, 3, 1, 4, 6, 2, 5, 7, 3, 2])
    caption_lengths = torch.tensor([3, 1, 2, 3, 5, 4, 2, 1, 6, 3])
    images, captions = torch.randn(10, 7, 8, generator=rng), torch.randint(1, 50, (10, 6), generator=rng)
    images[torch.arange(7) >= image_lengths[:, None]] = 0
    captions[torch.arange(6) >= caption_lengths[:, None]] = 0
    return Batch(images, image_lengths, captions, caption_lengths, None, torch.arange(10), torch.arange(10))


def share(batch: Batch, start: int, stop: int) -> Batch:
    """Rows start..stop, padded to their own longest set as the collation of a rank does."""
    assert batch.image_lengths is not None
    rows = slice(start, stop)
    longest = int(batch.image_lengths[rows].max()), int(batch.caption_lengths[rows].max())
    return replace(
        batch,
        images=batch.images[rows, : longest[0]],
        image_lengths=batch.image_lengths[rows],
        captions=batch.captions[rows, : longest[1]],
        caption_lengths=batch.caption_lengths[rows],
    )


def gradients(
    text_encoder: str, here: Runtime, batch: Batch, *, sync_batchnorm: bool, micro_batch: int | None = None
) -> dict[str, Tensor]:
    """The loss, every parameter's gradient and every buffer after one forward and backward pass."""
    model = build(text_encoder)
    engine.prepare(model, here, seed=0, sync_batchnorm=sync_batchnorm, compiled=False)

    def backward(images: Tensor, captions: Tensor) -> Tensor:
        loss = triplet_loss(
            collectives.all_gather_with_grad(images),
            collectives.all_gather_with_grad(captions),
            margin=0.2,
            hardest=True,
        )
        loss.backward()
        return loss.detach()

    loss = engine.forward_and_backward(model, batch, backward, runtime=here, micro_batch=micro_batch)
    collectives.all_reduce_gradients(model.parameters())
    found = {"loss": loss}
    found |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {name: buffer.clone() for name, buffer in model.named_buffers()}


def validated(here: Runtime, root: Path, statistics: int) -> dict[str, Tensor]:
    """Metrics and buffers after a validation that began with these running statistics."""
    data = DataSet(name="tiny", root=str(root), vocab_path=str(root / "vocab/mini_precomp_vocab.json"))
    model_settings = {"text_encoder": "bigru", "bert": "", "backbone": "detector", "image_dim": 64}
    _, dev, vocab_size = engine.open_data(data, model_settings, seed=0)
    torch.manual_seed(0)
    model = build_model(embed_size=12, image_dim=64, vocab_size=vocab_size, word_dim=6)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.linspace(-0.5, 0.5, len(buffer)) * (1 - 2 * statistics))
    found = engine.validate(model, dev, here, batch_size=4)
    return {name: torch.tensor(value) for name, value in found.items()} | dict(model.named_buffers())


def main(out: Path, root: Path) -> None:
    with runtime.start(device="cpu", threads=1) as here:
        own = share(whole_batch(), *SHARES[here.rank])
        found = {
            f"{case}, {text}": gradients(text, here, own, **CASES[case])
            for case in CASES
            for text in TEXT_ENCODERS
        }
        found["validated"] = validated(here, root, statistics=here.rank)
        torch.save(found, out / f"rank{here.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
