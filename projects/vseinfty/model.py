"""The two-branch model: images and captions into one joint space (paper section 4)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, overload

from torch import Tensor, nn

from projects.vseinfty import backbones
from projects.vseinfty.image_encoders import GridEncoder, GridHead, RegionEncoder
from projects.vseinfty.pooling import FirstToken, LastState, build_pooling
from projects.vseinfty.text_encoders import BertEncoder, BiGRUEncoder, build_bert
from shared.errors import InputError

GPO_SETTINGS = {"positional_dim": 32, "hidden_dim": 32, "temperature": 0.1}


class VSEModel(nn.Module):
    """Image encoder and text encoder into a space of `embed_size` dimensions; the score is a dot product."""

    def __init__(
        self, img_enc: RegionEncoder | GridEncoder, txt_enc: BiGRUEncoder | BertEncoder, embed_size: int
    ) -> None:
        super().__init__()
        self.img_enc = img_enc
        self.txt_enc = txt_enc
        self.embed_size = embed_size

    def poolings(self) -> dict[str, nn.Module]:
        """The pooling operators of the two branches: {"image": ..., "text": ...}."""
        image = self.img_enc.image_encoder if isinstance(self.img_enc, GridEncoder) else self.img_enc
        return {"image": image.gpool, "text": self.txt_enc.gpool}

    @overload
    def encode_images(
        self,
        images: Tensor,
        lengths: Tensor | None = None,
        grid_draws: tuple[Tensor, Tensor] | None = None,
        return_weights: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def encode_images(
        self,
        images: Tensor,
        lengths: Tensor | None = None,
        grid_draws: tuple[Tensor, Tensor] | None = None,
        *,
        return_weights: Literal[True],
    ) -> tuple[Tensor, Tensor | None]: ...

    def encode_images(
        self,
        images: Tensor,
        lengths: Tensor | None = None,
        grid_draws: tuple[Tensor, Tensor] | None = None,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """Regions [B, N, D] with lengths [B], or pixels [B, 3, H, W] (training: with grid draws) -> [B, E].

        With `return_weights` also the pooling coefficients over the sorted ranks [B, N], None for some
        poolings.
        """
        if grid_draws is None:
            embeddings, weights = self.img_enc(images, lengths)
        else:
            embeddings, weights = self.img_enc(images, lengths, grid_draws)
        return (embeddings, weights) if return_weights else embeddings

    @overload
    def encode_captions(
        self, ids: Tensor, lengths: Tensor, return_weights: Literal[False] = False
    ) -> Tensor: ...

    @overload
    def encode_captions(
        self, ids: Tensor, lengths: Tensor, return_weights: Literal[True]
    ) -> tuple[Tensor, Tensor | None]: ...

    def encode_captions(
        self, ids: Tensor, lengths: Tensor, return_weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """Ids [B, L] right-padded with 0, lengths [B], in any order -> [B, E] (and coefficients [B, L])."""
        embeddings, weights = self.txt_enc(ids, lengths)
        return (embeddings, weights) if return_weights else embeddings


def build_model(
    *,
    embed_size: int = 1024,
    image_encoder: str = "regions",
    image_dim: int = 2048,
    image_hidden: int | None = None,
    backbone: str = "detector",
    backbone_weights: str | Path | None = None,
    text_encoder: str = "bigru",
    bert: str = "bert-base-uncased",
    bert_pretrained: bool = True,
    bert_config: Mapping[str, Any] | None = None,
    vocab_size: int | None = None,
    word_dim: int = 300,
    rnn_layers: int = 1,
    image_pooling: str = "gpo",
    text_pooling: str = "gpo",
    image_kmax: int | None = None,
    text_kmax: int | None = None,
    gpo: Mapping[str, Any] | None = None,
    normalize_images: bool = True,
    normalize_captions: bool = True,
) -> VSEModel:
    """Build the model; random weights but for BERT (`bert_pretrained`) and the CNN (`backbone_weights`).

    Args:
        embed_size: E, size of the joint space.
        image_encoder: "regions" (features [B, N, image_dim]) or "grid" (pixels through `backbone`).
        image_dim: size of a region or grid feature.
        image_hidden: hidden size of the region MLP; default E / 2.
        backbone: detector, imagenet, imagenet_res50, imagenet_res152, imagenet_resnext or wsl*.
        backbone_weights: file with initial CNN weights; None for random ones (a checkpoint follows).
        text_encoder: "bert" or "bigru".
        bert, bert_pretrained, bert_config: see `text_encoders.build_bert`.
        vocab_size: tokens of the vocabulary; the BiGRU's size, and checked against BERT's.
        word_dim, rnn_layers: of the BiGRU.
        image_pooling, text_pooling: see `pooling.build_pooling`; image_kmax, text_kmax: its k.
        gpo: positional_dim, hidden_dim, temperature of GPO.
        normalize_images, normalize_captions: L2-normalise the embeddings.

    Raises:
        InputError: a value that is not among the choices, or initial weights that are not there.
    """
    settings = {**GPO_SETTINGS, **(gpo or {})}
    img_enc = build_image_encoder(
        image_encoder,
        image_dim=image_dim,
        hidden=image_hidden or embed_size // 2,
        embed_size=embed_size,
        backbone=backbone,
        backbone_weights=backbone_weights,
        pooling=build_pooling(image_pooling, dim=embed_size, gpo=settings, k=image_kmax),
        normalize=normalize_images,
    )
    text_pool = build_pooling(text_pooling, dim=embed_size, gpo=settings, k=text_kmax)
    txt_enc: BiGRUEncoder | BertEncoder
    if text_encoder == "bigru":
        if not vocab_size:
            raise InputError(f"model.vocab_size: the BiGRU needs its vocabulary's size, found {vocab_size}")
        txt_enc = BiGRUEncoder(
            vocab_size=vocab_size,
            word_dim=word_dim,
            embed_size=embed_size,
            num_layers=rnn_layers,
            pooling=text_pool,
            normalize=normalize_captions,
        )
    elif text_encoder == "bert":
        encoder = build_bert(bert, pretrained=bert_pretrained, config=dict(bert_config or {}))
        if vocab_size and vocab_size > encoder.config.vocab_size:
            raise InputError(
                f"model.bert: {bert} has embeddings for {encoder.config.vocab_size} tokens, found a "
                f"vocabulary of {vocab_size}: wrong data.vocab_path, or wrong BERT"
            )
        txt_enc = BertEncoder(
            bert=encoder, embed_size=embed_size, pooling=text_pool, normalize=normalize_captions
        )
    else:
        raise InputError(f"model.text_encoder: expected bert or bigru, found {text_encoder!r}")
    return VSEModel(img_enc, txt_enc, embed_size)


def build_image_encoder(
    name: str,
    *,
    image_dim: int,
    hidden: int,
    embed_size: int,
    backbone: str,
    backbone_weights: str | Path | None,
    pooling: nn.Module,
    normalize: bool,
) -> RegionEncoder | GridEncoder:
    """The image branch, see `build_model`."""
    if isinstance(pooling, FirstToken | LastState):
        raise InputError("model.image_pooling: cls and last are for captions; image features have no order")
    if name == "regions":
        return RegionEncoder(
            image_dim=image_dim, hidden=hidden, embed_size=embed_size, pooling=pooling, normalize=normalize
        )
    if name != "grid":
        raise InputError(f"model.image_encoder: expected regions or grid, found {name!r}")
    cnn = backbones.Backbone(backbone)
    if backbone_weights is not None:
        backbones.load_weights(cnn, backbone_weights)
    head = GridHead(image_dim=backbones.DIM, embed_size=embed_size, pooling=pooling, normalize=normalize)
    return GridEncoder(backbone=cnn, head=head)
