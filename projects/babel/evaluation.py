"""What `eval.py` does: find the model, lists and splits, evaluate, and write the numbers down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from projects.babel import mask_evaluation, model_evaluation, sources, trained
from projects.babel.classification_scores import ClassificationScores
from projects.babel.concepts import CONCEPTS, check_concepts
from projects.babel.data import SPLITS, DataSet
from projects.babel.expectations import are, expect, expect_whole, is_whole, listed
from projects.babel.mask_evaluation import MaskTally
from projects.babel.segmenting import Predictor, ViewPlan
from projects.babel.splits import read_segmentation_list
from shared.errors import InputError
from shared.files import write_json
from shared.runtime import Runtime

FOLDER = "folder"  # the "protocol" of masks that are read from files
_SHOWN = 3  # pictures left out, on the terminal


@dataclass
class Report:
    """Tallies per list and protocol, classification per split."""

    concepts: Sequence[str]
    primary: str
    source: str
    masks: dict[str, dict[str, MaskTally]] = field(default_factory=dict)
    classes: dict[str, ClassificationScores] = field(default_factory=dict)

    def text(self) -> str:
        """The tables for the terminal."""
        parts = []
        for name, tallies in self.masks.items():
            tally = tallies[self.primary]
            parts.append(f"{name}: {self.primary}\n{tally.table()}")
            parts += [f"left out: {reason}" for reason in tally.skipped[:_SHOWN]]
            others = [(key, other) for key, other in tallies.items() if key != self.primary]
            parts += [f"{name}: {key:16} mIoU {_miou(other):5.2f}" for key, other in others]
        for name, found in self.classes.items():
            numbers = f"mAP {found.mean_ap:.4f}  acc {found.acc:.4f}  easy acc {found.easy_acc:.4f}"
            parts.append(f"{name}: {numbers}  ({int(found.confusion.sum())} images)")
        return "\n".join(parts)

    def metrics(self) -> dict[str, Any]:
        """Nested numbers for results.json; masks in percent, classification as fractions."""
        found: dict[str, Any] = {}
        for name, tallies in self.masks.items():
            for group, numbers in model_evaluation.summary(tallies, self.primary).items():
                found.setdefault(group, {})[name] = numbers
        if self.classes:
            found["classification"] = {name: one.metrics(self.concepts) for name, one in self.classes.items()}
        return found

    def write(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Write scores.log (of the first list; scores-<list>.log of others) and results.json."""
        for number, (name, tallies) in enumerate(self.masks.items()):
            file = "scores.log" if number == 0 else f"scores-{name}.log"
            tallies[self.primary].log.write(folder / file, self.concepts)
        left_out = {name: tallies[self.primary].skipped for name, tallies in self.masks.items()}
        result = {
            "name": settings["name"],
            "source": self.source,
            "metrics": self.metrics(),
            "primary": self.primary,
            "left_out": {name: reasons for name, reasons in left_out.items() if reasons},
            "config": dict(settings),
        }
        write_json(folder / "results.json", result)


def of_folder(settings: Mapping[str, Any]) -> Report:
    """Evaluate a folder of masks on each list. InputError: no list, or what `evaluate_files` says."""
    data = DataSet(**settings["data"]) if settings.get("data") else None
    if data is not None:
        data.prepare()
    concepts = check_concepts(settings["concepts"] or (CONCEPTS if data is None else data.concepts))
    oracle = settings["oracle_from"]
    fits = oracle is None or (are(oracle, is_whole) and len(oracle) == 2 and min(oracle) >= 1)
    expect("oracle_from", fits, "[height,width]", oracle)
    report = Report(concepts, FOLDER, str(settings["masks"]))
    for name, file in _lists(settings["lists"], data).items():
        tally = mask_evaluation.evaluate_files(
            read_segmentation_list(file), Path(settings["masks"]).expanduser(), concepts,
            unreadable=settings["unreadable"], oracle_from=None if oracle is None else (oracle[0], oracle[1]),
        )  # fmt: skip
        report.masks[name] = {FOLDER: tally}
    if not report.masks:
        raise InputError(
            "lists: expected files with lines `picture mask`, or a data set that has some (data=mini); found none"
        )
    return report


def of_model(settings: Mapping[str, Any], plan: ViewPlan, runtime: Runtime) -> Report:
    """Evaluate a model on the lists and splits; on all ranks."""
    if settings["oracle_from"] is not None:
        raise InputError("oracle_from: needs masks=FOLDER, there is no oracle of a model")
    wanted = model_evaluation.protocols(listed(settings["labels"]), listed(settings["background_powers"]))
    expect_whole(settings, "batch_size", least=1)
    model = trained.load(sources.find_model(settings["model"]), device=runtime.device)
    given = settings.get("data") or model.settings.get("data")
    data = sources.data_set(given, model) if given and "root" in given else None
    report = Report(model.concepts, wanted[0].name, str(model.path))
    predictor = Predictor(model.model, runtime, plan)
    lists = _lists(settings["lists"], data) if predictor.has_masks else {}
    splits = _splits(settings["splits"], data)
    if data is None and splits:
        raise InputError(f"{model.path}: says nothing about its data: add data=wikiscenes, or splits=[]")
    for name, file in lists.items():
        pairs = read_segmentation_list(file)
        report.masks[name] = model_evaluation.evaluate_masks(
            predictor, pairs, model.concepts, wanted, unreadable=settings["unreadable"]
        )
    for name in splits:
        assert data is not None
        report.classes[name] = model_evaluation.classify(
            model.model, data.open(name), runtime, multi_label=settings["multi_label"],
            batch_size=settings["batch_size"], workers=settings["workers"],
            random_crops=settings["random_crops"], label=name,
        )  # fmt: skip
    if not report.masks and not report.classes:
        raise InputError("nothing to evaluate: lists and splits are empty")
    return report


def _splits(given: Sequence[str] | None, data: DataSet | None) -> list[str]:
    if given is not None:
        return listed(given)
    return [name for name in SPLITS[1:] if data is not None and getattr(data, name) is not None]


def _lists(given: Sequence[str] | None, data: DataSet | None) -> dict[str, Path]:
    """Name -> list file; a file's name is its stem."""
    known = {} if data is None else dict(data.segmentation or {})
    if given is None:
        return {name: Path(file) for name, file in known.items()}
    found = {}
    for one in listed(given):
        if one in known:
            found[one] = Path(known[one])
        elif Path(one).suffix:
            found[Path(one).stem] = Path(one).expanduser()
        else:
            raise InputError(
                f"lists: expected files or some of {', '.join(known) or 'no list'}, found {one!r}"
            )
    return found


def _miou(tally: MaskTally) -> float:
    return tally.scores.means(slice(1, None))["miou"]
