"""Print the requirements of the project and of the extras that are named, one a line.

usage: python tools/requirements.py test llamacpp
"""

import pathlib
import sys

try:
    import tomllib
except ImportError:  # Python 3.10: pip has a copy
    from pip._vendor import tomli as tomllib

project = tomllib.loads((pathlib.Path(__file__).parent.parent / "pyproject.toml").read_text())
wanted = list(project["build-system"]["requires"]) + list(project["project"]["dependencies"])
for extra in sys.argv[1:]:
    wanted += project["project"]["optional-dependencies"][extra]
print("\n".join(dict.fromkeys(wanted)))
