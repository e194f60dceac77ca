"""Files of CLIP: Hugging Face's, open_clip's, OpenAI's, our own; and their tokenizers."""

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from projects.semabs import clip_weights
from projects.semabs.clip_model import CLIP
from projects.semabs.clip_tokenizer import BytePairTokenizer, WordTokenizer, from_settings
from projects.semabs.clip_torchscript import is_program, read_program
from projects.semabs.clip_weights import load_clip, openai_names, save_clip, sizes_of
from shared.errors import InputError
from tests.semabs.tiny_clip import tiny_clip, tiny_model

VOCABULARY = 49408


@pytest.fixture(scope="module")
def openai_model() -> CLIP:
    """Heads of 64 channels and all of CLIP's tokens, otherwise tiny."""
    return tiny_model(VOCABULARY, 77, width=128, heads=2, text_width=64, text_heads=1, layers=2)


def state_of(model: CLIP) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(found: CLIP, expected: CLIP) -> None:
    images, tokens = torch.randn(2, 3, 32, 32), torch.tensor([[49406, 5, 49407, 0]])
    torch.testing.assert_close(found.encode_image(images), expected.encode_image(images))
    torch.testing.assert_close(found.encode_text(tokens), expected.encode_text(tokens))


def test_hugging_face(tmp_path: Path) -> None:
    """A model that transformers made and saved gives transformers' features."""
    from transformers import CLIPConfig, CLIPModel

    shared = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu"}
    text = {"hidden_size": 32, "intermediate_size": 128, "eos_token_id": 49407, "bos_token_id": 49406}
    vision = {"hidden_size": 48, "intermediate_size": 192, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config={**shared, **text}, vision_config={**shared, **vision}, projection_dim=24)
    torch.manual_seed(0)
    made = CLIPModel(config).eval()
    made.save_pretrained(tmp_path / "model")
    clip = load_clip(tmp_path / "model")
    assert clip.image_size == 32
    assert clip.model.sizes["activation"] == "gelu"
    images, tokens = torch.randn(2, 3, 32, 32), clip.tokenizer(["a mug", "the wine bottle on a table"])
    with torch.no_grad():
        visual = made.visual_projection(made.vision_model(images).pooler_output)
        textual = made.text_projection(made.text_model(tokens).pooler_output)
    torch.testing.assert_close(clip.model.encode_image(images), visual, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(clip.model.encode_text(tokens), textual, rtol=1e-4, atol=1e-5)


def test_state_dicts_under_openai_names(openai_model: CLIP, tmp_path: Path) -> None:
    """open_clip's and OpenAI's names are the same; half precision, `module.` and numbers beside are accepted."""
    state: dict[str, Any] = {
        f"module.{name}": value.half() if value.ndim > 1 else value
        for name, value in state_of(openai_model).items()
    }
    state |= {"module.input_resolution": torch.tensor(32), "module.context_length": torch.tensor(77)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "x.pt")
    clip = load_clip(tmp_path / "x.pt")
    assert clip.model.visual.conv1.weight.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in clip.model.parameters())
    rounded = tiny_model(VOCABULARY, 77, width=128, heads=2, text_width=64, text_heads=1, layers=2)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.half().float() if parameter.ndim > 1 else parameter.data
    assert_same(clip.model, rounded)


