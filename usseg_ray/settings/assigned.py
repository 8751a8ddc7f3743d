"""What `--set` gives to methods, and what of it is wrong whatever else is set."""

from collections.abc import Mapping
from typing import Any

from usseg_ray.core.config import build_config, flatten, known_keys
from usseg_ray.core.errors import SettingError, UserError, about, unknown_key
from usseg_ray.settings import SETTINGS


def check_assigned(names: list[str], assigned: Mapping[str, Any]) -> None:
    """Refuses keys that no method has, and values that are wrong whatever else is set.

    A plan refuses them too, in the same words: this needs no torch.

    Args:
        names: Methods.
        assigned: Dotted keys and values.

    Raises:
        UserError: A key does not exist, or a value is out of bounds.
    """
    for name, own in assigned_to(names, flatten_assigned(assigned)).items():
        with about(name if len(names) > 1 else ""):
            check_alone(name, own)


def check_alone(name: str, assigned: Mapping[str, Any]) -> None:
    """Refuses what is wrong of one method's assignments, each looked at by itself.

    Args:
        name: The method.
        assigned: Dotted keys and values.

    Raises:
        SettingError: A key does not exist, or a value is out of bounds.
    """
    for key, value in assigned.items():
        try:
            build_config(SETTINGS[name], [{key: value}])
        except SettingError as error:
            # What lies elsewhere may be right beside what a preset or a space says.
            if error.key == key:
                raise


def assigned_to(names: list[str], assigned: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Gives every method its assignments: of `method.*`, of several methods, those that it has.

    Raises:
        UserError: None of several methods has a key.
    """
    if len(names) == 1:
        return {names[0]: assigned}
    known = {name: known_keys(SETTINGS[name]) for name in names}
    for key in assigned:
        if key.startswith("method.") and not any(key in keys for keys in known.values()):
            near = unknown_key(key, {key for keys in known.values() for key in keys})
            raise UserError(f"{near} None of {', '.join(names)} has it.")
    return {
        name: {k: v for k, v in assigned.items() if k in keys or not k.startswith("method.")}
        for name, keys in known.items()
    }


def flatten_assigned(assigned: Mapping[str, Any]) -> dict[str, Any]:
    """Writes assignments of whole mappings (`backbone.timm_args={a: 1}`) as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in assigned.items():
        flat |= flatten(value, f"{key}.") if isinstance(value, Mapping) and value else {key: value}
    return flat
