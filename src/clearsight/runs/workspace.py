"""The workspace: one directory with all data of an installation.

```
.clearsight/
    config.yaml            datastore name -> folder (written by hand)
    data/                  downloaded or drawn data sets
    runs/<run>/            run folders, the authoritative state of every run
    models/<name>/<ver>/   registered packages
    data-assets/<name>/    registered data, one <ver>.json per version
    mlflow.db              MLflow's SQLite store, a mirror of runs/
    endpoints/             stores of online and batch endpoints (0600) and generated TorchServe folders
    logs/                  request log, server logs
    cache/                 compiled graphs of runtimes; may be deleted at any time
    control.sock           management socket (0600) of a running `clearsight serve`
```
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml

from clearsight import environment
from clearsight.errors import UserError

__all__ = ["Workspace"]


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths of one workspace. Nothing is created until something is written."""

    root: Path

    @classmethod
    def default(cls) -> Self:
        """The workspace of `CLEARSIGHT_HOME`, or `.clearsight` in the working directory."""
        return cls(environment.home())

    @property
    def config_file(self) -> Path:
        return self.root / "config.yaml"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def data_assets(self) -> Path:
        return self.root / "data-assets"

    @property
    def mlflow_db(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.mlflow_db}"

    @property
    def endpoints(self) -> Path:
        return self.root / "endpoints"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def control_socket(self) -> Path:
        return self.root / "control.sock"

    def datastores(self) -> dict[str, Path]:
        """Datastore name -> folder, from `config.yaml` (`datastores: {name: folder}`).

        A relative folder is relative to the workspace's parent directory.
        """
        if not self.config_file.exists():
            return {}
        document = yaml.safe_load(self.config_file.read_text()) or {}
        stores = document.get("datastores") if isinstance(document, dict) else None
        if not isinstance(stores, dict) or not all(isinstance(folder, str) for folder in stores.values()):
            raise UserError(f"{self.config_file} must hold `datastores: {{name: folder}}`, but got {document!r}")
        return {str(name): (self.root.parent / folder).resolve() for name, folder in stores.items()}
