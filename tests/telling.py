"""How an error must be told: in one line that begins with where it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xingaug.errors import BadInput


def told(call: Callable[..., Any], *args: Any) -> str:
    """What a call that must fail says."""
    with pytest.raises(BadInput) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def read_or_told(where: str | Path, call: Callable[..., Any], *args: Any) -> Any:
    """The result of a call that may fail; None where it told why, beginning with `where`."""
    try:
        return call(*args)
    except BadInput as error:
        message = str(error)
    assert message.startswith(str(where))
    assert "\n" not in message
    assert len(message) < 1000
    return None
