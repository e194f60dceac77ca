"""FSMT (the WMT19 models) and Marian through transformers: batches of like length, beam search."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from shared.atomic import first_line
from shared.errors import InputError
from shared.untrusted import load_checkpoint

KINDS = ("fsmt", "marian")
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_FLOOR = 32  # new tokens that are always allowed


class NeuralTranslator:
    """A sequence-to-sequence network of KINDS with its own tokeniser; equal lines are translated once a call.

    The search is that of the release: beam search without a length penalty other than the mean log
    probability. The WMT19 models that exist for transformers are another member of the same ensembles than
    the release used, so translations are alike, not identical.

    Raises:
        InputError: nothing at `source`, a network of another kind, or a pickle that asks for more than numbers.
    """

    def __init__(
        self,
        source: str,
        *,
        device: torch.device,
        precision: str = "fp32",
        beam: int = 5,
        batch_tokens: int = 4096,
        max_tokens: int = 512,
    ) -> None:
        if precision not in _PRECISIONS:
            raise InputError(f"precision: expected {' | '.join(_PRECISIONS)}, found {precision!r}")
        if beam < 1 or batch_tokens < 1 or max_tokens < 2:
            raise InputError(
                f"beam, batch_tokens, max_tokens: expected at least 1, 1, 2, found {beam}, {batch_tokens}, {max_tokens}"
            )
        self.device, self.beam, self.batch_tokens = device, beam, batch_tokens
        self.tokenizer, self.network = _load(source, _PRECISIONS[precision])
        self.network.to(device).eval()
        config = self.network.config
        self.max_positions = int(getattr(config, "max_position_embeddings", max_tokens))
        self.max_tokens = min(max_tokens, self.max_positions)
        self.truncated = 0  # lines that were longer than that
        self.identity = (
            f"{config.model_type} {source} beam {beam} {precision} batches of {batch_tokens} tokens"
        )

    def translate(self, lines: Sequence[str]) -> list[str]:
        """The translation of each line, in order."""
        unique = list(dict.fromkeys(lines))
        ids = self._tokenize(unique)
        translated: dict[str, str] = {}
        for batch in batches_of_like_length([len(one) for one in ids], self.batch_tokens):
            texts = self._generate([ids[index] for index in batch])
            translated.update((unique[index], text) for index, text in zip(batch, texts, strict=True))
        return [translated[line] for line in lines]

    def _tokenize(self, lines: Sequence[str]) -> list[list[int]]:
        if not lines:
            return []
        found: list[list[int]] = self.tokenizer(list(lines), truncation=False, verbose=False)["input_ids"]
        self.truncated += sum(len(one) > self.max_tokens for one in found)
        return [
            one if len(one) <= self.max_tokens else [*one[: self.max_tokens - 1], one[-1]] for one in found
        ]

    @torch.inference_mode()
    def _generate(self, ids: Sequence[list[int]]) -> list[str]:
        longest = max(map(len, ids))
        padding = self.tokenizer.pad_token_id
        tokens = torch.tensor([[*one, *[padding] * (longest - len(one))] for one in ids], device=self.device)
        lengths = torch.tensor([len(one) for one in ids], device=self.device)
        mask = (torch.arange(longest, device=self.device) < lengths[:, None]).long()
        limit = min(self.max_positions - 2, 2 * longest + _FLOOR)
        found = self.network.generate(
            input_ids=tokens,
            attention_mask=mask,
            num_beams=self.beam,
            do_sample=False,
            length_penalty=1.0,
            early_stopping=True,
            max_length=None,
            max_new_tokens=limit,
        )
        return [text.strip() for text in self.tokenizer.batch_decode(found, skip_special_tokens=True)]


def batches_of_like_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Positions in batches whose padded size is at most `budget` (or one item), the longest first."""
    batch: list[int] = []
    for index in sorted(
        range(len(lengths)), key=lambda one: -lengths[one]
    ):  # stable: the same lines, the same batches
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _load(source: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Tokeniser and network of a local folder or of the hub (its cache first)."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")  # no weights that a third party converted
    folder = Path(source).expanduser()
    place: str = str(folder) if folder.is_dir() else source
    if not folder.is_dir() and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise InputError(f"{source}: no such folder")
    pickled = folder / "pytorch_model.bin"
    if pickled.is_file() and not list(folder.glob("*.safetensors")):
        load_checkpoint(pickled)  # refuses, with the name and the byte, what asks for more than numbers
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(place)
            if config.model_type not in KINDS:
                raise InputError(
                    f"{source}: expected a translator ({' or '.join(KINDS)}), found {config.model_type}"
                )
            tokenizer = AutoTokenizer.from_pretrained(place)
            network = AutoModelForSeq2SeqLM.from_pretrained(place, dtype=dtype)
    except InputError:
        raise
    except (
        Exception
    ) as error:  # transformers and the hub raise a dozen kinds: absent, offline, damaged, unknown
        raise InputError(f"{source}: cannot be loaded as a translator: {first_line(error)}") from None
    return tokenizer, network


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the loading bars and remarks of transformers."""
    from transformers.utils import logging as remarks

    level = remarks.get_verbosity()
    was_shown = remarks.is_progress_bar_enabled()
    remarks.set_verbosity(logging.ERROR)
    remarks.disable_progress_bar()
    try:
        yield
    finally:
        remarks.set_verbosity(level)
        if was_shown:
            remarks.enable_progress_bar()
