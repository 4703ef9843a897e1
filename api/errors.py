"""Errors that both servers raise."""


class PortTakenError(Exception):
    """The address cannot be listened on. The message is one line for the operator."""
