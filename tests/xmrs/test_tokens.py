"""Tokens of recipes: against a plain WordPiece, whole texts against remembered words, cutting, special tokens."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from projects.xmrs import token_pickles, tokens, vocabulary
from projects.xmrs.bench_corpus import PlainTokenizer
from projects.xmrs.recipe1m import Recipe
from projects.xmrs.tokens import Tokenizer
from shared.errors import InputError
from shared.untrusted import load_pickle
from tests.xmrs.corpus_files import PIECES, tokenizer

OURS = tokenizer()
PLAIN = PlainTokenizer(OURS.pieces)
BLANKS = " \t\n\r\xa0\u2003\u3000"
ODD = "米飯é\u0301ьй.,!?\"'()[]/-–«€\ufffd\u200b"


def recipe(title: str = "", ingredients: tuple[str, ...] = (), instructions: tuple[str, ...] = ()) -> Recipe:
    return Recipe("0" * 10, title, list(ingredients), list(instructions), "train", "")


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("abcdemixsalt 2" + BLANKS + ODD), max_size=40))
def test_texts_against_a_plain_wordpiece(text: str) -> None:
    assert OURS.ids(text) == PLAIN.ids(text)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_word_by_word_is_as_the_whole_text(text: str) -> None:
    """What is remembered between blanks, joined, is what the tokenizer makes of the text."""
    assert OURS.ids(text) == OURS._backend.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    "text", ["a\x0bb", "a\x1cb", "a\x85b", "a\u2028b", "a\xa0b", "a\x00b", "a\u200bb", "[SEP]x [MASK]", " "]
)
def test_blanks_that_are_none_and_special_tokens_in_a_text(text: str) -> None:
    assert OURS.ids(text) == OURS._backend.encode(text, add_special_tokens=False).ids


def test_long_words_are_unknown() -> None:
    assert OURS.ids("a" * 101) == [tokens.UNK]
    assert len(OURS.ids("a" * 100)) == 100


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_MEMORY", 8)
    own = tokenizer()
    texts = [f"{first}{second} mix" for first in "abcde" for second in "fghij"]
    assert own.ids_batch(texts) == [PLAIN.ids(text) for text in texts]
    assert len(own._remembered) <= 8


def test_a_tokenizer_travels_to_a_worker() -> None:
    OURS.ids("mix the salt")
    copy = pickle.loads(pickle.dumps(OURS))
    assert len(copy._remembered) == 0
    assert copy.ids("mix the salt, é") == OURS.ids("mix the salt, é")


def test_the_three_strings_and_their_dots() -> None:
    found = tokens.recipe_strings(recipe("Rice.", ("1 cup", "", "salt..."), ("Mix..", "", "Serve")))
    assert [text.split() for text in found] == [["Rice."], ["1", "cup.", "salt.."], ["Mix..", "Serve"]]
    ids, parts = tokens.encode_recipe(OURS, recipe("mix", ("the salt", "rice"), ("bake",)))
    spoken = [OURS.pieces[index] for index in ids]
    assert spoken == ["[CLS]", "mix", ".", "the", "salt", ".", "rice", ".", "bake"]
    assert parts.tolist() == [-1, 1, 1, 2, 2, 2, 2, 2, 3]
    assert (ids.dtype, parts.dtype) == (np.int32, np.int8)


@pytest.mark.parametrize("limit", [1, 2, 4, 7, 8, 9, 512])
def test_cutting(limit: int) -> None:
    whole = recipe("mix", ("the salt", "rice"), ("bake",))
    ids, lengths = tokens.encode_recipes(OURS, [whole], limit)[0]
    all_ids, all_parts = tokens.encode_recipe(OURS, whole)
    assert ids.tolist() == all_ids[:limit].tolist()
    assert tokens.part_numbers(lengths).tolist() == all_parts[:limit].tolist()


def test_a_recipe_without_anything() -> None:
    ids, parts = tokens.encode_recipe(OURS, recipe())
    assert [OURS.pieces[index] for index in ids] == ["[CLS]", ".", "."]
    assert parts.tolist() == [-1, 1, 2]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (["[UNK]", "a"], r"v: expected \[PAD\] in line 1 \(as mBERT has\), found none"),
        (
            [*PIECES[:100], "x", *PIECES[100:]],
            r"v: expected \[UNK\] in line 101 \(as mBERT has\), found line 102",
        ),
    ],
)
def test_vocabularies_of_another_kind(pieces: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Tokenizer(pieces, "v")


def test_finding_the_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vocab.txt").write_bytes("\n".join(OURS.pieces).encode() + b"\r\n")
    for place in (tmp_path, tmp_path / "vocab.txt"):
        assert tokens.build_tokenizer(place).pieces == OURS.pieces
    assert tokens.build_tokenizer(name=str(tmp_path)).checksum == OURS.checksum
    with pytest.raises(InputError, match=r"none: expected a vocab\.txt or a folder"):
        tokens.build_tokenizer(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: expected vocab\.txt in the folder"):
        tokens.build_tokenizer(name=str(tmp_path / "empty"))
    (tmp_path / "vocab.txt").write_bytes(b"\xff\n")
    with pytest.raises(InputError, match="not a UTF-8 file"):
        vocabulary.read_vocabulary(tmp_path / "vocab.txt")


def test_a_model_of_the_hub_comes_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"'bert-x' not found in .*; give the vocab\.txt in data\.vocab"):
        tokens.build_tokenizer(name="bert-x")
    snapshot = tmp_path / "models--google-bert--bert-x" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "vocab.txt").write_text("\n".join(OURS.pieces) + "\n", encoding="utf-8")
    refs = tmp_path / "models--google-bert--bert-x" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    assert tokens.build_tokenizer(name="bert-x").vocab_size == OURS.vocab_size


def test_the_released_vocabulary_pickles(tmp_path: Path) -> None:
    vectors = torch.randn(OURS.vocab_size, token_pickles.MBERT_WIDTH)
    save_file({"bert.embeddings.word_embeddings.weight": vectors}, tmp_path / "model.safetensors")
    token_pickles.write(tmp_path / "out", OURS, tmp_path)
    found = load_pickle(tmp_path / "out" / "vocab.pkl")
    assert list(found) == OURS.pieces
    assert np.array_equal(np.stack(list(found.values())), vectors.numpy())
    assert load_pickle(tmp_path / "out" / "ingr_vocab.pkl")["[MASK]"] == tokens.MASK
    assert load_pickle(tmp_path / "out" / "vocab_ingr.pkl")[tokens.SEP] == "[SEP]"
    save_file({"bert.embeddings.word_embeddings.weight": vectors[:9]}, tmp_path / "model.safetensors")
    with pytest.raises(
        InputError, match=r"model\.safetensors: embeddings\.word_embeddings\.weight: expected"
    ):
        token_pickles.write(tmp_path / "out2", OURS, tmp_path)
    assert not (tmp_path / "out2" / "vocab.pkl").exists()
