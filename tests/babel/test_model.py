"""The nets as a whole: outputs, features, prediction, precision, several processes' batch norm."""

import copy

import pytest
import torch

from projects.babel import bench_network
from projects.babel.classifiers import HOOKED
from projects.babel.head import LAYERS
from projects.babel.model import build_model, predict
from shared.batch_norm import SynchronizedBatchNorm, synchronize_batch_norm
from shared.errors import InputError
from tests.babel.slim import images, slim_net


def test_output_of_the_single_stage_net() -> None:
    net = slim_net()
    output = net(images(), layers=LAYERS)
    assert output.scores.shape == (2, 6)
    assert output.logits is not None
    assert output.masks is not None
    assert output.logits.shape == (2, 7, 8, 10)
    assert output.logits[:, 0].eq(1).all()  # the constant background
    torch.testing.assert_close(output.masks.sum(1), torch.ones(2, 8, 10))
    assert list(output.features) == list(LAYERS) == list(net.feature_names)
    assert torch.equal(output.features["score"], output.logits[:, 1:])
    assert net(images()).features == {}
    with pytest.raises(InputError, match=r"feature layer: expected one of conv3, .*, found fc9"):
        net(images(), layers=["fc9"])


def test_every_parameter_has_a_gradient() -> None:
    net = slim_net()
    output = net(images(4))
    output.scores.square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kind", ["ae", "bsl"])
def test_prediction_is_at_the_size_of_the_images(kind: str) -> None:
    torch.manual_seed(0)
    net = build_model(kind=kind, backbone="resnet18", width=4, concepts=3, head_width=8, skip_width=4)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    scores, masks = predict(net.train(), images(3, 33, 47))
    assert scores.shape == (3, 3)
    assert masks is not None
    assert masks.shape == (3, 4, 33, 47)
    assert not masks.requires_grad
    assert net.training  # put back, with its statistics untouched
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    if kind == "bsl":
        assert masks[:, 0].eq(net.settings["bg_score"]).all()
        assert masks[:, 1:].amax((2, 3)).le(1).all()


def test_baseline_has_one_last_layer_of_three_names() -> None:
    net = build_model(kind="bsl", backbone="resnet18", width=4, concepts=3)
    state = net.state_dict()
    names = ["fc8.weight", "cls_branch.2.weight", "mask_branch.0.weight"]
    assert len({state[name].data_ptr() for name in names}) == 1
    assert [name for name, _ in net.named_parameters()][-1] == "fc8.weight"


@pytest.mark.parametrize("backbone", list(HOOKED))
def test_classifiers(backbone: str) -> None:
    net = build_model(kind="cls", backbone=backbone, concepts=4).eval()
    output = net(images(1, 64, 64), layers=["feature"])
    assert (output.scores.shape, output.logits, output.masks) == ((1, 4), None, None)
    assert output.features["feature"].dim() == 4
    assert predict(net, images(1, 64, 64))[1] is None
    with pytest.raises(InputError, match="expected one of feature, found decoder"):
        net(images(1, 64, 64), layers=["decoder"])


def test_settings_make_the_net_again() -> None:
    net = slim_net(dropout=0.2)
    again = build_model(**net.settings)
    again.load_state_dict(net.state_dict())
    assert torch.equal(predict(net, images())[0], predict(again, images())[0])
    assert torch.equal(predict(copy.deepcopy(net), images())[0], predict(net, images())[0])


def test_channels_last_changes_nothing_but_the_order_of_sums() -> None:
    net = slim_net().eval()
    expected = net(images()).logits
    net = net.to(memory_format=torch.channels_last)
    found = net(images().contiguous(memory_format=torch.channels_last)).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16() -> None:
    net = slim_net().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = net(images(4), layers=["decoder"])
    assert output.features["decoder"].dtype == torch.bfloat16
    assert output.logits is not None
    assert output.scores.dtype == output.logits.dtype == torch.float32
    output.scores.sum().backward()
    net.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        half = net(images()).logits
    whole = net(images()).logits
    assert half is not None
    assert whole is not None
    assert (half - whole).abs().max() < 0.05 * whole.abs().max()


def test_batch_norm_of_all_processes_can_be_put_in() -> None:
    net = slim_net()
    expected = net.eval()(images()).scores
    synchronize_batch_norm(net)
    assert isinstance(net.get_submodule("bn1"), SynchronizedBatchNorm)
    assert torch.equal(net(images()).scores, expected)


def test_bench_sides_agree() -> None:
    (case,) = bench_network.CASES
    remark = case.check({name: side() for name, side in case.make(True).items()})
    assert "gradients agree" in remark
