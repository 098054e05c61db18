"""What is raised where the caller is to mend something: `train.py` shows it as a sentence, without a traceback."""


class Mistake(ValueError):
    """Wrong input: an argument, a setting, a file. The message says what was expected and what came."""
