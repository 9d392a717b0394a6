"""Errors that more than one floor raises or catches: each text says what is wrong, and what to do."""


class HostError(Exception):
    """The host cannot be read or changed as needed; the text says why and what to do, in a sentence or two."""


class BoardError(Exception):
    """There is no board to read; the text says why and what to do."""


class NotRunning(BoardError):
    """Because no gateway runs. How to start one is for the caller to say: it knows the configuration."""
