"""Frozen plain data that costs no import of `dataclasses`: `record` classes and `FrozenDict`.

`import dataclasses` takes longer than starting a confined `/bin/true` does, so the modules on the run path use this
decorator. A type checker sees `dataclasses.dataclass` itself. At run time the class gets the same behaviour (frozen,
slotted, compared and hashed by value, `__match_args__`, `__post_init__`, pickling), made from closures instead of
generated source, and `dataclasses.fields`, `replace`, `asdict` and `is_dataclass` accept it: the attributes they look
for are filled in when somebody asks.
"""

from __future__ import annotations

from _operator import attrgetter  # what operator has it from, which costs an import

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as record
    from inspect import Signature
    from typing import Any, NoReturn, TypeVar

    Key = TypeVar("Key")
    Value = TypeVar("Value")

__all__ = ["FrozenDict", "record"]

if not TYPE_CHECKING:

    def record(*, frozen: bool, slots: bool, init: bool = True) -> Callable[[type], type]:
        """Return the decorator that makes a class a frozen, slotted record.

        Both `frozen` and `slots` must be true: there is no other kind here, and the type checker has to be told the
        same. `init=False` keeps the class's own `__init__`, which fills the slots with `object.__setattr__`.
        A record derives from `object` only, and its defaults are immutable values.
        """
        if not (frozen and slots):
            raise TypeError("a record is frozen and slotted: write @record(frozen=True, slots=True)")

        def decorate(cls: type) -> type:
            return _make_record(cls, init=init)

        return decorate


_set = object.__setattr__


def _make_record(cls: type, *, init: bool) -> type:
    """Rebuild `cls` with slots, as `dataclasses` does, and give it the methods of a record."""
    if cls.__bases__ != (object,):
        raise TypeError(f"record {cls.__qualname__} has a base class: records derive from object only")
    names = tuple(
        name for name, kind in cls.__annotations__.items() if not str(kind).startswith(("ClassVar", "typing.ClassVar"))
    )
    body = dict(cls.__dict__)
    defaults = {name: body.pop(name) for name in names if name in body}
    for name, value in defaults.items():
        if value.__class__.__hash__ is None:
            raise ValueError(f"mutable default {type(value)} for field {name} is not allowed")
    body.pop("__dict__", None)
    body.pop("__weakref__", None)
    body.update(
        __slots__=names,
        __match_args__=names,
        __qualname__=cls.__qualname__,
        __setattr__=_refuse_set,
        __delattr__=_refuse_delete,
        __getstate__=_getstate,
        __setstate__=_setstate,
        __replace__=_replace,
        __dataclass_fields__=_Lazy(_dataclass_fields, defaults),
        __dataclass_params__=_Lazy(_dataclass_params, defaults),
    )
    body.setdefault("__repr__", _repr)
    # A class that defines __eq__ has an implicit `__hash__ = None` in its body; one that defines neither gets both.
    if "__eq__" not in body:
        body["__eq__"], body["__hash__"] = _comparison_for(names)
    if init:
        body["__init__"] = _init_for(names, defaults, has_post_init="__post_init__" in body)
        body["__signature__"] = _Lazy(_signature, defaults)
    return type(cls)(cls.__name__, (object,), body)


def _init_for(names: tuple[str, ...], defaults: dict[str, Any], *, has_post_init: bool) -> Callable[..., None]:
    count = len(names)

    def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - becomes the method
        given = len(args)
        if given > count:
            raise TypeError(f"{type(self).__name__}() takes {count} arguments but {given} were given")
        for name, value in zip(names, args, strict=False):
            _set(self, name, value)
        if given < count or kwargs:
            values = defaults | kwargs if kwargs else defaults
            rest = names[given:]
            for name in rest:
                if name not in values:
                    raise TypeError(f"{type(self).__name__}() is missing {name!r}")
                _set(self, name, values[name])
            for name in kwargs:
                if name not in rest:
                    fault = "multiple values for" if name in names else "an unexpected keyword"
                    raise TypeError(f"{type(self).__name__}() got {fault} argument {name!r}")
        if has_post_init:
            self.__post_init__()

    return __init__


