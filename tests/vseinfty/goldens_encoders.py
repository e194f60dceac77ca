"""Golden calls of the model: pooling, encoders, CNNs, loss."""

from typing import Any

import numpy as np
import torch
from torch import nn

from projects.vseinfty.backbones import num_grids
from projects.vseinfty.coefficients import positional_encoding
from projects.vseinfty.image_encoders import GridEncoder, RegionEncoder, l2_normalize
from projects.vseinfty.losses import triplet_loss
from projects.vseinfty.pooling import GPO, build_pooling
from tests.goldens.case import Case
from tests.vseinfty.golden_models import build, padded


def gpo(case: Case) -> None:
    golden = case.npz()
    pool = GPO()
    pool.load_state_dict(case.weights())
    lengths = torch.from_numpy(golden["lengths"])
    shape = tuple(case.data["features"])
    features = torch.from_numpy(case.input("gpo/features", shape)).requires_grad_()
    upstream = torch.from_numpy(case.input("gpo/upstream", (shape[0], shape[2])))

    pooled, theta = pool(features, lengths)
    case.close(pooled, golden["pooled"], what="pooled")
    case.close(theta, golden["theta"], what="theta")
    (pooled * upstream).sum().backward()
    share = float(case.data["gradients_of_max"])
    case.close(features.grad, golden["grad_features"], of_max=True, rtol=share, what="gradient of features")
    for name, parameter in pool.named_parameters():
        case.close(
            parameter.grad, golden[f"grad_{name}"], of_max=True, rtol=share, what=f"gradient of {name}"
        )

    with torch.inference_mode():  # the table kept in evaluation
        case.close(pool.eval()(features.detach(), lengths)[1], golden["theta"], what="kept theta")
        negative = -features.detach().abs() - case.data["negative_shift"]
        case.close(pool(negative, lengths)[0], golden["negative_pooled"], what="negative features")

        long_lengths = torch.from_numpy(golden["long_lengths"])
        long_pooled, long_theta = pool(
            torch.from_numpy(case.input("gpo/long", tuple(case.data["long"]))), long_lengths
        )
        case.close(long_pooled, golden["long_pooled"], what="long sets")
        case.close(long_theta, golden["long_theta"], what="theta of long sets")

        truncated = torch.from_numpy(case.input("gpo/trunc", tuple(case.data["trunc"]["shape"])))
        cut, _ = pool(truncated, torch.tensor(case.data["trunc"]["lengths"]))
        case.close(cut, golden["trunc_pooled"], what="truncation")
    pe = golden["pe"]
    case.close(positional_encoding(len(pe), pe.shape[1], torch.float32, torch.device("cpu")), pe, what="pe")


def pooling(case: Case) -> None:
    golden = case.npz()
    lengths = torch.from_numpy(golden["lengths"])
    x = torch.from_numpy(case.input("pool/x", tuple(case.data["x"])))
    for key in golden:
        if key.startswith("kmax"):
            pool: nn.Module = build_pooling("kmax", dim=x.shape[2], k=int(key.removeprefix("kmax")))
        elif key in ("avg", "max", "first"):
            pool = build_pooling({"first": "cls"}.get(key, key), dim=x.shape[2])
        else:
            continue
        case.close(pool(x, lengths)[0], golden[key], what=key)
    case.close(l2_normalize(x), golden["l2norm"], what="l2norm")
    zero = torch.zeros(golden["l2norm_zero"].shape)
    case.close(l2_normalize(zero), golden["l2norm_zero"], what="l2norm of zeros")


def region(case: Case) -> None:
    golden = case.npz()
    model = build(case.weights(), None)
    encoder = model.img_enc
    assert isinstance(encoder, RegionEncoder)
    lengths = torch.from_numpy(golden["lengths"])
    values = np.maximum(case.input("region/x", tuple(case.data["regions"])), 0)
    x = padded(values, golden["lengths"])

    def close(actual: Any, name: str) -> None:
        case.close(actual, golden[name], of_max=True, what=name)

    with torch.inference_mode():
        close(model.encode_images(x, lengths), "emb")
        encoder.normalize = False
        close(model.encode_images(x, lengths), "emb_nonorm")
        encoder.normalize = True
        close(encoder.local_features(x)[:, ::5, ::16], "local_sub")

    encoder.train()
    embeddings = model.encode_images(x, lengths)
    close(embeddings, "train_emb")
    upstream = torch.from_numpy(case.input("region/upstream", tuple(embeddings.shape)))
    (embeddings * upstream).sum().backward()
    state, gradients = encoder.state_dict(), {n: p.grad for n, p in encoder.named_parameters()}
    close(state["mlp.bns.0.running_mean"], "bn0_running_mean")
    close(state["mlp.bns.0.running_var"], "bn0_running_var")
    for key in golden:
        name = key.removeprefix("grad_")
        if name != key and name in gradients:
            close(gradients[name], key)
    for key, name in (("grad_fc_weight_sub", "fc.weight"), ("grad_mlp0_weight_sub", "mlp.layers.0.weight")):
        gradient = gradients[name]
        assert gradient is not None
        close(gradient.flatten()[::4099], key)
    unused = [n for n, g in gradients.items() if g is None]
    assert unused == ["mlp.bns.1.weight", "mlp.bns.1.bias"]


