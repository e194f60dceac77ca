"""Text encoders: token ids -> one caption embedding, under the released key names."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from projects.vseinfty.image_encoders import l2_normalize
from projects.vseinfty.pooling import LastState
from projects.vseinfty.recurrent import bidirectional_states
from shared.errors import InputError

if TYPE_CHECKING:
    from transformers import BertModel


class BiGRUEncoder(nn.Module):
    """Word embedding -> bidirectional GRU, mean of the two directions -> pooling -> L2 norm."""

    def __init__(
        self,
        *,
        vocab_size: int,
        word_dim: int,
        embed_size: int,
        num_layers: int,
        pooling: nn.Module,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, word_dim)
        self.gpool = pooling
        self.rnn = nn.GRU(word_dim, embed_size, num_layers, batch_first=True, bidirectional=True)
        self.normalize = normalize
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Ids [B, L] right-padded, lengths [B] -> embeddings [B, E] and pooling weights [B, L] or None."""
        states = self.states(ids, lengths)
        features = states if isinstance(self.gpool, LastState) else states.mean(dim=2)
        pooled, weights = self.gpool(features, lengths)
        return l2_normalize(pooled) if self.normalize else pooled, weights

    def states(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """States of both directions [B, L, 2, E]; in any order of lengths, padding never reaches them."""
        return bidirectional_states(self.rnn, self.embed, ids, lengths)


class BertEncoder(nn.Module):
    """BERT's last hidden states -> linear -> pooling -> L2 norm."""

    def __init__(
        self, *, bert: "BertModel", embed_size: int, pooling: nn.Module, normalize: bool = True
    ) -> None:
        super().__init__()
        if isinstance(pooling, LastState):
            raise InputError(
                "model.text_pooling: 'last' needs a recurrent encoder (model.text_encoder=bigru)"
            )
        self.bert = bert
        config: Any = bert.config
        self.linear = nn.Linear(config.hidden_size, embed_size)
        self.gpool = pooling
        self.normalize = normalize

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Ids [B, L] padded with 0, lengths [B] -> embeddings [B, E] and pooling weights [B, L] or None."""
        pooled, weights = self.gpool(self.linear(self.hidden(ids)), lengths)
        return l2_normalize(pooled) if self.normalize else pooled, weights

    def hidden(self, ids: Tensor) -> Tensor:
        """Last hidden states [B, L, H]. Attention leaves out every id 0, also a drawn one (spec quirk 10)."""
        states: Tensor = self.bert(ids, attention_mask=(ids != 0).long()).last_hidden_state
        return states


def build_bert(name: str, *, pretrained: bool, config: dict[str, Any] | None = None) -> "BertModel":
    """BertModel with or without pretrained weights; never downloads.

    Args:
        name: a local folder, or a model id that lies in the Hugging Face cache.
        pretrained: load its weights; otherwise random ones (a checkpoint follows), of bert-base size unless
            the folder or `config` says otherwise.
        config: overrides of the configuration (sizes of a small BERT in tests).

    Raises:
        InputError: pretrained weights that are not there, naming where they were looked for.
    """
    from transformers import BertConfig, BertModel

    overrides = config or {}
    if pretrained:
        try:
            return BertModel.from_pretrained(name, local_files_only=True, **overrides)
        except Exception as error:  # missing and damaged files meet it with errors of many classes
            raise InputError(_no_bert(name, error)) from None
    is_folder = (Path(name) / "config.json").is_file()
    return BertModel(BertConfig.from_pretrained(name, **overrides) if is_folder else BertConfig(**overrides))


def _no_bert(name: str, error: Exception) -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    if (Path(name) / "config.json").is_file():
        return f"model.bert: {name}: no usable BERT in this folder: {str(error).splitlines()[0]}"
    return (
        f"model.bert: no pretrained BERT {name!r}: looked for a folder of that name with config.json and weights "
        f"(from {Path.cwd()}), and in the Hugging Face cache {HF_HUB_CACHE}; give a folder, fill the cache "
        f"(`hf download {name}`), or set model.bert_pretrained=false"
    )
