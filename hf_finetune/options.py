"""The base of every section of the configuration; each room declares its own section on it.

Sections are plain data: importing one must not import torch (the command line checks a
configuration in a fraction of a second).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A strict, immutable section of the configuration.

    Unknown keys are errors, and so are values of another type: no text for a number, no `true`
    for a 1, no NaN. A whole number is accepted where a fraction is asked for.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )
