"""The vocabulary of multilingual BERT: a vocab.txt, given or found as the transformers library would."""

from pathlib import Path

from shared.atomic import first_line
from shared.errors import InputError


def find_vocabulary(path: Path | None, name: str) -> Path:
    """The vocab.txt at `path` (a file, or a folder that holds it); without one, that of the hub model `name`.

    `name` may be a local folder too. The local cache is looked at first; HF_HUB_OFFLINE is respected.

    Raises:
        InputError: found nowhere; the message lists the places.
    """
    if path is not None:
        for candidate in (path, path / "vocab.txt"):
            if candidate.is_file():
                return candidate
        raise InputError(f"{path}: expected a vocab.txt or a folder that holds it, found neither")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if (folder / "vocab.txt").is_file():
            return folder / "vocab.txt"
        raise InputError(f"{folder}: expected vocab.txt in the folder of the BERT, found none")
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    from huggingface_hub import constants, errors, hf_hub_download, try_to_load_from_cache

    looked_at = []
    names = [name] if "/" in name else [name, f"google-bert/{name}"]
    for one in names:
        try:
            cached = try_to_load_from_cache(one, "vocab.txt", cache_dir=constants.HF_HUB_CACHE)
        except errors.HFValidationError:
            continue
        if isinstance(cached, str):
            return Path(cached)
        looked_at.append(f"{constants.HF_HUB_CACHE}/models--{one.replace('/', '--')}")
    try:
        return Path(hf_hub_download(names[-1], "vocab.txt", cache_dir=constants.HF_HUB_CACHE))
    except Exception as error:  # the hub raises a dozen kinds: offline, refused, unknown name, full disk
        reason = first_line(error)
    raise InputError(
        f"vocab.txt of {name!r} not found in {', '.join(looked_at) or 'the local cache'}, and fetching it failed "
        f"({reason}); give the vocab.txt in data.vocab"
    )


def read_vocabulary(path: Path) -> list[str]:
    r"""Lines of a `vocab.txt`, in id order; they end at "\n" only, for the vocabulary holds exotic blanks."""
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 file ({error.reason} at byte {error.start})") from None
    if lines and not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
