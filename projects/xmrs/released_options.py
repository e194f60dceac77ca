"""The released code's run folder: its flags in opts.txt, and which of its checkpoints to take."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from shared.errors import InputError

# Every flag of the released args.py (train.py, test.py) with its default.
FLAGS: dict[str, Any] = {
    "seed": 1234,
    "no_cuda": False,
    "gpu": "0",
    "experiment_sufix": "",
    "img_path": "./data/Recipe1M/images",
    "data_path": "./data/loader_data",
    "workers": 15,
    "model_init_path": "",
    "resume": "",
    "embDim": 1024,
    "w2vInit": True,
    "maxSeqlen": 20,
    "maxInsts": 20,
    "maxImgs": 5,
    "textmodel": "mBERT_fulltxt",
    "textinputs": "title,ingr,inst",
    "textAug": "english,de,ru,fr",
    "BERT_layers": 2,
    "BERT_heads": 2,
    "batch_size": 20,
    "lr": 1e-4,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "epochs": 100,
    "start_epoch": 0,
    "valfreq": 1,
    "w2vTrain": True,
    "freeVision": True,
    "freeHeads": True,
    "freeWordEmb": True,
    "freeText": True,
    "ohem": True,
    "intraModalLoss": True,
    "warmup": "1",
    "decayLR": "20",
    "alpha": 0.3,
    "language": 0,
    "embtype": "image",
    "medr": 1000,
}
# The key of our train.py's settings that says the same; flags that the released code never reads have none.
KEYS: dict[str, str | None] = {
    "seed": "seed",
    "no_cuda": "runtime.device",
    "gpu": None,  # only printed; here the environment's CUDA_VISIBLE_DEVICES
    "experiment_sufix": "name",
    "img_path": "data.image_root",
    "data_path": "data.data_root",
    "workers": "workers",
    "model_init_path": "init_from",
    "resume": "resume_from",
    "embDim": "model.embed_dim",
    "w2vInit": None,
    "maxSeqlen": None,
    "maxInsts": None,
    "maxImgs": "data.max_images",
    "textmodel": "model.text.kind",
    "textinputs": "data.text_inputs",
    "textAug": "data.text_augmentation",
    "BERT_layers": "model.text.layers",
    "BERT_heads": "model.text.heads",
    "batch_size": "optim.batch_size",
    "lr": "optim.learning_rate",
    "momentum": None,
    "weight_decay": "optim.weight_decay",
    "epochs": "optim.epochs",
    "start_epoch": None,  # overwritten by --resume; here the checkpoint knows
    "valfreq": "validation.every",
    "w2vTrain": "optim.train_word_embeddings",
    "freeVision": "optim.free_vision",
    "freeHeads": "optim.free_heads",
    "freeWordEmb": "optim.free_word_embeddings",
    "freeText": "optim.free_text",
    "ohem": "loss.hardest",
    "intraModalLoss": "loss.intra_modal",
    "warmup": "optim.warmup",
    "decayLR": "optim.decay_lr",
    "alpha": "loss.margin",
    "language": "data.language",
    "embtype": "validation.query",
    "medr": "validation.medr",
}
TEXT_MODELS = {"transformer": "mBERT_fulltxt", "average": "mBERT_fulltxtAWE"}
OPTIONS_FILE = "opts.txt"
TRUE, FALSE = ("yes", "true", "t", "y"), ("no", "false", "f", "n")
# the best ones first; the image encoder extracted from one of them is none
CHECKPOINTS = ("models/model_BEST_REC_*", "models/model_BEST_VAL_*", "models/model.pth.tar")


def parse(
    text: str, *, exclude: Collection[str] = (), legacy_types: bool = False, source: str = OPTIONS_FILE
) -> dict[str, Any]:
    """Flags of an opts.txt ("name: value" lines) over the defaults; unknown names are left out.

    Args:
        text: content of the file.
        exclude: names that keep their default.
        legacy_types: type values by their looks, as the released code does: `1e-05` stays text, `gpu: 0`
            becomes a number. Otherwise each value has its flag's type.
        source: names the file in errors.

    Raises:
        InputError: a value that is not of its flag's type (never with `legacy_types`).
    """
    options = dict(FLAGS)
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if not colon or name not in FLAGS or name in exclude:
            continue
        options[name] = _by_looks(value) if legacy_types else _by_type(name, value, source)
    return options


def read(folder: Path | str, *, exclude: Collection[str] = ()) -> dict[str, Any]:
    """Flags of a run folder; InputError when it has no opts.txt or a value of the wrong type."""
    from shared.files import read_lines

    path = Path(folder) / OPTIONS_FILE
    return parse("\n".join(read_lines(path)), exclude=exclude, source=str(path))


def write(folder: Path | str, options: Mapping[str, Any]) -> None:
    """Write opts.txt, as the released train.py does; flags that are not given get their default.

    Raises:
        ValueError: a flag that the released code does not have.
    """
    from shared.files import atomic_write

    if unknown := sorted(set(options) - set(FLAGS)):
        raise ValueError(f"not flags of the released train.py: {', '.join(unknown)}")
    with atomic_write(Path(folder) / OPTIONS_FILE, "w") as file:
        for name, value in {**FLAGS, **options}.items():
            file.write(f"{name}: {value}\n")


def from_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that say what the settings of a run of ours say; for what is not set there, the defaults."""
    options = dict(FLAGS)
    for name, key in KEYS.items():
        value: Any = settings
        for part in (key or "").split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None:
            continue
        if name == "no_cuda":
            value = value == "cpu"
        elif name == "textmodel":
            value = TEXT_MODELS[value]
        elif isinstance(value, list | tuple):
            value = ",".join(map(str, value))
        options[name] = type(FLAGS[name])(value)
    return options


