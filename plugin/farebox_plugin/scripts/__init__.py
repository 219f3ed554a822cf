"""The Lua that decides, beside the Python that calls it. Each file's head is its contract."""

from pathlib import Path

from farebox_plugin.link import Script

_HERE = Path(__file__).parent

ADMIT = Script((_HERE / "admit.lua").read_text())
EXTEND = Script((_HERE / "extend.lua").read_text())
SETTLE = Script((_HERE / "settle.lua").read_text())
BEGIN = Script((_HERE / "begin.lua").read_text())
LOAD = Script((_HERE / "load.lua").read_text())
RELEASE = Script((_HERE / "release.lua").read_text())
LOOK = Script((_HERE / "look.lua").read_text())
