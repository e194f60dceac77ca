"""Captions to ids: against library tokenisers, a naive dropping loop, and with wrong vocabularies."""

import itertools
import json
import string
from pathlib import Path

import numpy as np
import pytest

from projects.vseinfty import captions, vocabulary, wordpiece
from projects.vseinfty.captions import BertTokenizer, BiGRUTokenizer, Tokenizer, TokenTable
from shared.data import item_generator
from shared.errors import InputError
from tests.vseinfty.sets import WORDS, make_captions

LETTERS = string.ascii_lowercase + string.digits
TOKENS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *LETTERS,
    *(f"##{c}" for c in LETTERS),
    *(*WORDS, "##ing", "##s", "中", "cafe", *string.punctuation),
]
HARD_WORDS = (
    """a man 2 1000 cannot gonna x-ray , , . b, 2, dog. s can not more n -- a- -b x-cannot don't "q" (r)"""
)
HARD_CHARACTERS = (
    "abcdefgXYZ019   \t\n.,!?'\"-_#@[]()éÉñçÀ中文日本語ßİıﬁ¿¡…—“”Ａ１"
    "\u00a0\u200b\u2028\u3000\ufffd\x00\x07\x7f\u0301\x85"
)


@pytest.fixture
def bert() -> BertTokenizer:
    return BertTokenizer(TOKENS)


@pytest.fixture
def bigru() -> BiGRUTokenizer:
    return BiGRUTokenizer(vocabulary.build([[*WORDS, "."]], min_count=1))


def test_bert_like_the_tokenizers_library(tmp_path: Path) -> None:
    from tokenizers import BertWordPieceTokenizer

    tokens = list(dict.fromkeys(TOKENS))
    library = BertWordPieceTokenizer({token: i for i, token in enumerate(tokens)}, lowercase=True)
    ours = BertTokenizer(tokens)
    pool = list(HARD_CHARACTERS)
    rng = np.random.default_rng(0)
    for _ in range(3000):
        text = "".join(rng.choice(pool, rng.integers(0, 30)))
        assert ours.encode(text) == library.encode(text).ids, ascii(text)


def test_ascii_shortcut_like_the_long_way() -> None:
    rng = np.random.default_rng(1)
    for _ in range(2000):
        text = "".join(rng.choice([chr(c) for c in range(128)], rng.integers(0, 40)))
        words = []
        for chunk in wordpiece._clean(text).split():
            words.extend(wordpiece._split_punctuation(wordpiece._strip_accents(chunk.lower())))
        assert wordpiece.basic_words(text) == words, ascii(text)


def test_word_pieces() -> None:
    ids = {"un": 1, "##know": 2, "##n": 3, "unkn": 4}
    assert wordpiece.word_pieces("unknown", ids, 0) == [0]  # greedy: "unkn" then "##own" is not there
    assert wordpiece.word_pieces("unknow", {"un": 1, "##know": 2}, 0) == [1, 2]
    assert wordpiece.word_pieces("a" * 100, {"a": 5, "##a": 6}, 0) == [5] + [6] * 99
    assert wordpiece.word_pieces("a" * 101, {"a": 5, "##a": 6}, 0) == [0]


def nltk_words(text: str) -> list[str]:
    split_sentences, split_words = captions._nltk()
    return [word for sentence in split_sentences(text.strip()) for word in split_words(sentence)]


def test_words_like_nltk() -> None:
    """The shortcut for plain captions takes nothing that nltk would split otherwise."""
    parts = HARD_WORDS.split()
    rng = np.random.default_rng(0)
    texts = [
        "".join(p + ("" if rng.random() < 0.1 else " ") for p in rng.choice(parts, rng.integers(1, 8)))
        for _ in range(1500)
    ]
    texts += ["".join(letters) for n in range(1, 5) for letters in itertools.product("a1 ,.-", repeat=n)]
    shortcut = sum(bool(captions._PLAIN.fullmatch(text.strip())) for text in texts)
    assert 300 < shortcut < len(texts)
    for text in texts:
        assert captions.word_tokenize(text) == nltk_words(text), repr(text)


def test_sentences_are_split() -> None:
    assert captions.word_tokenize("a man. a dog.") == ["a", "man", ".", "a", "dog", "."]
    assert captions.word_tokenize("the dog's ball") == ["the", "dog", "'s", "ball"]
    assert captions.word_tokenize("   ") == []


def naive_dropped(tokenizer: Tokenizer, caption: str, rng: np.random.Generator) -> list[int]:
    words = tokenizer.words(caption)
    draws = rng.random(len(words))
    out, luckiest = [], None
    for word, u in zip(words, draws, strict=True):
        if u >= 0.2 or u / 0.2 < 0.6:
            new = word if u >= 0.2 else [tokenizer.mask_id if u / 0.2 < 0.5 else -1] * len(word)
            out.extend(new)
        elif luckiest is None or u > luckiest[0]:
            luckiest = (u, word)
    replaced = iter(rng.integers(tokenizer.vocab_size, size=out.count(-1)))
    out = [next(replaced) if token == -1 else token for token in out]
    out = [*tokenizer.prefix, *out, *tokenizer.suffix]
    return out or [luckiest[1][0]]


