"""Parameter groups, learning rates over the epochs, and Adam (paper section 4; flags of the released train.py)."""

from collections.abc import Collection, Sequence

import torch
from torch import nn

from projects.xmrs.word_table import word_table_of
from shared.errors import InputError

GROUPS = ("heads", "vision", "wordEmb", "text")
DECAY = 0.1
WORD_EMBEDDINGS = ("textMLP.mBERT.embeddings", "word_embeddings")


def group_of(name: str) -> str:
    """The group of a parameter by its name; position, type and norm of the embeddings go with the words."""
    if "visionMLP" in name:
        return "vision"
    if any(part in name for part in WORD_EMBEDDINGS):
        return "wordEmb"
    return "text" if "textMLP" in name else "heads"


def parameter_groups(model: nn.Module) -> dict[str, list[str]]:
    """Names of the parameters of each group, groups and names in the released order."""
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name, _ in model.named_parameters():
        groups[group_of(name)].append(name)
    return groups


def build_optimizer(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    fused: bool = True,
    rates: Sequence[float] | None = None,
) -> torch.optim.Adam:
    """Adam (0.9, 0.999, 1e-8) over the four groups; each has a "name".

    Args:
        model: a FoodSpaceNet, its word table compact or not.
        learning_rate: of every group, unless `rates` are given.
        weight_decay: L2 penalty of Adam (added to the gradient). A compact word table excludes it.
        fused: one pass over the numbers of a parameter; the same results up to rounding.
        rates: rate of each group at the start (`learning_rates`).

    Raises:
        InputError: weight decay with a compact word table: it would move the rows that are not there.
    """
    table = word_table_of(model)
    if table is not None and weight_decay:
        raise InputError(
            f"optim.weight_decay: expected 0 with a compact word table, found {weight_decay}: "
            "decay moves every row of the table"
        )
    parameters = dict(model.named_parameters())
    groups = [
        {
            "params": [parameters[name] for name in names],
            "name": group,
            "lr": learning_rate if rates is None else rates[GROUPS.index(group)],
        }
        for group, names in parameter_groups(model).items()
    ]
    optimizer = torch.optim.Adam(
        groups, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay, fused=fused
    )
    if table is not None:
        _remember_rows(optimizer, table.checksum())
    return optimizer


def learning_rates(
    epoch: int,
    *,
    learning_rate: float,
    warmup: Collection[int] = (1,),
    decay_lr: Collection[int] = (20,),
    free_vision: bool = True,
    free_heads: bool = True,
    free_word_embeddings: bool = True,
    free_text: bool = True,
    train_word_embeddings: bool = True,
) -> list[float]:
    """Rates of heads, vision, wordEmb and text in an epoch (an index from 0).

    A group that is not free has rate 0; its moments run all the same. When e epochs are done and e is in
    `warmup` or `decay_lr`, vision and heads become free and so do the word embeddings, if they are to train at
    all; `free_text` stays. At each e in `decay_lr` rates become a tenth.
    """
    done = range(1, epoch + 1)
    released = any(e in warmup or e in decay_lr for e in done)
    rate = learning_rate
    for e in done:
        if e in decay_lr:
            rate *= DECAY
    return [
        rate * (free_heads or released),
        rate * (free_vision or released),
        rate * ((free_word_embeddings or released) and train_word_embeddings),
        rate * free_text,
    ]


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    """Give each group its rate; rates in the order of GROUPS."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def stop_useless_gradients(optimizer: torch.optim.Optimizer, rates: Sequence[Sequence[float]]) -> list[str]:
    """Take no gradients of groups whose rate is 0 in every epoch of `rates`; returns the groups' names.

    The results are the same: such parameters never move. (Batch norm keeps running its statistics.)
    """
    stopped = []
    for position, group in enumerate(optimizer.param_groups):
        if all(epoch[position] == 0 for epoch in rates):
            for parameter in group["params"]:
                parameter.requires_grad_(False)
            stopped.append(str(group["name"]))
    return stopped


def _remember_rows(optimizer: torch.optim.Optimizer, checksum: int) -> None:
    """Refuse, with a ValueError, to load moments that belong to other rows of the word table."""
    words = optimizer.param_groups[GROUPS.index("wordEmb")]
    words["rows_of_words"] = checksum

    def check(loaded: torch.optim.Optimizer) -> None:
        found = loaded.param_groups[GROUPS.index("wordEmb")].get("rows_of_words")
        if found != checksum:
            raise ValueError("saved with another set of tokens: its word table has other rows")

    optimizer.register_load_state_dict_post_hook(check)
