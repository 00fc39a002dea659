"""The environment variables of the product. No other module reads `os.environ` for the product's settings."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

__all__ = [
    "Launch",
    "backend",
    "device",
    "explain_variables",
    "home",
    "is_offline",
    "launch",
    "num_threads",
    "torch_home",
    "visible_gpus",
    "weights_dir",
]


def backend() -> str:
    """`CLEARSIGHT_BACKEND`: the runtime of a package under MLflow. Default: `auto`."""
    return os.environ.get("CLEARSIGHT_BACKEND") or "auto"


def device() -> Literal["auto", "cpu", "cuda"]:
    """`CLEARSIGHT_DEVICE`: the device of a package under MLflow: `cpu` or `cuda`. Default: `auto`, the best one."""
    value = os.environ.get("CLEARSIGHT_DEVICE") or "auto"
    return cast(Literal["auto", "cpu", "cuda"], value)  # `load_scorer` checks it


def explain_variables() -> dict[str, str]:
    """`CLEARSIGHT_EXPLAIN_…`: options of explanations, see `handlers.explain.options.ExplainOptions`."""
    return {name: value for name, value in os.environ.items() if name.startswith("CLEARSIGHT_EXPLAIN_")}


def home() -> Path:
    """`CLEARSIGHT_HOME`: the workspace folder. Default: `.clearsight` in the working directory."""
    return Path(os.environ.get("CLEARSIGHT_HOME") or ".clearsight").absolute()


def weights_dir() -> Path | None:
    """`CLEARSIGHT_WEIGHTS`: folder with pretrained weights, searched before any download. Default: none."""
    value = os.environ.get("CLEARSIGHT_WEIGHTS")
    return Path(value).absolute() if value else None


def is_offline() -> bool:
    """`CLEARSIGHT_OFFLINE`: anything but empty, `0` or `false` forbids downloads. Default: downloads are allowed."""
    return os.environ.get("CLEARSIGHT_OFFLINE", "").lower() not in ("", "0", "false")


def torch_home() -> Path:
    """`TORCH_HOME`: folder of the files that torchvision downloads, a convention of PyTorch. Default: `~/.cache/torch`.

    `XDG_CACHE_HOME` replaces `~/.cache`, see `torch.hub.get_dir`.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser()


def num_threads() -> int | None:
    """`OMP_NUM_THREADS`: threads of one training process, a convention of OpenMP. Default: all cores it may use."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdigit() and int(value) > 0 else None


@dataclass(frozen=True, slots=True)
class Launch:
    """The rank of this process in a group started for one task, and the address of the group's first process."""

    rank: int
    local_rank: int
    world_size: int
    master_addr: str
    master_port: int


def launch() -> Launch | None:
    """`RANK`, `LOCAL_RANK`, `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`: PyTorch's convention. Default: none, alone."""
    if "WORLD_SIZE" not in os.environ:
        return None
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    return Launch(rank, local_rank, world_size, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))


def visible_gpus() -> list[str] | None:
    """`CUDA_VISIBLE_DEVICES`: indices or ids of the GPUs that CUDA shows, a convention of CUDA. Default (None): all."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if value is None else [name.strip() for name in value.split(",") if name.strip()]
