"""The root of all errors that ablate raises on purpose."""


class AblateError(Exception):
    """What a user can cause and mend; the message says where it is and what to do.

    The classes below it are also ValueError, ConnectionError or RuntimeError where Python has the kind.
    """
