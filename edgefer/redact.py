"""What may not reach a log: the user and password in a camera's name."""

from __future__ import annotations

import re

_SECRET = re.compile(
    r"""(?ix) (?P<key> (?<![\w-]) [\w-]* (?: user|usr|login|account|pass|pwd|psw|[-_]pw|token|secret|session ) [\w-]*
                     | (?<![\w-]) [\w-]* key | (?<=[?&]) (?: auth | pw | u | p ) )
        (?P<is> \s* = \s* (?: \( \w+ \) \s* )? )
        (?: "(?: \\. | [^"\\] )*" | '(?: \\. | [^'\\] )*' | [^\s&"']+ )"""
)
"""key=value as in a URL's query or path (user=, pwd=, ...) and in a pipeline (user-pw=)"""
_HEADER = re.compile(r"(?is)(authorization).*?(?=\s!\s|$)")


def without_password(text: str) -> str:
    """A camera's name, URL or pipeline without user and password, for a log line. Rather too little than too much."""
    text = _HEADER.sub(r"\1...", _SECRET.sub(r"\g<key>\g<is>...", text))
    return re.sub(r"(?<=://)\S*@" if " ! " in text else r"(?s)(?<=://).*@", "", text)
