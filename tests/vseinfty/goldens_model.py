"""Golden calls of the model: pooling, encoders, CNNs, loss, schedule, training steps, released checkpoints."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from projects.vseinfty import optim, released
from projects.vseinfty.backbones import num_grids
from projects.vseinfty.coefficients import positional_encoding
from projects.vseinfty.image_encoders import GridEncoder, RegionEncoder, l2_normalize
from projects.vseinfty.losses import triplet_loss
from projects.vseinfty.model import VSEModel, build_model
from projects.vseinfty.pooling import GPO, build_pooling
from tests.goldens import fill
from tests.vseinfty.golden_case import Case

State = dict[str, Tensor]


def tensors(case: Case, manifest: str, shapes: Mapping[str, list[int]] | None = None) -> State:
    """Filled weights of a manifest, some with another shape than the manifest's."""
    entries = json.loads(case.path(manifest).read_text(encoding="utf-8"))
    entries = [{**entry, "shape": (shapes or {}).get(entry["name"], entry["shape"])} for entry in entries]
    filled = fill.state_dict(entries, seed=case.seed)
    return {name: torch.from_numpy(value) for name, value in filled.items()}


def build(images: State | None, captions: State | None, **options: Any) -> VSEModel:
    """A loaded model, sizes from the tensors; a branch that is None is a small stand-in."""
    checkpoint = released.ReleasedCheckpoint(Path("golden"), images or {}, captions or {}, options, 0, 0.0, 0)
    settings: dict[str, Any] = {}
    if images is not None:
        settings |= released.image_settings(checkpoint)
    else:
        settings |= {"image_dim": 1, "image_hidden": 1, "image_pooling": "avg"}
    if captions is not None:
        settings |= released.text_settings(checkpoint)
    else:
        settings |= {"vocab_size": 2, "word_dim": 1, "text_pooling": "avg"}
    model = build_model(**settings)
    if images is not None:
        model.img_enc.load_state_dict(images, strict=True)
    if captions is not None:
        model.txt_enc.load_state_dict(captions, strict=True)
    return model.eval()


def padded(values: np.ndarray, lengths: np.ndarray) -> Tensor:
    """Zero rows (or ids) from each length on."""
    outside = np.arange(values.shape[1]) >= np.asarray(lengths)[:, None]
    values = values.copy()
    values[outside] = 0
    return torch.from_numpy(values)


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


RELEASED_DEFAULTS = {
    "learning_rate": 2e-4,
    "lr_update": 15,
    "max_violation": False,
    "vse_mean_warmup_epochs": 0,
    "embedding_warmup_epochs": 2,
    "backbone_warmup_epochs": 5,
    "backbone_lr_factor": 0.01,
    "optim": "adam",
    "precomp_enc_type": "basic",
    "backbone_source": "detector",
}
BLOCKS = ("base.0", "base.1", "base.4", "base.5", "base.6", "top.0")


def schedule(case: Case) -> None:
    for run in case.json().values():
        flags = {**RELEASED_DEFAULTS, **run["flags"]}
        grid = flags["precomp_enc_type"] == "backbone"
        with torch.device("meta"):
            model = build_model(
                image_encoder="grid" if grid else "regions",
                backbone=flags["backbone_source"],
                text_encoder=run["branch"],
                bert_pretrained=False,
                vocab_size=flags.get("vocab_size", case.data["vocab_size"]),
            )
        optimizer = optim.build_optimizer(
            model,
            name=flags["optim"],
            learning_rate=flags["learning_rate"],
            backbone_lr_factor=flags["backbone_lr_factor"],
            fused=False,
        )
        _check_groups(model, optimizer, run)
        for epoch, expected in enumerate(run["epochs"]):
            _check_epoch(case, model, optimizer, flags, epoch, expected)


