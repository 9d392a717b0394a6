"""The one error of everything here that reads or changes the host."""


class HostError(Exception):
    """The host cannot be read or changed as needed; the text says why and what to do, in a sentence or two."""