def test_an_open_clip_folder_names_its_activation(openai_model: CLIP, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(state_of(openai_model), tmp_path / "open_clip_model.safetensors")
    settings = tmp_path / "open_clip_config.json"
    for config, activation in (({}, "gelu"), ({"quick_gelu": True}, "quick_gelu")):
        settings.write_text(json.dumps({"model_cfg": {"embed_dim": 24, **config}}))
        assert load_clip(tmp_path).model.sizes["activation"] == activation
    assert load_clip(tmp_path, activation="gelu").model.sizes["activation"] == "gelu"
    settings.unlink()
    assert_same(load_clip(tmp_path).model, openai_model)


class Holder(nn.Module):
    """What OpenAI's files hold: a traced model, with a number that is no weight."""

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.visual, self.transformer = model.visual, model.transformer
        for name, value in model.state_dict().items():
            if "." not in name:
                self.register_parameter(name, nn.Parameter(value, requires_grad=False))
        self.token_embedding, self.ln_final = model.token_embedding, model.ln_final
        self.register_buffer("input_resolution", torch.tensor(model.sizes["image_size"]))

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def test_openais_programs_are_read_and_not_run(openai_model: CLIP, tmp_path: Path) -> None:
    path = tmp_path / "ViT.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Holder(openai_model), torch.ones(1)), str(path))
    assert is_program(path)
    state = openai_names(read_program(path), path)
    expected = state_of(openai_model)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert sizes_of(state, path)["heads"] == 2
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert not is_program(path)
    renamed = content.replace(b"torch._utils", b"posix.system").replace(
        b"_rebuild_tensor_v2", b"_rebuild_tensor_vX"
    )
    path.write_bytes(renamed)
    with pytest.raises(InputError, match=r"refused|damaged|Bad CRC"):
        read_program(path)


def test_our_own_file(tmp_path: Path) -> None:
    clip = tiny_clip()
    save_clip(tmp_path / "clip.pt", clip.model, clip.tokenizer)
    for source in (tmp_path / "clip.pt", tmp_path):
        found = load_clip(source)
        assert found.model.sizes == clip.model.sizes
        assert torch.equal(found.tokenizer(["teddy bear", "mug"]), clip.tokenizer(["teddy bear", "mug"]))
        images = torch.randn(2, 3, 32, 32)
        assert torch.equal(found.model.encode_image(images), clip.model.encode_image(images))


def test_files_that_are_no_clip(openai_model: CLIP, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt: expected a CLIP with a vision transformer"):
        load_clip(tmp_path / "a.pt")
    state = state_of(openai_model)
    del state["visual.ln_post.weight"]
    torch.save(state, tmp_path / "missing.pt")
    with pytest.raises(InputError, match=r"1 missing \(visual.ln_post.weight\)"):
        load_clip(tmp_path / "missing.pt")
    torch.save({**state_of(openai_model), "token_embedding.weight": torch.zeros(10, 64)}, tmp_path / "t.pt")
    with pytest.raises(InputError, match="10 tokens, expected 49408"):
        load_clip(tmp_path / "t.pt")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_clip(tmp_path / "model.safetensors")
    (tmp_path / "evil.pt").write_bytes(b"cposix\nsystem\n(S'touch x'\ntR.")
    with pytest.raises(InputError, match=r"evil\.pt"):
        load_clip(tmp_path / "evil.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected one of model\.safetensors"):
        load_clip(tmp_path / "empty")


def test_names_are_looked_up_in_caches(
    openai_model: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_weights, "OPENAI_CACHE", tmp_path / "clip")
    monkeypatch.setattr(clip_weights, "_cached", lambda repository, file: None)
    with pytest.raises(InputError, match=r"ViT-B/32: not in the caches .*hf download openai/clip"):
        load_clip("ViT-B/32")
    with pytest.raises(InputError, match=r"no such file nothing\.pt, and no name of CLIP's: ViT-B/32"):
        load_clip("nothing.pt")
    (tmp_path / "clip").mkdir()
    torch.save(state_of(openai_model), tmp_path / "clip" / "ViT-B-32.pt")
    found = load_clip("ViT-B/32")
    assert found.name == "ViT-B/32"
    assert_same(found.model, openai_model)
    monkeypatch.setattr(
        clip_weights,
        "_cached",
        lambda repository, file: tmp_path / "clip" / "ViT-B-32.pt" if repository == "a/b" else None,
    )
    assert load_clip("a/b").name == "a/b"


def test_byte_pairs_are_joined_from_left_to_right(tmp_path: Path) -> None:
    """Against the definition: the pair of the lowest rank first, everywhere in the word."""
    tokenizer = BytePairTokenizer()
    for word in ("aaaaaaa", "refridgerator", "bookbinding", "xx日xx", "a"):
        parts = [tokenizer.bytes[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while True:
            ranked = [
                (tokenizer.ranks[pair], pair) for pair in itertools.pairwise(parts) if pair in tokenizer.ranks
            ]
            if not ranked:
                break
            first, second = min(ranked)[1]
            joined, at = [], 0
            while at < len(parts):
                both = parts[at : at + 2] == [first, second]
                joined.append(first + second if both else parts[at])
                at += 1 + both
            parts = joined
        assert tokenizer.encode(word) == [tokenizer.ids[part] for part in parts]
    with pytest.raises(InputError, match="tokens, expected at most 75"):
        tokenizer(["word " * 80])
    (tmp_path / "x.gz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not CLIP's table of merges"):
        BytePairTokenizer(table=tmp_path / "x.gz")


def test_words() -> None:
    tokenizer = WordTokenizer(["Red", "mug", "a"], 5)
    assert tokenizer(["a red Mug!", "blue mug"]).tolist() == [[5, 2, 4, 3, 6], [5, 1, 3, 6, 0]]
    assert from_settings(tokenizer.settings())(["mug"]).tolist() == tokenizer(["mug"]).tolist()
    with pytest.raises(InputError, match="text 'a red mug a': 4 tokens, expected at most 3"):
        tokenizer(["a red mug a"])
    with pytest.raises(InputError, match="tokenizer: expected one of bpe, words, found 'x'"):
        from_settings({"kind": "x"})
