"""Between the notebook and the library: one living copy of the code, and help with names."""

import sys
from types import FunctionType

from IPython import get_ipython

from sae_lib.lesson.names import MADE_IN


def use(*objects: type | FunctionType) -> None:
    """From now on the library runs these classes and functions in place of its own.

    The notebook shows some of the library's code. Whoever edits it there wants the edit to hold
    everywhere below: in the stacks, the checks, the oracle. So each object takes the place of
    the library's object of the same name, in every module that knows that name; and classes
    that inherit from the old class inherit from the new one.
    """
    modules = [m for name, m in sys.modules.items() if name.split(".")[0] == "sae_lib"]
    for new in objects:
        name = new.__name__
        for module in modules:
            old = vars(module).get(name)
            if old is None or old is new:
                continue
            setattr(module, name, new)
            for kind in old.__subclasses__() if isinstance(old, type) else ():
                if kind is not new:
                    kind.__bases__ = tuple(new if b is old else b for b in kind.__bases__)


def explain_missing_names() -> None:
    """From now on, let NameErrors in this notebook name the section to run first."""
    shell = get_ipython()
    if shell is None:  # not in a notebook
        return

    def explain(shell, error_type, error, traceback, tb_offset=None):
        if error.name in MADE_IN:
            error.args = (
                f"{error}. It is made in {MADE_IN[error.name]}: run the cells there first.",
            )
        shell.showtraceback((error_type, error, traceback), tb_offset=tb_offset)

    shell.set_custom_exc((NameError,), explain)
