"""The vocabulary: the names of action types and surfaces, and the role of each action type."""

from enum import StrEnum
from functools import cached_property
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lifeline.core.actions import Kind

MAX_ACTION_TYPES = 64
MAX_SURFACES = 256


class Role(StrEnum):
    """What an action of a type says about the user's interest."""

    POSITIVE = "positive"
    NEUTRAL = "neutral"
    NEGATIVE = "negative"
    IMPRESSION = "impression"


class ActionType(BaseModel):
    """One action type: its id on the wire and on disk (never reused), and its role."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[int, Field(ge=1, le=MAX_ACTION_TYPES)]
    role: Role = Role.POSITIVE


SurfaceId = Annotated[int, Field(ge=1, lt=MAX_SURFACES)]
Name = Annotated[str, Field(max_length=256)]


class Vocabulary(BaseModel):
    """Names to ids, both ways. Surface 0 is always "unknown"; action type 0 does not exist."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    action_types: Annotated[dict[Name, ActionType], Field(max_length=MAX_ACTION_TYPES)] = {
        "repin": ActionType(id=1, role=Role.POSITIVE),
        "click": ActionType(id=2, role=Role.POSITIVE),
        "closeup": ActionType(id=3, role=Role.NEUTRAL),
        "hide": ActionType(id=4, role=Role.NEGATIVE),
        "impression": ActionType(id=5, role=Role.IMPRESSION),
    }
    surfaces: Annotated[dict[Name, SurfaceId], Field(max_length=MAX_SURFACES - 1)] = {
        "home": 1,
        "search": 2,
        "related": 3,
    }

    @model_validator(mode="after")
    def _check(self) -> Self:
        for what, ids in (
            ("action type", [action.id for action in self.action_types.values()]),
            ("surface", list(self.surfaces.values())),
        ):
            twice = sorted({value for value in ids if ids.count(value) > 1})
            if twice:
                raise ValueError(f"{what} id {twice[0]} is given to two names: give each name its own id")
        if not self.action_types:
            raise ValueError("the vocabulary has no action type: name at least one")
        return self

    @cached_property
    def action_type_names(self) -> dict[int, str]:
        """Id to name."""
        return {action.id: name for name, action in self.action_types.items()}

    @cached_property
    def surface_names(self) -> dict[int, str]:
        """Id to name; 0 is "unknown"."""
        return {0: "unknown"} | {value: name for name, value in self.surfaces.items()}

    @cached_property
    def known_action_types(self) -> NDArray[np.bool_]:
        """bool[65536]: whether an action type id, cut to 16 bits, is in the vocabulary."""
        known = np.zeros(1 << 16, dtype=np.bool_)
        known[list(self.action_type_names)] = True
        return known

    @cached_property
    def known_surfaces(self) -> NDArray[np.bool_]:
        """bool[65536]: whether a surface id, cut to 16 bits, is in the vocabulary."""
        known = np.zeros(1 << 16, dtype=np.bool_)
        known[list(self.surface_names)] = True
        return known

    @cached_property
    def kind_of_type(self) -> NDArray[np.uint8]:
        """uint8[256]: the `Kind` of each action type id."""
        kinds = np.full(256, Kind.EXPLICIT, dtype=np.uint8)
        kinds[self.ids_with_role(Role.IMPRESSION)] = Kind.IMPRESSION
        return kinds

    def ids_with_role(self, *roles: Role) -> list[int]:
        """Return the ids of the action types that have one of `roles`, ascending."""
        return sorted(action.id for action in self.action_types.values() if action.role in roles)
