"""What the workstation stage tells its user in one line. Exit codes are those of the device package."""


class InputError(Exception):
    """Missing or unreadable input: data, recipe, checkpoint. Exit code 66."""


class UsageError(Exception):
    """A command that cannot be carried out as typed. Exit code 64."""
