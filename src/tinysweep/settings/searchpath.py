"""Where configuration lies: tinysweep's own, and the folder conf/ where one works, with choices of one's own."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

_INSTALLED = Path(__file__).parents[1]
_HOME = _INSTALLED if (_INSTALLED / "conf").is_dir() else Path(__file__).resolve().parents[3]
CONFIG_FOLDER, SWEEPS_FOLDER = _HOME / "conf", _HOME / "sweeps"
OWN_CHOICES = "working-directory"  # what Hydra calls the source


class OwnChoices(SearchPathPlugin):
    """Appends the folder, so that no file of it takes the place of one of tinysweep's."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add conf/ of the working directory, if there is one."""
        folder = Path("conf").absolute()
        if folder.is_dir():
            search_path.append(OWN_CHOICES, f"file://{folder}")
