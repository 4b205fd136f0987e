"""The attacks: one file each, one row each."""

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from attacker_client.attacks.active import Active
from attacker_client.attacks.attack import Attack
from attacker_client.attacks.complementary import Complementary
from attacker_client.attacks.composite import Composite
from attacker_client.attacks.denoise import Denoise
from attacker_client.attacks.in_distribution import InDistribution
from attacker_client.attacks.jacobian import Jacobian
from attacker_client.attacks.knockoff_adaptive import KnockoffAdaptive
from attacker_client.attacks.knockoff_random import KnockoffRandom
from attacker_client.attacks.probe import Probe
from attacker_client.attacks.standard import Standard
from attacker_client.attacks.sybil import Sybil
from attacker_client.attacks.voting import Voting

ATTACKS: dict[str, type[Any]] = {
    "standard": Standard,
    "knockoff-random": KnockoffRandom,
    "knockoff-adaptive": KnockoffAdaptive,
    "composite": Composite,
    "jacobian": Jacobian,
    "active": Active,
    "in-distribution": InDistribution,
    "probe": Probe,
}
WRAPPERS: dict[str, type[Any]] = {
    "voting": Voting,
    "sybil": Sybil,
    "denoise": Denoise,
    "complementary": Complementary,
}
DEFAULT_INNER = "standard"


def build(name: str, options: Mapping[str, str]) -> Attack:
    """Make an attack of its name, such as `knockoff-random` or `sybil:voting:composite`, and its options.

    A wrapper that ends the name wraps `standard`. An option goes to every attack of the chain that has a field of that name. Raises
    ValueError for a name or an option that none of them has, and for a value that is not of the field's type.
    """
    *outer, last = name.split(":")
    kinds = [_kind(WRAPPERS, each) for each in outer]
    kinds += [WRAPPERS[last], ATTACKS[DEFAULT_INNER]] if last in WRAPPERS else [_kind(ATTACKS, last)]
    offered = {option for kind in kinds for option in options_of(kind)}
    unknown = sorted(set(options) - offered)
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has: {', '.join(sorted(offered)) or 'none'}")
    attack = None
    for kind in reversed(kinds):
        given = {option: _read(option, typed, options[option]) for option, typed in options_of(kind).items() if option in options}
        attack = kind(**given) if attack is None else kind(inner=attack, **given)
    assert attack is not None
    made: Attack = attack
    return made


def options_of(kind: type[Any]) -> dict[str, Any]:
    """The options of an attack and their types."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.name != "inner"}


def options_in_words(kind: type[Any]) -> list[str]:
    """Each option of an attack with its default, and what there is to choose from: policy=drop (drop|relabel|small-loss)."""
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    lines = []
    for option, typed in options_of(kind).items():
        default = defaults[option]
        value = "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
        choices = f" ({'|'.join(typing.get_args(typed))})" if typing.get_origin(typed) is Literal else ""
        lines.append(f"{option}={value}{choices}")
    return lines


def _kind(table: Mapping[str, type[Any]], name: str) -> type[Any]:
    if name in table:
        return table[name]
    if name in ATTACKS:
        raise ValueError(f"{name} wraps no other attack; these do: {', '.join(WRAPPERS)}")
    raise ValueError(f"no attack is called {name!r}; there are: {', '.join([*ATTACKS, *WRAPPERS])}")


def _read(option: str, typed: Any, text: str) -> Any:
    choices = typing.get_args(typed)
    if typing.get_origin(typed) is Literal:
        if text in choices:
            return text
        raise ValueError(f"{option} is one of {', '.join(choices)}, not {text!r}")
    if type(None) in choices:
        typed = next(choice for choice in choices if choice is not type(None))
    if typed is bool:
        if text in ("true", "false"):
            return text == "true"
        raise ValueError(f"{option} is true or false, not {text!r}")
    assert typed in (int, float, str, Path), typed
    try:
        return typed(text)
    except ValueError as error:
        raise ValueError(f"{option} is {text!r}, which is no {typed.__name__}") from error
