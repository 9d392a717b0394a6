"""What all tables of the file have in common."""

from pydantic import BaseModel, ConfigDict, Field, Strict

Listed = Strict(False)
"""TOML's list, read into a tuple; what is in it is as strict as anywhere."""

Some = Field(min_length=1)
"""Of a list: where there is nothing to name, the key is left out."""


class Table(BaseModel):
    """One table of the file; an unknown key or a value of another type is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
