"""Golden calls of synthesis: what `call` names in cases.yaml -> a function of ours."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from projects.xmrs import decode, gan_data, gan_engine, gan_losses, gan_schedule
from projects.xmrs.discriminator import Discriminator
from projects.xmrs.frozen_encoder import FrozenEncoder
from projects.xmrs.gan_data import GanBatch
from projects.xmrs.gan_engine import LossWeights, Networks
from projects.xmrs.generator import Generator
from projects.xmrs.image_encoder import FoodSpaceImageEncoder
from projects.xmrs.images import normalized
from shared.runtime import Runtime
from tests.goldens.case import Case
from tests.xmrs.goldens_data import golden_photo, released_split

CPU = Runtime(torch.device("cpu"))
WEIGHTS = LossWeights()
SLICED = (..., slice(3, None, 16), slice(5, None, 16))


def relative(case: Case, found: Tensor, expected: np.ndarray, tolerance: float, what: str) -> None:
    """Assert: largest difference by the root mean square of what is expected."""
    expected = np.asarray(expected, np.float64)
    assert found.shape == expected.shape, what
    error = np.abs(found.detach().double().numpy() - expected).max() / np.sqrt((expected**2).mean())
    assert error <= tolerance, f"{case.data['name']} {what}: {error:.2e} of the root mean square"


def filled(case: Case) -> Networks:
    """The networks with the golden weights, in training mode, their names and order checked."""
    generator, discriminator, encoder = Generator(), Discriminator(), FoodSpaceImageEncoder()
    for network, key in ((generator, "generator"), (discriminator, "discriminator"), (encoder, "encoder")):
        weights = case.weights(case.data[key])
        assert list(network.state_dict()) == list(weights), f"names of the {key}"
        network.load_state_dict(weights)
    order = case.json(case.data["order"])
    assert [name for name, _ in generator.named_parameters()] == order["G"]
    assert [name for name, _ in discriminator.named_parameters()] == order["D"]
    return gan_engine.build_networks(
        generator,
        discriminator,
        FrozenEncoder(encoder, 224),
        CPU,
        learning_rate=float(case.data.get("learning_rate", 1e-4)),
    )


def batch_of(case: Case) -> GanBatch:
    """The golden inputs: noise, draws, embeddings, blocky images."""
    recipes = case.input("xmrs.gan.rec", (4, 1024))
    photos = recipes + np.float32(0.5) * case.input("xmrs.gan.img", (4, 1024))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (photos, recipes)]
    low = case.input("xmrs.gan.real.low", (4, 3, 8, 8)).repeat(16, 2).repeat(16, 3)
    real = low + np.float32(0.3) * case.input("xmrs.gan.real.noise", (4, 3, 128, 128))
    classes, rows = torch.tensor(case.data["labels"]), torch.arange(4)
    noise, draws = case.input("xmrs.gan.z", (4, 100)), case.input("xmrs.gan.eps", (4, 128))
    arrays = (real, *unit)
    images, of_images, of_recipes, z, eps = (torch.from_numpy(a) for a in (*arrays, noise, draws))
    return GanBatch(images, of_images, of_recipes, classes, z, eps, rows)


@torch.no_grad()
def gan_eval(case: Case) -> None:
    """Every stage of the three networks in evaluation mode."""
    golden, networks, batch = case.npz(), filled(case), batch_of(case)
    generator, judge = networks.generator.eval(), networks.discriminator.eval()

    def close(found: Tensor, key: str) -> None:
        relative(case, found, golden[key], case.data["rel"], key)

    fake, mu, log_variance = generator(batch.recipe_embeddings, batch.noise, batch.draws)
    condition = mu + batch.draws * (0.5 * log_variance).exp()
    first = generator.h_net1(condition, batch.noise)
    second = generator.h_net2(first, condition)
    close(mu, "mu")
    close(log_variance, "logvar")
    close(condition, "c_code")
    close(first[:, ::8][SLICED], "h1_sub")
    close(second[:, ::4][SLICED], "h2_sub")
    close(fake[SLICED], "fake_eval_sub")
    close(fake.mean((2, 3)), "fake_eval_mean")
    close(gan_losses.enlarge(fake, 224)[SLICED], "up_sub")
    close(networks.encoder(fake), "fake_feat")
    for kind, images in (("real", batch.images), ("fake", fake)):
        probability, scores = judge(images, mu)
        close(probability, f"d_{kind}_prob")
        close(scores[:, ::16], f"d_{kind}_cls")
    close(judge(batch.images)[0], "d_real_prob_nocond")


def gan_step(case: Case) -> None:
    """The generator's loss and gradients before any step, then one iteration of both networks."""
    golden, networks, batch = case.npz(), filled(case), batch_of(case)
    data = case.data
    fake, mu, log_variance = networks.generator(batch.recipe_embeddings, batch.noise, batch.draws)
    fake.retain_grad()
    counts = gan_engine.count(batch.classes)
    terms = gan_engine.generator_terms(networks, batch, fake, mu, log_variance, counts, WEIGHTS, CPU)
    loss = gan_engine.total(terms, WEIGHTS)
    loss.backward()
    without = terms["adversarial"] + terms["semantic"] + WEIGHTS.kl * terms["kl"]
    assert fake.grad is not None
    for found, key in ((loss, "nostep_lossG"), (without, "nostep_lossG1")):
        case.close(found, golden[key], rtol=data["loss_rtol"], what=key)
    case.close(
        norms(networks.generator),
        golden["nostep_gradnorm_G"],
        rtol=data["norms_rtol"],
        atol=1e-6,
        what="gradients",
    )
    relative(
        case, fake.grad[SLICED], golden["nostep_grad_fake_sub"], data["gradient_rel"], "gradient of the image"
    )
    _iteration(case, golden, batch)


def _iteration(case: Case, golden: dict[str, np.ndarray], batch: GanBatch) -> None:
    networks, data = filled(case), case.data
    kept: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: tuple[Tensor, ...]) -> None:
        output[0].retain_grad()
        kept.append(output[0])

    networks.generator.register_forward_hook(keep)
    found = gan_engine.train_step(networks, batch, weights=WEIGHTS, runtime=CPU)
    case.close(found["discriminator"], golden["lossD"], rtol=data["loss_rtol"], what="lossD")
    without = found["adversarial"] + found["semantic"] + WEIGHTS.kl * found["kl"]
    for value, key in (
        (found["generator"], "lossG"),
        (without, "lossG1"),
        (found["image_cycle"], "loss_img_img"),
        (found["recipe_cycle"], "loss_img_rec"),
        (found["kl"], "kl"),
    ):
        case.close(value, golden[key], rtol=data["after_loss_rtol"], what=key)
    rtol = data["after_norms_rtol"]
    case.close(
        norms(networks.discriminator), golden["gradnorm_D"], rtol=rtol, atol=1e-6, what="gradients of D"
    )
    case.close(norms(networks.generator), golden["gradnorm_G"], rtol=rtol, atol=1e-6, what="gradients of G")
    image, gradient = kept[0].detach(), kept[0].grad
    assert gradient is not None
    relative(case, image[SLICED], golden["fake_train_sub"], 1e-4, "image in training mode")
    alike = np.corrcoef(gradient[SLICED].numpy().ravel(), golden["grad_fake_sub"].ravel())[0, 1]
    assert alike > data["after_correlation"], f"gradients of the image correlate by {alike:.4f}"
    made, judge = networks.generator.state_dict(), networks.discriminator.state_dict()
    for value, key in (
        (made["h_net1.fc.0.weight"][::512, ::32], "G_after_fc0"),
        (made["h_net1.fc.1.running_mean"][::512], "G_after_bn_mean"),
        (judge["img_code_s16.0.weight"][::16], "D_after_w"),
        (judge["img_code_s32.1.running_mean"][::64], "D_after_bn_mean"),
    ):
        case.close(value, golden[key], atol=data["after_atol"], what=key)
    assert int(judge["img_code_s32.1.num_batches_tracked"]) == int(golden["D_bn_batches"])


def norms(network: torch.nn.Module) -> np.ndarray:
    """The norm of each parameter's gradient, -1 where there is none."""
    gradients = [parameter.grad for parameter in network.parameters()]
    return np.array([-1.0 if g is None else float(g.double().norm()) for g in gradients])


def gan_decode(case: Case) -> None:
    """An image as the released code saves it, with its deviation of blue."""
    golden = case.npz()
    image = torch.tanh(torch.from_numpy(case.input("xmrs.decode", (3, 16, 20))))
    plain = decode.to_picture(image, autocontrast=False, legacy_blue=True)
    stretched = decode.to_picture(image, legacy_blue=True)
    for picture, key in ((plain, "decoded"), (stretched, "decoded_autocontrast")):
        assert np.array_equal(np.asarray(picture), golden[key]), key


def gan_schedule_(case: Case) -> None:
    """The learning rate of every epoch by the fixed rule."""
    base, drop = case.data["learning_rate"], case.data["drop_epoch"]
    expected = case.json()["gan"]["lr_by_epoch"]
    found = [gan_schedule.fixed_rate(base, epoch, drop) for epoch in range(len(expected))]
    case.close(found, expected)


def gan_images(case: Case) -> None:
    """Real images and classes at evaluation, unreadable photos included, and a saved picture enlarged."""
    golden = case.npz(case.data["arrays"])
    of_crop, of_image = case.data["subsample"]
    with tempfile.TemporaryDirectory() as folder:
        split = released_split(case, Path(folder))
        for name, expected in case.json()["gan_class"].items():
            index = split.ids.index(name)
            assert split.store.entry(index).class_index == expected, name
            crop = gan_data.evaluation_crop(split.photo(index))
            case.close(
                normalized(np.asarray(crop))[:, ::of_crop, ::of_crop], golden[f"gan224_{name}"], what=name
            )
            small = gan_data.to_side(crop, 128)[:, ::of_image, ::of_image]
            case.close(small, golden[f"gan128_{name}"], what=f"{name} at 128")
    saved = case.data["resized"]
    photo = Image.fromarray(golden_photo(case, saved["photo"], saved["side"], saved["side"]))
    step = saved["subsample"]
    case.close(gan_data.resized(photo, 224)[:, ::step, ::step], golden["gan_test_resize224"], what="resized")


CALLS: dict[str, Callable[[Case], None]] = {
    "gan_eval": gan_eval,
    "gan_step": gan_step,
    "gan_decode": gan_decode,
    "gan_schedule": gan_schedule_,
    "gan_images": gan_images,
}
