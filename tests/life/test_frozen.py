"""Frozen data: what a frozen dataclass promises holds of it, too."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest

from supervisor.life import events as ev
from supervisor.life.frozen import Frozen


@dataclasses.dataclass(frozen=True)
class Model:
    first: int
    second: str = "x"
    third: tuple[int, ...] = ()


class Ours(Frozen):
    first: int
    second: str = "x"
    third: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((1,), {}),
        ((1, "y"), {}),
        ((1,), {"third": (2,)}),
        ((), {"first": 1, "second": "z", "third": ()}),
    ],
)
def test_it_is_made_and_shown_as_a_dataclass_is(values: Any, named: Any) -> None:
    model, ours = Model(*values, **named), Ours(*values, **named)
    assert vars(ours) == vars(model)
    assert repr(ours) == repr(model).replace("Model", "Ours")
    assert ours == Ours(*values, **named)
    assert hash(ours) == hash(Ours(*values, **named))


@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), ((1, "y", (), 4), {}), ((1,), {"fourth": 4}), ((), {"second": "y"})],
)
def test_fields_that_are_missing_or_none_are_refused(values: Any, named: Any) -> None:
    for made in (Model, Ours):
        with pytest.raises(TypeError):
            made(*values, **named)


def test_it_equals_its_own_class_alone_and_never_changes() -> None:
    assert Ours(1) != Model(1)
    assert Ours(1) != Ours(2)
    assert ev.Suspend("chief") != ev.Resume("chief")
    assert len({ev.Suspend("chief"), ev.Resume("chief"), ev.Suspend("chief")}) == 2
    with pytest.raises(AttributeError, match="Ours is frozen: first"):
        Ours(1).first = 2  # type: ignore[misc]
    assert ev.Prepared() == ev.Prepared(), "one without fields is one"
    assert ev.Prepared() != ev.Publish()


def test_it_is_matched_by_position_and_copied() -> None:
    match ev.Send("chief", 15, whole_group=True):
        case ev.Send(process, signum, whole_group):
            assert (process, signum, whole_group) == ("chief", 15, True)
        case _:  # pragma: no cover - would be the failure
            pytest.fail("not matched")
    sent = ev.Send("chief", 15)
    assert copy.copy(sent) == sent == pickle.loads(pickle.dumps(sent))