def is_run_folder(path: Path) -> bool:
    """Whether a folder is a run of the released train.py."""
    return (path / OPTIONS_FILE).is_file() and (path / "models").is_dir()


def best_checkpoint(folder: Path) -> Path:
    """The run's best checkpoint: of recall, else of the median rank, else the last; InputError without one."""
    for pattern in CHECKPOINTS:
        found = [path for path in folder.glob(pattern) if "_image_encoder" not in path.name]
        if found:
            return max(found, key=lambda path: (path.name, path.stat().st_mtime))
    raise InputError(
        f"{folder}: no checkpoint (models/model_BEST_REC_*.pth.tar) in this run of the released code"
    )


def checkpoint_name(kind: str, epoch: int, medr: float, recall: float) -> str:
    """`model_BEST_REC_e%03d_v-%.3f_cr-%.4f.pth.tar`; kind: REC or VAL."""
    return f"model_BEST_{kind}_e{epoch:03d}_v-{medr:.3f}_cr-{recall:.4f}.pth.tar"


def data_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the flags say about texts and images (keyword arguments of `data.open_split`)."""
    return {
        "text_inputs": options["textinputs"],
        "text_augmentation": options["textAug"],
        "language": options["language"],
        "max_images": options["maxImgs"],
    }


def _by_looks(value: str) -> Any:
    if value.lower() in TRUE:
        return True
    if value.lower() in FALSE:
        return False
    for convert, possible in ((int, True), (float, "." in value)):
        try:
            if possible:
                return convert(value)
        except ValueError:
            pass
    return value


def _by_type(name: str, value: str, source: str) -> Any:
    kind = type(FLAGS[name])
    if kind is str:
        return value
    if kind is bool:
        if value.lower() in (*TRUE, "1"):
            return True
        if value.lower() in (*FALSE, "0"):
            return False
    else:
        try:
            return kind(value)
        except ValueError:
            pass
    expected = {bool: "yes or no", int: "a whole number", float: "a number"}[kind]
    raise InputError(f"{source}: {name}: expected {expected}, found {value!r}")
