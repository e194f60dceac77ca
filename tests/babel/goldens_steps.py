"""Golden call of training: optimizer steps of the whole net with all three losses, without dropout."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from projects.babel import objective, optim
from projects.babel.correspondence_loss import correspondence_loss
from projects.babel.data import Batch
from projects.babel.matches import Draws, Matches
from projects.babel.model import Net, build_model
from projects.babel.pamr import PAMR
from tests.babel.goldens_losses import draws_of, points_of, upsampled
from tests.babel.pick import picked
from tests.goldens import fill
from tests.goldens.case import Case

SIDE, GATE_SIDE = 112, 28
POINTS = [12, 7]
NEGATIVES, WEIGHT, LEARNING_RATE = 16, 0.3, 1e-5


def network(case: Case, dtype: torch.dtype) -> Net:
    """The filled net with louder, shifted class scores, so that masks of several classes exist; no dropout."""
    with torch.device("meta"):
        model = build_model()
    model = model.to_empty(device="cpu").to(dtype)
    entries = [entry for entry in case.json(case.data["manifest"]) if "_aff." not in entry["name"]]
    if dtype == torch.float64:  # weights in full precision, not those of float32
        entries = [entry | {"dtype": entry["dtype"].replace("float32", "float64")} for entry in entries]
    filled = {name: torch.from_numpy(value) for name, value in fill.state_dict(entries, case.seed).items()}
    kernels = {f"_aff.{name}": value for name, value in PAMR().state_dict().items()}
    model.load_state_dict(filled | kernels)
    with torch.no_grad():
        model.get_parameter("last_conv.0.weight").mul_(3)
        model.get_parameter("last_conv.0.bias").fill_(-1)
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    return model.train()


def batch_of(case: Case, labels: Tensor, dtype: torch.dtype) -> Batch:
    """Four smooth images, two pairs."""
    coarse = case.input("step/image", (4, 3, 6, 6)).astype(case.data["dtype"])
    images = upsampled(coarse, SIDE) * 1.5
    matches = Matches.of(points_of(case, "step/coord", POINTS))
    matches = Matches(matches.pair, matches.rowcol.to(dtype), matches.counts)
    return Batch(images, labels.to(dtype), labels.argmax(dim=1), matches, torch.arange(4))


def losses(
    case: Case, model: Net, batch: Batch, step: int, dtype: torch.dtype
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Total loss, its parts by the golden's names, class scores."""
    keep = (
        torch.from_numpy(case.input(f"step{step}/keep", (4, 256, GATE_SIDE, GATE_SIDE), kind="uniform"))
        >= 0.3
    )
    drawn = draws_of(case, f"step{step}", "contrastive_easy", POINTS, NEGATIVES)
    draws = Draws(drawn.images, drawn.uniform.to(dtype))
    output = model(batch.images, layers=("decoder",), keep=keep)
    loss, parts = objective.supervised_loss(model, output, batch, objective.Objective(mask_weight=1.0))
    matching, stats = correspondence_loss(output.features["decoder"], batch.matches, draws, batch_size=2)
    total = loss + WEIGHT * matching
    named = {"loss_cls": parts[0], "loss_fg": parts[1], "loss_mask": parts[2], "loss_3d": stats["sum"]}
    return total, {"loss": total.detach(), **named}, output.scores


def train_steps(case: Case) -> None:
    """Class scores, losses, gradients and running statistics of the first step; losses of the later ones."""
    golden, data = case.npz(), case.data
    dtype: torch.dtype = getattr(torch, data["dtype"])
    model = network(case, dtype)
    batch = batch_of(case, torch.from_numpy(golden["labels"]), dtype)
    optimizer = optim.build_optimizer(model, lr=LEARNING_RATE)
    for step in range(len(golden["traj_loss"])):
        total, parts, scores = losses(case, model, batch, step, dtype)
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            case.close(scores, golden["cls"], of_max=True, what="class scores")
            check_gradients(case, model, golden)
            check_statistics(case, model, golden)
        optimizer.step()
        for name, value in parts.items():
            rtol = data["rtol"]
            if step:
                rtol = data["later"]["total"][step - 1] if name == "loss" else data["later"]["parts"]
            case.close(value, golden[f"traj_{name}"][step], rtol=rtol, what=f"{name} of step {step + 1}")


def check_gradients(case: Case, model: Net, golden: Mapping[str, object]) -> None:
    """Some of the elements, and the norm, of each gradient that the file holds."""
    parameters = dict(model.named_parameters())
    names = [key.removeprefix("grad/") for key in golden if key.startswith("grad/")]
    assert len(names) == 13
    for name in names:
        gradient = parameters[name].grad
        assert gradient is not None, name
        expected = case.npz()[f"grad/{name}"]
        found = picked(f"step/grad/{name}", gradient, 256)
        case.close(found, expected, of_max=True, rtol=case.data["gradients"], what=f"gradient of {name}")
        norm = case.npz()[f"gradnorm/{name}"]
        case.close(gradient.norm(), norm, rtol=case.data["norms"], what=f"norm of {name}")


def check_statistics(case: Case, model: Net, golden: Mapping[str, object]) -> None:
    """Running means and variances after the first step."""
    buffers = dict(model.named_buffers())
    names = [key.removeprefix("bn/") for key in golden if key.startswith("bn/")]
    assert names
    for name in names:
        expected = case.npz()[f"bn/{name}"]
        case.close(buffers[name], expected, of_max=True, rtol=case.data["statistics"], what=name)


CALLS: dict[str, Callable[[Case], None]] = {"train_steps": train_steps}
