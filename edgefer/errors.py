"""Every error that reaches a user, as a tree.

    EdgeferError            one clear line: what, where, remedy
    |-- fatal: a restart does not cure it
    |   |-- UsageError      64  the command line cannot be carried out
    |   |-- InputError      66  a recording, picture or calibration is missing or unreadable
    |   |-- ConfigError     78  the configuration file is wrong
    |   `-- BundleError     78  the bundle fails a check
    `-- retry: the daemon goes on and tries again
        |-- CameraError     69  a lens cannot be opened or has stopped
        `-- ServiceError    69  broker, backend library or other service is missing or refuses

The numbers are the process exit codes of sysexits.h. Anything else is a fault of ours: 70, one line.
"""

from __future__ import annotations

EX_OK, EX_USAGE, EX_NOINPUT, EX_UNAVAILABLE, EX_SOFTWARE, EX_CONFIG = 0, 64, 66, 69, 70, 78


class EdgeferError(Exception):
    """Base; ``str(error)`` is the line the user sees."""

    exit_code = 1


class UsageError(EdgeferError):
    exit_code = EX_USAGE


class InputError(EdgeferError):
    exit_code = EX_NOINPUT


class ConfigError(EdgeferError):
    exit_code = EX_CONFIG


class BundleError(EdgeferError):
    exit_code = EX_CONFIG


class CameraError(EdgeferError):
    exit_code = EX_UNAVAILABLE


class ServiceError(EdgeferError):
    exit_code = EX_UNAVAILABLE


class Stopped(BaseException):
    """The service was told to stop while it was still starting: no error, and no fallback may catch it."""
