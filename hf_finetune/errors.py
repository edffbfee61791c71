"""The errors that a user can mend; every room raises these, and the command line prints them.

One form throughout: *where: what is wrong, got what. What is allowed or near. What to do.*
"""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """Something outside the program is wrong; the message says where, what, and what to do.

    The command line prints it as one line and exits with 2. Anything else keeps its traceback.
    """

    def __str__(self) -> str:
        """The message alone, where torch has brought the error out of a worker process.

        It makes a new one then, whose message is the worker's traceback; the last line of that
        begins with the error's own name.
        """
        text, own_name = super().__str__(), f"{type(self).__module__}.{type(self).__qualname__}: "
        is_brought = text.startswith("Caught ") and own_name in text
        return text.rpartition(own_name)[2].strip() if is_brought else text


class ConfigError(UserError):
    """Everything that is wrong with one configuration, collected.

    Attributes:
        problems: One message a fault, each already naming its file and line or its key.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(UserError):
    """A data set is missing, unreadable or inconsistent."""


class ModelError(UserError):
    """A model can't be built, loaded or matched to the data."""


class TrainingError(UserError):
    """Training can't start or can't go on (a loss that is not a number, a bad checkpoint)."""
