"""Finds a method by name, wherever it lives. Names travel, classes never do.

lorm                       shipped: the subclass of `Method` in `strategies/lorm.py`; `x+y` is `x_y.py`
path/to/file.py:Class      a file; `path/to/file.py` where it defines exactly one method
package.module:Class       a module that can be imported
name                       an entry point in the group `fcil.methods` of an installed package

shipped      those of `strategies/`, in a checkout beside `fcil/`, in a wheel `fcil.strategies`
files        a file as a module of its own
installed    modules and entry points
references   the paths of files in settings
methods      the class, the method, and the text of a call, `name(key = value)`
sources      which files outside fcil a method's numbers depend on
"""

from fcil.registry.installed import installed_names
from fcil.registry.methods import build_method, method_class
from fcil.registry.references import absolute, label
from fcil.registry.shipped import method_names
from fcil.registry.sources import Source, sources

__all__ = [
    "Source", "absolute", "build_method", "installed_names", "label", "method_class", "method_names",
    "sources",
]  # fmt: skip
