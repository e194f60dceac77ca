"""The authors' checkpoints in all their variants, there and back, and `trained.load` over theirs and ours."""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from projects.vseinfty import backbones, released, trained
from projects.vseinfty.image_encoders import GridEncoder, GridHead, RegionEncoder
from projects.vseinfty.model import VSEModel, build_model
from shared import checkpoint
from shared.errors import InputError
from shared.runtime import Runtime

SMALL = {"embed_size": 8, "image_dim": 6, "vocab_size": 7, "word_dim": 4}
SMALL_BERT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 16,
    "vocab_size": 12,
    "max_position_embeddings": 20,
}
BERT = {"text_encoder": "bert", "bert_pretrained": False, "bert_config": SMALL_BERT}
KINDS: dict[str, dict[str, Any]] = {
    "region_bigru": {"rnn_layers": 2, "normalize_images": False},
    "region_bert": BERT,
    "grid_bigru": {"image_encoder": "grid", "backbone": "imagenet"},
    "grid_bert": {"image_encoder": "grid", "backbone": "wsl", "normalize_captions": False, **BERT},
    "baselines": {"image_pooling": "kmax", "image_kmax": 3, "text_pooling": "last"},
}


@pytest.fixture(autouse=True)
def short_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block per stage, so that a file takes milliseconds."""
    monkeypatch.setitem(backbones.CAFFE_BLOCKS, "imagenet", (1, 1, 1, 1))
    monkeypatch.setattr(backbones, "RESNEXT_BLOCKS", (1, 1, 1, 1))
    torch.manual_seed(0)


def model_of(kind: str) -> VSEModel:
    model = build_model(**{**SMALL, **KINDS[kind]}).eval()
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model


def content_of(model: VSEModel, **options: Any) -> dict[str, Any]:
    """What the authors' train.py saves."""
    images, captions = released.released_states(model)
    flags = argparse.Namespace(
        **{**released._options_of(model), "margin": 0.2, "logger_name": "./runs", **options}
    )
    return {"epoch": 4, "model": [images, captions], "best_rsum": 321.5, "opt": flags, "Eiters": 99}


def head(model: VSEModel) -> RegionEncoder | GridHead:
    return model.img_enc.image_encoder if isinstance(model.img_enc, GridEncoder) else model.img_enc


