"""What is asked of one Prompt-to-Prompt edit, from the values of both declarations."""

from dataclasses import fields
from typing import Any

from limner.runtime.attention.plan import Control
from limner.runtime.methods.prompt_to_prompt import ControlParameters, EditOptions


def control(**values: Any) -> Control:
    """`values` are parameters of a run where it has such, else options of the edit."""
    shared = {one.name for one in fields(ControlParameters)}
    own = {name: value for name, value in values.items() if name not in shared}
    return Control(
        ControlParameters(**{name: value for name, value in values.items() if name in shared}), EditOptions(**own)
    )