def _check_groups(model: VSEModel, optimizer: torch.optim.Optimizer, run: Mapping[str, Any]) -> None:
    names = {id(p): f"txt:{name}" for name, p in model.txt_enc.named_parameters()}
    names |= {id(p): f"img:{name}" for name, p in model.img_enc.named_parameters()}
    assert len(optimizer.param_groups) == len(run["groups"])
    for group, expected in zip(optimizer.param_groups, run["groups"], strict=True):
        parameters = group["params"]
        assert len(parameters) == expected["n_tensors"]
        assert sum(p.numel() for p in parameters) == expected["n_params"]
        assert names[id(parameters[0])] == expected["first"]
        # the goldens have no name for the CNN's unused classifier
        assert names[id(parameters[-1])] == (expected["last"] or "img:backbone.resnet.fc.bias")
        assert group["weight_decay"] == expected["weight_decay"]
    assert sum(p.numel() for p in model.parameters()) == run["n_clip_params"]


def _check_epoch(
    case: Case,
    model: VSEModel,
    optimizer: torch.optim.Optimizer,
    flags: Mapping[str, Any],
    epoch: int,
    expected: Mapping[str, Any],
) -> None:
    optim.set_learning_rates(optimizer, epoch, flags["lr_update"])
    case.close(
        [group["lr"] for group in optimizer.param_groups], expected["lr"], what=f"rates of epoch {epoch}"
    )
    hardest = optim.uses_hardest(epoch, flags["max_violation"], flags["vse_mean_warmup_epochs"])
    assert hardest == expected["max_violation"]
    optim.freeze_stages(model, epoch, flags["embedding_warmup_epochs"], flags["backbone_warmup_epochs"])
    for encoder, key in ((model.img_enc, "img_trainable"), (model.txt_enc, "txt_trainable")):
        assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == expected[key]
    if isinstance(model.img_enc, GridEncoder):
        training = {
            n.removeprefix("backbone.") for n, p in model.img_enc.named_parameters() if p.requires_grad
        }
        blocks = [block for block in BLOCKS if any(name.startswith(f"{block}.") for name in training)]
        assert blocks == expected["trainable_blocks"]


def train(case: Case) -> None:
    golden, data = case.npz(), case.data
    images, captions = data["images"], data["captions"]
    model = build(
        tensors(case, images["manifest"], images.get("shapes")),
        tensors(case, captions["manifest"], captions.get("shapes")),
        backbone_source=images.get("backbone"),
        bert_config={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    ).train()
    optimizer = optim.build_optimizer(model, **data["optim"])
    batches = [_batch(case, golden, step) for step in range(len(data["steps"]))]
    losses, norms = [], []
    for step, batch in zip(data["steps"], batches, strict=True):
        scale = 1.0
        if "freezing" in data:
            optim.freeze_stages(model, step["epoch"], **data["freezing"])
            scale = optim.loss_scale(
                model,
                step["epoch"],
                step.get("step_in_epoch", 0),
                embedding_warmup_epochs=data["freezing"]["embedding_warmup_epochs"],
                **data["loss_scale"],
            )
        embeddings = (model.encode_images(*batch["images"]), model.encode_captions(*batch["captions"]))
        value = triplet_loss(*embeddings, margin=data["margin"], hardest=step["loss"] == "max")
        optimizer.zero_grad()
        (value * scale).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), data["grad_clip"]).item())
        optimizer.step()
        losses.append(value.item())
    case.close(losses, golden["losses"], rtol=data["losses_rtol"], what="losses")
    case.close(norms, golden["grad_norms"], rtol=data["norms_rtol"], what="gradient norms")

    states = {"img": model.img_enc.state_dict(), "txt": model.txt_enc.state_dict()}
    for key in (key for key in golden if ":" in key):
        branch, name = key.split(":")
        case.close(
            states[branch][name].flatten()[:256],
            golden[key],
            atol=data["parameters_atol"],
            what=f"{key} trained",
        )
    model.eval()
    atol = data["embeddings_atol"]
    if "bn_mean" in golden:
        # It holds mlp.layers.0.bias, whose gradient is rounding noise that Adam turns into steps of the learning
        # rate (spec quirk 3): two thread counts differ by 7e-4 here.
        case.close(states["img"]["mlp.bns.0.running_mean"], golden["bn_mean"], atol=atol, what="running mean")
    with torch.inference_mode():
        first = batches[0]
        case.close(model.encode_images(*first["images"][:2]), golden["img_emb"], atol=atol, what="images")
        case.close(model.encode_captions(*first["captions"]), golden["txt_emb"], atol=atol, what="captions")