def assert_same_model(found: VSEModel, expected: VSEModel) -> None:
    own, other = found.state_dict(), expected.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    assert str(found) == str(expected)
    assert (head(found).normalize, found.txt_enc.normalize) == (
        head(expected).normalize,
        expected.txt_enc.normalize,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    released.save(tmp_path / "m.pth", model, options={"margin": 0.2}, epoch=3, best_rsum=123.4, steps=77)
    found = released.read(tmp_path / "m.pth")
    assert (found.epoch, found.best_rsum, found.steps) == (3, 123.4, 77)
    assert found.options["margin"] == 0.2
    loaded = released.to_model(found)
    assert not loaded.training
    assert_same_model(loaded, model)


def test_files_carry_the_prefix_and_the_aliases() -> None:
    images, captions = released.released_states(model_of("grid_bert"))
    assert all(key.startswith("module.") for key in [*images, *captions])
    pairs = [("resnet.layer1.0.conv1.weight", "base.4.0.conv1.weight"), ("resnet.bn1.bias", "base.1.bias")]
    for alias, place in [*pairs, ("resnet.layer4.0.bn3.weight", "top.0.0.bn3.weight")]:
        assert images[f"module.backbone.{alias}"] is images[f"module.backbone.{place}"]
    plain, _ = released.released_states(model_of("region_bigru"))
    assert not any(key.startswith("module.") for key in plain)


def without_prefix(content: dict[str, Any]) -> None:
    content["model"] = [
        {k.removeprefix("module."): v for k, v in state.items()} for state in content["model"]
    ]


def with_prefix(content: dict[str, Any]) -> None:
    without_prefix(content)
    content["model"] = [{f"module.{k}": v for k, v in state.items()} for state in content["model"]]


def aliases_alone(content: dict[str, Any]) -> None:
    images = content["model"][0]
    content["model"][0] = {k: v for k, v in images.items() if ".base." not in k and ".top." not in k}


def no_aliases(content: dict[str, Any]) -> None:
    images = content["model"][0]
    content["model"][0] = {k: v for k, v in images.items() if ".resnet." not in k or ".resnet.fc" in k}


def other_aliases(content: dict[str, Any]) -> None:
    images = content["model"][0]
    spoiled = {k: torch.zeros_like(v) for k, v in images.items() if ".resnet." in k and ".resnet.fc" not in k}
    content["model"][0] = {**images, **spoiled}


def no_counters(content: dict[str, Any]) -> None:
    images = content["model"][0]
    content["model"][0] = {k: v for k, v in images.items() if not k.endswith("num_batches_tracked")}


def position_ids(content: dict[str, Any]) -> None:
    content["model"][1]["module.bert.embeddings.position_ids"] = torch.arange(20)[None]


def options_as_dict(content: dict[str, Any]) -> None:
    content["opt"] = vars(content["opt"])


def fewer_flags(content: dict[str, Any]) -> None:
    content["opt"] = argparse.Namespace(no_txtnorm=content["opt"].no_txtnorm)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("region_bigru", with_prefix),
        ("region_bert", without_prefix),
        ("grid_bigru", without_prefix),
        ("grid_bigru", aliases_alone),
        ("grid_bigru", no_aliases),
        ("grid_bigru", other_aliases),
        ("grid_bigru", no_counters),
        ("grid_bert", position_ids),
        ("grid_bert", options_as_dict),
        ("grid_bert", fewer_flags),
    ],
)
def test_variants(kind: str, change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    model = model_of(kind)
    content = content_of(model)
    change(content)
    torch.save(content, tmp_path / "m.pth")
    assert_same_model(released.to_model(released.read(tmp_path / "m.pth")), model)


def test_old_file_format(tmp_path: Path) -> None:
    """Torch 1.2, which the authors used, wrote another container."""
    model = model_of("region_bigru")
    torch.save(content_of(model), tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    assert_same_model(released.to_model(released.read(tmp_path / "m.pth")), model)


@pytest.mark.parametrize(
    ("kind", "branch", "change", "message"),
    [
        ("region_bigru", 0, lambda s: s.pop("fc.bias"), r"image encoder.*1 missing \(fc\.bias"),
        ("region_bigru", 1, lambda s: s.update(odd=torch.zeros(1)), r"text encoder.*1 unexpected \(odd"),
        ("region_bigru", 0, lambda s: s.update({"fc.bias": torch.zeros(3)}), r"another shape \(fc\.bias"),
        ("region_bigru", 0, lambda s: s.pop("fc.weight"), r"no tensor 'fc\.weight'"),
        ("region_bigru", 1, lambda s: s.pop("embed.weight"), r"no tensor 'embed\.weight'"),
        ("region_bigru", 1, lambda s: s.update({"embed.weight": torch.zeros(3)}), "expected a matrix"),
        ("region_bert", 1, lambda s: s.pop("module.bert.pooler.dense.bias"), r"bert\.pooler\.dense\.bias"),
        ("region_bert", 1, lambda s: s.pop("module.linear.weight"), r"no tensor 'linear\.weight'"),
        (
            "grid_bigru",
            0,
            lambda s: s.pop("module.image_encoder.fc.bias"),
            r"missing \(image_encoder\.fc\.bias",
        ),
        (
            "region_bigru",
            0,
            lambda s: [s.pop(k) for k in list(s) if "gpool" in k],
            "do not say the image_pooling",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    kind: str, branch: int, change: Callable[[dict], Any], message: str, tmp_path: Path
) -> None:
    content = content_of(model_of(kind))
    change(content["model"][branch])
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(InputError, match=message) as caught:
        released.to_model(released.read(tmp_path / "m.pth"))
    assert "m.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_backbone_of_another_depth() -> None:
    content = content_of(model_of("grid_bigru"), backbone_source="wsl")
    with pytest.raises(InputError, match="another shape"):
        released.to_model(released.from_content(content, Path("m.pth")))


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_is_executed(zipped: bool, tmp_path: Path) -> None:
    content = {**content_of(model_of("region_bigru")), "opt": Attack(tmp_path / "made")}
    torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"m\.pth.*mkdir"):
        released.read(tmp_path / "m.pth")
    with pytest.raises(InputError, match="mkdir"):
        trained.load(tmp_path / "m.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content",
    [{"weights": torch.zeros(2)}, {"model": torch.zeros(2), "opt": {}}, [1], {"model": [{}], "opt": {}}],
)
def test_not_a_released_file(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"m\.pth: expected a released checkpoint"):
        released.read(tmp_path / "m.pth")


def test_a_state_with_something_else_inside(tmp_path: Path) -> None:
    content = content_of(model_of("region_bigru"))
    content["model"][1]["extra"] = "text"
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(InputError, match="text encoder's state dict holds something else"):
        released.read(tmp_path / "m.pth")


def test_data_settings() -> None:
    grid = released.from_content(content_of(model_of("grid_bigru"), input_scale_factor=2.0), Path("m.pth"))
    assert released.data_settings(grid) == {"kind": "pixels", "backbone": "imagenet", "image_side": 512}
    region = released.from_content(content_of(model_of("region_bigru")), Path("m.pth"))
    assert released.data_settings(region) == {"kind": "regions"}


def vocabulary(path: Path, size: int = 6) -> Path:
    """A vocabulary of `size` words; <mask> makes it one more."""
    words = ["<pad>", "<start>", "<end>", "<unk>", "a", "b", "c", "d"][:size]
    index = {word: i for i, word in enumerate(words)}
    reverse = {str(i): word for word, i in index.items()}
    path.write_text(json.dumps({"word2idx": index, "idx2word": reverse, "idx": size}), encoding="utf-8")
    return path


def save_run(folder: Path, model: VSEModel, settings: dict[str, Any], vocab_path: Path | None) -> None:
    """A run folder as train.py leaves it."""
    folder.mkdir()
    data = {"name": "set", "root": "somewhere", "vocab_path": str(vocab_path), "image_side": 64}
    section = {"bert": "nowhere", "text_encoder": "bigru", **settings}
    section.pop("vocab_size", None)
    checkpoint.save(
        folder,
        runtime=Runtime(torch.device("cpu")),
        modules={"model": model},
        progress={"epoch": 1},
        config={"name": "my_run", "model": section, "data": data},
        best=True,
    )


def test_our_run(tmp_path: Path) -> None:
    settings = {**SMALL, **KINDS["region_bigru"]}
    model = model_of("region_bigru")
    save_run(tmp_path / "run", model, settings, vocabulary(tmp_path / "v.json"))
    for path in (tmp_path / "run", tmp_path / "run" / "best.pt", tmp_path / "run" / "last.pt"):
        found = trained.load(path)
        assert_same_model(found.model, model)
        assert found.name == "my_run"
        assert found.tokenizer.vocab_size == 7
        assert found.data_settings["image_side"] == 64
    with pytest.raises(InputError, match=r"trained with a vocabulary of 7 tokens, found one of 9"):
        trained.load(tmp_path / "run", vocab_path=vocabulary(tmp_path / "larger.json", size=8))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no checkpoint"):
        trained.load(tmp_path / "empty")
    with pytest.raises(InputError, match=r"none\.pt"):
        trained.load(tmp_path / "none.pt")


def test_our_run_with_bert_needs_no_pretrained_weights(tmp_path: Path) -> None:
    """Sizes of BERT come from the checkpoint, also where training took them from a folder that is gone."""
    model = model_of("region_bert")
    settings = {**SMALL, **BERT, "bert_pretrained": True, "bert_config": {"num_attention_heads": 3}}
    save_run(tmp_path / "run", model, settings, None)
    words = [*("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), *"abcdefg"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    found = trained.load(tmp_path / "run", vocab_path=tmp_path / "vocab.txt")
    assert_same_model(found.model, model)


def test_released_file_through_trained(tmp_path: Path) -> None:
    model = model_of("region_bigru")
    folder = tmp_path / "f30k_butd_region_bigru"
    folder.mkdir()
    torch.save(content_of(model), folder / "model_best.pth")
    words = vocabulary(tmp_path / "v.json")
    for path in (folder, folder / "model_best.pth"):
        found = trained.load(path, vocab_path=words)
        assert_same_model(found.model, model)
        assert found.name == "f30k_butd_region_bigru"
    with pytest.raises(InputError, match="vocabulary"):
        trained.load(folder)
    with pytest.raises(InputError, match="trained with a vocabulary of 7 tokens"):
        trained.load(folder, vocab_path=vocabulary(tmp_path / "small.json", size=5))


def test_saved_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        released.save(tmp_path / "m.pth", model_of("region_bigru"), options={})
    assert list(tmp_path.iterdir()) == []


def test_backbones_are_told_apart_by_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for source, guess in (
        ("detector", "detector"),
        ("imagenet_res50", "imagenet_res50"),
        ("imagenet_res152", "imagenet_res152"),
        ("wsl", "wsl"),
    ):
        with torch.device("meta"):
            model = build_model(image_encoder="grid", backbone=source, vocab_size=3, word_dim=2, embed_size=4)
        assert isinstance(model.img_enc, GridEncoder)
        content = content_of(model)
        del content["opt"].backbone_source
        found = released.from_content(content, Path("m.pth"))
        assert released.model_settings(found)["backbone"] == guess