@pytest.mark.parametrize("kind", ["bert", "bigru"])
def test_dropping_like_the_loop(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    texts = ["", "dogs", *make_captions(198)]
    table = TokenTable.build(tokenizer, texts)
    for epoch in range(20):
        indices = np.random.default_rng(epoch).permutation(200)[:64]
        ids, lengths = table.dropped(indices, [item_generator(3, epoch, int(i)) for i in indices])
        assert ids.shape == (64, lengths.max())
        for index, row, length in zip(indices, ids, lengths, strict=True):
            expected = naive_dropped(tokenizer, texts[index], item_generator(3, epoch, int(index)))
            assert row.tolist() == expected + [0] * (ids.shape[1] - len(expected))
            assert length == len(expected)
            assert tokenizer.encode_dropped(texts[index], item_generator(3, epoch, int(index))) == expected


def test_bigru_captions_never_become_empty(bigru: BiGRUTokenizer) -> None:
    """Of ["<start>", "<end>"] both are deleted in 0.64 % of the draws (spec quirk 17)."""
    table = TokenTable.build(bigru, [""] * 3000)
    _, lengths = table.dropped(np.arange(3000), [item_generator(0, 0, i) for i in range(3000)])
    drawn = [item_generator(0, 0, i).random(2) for i in range(3000)]
    both = [bool(((u >= 0.12) & (u < 0.2)).all()) for u in drawn]
    assert sum(both) > 5
    assert lengths.min() == 1


def test_padded_like_encode(bert: BertTokenizer) -> None:
    texts = [*make_captions(30), ""]
    table = TokenTable.build(bert, texts)
    ids, lengths = table.padded(np.array([4, 30, 7]))
    assert ids.dtype == np.int64
    for row, length, index in zip(ids, lengths, (4, 30, 7), strict=True):
        assert row[:length].tolist() == bert.encode(texts[index])
        assert not row[length:].any()
    assert len(table) == 31
    assert table.lengths.tolist() == [len(bert.encode(text)) for text in texts]
    assert table.padded(np.zeros(0, np.int64))[0].shape == (0, 0)


def test_replacements_are_drawn_from_the_whole_vocabulary(bigru: BiGRUTokenizer) -> None:
    """Also <pad> (spec quirk 10)."""
    table = TokenTable.build(bigru, [" ".join(["dog"] * 50)] * 400)
    ids, lengths = table.dropped(np.arange(400), [item_generator(0, 0, i) for i in range(400)])
    seen = {int(i) for row, n in zip(ids, lengths, strict=True) for i in row[:n]}
    assert seen == set(range(bigru.vocab_size))


def test_decode(bert: BertTokenizer) -> None:
    assert bert.decode(bert.encode("A dogs café")) == ["[CLS]", "a", "dog", "##s", "cafe", "[SEP]"]


# ---- bad input


def test_bert_vocabulary_is_found_in_file_folder_and_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    for vocab_path, bert_name in ((tmp_path / "vocab.txt", "x"), (tmp_path, "x"), (None, str(tmp_path))):
        tokenizer = captions.build_tokenizer(text_encoder="bert", vocab_path=vocab_path, bert=bert_name)
        assert tokenizer.vocab_size == len(TOKENS)

    from huggingface_hub import constants

    snapshot = tmp_path / "hub" / "models--google-bert--bert-base-uncased" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123")
    (snapshot / "vocab.txt").write_text("\n".join(TOKENS), encoding="utf-8")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert captions.build_tokenizer(text_encoder="bert").vocab_size == len(TOKENS)


def test_bert_vocabulary_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as error:
        captions.build_tokenizer(text_encoder="bert", bert="some-bert")
    assert "models--some-bert" in str(error.value)
    assert "set vocab_path" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"absent: expected BERT's vocab\.txt"):
        captions.build_tokenizer(text_encoder="bert", vocab_path=tmp_path / "absent")
    with pytest.raises(InputError, match=r"expected vocab\.txt in the BERT folder"):
        captions.build_tokenizer(text_encoder="bert", bert=str(tmp_path))


def test_wrong_bert_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    for text, message in (
        ("dog\ncat\n", "not a BERT vocabulary"),
        ("[UNK]\n[PAD]\n[CLS]\n[SEP]\n[MASK]\n", r"expected \[PAD\] in line 1 \(id 0\), found it in line 2"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            captions.build_tokenizer(text_encoder="bert", vocab_path=path)
    path.write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(InputError, match="not a UTF-8 file"):
        captions.build_tokenizer(text_encoder="bert", vocab_path=path)


def test_vocabulary_lines_end_at_newlines_only(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("[PAD]\n\u2028\n\x1c\r\nx".encode())
    assert wordpiece.read_vocabulary(path) == ["[PAD]", "\u2028", "\x1c", "x"]


def test_bigru_needs_its_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vocab_path"):
        captions.build_tokenizer(text_encoder="bigru")
    (tmp_path / "v.json").write_text(json.dumps({"word2idx": {"a": 1}}))
    with pytest.raises(InputError, match=r"v.json.*expected the ids 0..0"):
        captions.build_tokenizer(text_encoder="bigru", vocab_path=tmp_path / "v.json")
    with pytest.raises(InputError, match="expected 'bert' or 'bigru', found 'gpt'"):
        captions.build_tokenizer(text_encoder="gpt")


def test_vocabulary_of_another_checkpoint(bigru: BiGRUTokenizer) -> None:
    captions.check_vocab_size(bigru, bigru.vocab_size, source="model_best.pth")
    with pytest.raises(
        InputError, match=r"model_best.pth: trained with a vocabulary of 11354 tokens, found one of 22"
    ):
        captions.check_vocab_size(bigru, 11354, source="model_best.pth")


def test_bert_ignores_the_words_of_a_set(tmp_path: Path) -> None:
    """As released: `data.vocab_path` names the BiGRU vocabulary, a BERT run has its own."""
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS), encoding="utf-8")
    tokenizer = captions.build_tokenizer(
        text_encoder="bert", vocab_path=tmp_path / "coco_precomp_vocab.json", bert=str(tmp_path)
    )
    assert tokenizer.vocab_size == len(TOKENS)
