"""What to do about errors of the hub's clients. Standard library only: nothing of theirs is imported for it."""

from __future__ import annotations


def status_of(error: BaseException) -> int | None:
    """Status of the hub's answer that an error is about; None if it is about none."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def advise(error: BaseException) -> str:
    """Advise on an error that the hub or the connection to it caused; empty where names, rights or files explain it.

    Example:
        >>> advise(OSError("Consistency check failed: file should be of size 9 but has size 3"))
        'the connection broke off: run again; files that are whole are not fetched again'
    """
    status, kinds = status_of(error) or 0, {kind.__name__ for kind in type(error).__mro__}
    if status == 401:
        return "the hub does not accept this token: correct or remove HF_TOKEN, or 'hf auth login' again"
    if status == 429:
        return "the hub accepts no more requests for now: run again later, or set HF_TOKEN, which raises the limit"
    if status >= 500:
        return "the hub is out of order: run again later; files that are whole are not fetched again"
    if kinds & {"ReadError", "ReadTimeout", "RemoteProtocolError"} or str(error).startswith("Consistency check"):
        return "the connection broke off: run again; files that are whole are not fetched again"
    if isinstance(error, OSError) and error.filename:
        return "the hub's cache cannot be written: make room, or set HF_HOME to a folder that you can write"
    return ""


def short(error: BaseException) -> str:
    """An error's type and its first words, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 200 else text[:197] + '...'}"
