"""Writes the page of settings: of a run, section by section, and of what clients train."""

import re
from inspect import cleandoc

from fcil.config import SECTIONS
from fcil.model.adapters import ADAPTERS, adapter_settings
from fcil.options import describe

from .docstrings import markdown
from .tables import settings_table

__all__ = ["settings_page"]

_TOP = """# Settings

Every setting of a run, with its default and the values that it admits; `fcil settings` prints the same. A configuration
holds only differences from these. In a file they stand in a section, on the command line they are written
`--set section.key=value`:

```toml
[partition]
beta = 0.1
```

```
fcil run configs/quickstart.toml --set partition.beta=0.1
```

`[method]` holds `name`, and the settings of that method: see [the methods](methods/index.md).

"""


def settings_page() -> str:
    """Write the page, in the order of the sections."""
    parts = [_TOP]
    for name, schema in SECTIONS.items():
        doc = re.sub(r"^`\[\w+\]`: ", "", cleandoc(schema.__doc__ or ""))
        parts += [f"## [{name}]\n", markdown(doc[:1].upper() + doc[1:]), "", settings_table(describe(schema))]
    parts += [
        "## What clients train\n",
        'The value of `method.adapter`: a name, or a name with settings, `adapter = "snella(sparsity = 0.8)"`. The\n'
        "rank is `method.rank`. What each is, and which merges take it: [what clients train](adapters.md).\n",
    ]
    for name, kind in ADAPTERS.items():
        doc = cleandoc(kind.__doc__ or "").partition("\n")[0]
        parts += [f"### {name}\n", markdown(doc), "", settings_table(adapter_settings(kind))]
    return "\n".join(parts)
