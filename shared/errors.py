"""The error that a user can mend."""


class InputError(Exception):
    """A mistake in what the user gave: a file, a setting, a folder.

    The message is the one line that is shown: it names the file, the field, what was expected and what was
    found. Entries turn it into that line on stderr and exit code 2 (`shared.config.entry`).
    """
