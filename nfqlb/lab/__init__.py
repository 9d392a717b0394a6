"""The whole thing in network namespaces on one machine, with real phones and real registrars."""


class LabError(Exception):
    """Something in the lab did not work; the text is a sentence or two for a person."""
