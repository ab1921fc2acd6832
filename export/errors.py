"""What the workstation stage tells its user in one line. Exit codes are those of the device package (sysexits.h)."""

from __future__ import annotations


class ExportError(Exception):
    """Base; ``str(error)`` is the line the user sees."""

    exit_code = 1


class UsageError(ExportError):
    """A command that cannot be carried out as typed."""

    exit_code = 64


class InputError(ExportError):
    """Missing or unreadable input: data, recipe, checkpoint."""

    exit_code = 66


class RecipeError(InputError):
    """A recipe that is there but wrong: its keys or values."""

    exit_code = 78


class EngineError(ExportError):
    """NVIDIA's builder refuses a graph, or makes other layers of it than the graph asks for."""

    exit_code = 78
