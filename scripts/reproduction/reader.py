"""Reads a reproduce.yaml: runs here, what is shown of them in parts.py."""

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from scripts.reproduction.checks import Checks
from scripts.reproduction.parts import Parts
from scripts.reproduction.recipe import (
    SCALES,
    Recipe,
    Run,
    Scale,
    named_runs,
)
from shared.errors import InputError

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WORD = re.compile(r"\{(\w+)\}")


def load_recipe(file: Path) -> Recipe:
    """Read and check a reproduce.yaml. InputError names the file, the place in it and what was expected."""
    try:
        node = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return _Reader(file).read(node)
    except (AttributeError, TypeError, KeyError) as error:  # a list where a mapping is due, and the like
        raise InputError(f"{file}: not of the form that a recipe has: {error!r}") from error


class _Reader(Checks):
    """Reads the top level and the runs, whose names and overrides hold words to fill in."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.scale: dict[str, Scale] = {}

    def read(self, node: Any) -> Recipe:
        """The whole file."""
        top = self.mapping(node, "top level", "summary citation seeds mini paper", "title")
        seeds = tuple(self.items(top.get("seeds", [1, 2, 3]), "seeds"))
        if not seeds or not all(type(seed) is int for seed in seeds) or len(set(seeds)) < len(seeds):
            raise self.fail("seeds", "expected a list of different integers")
        for name in SCALES:
            self.scale[name] = self._one_scale(top.get(name) or {}, name)
        text = {key: str(top.get(key, "")).strip() for key in ("title", "summary", "citation")}
        return Recipe(self.file, seeds=seeds, scales=self.scale, **text)

    def _one_scale(self, node: Any, where: str) -> Scale:
        body = self.mapping(node, where, "note common runs claims tables charts pictures")
        common = tuple(str(item) for item in self.items(body.get("common"), f"{where}.common"))
        templates = self.mapping(
            body.get("runs") or {}, f"{where}.runs", " ".join(map(str, body.get("runs") or {}))
        )
        runs: dict[str, Run] = {}
        for template, settings in templates.items():
            for run in self._expanded(str(template), settings, common, f"{where}.runs.{template}"):
                if run.name in runs:
                    raise self.fail(f"{where}.runs.{template}", f"a second run is called {run.name!r}")
                runs[run.name] = run
        for run in runs.values():
            self._check_order(run, runs, f"{where}.runs.{run.name}")
        parts = Parts(self, runs, where, self.scale.get("mini", Scale()).runs)
        return Scale(str(body.get("note", "")).strip(), runs, **parts.read(body))

    def _expanded(self, template: str, node: Any, common: tuple[str, ...], where: str) -> Iterator[Run]:
        body = self.mapping(
            node, where, "each set without overrides seconds seeds after needs results", "entry"
        )
        words = self.mapping(
            body.get("each") or {}, f"{where}.each", " ".join(map(str, body.get("each") or {}))
        )
        for values in itertools.product(*(self.items(words[word], f"{where}.each.{word}") for word in words)):
            chosen = {str(word): str(value) for word, value in zip(words, values, strict=True)}
            left_out = [{str(k): str(v) for k, v in skip.items()} for skip in body.get("without") or []]
            if not any(skip.items() <= chosen.items() for skip in left_out):
                yield self._one_run(template, body, chosen, common, where)

    def _one_run(
        self, template: str, body: dict[str, Any], chosen: dict[str, str], common: tuple[str, ...], where: str
    ) -> Run:
        def filled(text: Any) -> str:
            def word(found: re.Match[str]) -> str:
                if found[1] not in chosen:
                    raise self.fail(where, f"{{{found[1]}}} in {text!r} is not a word of `each`")
                return chosen[found[1]]

            return _WORD.sub(word, str(text))

        def filled_list(key: str) -> tuple[str, ...]:
            return tuple(filled(item) for item in self.items(body.get(key), f"{where}.{key}"))

        name = filled(template)
        if not _RUN_NAME.fullmatch(name):
            raise self.fail(where, f"the run name {name!r} may hold only letters, digits, '.', '_' and '-'")
        extra: tuple[str, ...] = ()
        for word, by_value in (body.get("set") or {}).items():
            extra += tuple(
                filled(item) for item in self.items(by_value.get(chosen.get(word)), f"{where}.set")
            )
        overrides = common + filled_list("overrides") + extra
        after = {*filled_list("after"), *(run for text in overrides for run, _ in named_runs(text))}
        return Run(
            name=name,
            entry=str(body["entry"]),
            overrides=overrides,
            seeds=self._seeds(body.get("seeds", "all"), f"{where}.seeds"),
            after=tuple(sorted(after)),
            needs=filled_list("needs"),
            seconds=self._seconds(body.get("seconds", 30), chosen, f"{where}.seconds"),
            results=filled(body.get("results", "results.json")),
        )

    def _seeds(self, node: Any, where: str) -> tuple[int, ...] | None:
        """None: every seed of the reproduction; (): one run without a seed."""
        if node in ("all", "none"):
            return None if node == "all" else ()
        if not isinstance(node, list) or not node or not all(type(seed) is int for seed in node):
            raise self.fail(where, f"expected all, none or a list of integers, found {node!r}")
        return tuple(node)

    def _seconds(self, node: Any, chosen: dict[str, str], where: str) -> float:
        if isinstance(node, dict):
            if len(node) != 1 or (word := next(iter(node))) not in chosen:
                raise self.fail(where, "expected a number, or {word: {value: number}} with a word of `each`")
            node = {str(key): value for key, value in node[word].items()}.get(chosen[word], 30)
        return self.number(node, where)

    def _check_order(self, run: Run, runs: Mapping[str, Run], where: str) -> None:
        """Every run named by `after` exists, and none waits for itself."""
        waiting, seen = list(run.after), set()
        while waiting:
            name = waiting.pop()
            if name == run.name:
                raise self.fail(where, "the run waits for itself")
            if name not in runs:
                raise self.fail(where, f"there is no run {name!r}")
            if name not in seen:
                seen.add(name)
                waiting.extend(runs[name].after)
