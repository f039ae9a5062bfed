"""Print pip requirements: each dependency of pyproject.toml in its lowest version."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for requirement in [*project["dependencies"], *(r for name in sys.argv[1:] for r in extras[name])]:
    print(re.sub(r">=([^,;\s]+)[^;]*", r"==\1", requirement))
