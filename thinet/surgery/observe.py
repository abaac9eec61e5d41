"""Watching a running network: chosen weight calls, and the additions their outputs meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from thinet.surgery.calls import CallMatcher, UnknownParameterError, WeightCall
from thinet.surgery.graph import Group
from thinet.surgery.joins import Join, JoinFinder, is_addition
from thinet.surgery.operations import Kwargs


class _AllSeenError(Exception):
    """Ends a forward pass whose remainder nobody looks at."""


class _Observer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(
        self,
        network: nn.Module,
        calls: Mapping[str, int],
        on_call: Callable[[WeightCall, Tensor, int], None],
        joins: Mapping[str, int],
        on_join: Callable[[Join], None],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._matcher, self._finder = CallMatcher(network), JoinFinder()
        self._calls, self._joins = Counter(calls), Counter(joins)
        self._turns: Counter[str] = Counter()
        self._on_call, self._on_join = on_call, on_join

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Kwargs | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        operation = func._schema.name.removeprefix("aten::")
        adds = bool(self._joins) and is_addition(operation, args, kwargs)
        watched = adds and any(self._finder.is_source(arg) for arg in args)
        before = args[0].clone() if watched and operation == "add_" else None
        result = func(*args, **kwargs)
        self._matcher.note(func, args, result)
        if watched:
            self._join(args, before, result)
        elif self._joins:
            self._finder.other(operation, args)
        try:
            call = self._matcher.match(func, args)
        except UnknownParameterError:
            return result
        if call is not None:
            self._call(call, args, result[0] if isinstance(result, tuple) else result)
        return result

    def _call(self, call: WeightCall, args: tuple[Any, ...], output: Tensor) -> None:
        if call.kind == "norm" and self._joins:
            self._finder.norm(args, output)
        if call.weight not in self._calls and call.weight not in self._joins:
            return
        turn = self._turns[call.weight]
        self._turns[call.weight] += 1
        if call.weight in self._joins:
            self._finder.weight_call(call, turn, output)
        if self._calls[call.weight] > 0:
            self._on_call(call, output, turn)
            self._calls[call.weight] -= 1
            self._stop_if_done()

    def _join(self, args: tuple[Any, ...], before: Tensor | None, result: Tensor) -> None:
        for join in self._finder.addition(args, before, result):
            if self._joins[join.weight] > 0:
                self._on_join(join)
                self._joins[join.weight] -= 1
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        if not any(self._calls.values()) and not any(self._joins.values()):
            raise _AllSeenError


def _nothing(*_: Any) -> None:
    pass


@torch.no_grad()
def observe(
    network: nn.Module,
    images: Tensor,
    calls: Mapping[str, int],
    on_call: Callable[[WeightCall, Tensor, int], None] = _nothing,
    joins: Mapping[str, int] | None = None,
    on_join: Callable[[Join], None] = _nothing,
) -> None:
    """Run ``network`` on ``images`` only as far as what is expected, observing it.

    Args:
        network: Any network; run as it is (put it in ``eval()`` mode first).
        images: A batch, ``(N, C, H, W)``.
        calls: Uses of each watched weight in one pass, by name.
        on_call: Called with each of them, its output and which use of the weight it is, from 0.
            Both tensors may be overwritten later in the pass.
        joins: Joins to expect of each weight (:class:`thinet.surgery.joins.Join`).
        on_join: Called with each of them.
    """
    expected = {weight: count for weight, count in (joins or {}).items() if count}
    try:
        with _Observer(network, calls, on_call, expected, on_join):
            network(images)
    except _AllSeenError:
        pass


def as_far_as(network: nn.Module, group: Group) -> Callable[[Tensor], object]:
    """A forward pass that ends where the statistics of ``group`` have all been seen."""
    calls = {consumer.weight: consumer.calls for consumer in group.consumers}
    joins = {consumer.weight: consumer.joins for consumer in group.consumers}
    return lambda images: observe(network, images, calls, joins=joins)
