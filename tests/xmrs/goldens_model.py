"""Golden calls of the model: the whole network, a training step, the loss, optimiser groups and rates, opts.txt."""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from projects.xmrs import optim, released, released_options
from projects.xmrs.image_encoder import to_sphere
from projects.xmrs.losses import batch_hard_loss, cosine_distances
from projects.xmrs.model import FoodSpaceNet
from projects.xmrs.text_encoder import AverageText
from tests.goldens import fill
from tests.goldens.case import Case

SIDE = 224
TOKENS = 512
SHOWN = [0, 1, 5, 17, 100, 300, 511]  # positions of hidden states that the goldens keep


def images(count: int, seed: int) -> Tensor:
    """Images [B, 3, 224, 224]: cells of 32 pixels and noise."""
    low = 1.5 * fill.inputs("xmrs.image.low", (count, 3, 7, 7), seed=seed)
    noise = fill.inputs("xmrs.image.noise", (count, 3, SIDE, SIDE), seed=seed)
    cells = low.repeat(SIDE // 7, axis=2).repeat(SIDE // 7, axis=3)
    return torch.from_numpy((cells + 0.3 * noise).astype(np.float32))


def tokens(lengths: Sequence[int], seed: int) -> Tensor:
    """Token ids [B, 512]: 101, words, 102 at each end, zeros after it."""
    ids = fill.inputs("xmrs.tokens", (len(lengths), TOKENS), seed=seed, kind="int", high=118547) + 1000
    ids[:, 0] = 101
    for row, length in zip(ids, lengths, strict=True):
        row[length - 1] = 102
        row[length:] = 0
    return torch.from_numpy(ids)


def filled(case: Case) -> dict[str, Tensor]:
    """State dict of the case's manifest under our names, filled."""
    return _filled(case.path(case.data["manifest"]), case.seed)


@functools.lru_cache(maxsize=1)
def _filled(manifest: Path, seed: int) -> dict[str, Tensor]:
    """134 M numbers: two cases share them."""
    state = {name: torch.from_numpy(value) for name, value in fill.state_dict(manifest, seed=seed).items()}
    return released.canonical(state, manifest)


def network(case: Case) -> FoodSpaceNet:
    """The released network with filled weights, in evaluation mode, built from the tensors alone."""
    return released.to_model(filled(case), source=case.data["manifest"])


def relative(actual: Tensor, expected: np.ndarray) -> float:
    """Largest difference in units of the expected array's root mean square."""
    difference = np.abs(actual.detach().double().numpy() - expected).max()
    return float(difference / np.sqrt(np.mean(np.square(expected, dtype=np.float64))))


def agree(case: Case, actual: Tensor, name: str, tolerance: float | None = None) -> None:
    """Within the case's `relative` tolerance of the array `name`."""
    expected = case.npz()[name]
    assert tuple(actual.shape) == expected.shape, name
    limit = float(case.data["relative"]) if tolerance is None else tolerance
    found = relative(actual, expected)
    assert found <= limit, f"{case.data['name']} {name}: {found:.1e} of its RMS, expected at most {limit:.0e}"


def evaluation(case: Case) -> None:
    """Every stage of FoodSpaceNet, whole and fast path, in evaluation mode."""
    model = network(case)
    entries = json.loads(case.path(case.data["manifest"]).read_text(encoding="utf-8"))
    assert [entry["name"] for entry in entries] == [
        key.removeprefix("module.") for key in released.released_state(model)
    ]
    pixels = images(case.data["batch"], case.seed)
    ids = tokens(case.data["lengths"], case.seed)
    with torch.inference_mode():
        agree(case, model.encode_images(pixels), "visual_emb")
        agree(case, model.encode_recipes(ids), "recipe_emb")
        pooled = model.visionMLP(pixels)
        agree(case, pooled, "resnet_pool")
        agree(case, model.visual_embedding(pooled), "visual_embedding")
        for stage, found in enumerate(model.visionMLP.maps(pixels), 1):
            _, channels, height, width = found.shape
            agree(case, found.double().square().mean((1, 2, 3)).sqrt(), f"layer{stage}_rms")
            part = found[:, :: max(1, channels // 16), height // 2, :: max(1, width // 7)]
            agree(case, part, f"layer{stage}_sub")
        pooled = model.textMLP(ids)
        agree(case, pooled, "text_pooler")
        agree(case, model.recipe_embedding(pooled), "recipe_embedding")
        states = model.textMLP.mBERT.states(ids)  # type: ignore[union-attr, operator]
        agree(case, states.embeddings[:, SHOWN, ::16], "bert_embeddings_sub")
        agree(case, states.hidden[-1][:, SHOWN, ::16], "last_hidden_sub")
        agree(case, model.textMLP.mBERT.pool(states.hidden[-1][:, 0]), "text_pooler")  # type: ignore[union-attr, operator]
        for layer, weights in enumerate(model.text_attention(ids)):
            agree(case, weights[:, :, 0], f"attn{layer}_cls")
            agree(case, weights[:, :, 1::97, ::31], f"attn{layer}_sub")


def train_step(case: Case) -> None:
    """Forward in training mode without dropout, loss, gradients, one step of the optimiser."""
    golden, data = case.npz(), case.data
    model = network(case).train()
    without_dropout(model)
    optimizer = optim.build_optimizer(model, learning_rate=data["learning_rate"])
    visual = model.encode_images(images(len(data["lengths"]), data["input_seed"]))
    recipes = model.encode_recipes(tokens(data["lengths"], data["input_seed"]))
    found = batch_hard_loss(visual, recipes, margin=data["margin"])
    found[0].backward()
    case.close([value.item() for value in found], golden["loss"], what="loss")
    agree(case, visual, "visual_emb")
    agree(case, recipes, "recipe_emb")
    parameters = dict(model.named_parameters())
    check_gradient_norms(case, parameters)
    agree(case, gradient(parameters["align.0.weight"])[::64, ::64], "grad_align_sub")
    query = parameters["textMLP.mBERT.encoder.layer.0.attention.self.query.weight"]
    agree(case, gradient(query)[::48, ::48], "grad_q0_sub")
    stem = parameters["visionMLP.visionMLP.0.weight"]
    agree(case, gradient(stem)[::8], "grad_conv1_sub", data["stem_relative"])
    buffers = dict(model.named_buffers())
    agree(case, buffers["visual_embedding.0.running_mean"][::64], "bn_mean_visual")
    agree(case, buffers["align_rec.0.running_var"][::32], "bn_var_rec")
    optimizer.step()
    moved = {
        "align_after_adam_sub": parameters["align.0.weight"][::64, ::64],
        "wordemb_after_sub": parameters["textMLP.mBERT.embeddings.word_embeddings.weight"][::7919, ::64],
    }
    for name, value in moved.items():
        difference = np.abs(value.detach().numpy() - golden[name])
        assert difference.max() <= data["step_atol"], name
        assert difference.mean() <= data["step_mean_atol"], name


def check_gradient_norms(case: Case, parameters: dict[str, nn.Parameter]) -> None:
    order = case.json(case.data["groups"])["order"]
    assert list(parameters) == order
    norms = np.array([float(gradient(parameters[name]).double().norm()) for name in order])
    expected = case.npz()["gradnorm"]
    counted = expected >= case.data["ignored_norm"]
    np.testing.assert_allclose(norms[counted], expected[counted], rtol=case.data["norm_rtol"])
    # those that vanish analytically: the key biases and the bias before a batch norm
    assert (norms[~counted] < case.data["ignored_norm"]).all()


def gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0  # type: ignore[assignment]


def average_words(case: Case) -> None:
    """The AWE baseline; its manifest has no ResNet."""
    state = filled(case)
    settings: dict[str, Any] = {"kind": "average", "vocab_size": 119547, "hidden": 768}
    model = FoodSpaceNet(image={"backbone": "resnet50"}, text=settings).eval()
    own = {key: value for key, value in model.state_dict().items() if not key.startswith("visionMLP.")}
    assert list(own) == list(state)
    model.load_state_dict(state, strict=False)
    assert isinstance(model.textMLP, AverageText)
    ids = tokens(case.data["lengths"], case.seed)
    with torch.inference_mode():
        agree(case, model.textMLP(ids), "awe")
        agree(case, model.encode_recipes(ids), "recipe_emb")


def loss(case: Case) -> None:
    """The loss and its gradients for each pair of switches, of unit rows and of raw ones."""
    golden = case.npz()
    for tag, options in case.data["inputs"].items():
        shape, seed = tuple(options["shape"]), options["seed"]
        first = fill.inputs("xmrs.loss.img", shape, seed=seed)
        second = first + np.float32(options["noise"]) * fill.inputs("xmrs.loss.rec", shape, seed=seed)
        if options["normalized"]:
            first, second = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second))
        for intra in (0, 1):
            for hardest in (0, 1):
                name = f"{tag}_intra{intra}_ohem{hardest}"
                rows = [torch.tensor(x, requires_grad=True) for x in (first, second)]
                switches = {"intra_modal": bool(intra), "hardest": bool(hardest)}
                found = batch_hard_loss(*rows, margin=case.data["margin"], **switches)  # type: ignore[arg-type]
                found[0].backward()
                case.close([value.item() for value in found], golden[name], what=name)
                case.close(rows[0].grad, golden[f"{name}_gimg"], what=f"{name}, images")
                case.close(rows[1].grad, golden[f"{name}_grec"], what=f"{name}, recipes")


def zero_rows(case: Case) -> None:
    """Cosine distance and normalisation of a zero row."""
    rows = fill.inputs("xmrs.cos", (4, 6), seed=case.seed)
    rows[case.data["zero_row"]] = 0
    golden, x = case.npz(), torch.from_numpy(rows)
    case.close(cosine_distances(x, x), golden["cosine_distance_zero_row"], what="distances")
    case.close(to_sphere(x), golden["norm_zero_row"], what="norm")


def parameter_groups(case: Case) -> None:
    """The four groups of the optimiser, by name and in order."""
    golden = case.json()
    with torch.device("meta"):
        model = FoodSpaceNet()
    assert [name for name, _ in model.named_parameters()] == golden["order"]
    groups = optim.parameter_groups(model)
    assert groups == golden["groups"]
    assert list(groups) == list(golden["groups"])
    optimizer = optim.build_optimizer(model, learning_rate=1e-4)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    of_optimizer = {g["name"]: [names[id(p)] for p in g["params"]] for g in optimizer.param_groups}
    assert of_optimizer == golden["groups"]


FLAG_NAMES = {
    "warmup": "warmup",
    "decayLR": "decay_lr",
    "freeVision": "free_vision",
    "freeHeads": "free_heads",
    "freeWordEmb": "free_word_embeddings",
    "freeText": "free_text",
    "w2vTrain": "train_word_embeddings",
}


def schedules(case: Case) -> None:
    """Rates of the four groups in every epoch, flags given as on the released command line."""
    golden = case.json()
    assert golden["columns"] == list(optim.GROUPS)
    for run in golden["cases"]:
        flags = dict(zip(run["argv"][::2], run["argv"][1::2], strict=True))
        text = "\n".join(f"{flag.removeprefix('--')}: {value}" for flag, value in flags.items())
        options = released_options.parse(text)
        settings: dict[str, Any] = {ours: options[theirs] for theirs, ours in FLAG_NAMES.items()}
        for name in ("warmup", "decay_lr"):
            settings[name] = [int(epoch) for epoch in settings[name].split(",")]
        found = [
            optim.learning_rates(epoch, learning_rate=options["lr"], **settings)
            for epoch in range(len(run["lr_by_epoch"]))
        ]
        case.close(found, run["lr_by_epoch"], what=str(run["argv"]))


def options_file(case: Case) -> None:
    """opts.txt with the released typing of values."""
    golden = case.json()
    found = released_options.parse(golden["text"], exclude=golden["exclude"], legacy_types=True)
    for name, value in golden["result"].items():
        assert (found[name], type(found[name])) == (value, type(value)), name
    assert ("unknown" in found) == golden["has_unknown"]


CALLS: dict[str, Callable[[Case], None]] = {
    "foodspacenet_eval": evaluation,
    "foodspacenet_train_step": train_step,
    "awe_eval": average_words,
    "loss": loss,
    "zero_rows": zero_rows,
    "param_groups": parameter_groups,
    "schedules": schedules,
    "opts_txt": options_file,
}
