"""The configuration files stand in conf/ at the top; a build copies them into the package."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for file in sorted(Path("conf").rglob("*.yaml")):
            to = Path(self.build_lib, "ablate", file)
            self.mkpath(str(to.parent))
            self.copy_file(str(file), str(to))


setup(cmdclass={"build_py": BuildWithConfigs})
