"""Frozen data that costs no start-up: what `dataclasses` makes, without its compiling.

``@dataclass(frozen=True, slots=True)`` writes and compiles the source of six methods for each
class. For the thirty of ``events.py`` this was a tenth of the CPU time before the script's start.
A NamedTuple is as cheap, and equal to any other of the same values: ``Suspend("chief")`` would be
``Resume("chief")``.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, dataclass_transform


@dataclass_transform(frozen_default=True)
class Frozen:
    """Its annotations are its fields, by position or by name; a value beside one is its default.

    Equal to another of the same class and the same values, and hashable where these are.
    """

    __match_args__: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        own = vars(cls)
        fields = tuple(own.get("__annotations__", ()))
        cls.__match_args__ = fields  # type: ignore[misc]  # mypy derives it from the fields, too
        cls._defaults = {name: own[name] for name in fields if name in own}

    def __init__(self, *values: Any, **named: Any) -> None:
        fields = self.__match_args__
        given = self._defaults | dict(zip(fields, values, strict=False)) | named
        if len(values) > len(fields) or given.keys() != set(fields):
            raise TypeError(f"{type(self).__name__} has the fields {', '.join(fields) or 'none'}")
        vars(self).update(given)

    def __setattr__(self, name: str, _value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {name}")

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in self.__match_args__)))

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
        return f"{type(self).__name__}({', '.join(shown)})"