def _values(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, name) for name in self.__match_args__])


def _comparison_for(names: tuple[str, ...]) -> tuple[Callable[[Any, object], Any], Callable[[Any], int]]:
    """Return `__eq__` and `__hash__`. Every launch looks its filter up by some fifty records: they are read in C."""
    # Of one name, attrgetter returns what it finds, and no tuple.
    values: Callable[[Any], tuple[Any, ...]] = attrgetter(*names) if len(names) > 1 else _values

    def __eq__(self: Any, other: object) -> Any:  # noqa: N807 - becomes the method
        if other.__class__ is not self.__class__:
            return NotImplemented
        return values(self) == values(other)

    def __hash__(self: Any) -> int:  # noqa: N807 - becomes the method
        return hash(values(self))

    return __eq__, __hash__


def _repr(self: Any) -> str:
    shown = ", ".join([f"{name}={getattr(self, name)!r}" for name in self.__match_args__])
    return f"{type(self).__qualname__}({shown})"


def _refuse_set(_self: Any, name: str, _value: object) -> None:
    from dataclasses import FrozenInstanceError  # lazy: only a mistake pays for it

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_delete(_self: Any, name: str) -> None:
    from dataclasses import FrozenInstanceError  # lazy: only a mistake pays for it

    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> tuple[Any, ...]:
    return _values(self)


def _setstate(self: Any, state: tuple[Any, ...]) -> None:
    for name, value in zip(self.__match_args__, state, strict=True):
        _set(self, name, value)


def _replace(self: Any, /, **changes: Any) -> Any:
    return type(self)(**dict(zip(self.__match_args__, _values(self), strict=True)) | changes)


class _Lazy:
    """A class attribute that is computed when it is first read, and stays."""

    __slots__ = ("_compute", "_defaults", "_name")

    def __init__(self, compute: Callable[[type, dict[str, Any]], object], defaults: dict[str, Any]) -> None:
        self._compute = compute
        self._defaults = defaults

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> object:
        value = self._compute(owner, self._defaults)
        setattr(owner, self._name, value)
        return value


def _twin(cls: Any, defaults: dict[str, Any]) -> Any:
    """Make a real dataclass with the same fields, to take its description from."""
    from dataclasses import dataclass  # lazy: this module exists to avoid it

    annotations = {name: cls.__annotations__[name] for name in cls.__match_args__}
    body = {"__annotations__": annotations, "__module__": cls.__module__, **defaults}
    return dataclass(frozen=True)(type(cls.__name__, (), body))


def _dataclass_fields(cls: Any, defaults: dict[str, Any]) -> object:
    return _twin(cls, defaults).__dataclass_fields__


def _dataclass_params(cls: Any, defaults: dict[str, Any]) -> object:
    return _twin(cls, defaults).__dataclass_params__


def _signature(cls: Any, defaults: dict[str, Any]) -> Signature:
    from inspect import signature  # lazy: for help() and editors only

    return signature(_twin(cls, defaults))


if TYPE_CHECKING:

    class FrozenDict(dict[Key, Value]):
        """A dict that cannot change, so that a record that holds one can be hashed and shared."""

        def __hash__(self) -> int: ...  # type: ignore[override]

else:

    class FrozenDict(dict):
        """A dict that cannot change, so that a record that holds one can be hashed and shared."""

        __slots__ = ()

        def __hash__(self) -> int:
            """Hash by value, in any order of the keys."""
            return hash(frozenset(self.items()))

        def __reduce__(self) -> tuple[type, tuple[dict[Any, Any]]]:
            """Pickle and copy through the constructor: item assignment is refused."""
            return type(self), (dict(self),)

        def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
            raise TypeError("this mapping is frozen")

        __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse
