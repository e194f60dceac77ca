"""A tiny FSMT and a tiny Marian in the files of real ones, taught in seconds to translate six words in order."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WORDS = {"mix": "rühre", "the": "das", "salt": "salz", "rice": "reis", "and": "und", "cup": "tasse"}
STEPS = 250


def make_fsmt(folder: Path) -> Path:
    """A model folder as `facebook/wmt19-en-de` has it: two vocabularies, BPE merges, weights."""
    from transformers import FSMTConfig, FSMTForConditionalGeneration, FSMTTokenizer

    folder.mkdir(parents=True)
    merges, pieces = [], ["<s>", "<pad>", "</s>", "<unk>"]
    for word in [*WORDS, *WORDS.values()]:
        symbols = [*word[:-1], f"{word[-1]}</w>"]
        pieces += symbols
        while len(symbols) > 1:
            merges.append(f"{symbols[0]} {symbols[1]} {1000 - len(merges)}")
            symbols = ["".join(symbols[:2]), *symbols[2:]]
            pieces.append(symbols[0])
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    for side in ("src", "tgt"):
        (folder / f"vocab-{side}.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(merges) + "\n")
    files = {
        "src_vocab_file": str(folder / "vocab-src.json"),
        "tgt_vocab_file": str(folder / "vocab-tgt.json"),
        "merges_file": str(folder / "merges.txt"),
    }
    tokenizer = FSMTTokenizer(langs=["en", "de"], **files)
    # as on the hub: older than the name of the tokeniser's class in this file
    (folder / "tokenizer_config.json").write_text('{"langs": ["en", "de"], "model_max_length": 1024}')
    torch.manual_seed(0)
    size = len(vocabulary)
    config = FSMTConfig(langs=["en", "de"], src_vocab_size=size, tgt_vocab_size=size, **_sizes())
    network = FSMTForConditionalGeneration(config)

    def target_ids(text: str) -> list[int]:
        return [vocabulary[f"{word}</w>"] for word in text.split()] + [2]

    _teach(network, lambda text: tokenizer(text)["input_ids"], target_ids, padding=1)
    network.save_pretrained(folder)
    return folder


def make_marian(folder: Path) -> Path:
    """A model folder as `Helsinki-NLP/opus-mt-en-fr` has it: two sentencepiece models, one vocabulary, weights."""
    import sentencepiece
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    folder.mkdir(parents=True)
    pieces = ["</s>", "<unk>"]
    for side, words in (("source", list(WORDS)), ("target", list(WORDS.values()))):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([" ".join(words)] * 3), model_prefix=str(folder / side),
            vocab_size=len(words) + 3, model_type="word", minloglevel=2, hard_vocab_limit=False,
        )  # fmt: skip
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
        pieces += [f"▁{word}" for word in words]
    pieces.append("<pad>")
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    tokenizer = MarianTokenizer(*files, source_lang="en", target_lang="fr")
    (folder / "tokenizer_config.json").write_text('{"target_lang": "fr", "source_lang": "en"}')
    torch.manual_seed(0)
    padding = vocabulary["<pad>"]
    config = MarianConfig(
        vocab_size=len(vocabulary), pad_token_id=padding, eos_token_id=0, forced_eos_token_id=0,
        decoder_start_token_id=padding, bad_words_ids=[[padding]], **_sizes(),
    )  # fmt: skip
    network = MarianMTModel(config)

    def target_ids(text: str) -> list[int]:
        return [vocabulary[f"▁{word}"] for word in text.split()] + [0]

    _teach(network, lambda text: tokenizer(text)["input_ids"], target_ids, padding=padding)
    network.save_pretrained(folder)
    return folder


def word_by_word(line: str) -> str:
    """What the tiny models should say."""
    return " ".join(WORDS[word] for word in line.split())


def _sizes() -> dict[str, Any]:
    layers = {f"{side}_{what}": 1 for side in ("encoder", "decoder") for what in ("layers",)}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    inner = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "d_model": 32, "max_position_embeddings": 64}
    return {
        **layers,
        **heads,
        **inner,
        "max_length": 40,
        "dropout": 0.0,
        "init_std": 0.1,
        "scale_embedding": True,
    }


def _teach(
    network: Any, source_ids: Callable[[str], list[int]], target_ids: Callable[[str], list[int]], padding: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    names = list(WORDS)
    network.train()
    for _ in range(STEPS):
        lengths = torch.randint(1, 6, (32,), generator=generator).tolist()
        lines = [
            " ".join(names[index] for index in torch.randint(0, len(names), (length,), generator=generator))
            for length in lengths
        ]
        sources = _padded([source_ids(line) for line in lines], padding)
        targets = _padded([target_ids(word_by_word(line)) for line in lines], padding)
        start = torch.full((len(lines), 1), network.config.decoder_start_token_id)
        logits = network(
            input_ids=sources,
            attention_mask=(sources != padding).long(),
            decoder_input_ids=torch.cat([start, targets[:, :-1]], 1),
            use_cache=False,
        ).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=padding
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.02:
            break
    assert loss.item() < 0.1, f"the tiny translator has not learned its words: loss {loss.item():.2f}"
    network.eval()


def _padded(rows: list[list[int]], padding: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
