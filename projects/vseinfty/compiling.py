"""Leaving parts out of torch.compile without importing the compiler."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def not_compiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`torch.compiler.disable`, which as a decorator would import the compiler: more than a second of each start."""

    @functools.wraps(function)
    def call(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Result:
        if torch.compiler.is_compiling():
            result: Result = torch.compiler.disable(function)(*arguments, **keywords)
            return result
        return function(*arguments, **keywords)

    return call