def _batch(case: Case, golden: Mapping[str, np.ndarray], step: int) -> dict[str, tuple[Any, ...]]:
    images, size = case.data["images"], int(case.data["batch_size"])
    image_inputs: tuple[Any, ...]
    if images["kind"] == "regions":
        modulus, factor = images["length_rule"]
        lengths = images["rows"] - (factor * np.arange(size) + step) % modulus
        dim = tensors_shape(case, images["manifest"], "fc.weight")[1]
        values = np.maximum(case.input(f"train/x{step}", (size, int(lengths.max()), dim)), 0)
        image_inputs = (padded(values, lengths), torch.from_numpy(lengths))
    else:
        side = images["side"]
        pixels = images["pixel_scale"] * case.input(f"train/img{step}", (size, 3, side, side))
        draws = (torch.from_numpy(golden["draws1"][step]), torch.from_numpy(golden["draws2"][step]))
        image_inputs = (torch.from_numpy(np.float32(pixels)), None, draws)
    text_lengths = golden["text_lengths"]
    high, offset = case.data["captions"]["ids"]
    ids = case.input(f"train/ids{step}", (size, int(text_lengths.max())), kind="int", high=high) + offset
    return {"images": image_inputs, "captions": (padded(ids, text_lengths), torch.from_numpy(text_lengths))}


def tensors_shape(case: Case, manifest: str, name: str) -> list[int]:
    entries = json.loads(case.path(manifest).read_text(encoding="utf-8"))
    shape: list[int] = next(entry["shape"] for entry in entries if entry["name"] == name)
    return shape


def released_keys(case: Case) -> None:
    """Our model saves exactly the released keys and shapes, and reads them back to exactly the manifests'."""
    manifests = {
        branch: {e["name"]: (e["shape"], e["dtype"]) for e in case.json(case.data[f"{branch}_manifest"])}
        for branch in ("image", "text")
    }
    stand_ins = {
        branch: {name: torch.empty(shape, device="meta") for name, (shape, _) in manifest.items()}
        for branch, manifest in manifests.items()
    }
    checkpoint = released.ReleasedCheckpoint(
        Path("golden"), stand_ins["image"], stand_ins["text"], case.data.get("options", {}), 0, 0.0, 0
    )
    with torch.device("meta"):
        model = build_model(**released.model_settings(checkpoint))
    states = dict(zip(("image", "text"), released.released_states(model), strict=True))
    expected: dict[str, dict[str, Any]] = {}
    for branch, manifest in manifests.items():
        prefix = case.data.get(f"{branch}_prefix", "")
        expected[branch] = {prefix + name: value for name, value in manifest.items()}
    if "file" in case.data:
        expected["image"] = {entry["name"]: (entry["shape"], entry["dtype"]) for entry in case.json()}
    for branch, state in states.items():
        found = {k: (list(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in state.items()}
        assert found == expected[branch]
        assert {k: list(v.shape) for k, v in released.canonical(state).items()} == {
            name: shape for name, (shape, _) in manifests[branch].items()
        }
    assert list(states["image"]) == list(expected["image"])  # in the released order as well


def released_checkpoint(case: Case) -> None:
    """A file as the authors' train.py wrote it is read, safely, to the tensors that it holds."""
    checkpoint = released.read(case.path(case.data["file"]))
    model = released.to_model(checkpoint)
    for encoder, branch in ((model.img_enc, "image"), (model.txt_enc, "text")):
        expected = case.weights(case.data[f"{branch}_manifest"])
        state = encoder.state_dict()
        assert set(state) == set(expected)
        for name, value in expected.items():
            assert torch.equal(state[name], value), name
    assert not model.training
    assert checkpoint.options["precomp_enc_type"] == "basic"


CALLS: dict[str, Callable[[Case], None]] = {
    "gpo": gpo,
    "pooling": pooling,
    "region": region,
    "bert_text": bert_text,
    "bigru_text": bigru_text,
    "cnn_grid": cnn_grid,
    "loss": loss,
    "schedule": schedule,
    "train": train,
    "released_keys": released_keys,
    "released_checkpoint": released_checkpoint,
}
