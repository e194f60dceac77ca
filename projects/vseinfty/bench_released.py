"""The slow side of `bench.py`: the released system's way of doing things, restated plainly from its
description.

Only timed and compared with, never used. Modules come from our own model, so that both sides share their
weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from projects.vseinfty.captions import Tokenizer


def ranks(images: np.ndarray, captions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Float64 similarity matrix, then a full sort for every image and every caption."""
    sims = images.astype(np.float64) @ captions.astype(np.float64).T
    per_image = len(captions) // len(images)
    image_ranks = np.zeros(len(images), np.int64)
    for i in range(len(images)):
        order = np.argsort(sims[i])[::-1]
        image_ranks[i] = min(
            np.where(order == caption)[0][0] for caption in range(per_image * i, per_image * (i + 1))
        )
    caption_ranks = np.zeros(len(captions), np.int64)
    transposed = sims.T
    for c in range(len(captions)):
        order = np.argsort(transposed[c])[::-1]
        caption_ranks[c] = np.where(order == c // per_image)[0][0]
    return image_ranks, caption_ranks


def five_folds_and_whole(images: np.ndarray, captions: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ranks of COCO's five 1K folds and of the whole set."""
    size = len(images) // 5
    folds = [
        ranks(images[i * size : (i + 1) * size], captions[5 * i * size : 5 * (i + 1) * size])
        for i in range(5)
    ]
    return [*folds, ranks(images, captions)]


def intra_ranks(
    embeddings: np.ndarray, ids: list[str], listed: Mapping[str, Sequence[tuple[str, float]]]
) -> np.ndarray:
    """CxC text -> text: float64 product, diagonal 0, a sort per caption."""
    sims = embeddings.astype(np.float64) @ embeddings.astype(np.float64).T
    np.fill_diagonal(sims, 0.0)
    position = {name: row for row, name in enumerate(ids)}
    best = np.zeros(len(ids), np.int64)
    for row, name in enumerate(ids):
        order = np.argsort(sims[row])[::-1]
        positives = [position[item] for item, score in listed[name] if item in position and score >= 3.0]
        positives += [other for other in range(row // 5 * 5, row // 5 * 5 + 5) if other != row]
        best[row] = min(np.where(order == positive)[0][0] for positive in positives)
    return best


def gpo(gpool: Any, features: Tensor, lengths: Tensor) -> Tensor:
    """GPO of every sample on its own: packed BiGRU over its positions, sort along the set's axis."""
    longest = int(lengths.max())
    features = features[:, :longest]
    mask = torch.arange(longest)[None, :] >= lengths[:, None]
    encoding = positional_encoding(longest, gpool.gru.input_size)
    rows = encoding[None].expand(len(lengths), -1, -1)
    packed = pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)
    hidden = pad_packed_sequence(gpool.gru(packed)[0], batch_first=True)[0]
    hidden = (hidden[..., : hidden.shape[-1] // 2] + hidden[..., hidden.shape[-1] // 2 :]) / 2
    scores = gpool.linear(hidden).masked_fill(mask[..., None], -10000)
    weights = torch.softmax(scores / 0.1, dim=1)
    ranked = features.masked_fill(mask[..., None], -10000).sort(dim=1, descending=True)[0]
    ranked = ranked.masked_fill(mask[..., None], 0)
    return (ranked * weights).sum(dim=1)


def positional_encoding(length: int, dim: int) -> Tensor:
    """Sine and cosine table [length, dim], filled position by position."""
    table = torch.zeros(length, dim)
    position = torch.arange(length, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, dim, 2).float() * -(np.log(10000.0) / dim))
    table[:, 0::2], table[:, 1::2] = torch.sin(position * rate), torch.cos(position * rate)
    return table


def l2_normalise(x: Tensor) -> Tensor:
    """x / (norm + 1e-8)."""
    return x / (x.pow(2).sum(dim=-1, keepdim=True).sqrt() + 1e-8)


def encode_regions(encoder: Any, regions: Tensor, lengths: Tensor) -> Tensor:
    """Region encoder: linear layer plus MLP on every row, padding included, then GPO."""
    first, second = encoder.mlp.layers
    hidden = first(regions)
    normalised = encoder.mlp.bns[0](hidden.reshape(-1, hidden.shape[-1])).view_as(hidden)
    features = second(torch.relu(normalised)) + encoder.fc(regions)
    return l2_normalise(gpo(encoder.gpool, features, lengths))


def encode_words(encoder: Any, ids: Tensor, lengths: Tensor) -> Tensor:
    """BiGRU text encoder on a batch that is sorted by length, as packing demands there."""
    packed = pack_padded_sequence(encoder.embed(ids), lengths, batch_first=True)
    hidden = pad_packed_sequence(encoder.rnn(packed)[0], batch_first=True)[0]
    half = hidden.shape[-1] // 2
    return l2_normalise(gpo(encoder.gpool, (hidden[..., :half] + hidden[..., half:]) / 2, lengths))


def triplet_loss(images: Tensor, captions: Tensor, margin: float) -> Tensor:
    """Hinge loss with the hardest negatives, summed over the batch."""
    scores = images @ captions.t()
    diagonal = scores.diag().view(-1, 1)
    cost_captions = (margin + scores - diagonal.expand_as(scores)).clamp(min=0)
    cost_images = (margin + scores - diagonal.t().expand_as(scores)).clamp(min=0)
    own = torch.eye(len(scores)) > 0.5
    cost_captions, cost_images = cost_captions.masked_fill(own, 0), cost_images.masked_fill(own, 0)
    return cost_captions.max(1)[0].sum() + cost_images.max(0)[0].sum()


def train_step(
    model: Any, optimizer: torch.optim.Optimizer, batch: Sequence[Tensor], *, margin: float, clip: float
) -> float:
    """Sort by caption length, both encoders, loss, backward, clip, optimizer loop; the loss as a number."""
    regions, region_lengths, ids, lengths = batch
    order = lengths.argsort(descending=True, stable=True)
    images = encode_regions(model.img_enc, regions[order], region_lengths[order])
    captions = encode_words(model.txt_enc, ids[order], lengths[order])
    optimizer.zero_grad()
    loss = triplet_loss(images, captions, margin)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip, foreach=False)
    optimizer.step()
    return loss.item()


def drop_words(tokenizer: Tokenizer, caption: str, rng: np.random.Generator) -> list[int]:
    """Tokenise and mask (10 %), replace (2 %) or delete (8 %) word by word."""
    ids = list(tokenizer.prefix)
    for word in tokenizer.words(caption):
        draw = rng.random() / 0.2
        if draw >= 1:
            ids += word
        elif draw < 0.5:
            ids += [tokenizer.mask_id] * len(word)
        elif draw < 0.6:
            ids += [int(rng.integers(tokenizer.vocab_size)) for _ in word]
    return [*ids, *tokenizer.suffix] or [tokenizer.unknown_id]


def fetch_and_collate(
    features: np.ndarray,
    captions: Sequence[str],
    tokenizer: Tokenizer,
    indices: Sequence[int] | np.ndarray,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fetch each pair by itself (tokenise, drop words and regions), then pad the batch row by row."""
    items = []
    for index in indices:
        rows = torch.tensor(features[index // 5])
        rows = rows[torch.from_numpy(rng.random(len(rows)) > 0.2)]
        items.append((rows, torch.tensor(drop_words(tokenizer, captions[index], rng))))
    items.sort(key=lambda item: len(item[1]), reverse=True)
    region_lengths = torch.tensor([len(rows) for rows, _ in items], dtype=torch.float32)
    lengths = torch.tensor([len(ids) for _, ids in items])
    regions = torch.zeros(len(items), int(region_lengths.max()), features.shape[-1])
    padded = torch.zeros(len(items), int(lengths.max()), dtype=torch.int64)
    for b, (rows, ids) in enumerate(items):
        regions[b, : len(rows)] = rows
        padded[b, : len(ids)] = ids
    return regions, region_lengths, padded, lengths
