"""The one exception that a user is meant to read."""


class UserError(ValueError):
    """Something the user can mend: a file, a key, an id.

    The message is one line that says what is wrong, where, and what to do. The command line prints it
    after ``error:`` and exits with status 2; nothing else is shown.
    """
