"""What every benchmark shares: interleaved repetitions, the machine they ran on, and the file that keeps them."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

__all__ = ["RAW", "interleaved", "save", "share_right"]

RAW = Path(__file__).parent / "raw"


def interleaved(cases: dict[str, Callable[[], object]], repetitions: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of each case, ``repetitions`` times, in turns: a slow minute of the machine then slows every case alike.

    Every case runs once unmeasured before, unless the caller has seen to that.
    """
    seconds = {name: [] for name in cases}
    for round_ in range(repetitions + warm_up):
        for name, case in cases.items():
            began = time.perf_counter()
            case()
            if round_ >= warm_up:
                seconds[name].append(round(time.perf_counter() - began, 5))
    return seconds


@torch.no_grad()
def share_right(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """The accuracy an attack leaves."""
    return (model(x).argmax(1) == y).float().mean().item()


def save(name: str, tables: list[dict], packages: list[str]) -> None:
    """Write raw repetitions to ``raw/<name>.json``, with the machine. A table is a title, a note, a reference case to which
    ratios are taken, and cases: a name, seconds, and what else was measured."""
    content = {"benchmark": name, "machine": _machine(packages), "tables": tables}
    RAW.mkdir(exist_ok=True)
    temporary = RAW / f".{name}.json"
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, RAW / f"{name}.json")


def _machine(packages: list[str]) -> dict[str, str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "cores": str(os.cpu_count()),
        "threads used": str(torch.get_num_threads()),
        "python": platform.python_version(),
        **{package: version(package) for package in ["torch", *packages]},
    }