def bert_text(case: Case) -> None:
    golden = case.npz()
    model = build(None, case.weights())
    encoder = model.txt_enc
    ids, lengths = torch.from_numpy(golden["ids"]), torch.from_numpy(golden["lengths"])

    def close(actual: Any, name: str) -> None:
        case.close(actual, golden[name], of_max=True, what=name)

    with torch.inference_mode():
        embeddings, theta = model.encode_captions(ids, lengths, return_weights=True)
        close(embeddings, "emb")
        close(theta, "theta")
        encoder.normalize = False
        close(model.encode_captions(ids, lengths), "emb_nonorm")
        encoder.normalize = True
        hidden = encoder.hidden(ids)
        hidden = hidden * (ids != 0)[:, :, None]
        close(hidden[:, :, ::48], "hidden_sub")
        encoder.gpool = build_pooling("cls", dim=model.embed_size)
        close(model.encode_captions(ids, lengths), "cls_emb")


def bigru_text(case: Case) -> None:
    golden = case.npz()
    model = build(None, case.weights())
    encoder = model.txt_enc
    ids = torch.from_numpy(golden["ids"])
    lengths = (ids != 0).sum(dim=1)

    def close(actual: Any, name: str) -> None:
        case.close(actual, golden[name], of_max=True, what=name)

    with torch.inference_mode():
        encoder.normalize = False
        close(model.encode_captions(ids, lengths), "emb_nonorm")
        encoder.normalize = True
        close(model.encode_captions(ids, lengths), "emb")
    for order in (
        torch.arange(len(ids)),
        torch.randperm(len(ids), generator=torch.Generator().manual_seed(1)),
    ):
        model.zero_grad()
        embeddings = model.encode_captions(ids[order], lengths[order])
        upstream = torch.from_numpy(case.input("bigru/upstream", tuple(embeddings.shape)))[order]
        (embeddings * upstream).sum().backward()
        gradients = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
        close(gradients["embed.weight"].sum(0), "grad_embed_sum")
        close(gradients["rnn.weight_hh_l0"].flatten()[::4099], "grad_rnn_weight_hh_l0_sub")
        close(gradients["gpool.linear.weight"], "grad_gpool.linear.weight")

    two_layers = build(None, case.weights(case.data["two_layers"]["manifest"]))
    small = ids % int(case.data["two_layers"]["ids_modulo"])
    small[torch.arange(ids.shape[1]) >= lengths[:, None]] = 0
    with torch.inference_mode():
        close(two_layers.encode_captions(small, lengths), "two_layer_emb")


def cnn_grid(case: Case) -> None:
    golden = case.npz()
    model = build(case.weights(), None, backbone_source=case.data["backbone"])
    assert isinstance(model.img_enc, GridEncoder)
    for size in sorted(key.removeprefix("shape_") for key in golden if key.startswith("shape_")):
        height, width = map(int, size.split("x"))
        pixels = case.input(f"cnn/{size}", (case.data["images"], 3, height, width)) * case.data["pixel_scale"]
        with torch.inference_mode():
            maps = list(model.img_enc.backbone.maps(torch.from_numpy(np.float32(pixels))))
            stats = torch.stack([torch.stack([m.mean(), m.std(), (m == 0).float().mean()]) for m in maps])
            grids = maps[-1].flatten(2).transpose(1, 2)
            embeddings = model.encode_images(torch.from_numpy(np.float32(pixels)))
        assert tuple(grids.shape) == tuple(golden[f"shape_{size}"])
        if height == width:
            assert grids.shape[1] == num_grids(case.data["backbone"], height)
        for column in range(stats.shape[1]):  # each kind of statistic has a scale of its own
            expected = golden[f"stage_stats_{size}"][:, column]
            case.close(stats[:, column], expected, of_max=True, what=f"statistics {column} of {size}")
        case.close(grids[:, ::3, ::32], golden[f"feat_sub_{size}"], of_max=True, what=f"features of {size}")
        case.close(embeddings, golden[f"emb_{size}"], of_max=True, what=f"embeddings of {size}")


def loss(case: Case) -> None:
    golden = case.npz()
    for name in sorted(key.removesuffix("_cfg") for key in golden if key.endswith("_cfg")):
        size, dim, margin, mix = golden[f"{name}_cfg"].tolist()
        shape = (int(size), int(dim))
        images = case.input(f"loss/im{name}", shape)
        captions = np.float32(mix) * images + case.input(f"loss/tx{name}", shape)
        for mode in ("sum", "max"):
            im = l2_normalize(torch.from_numpy(images)).requires_grad_()
            tx = l2_normalize(torch.from_numpy(captions)).requires_grad_()
            value = triplet_loss(im, tx, margin=margin, hardest=mode == "max")
            value.backward()
            case.close(value, golden[f"{name}_{mode}"], what=f"{name} {mode}")
            case.close(im.grad, golden[f"{name}_{mode}_grad_im"], what=f"{name} {mode} image gradient")
            case.close(tx.grad, golden[f"{name}_{mode}_grad_tx"], what=f"{name} {mode} caption gradient")
