"""Where a number comes from: device, versions, precision and commit."""

import platform
import subprocess
from pathlib import Path

import torch
import torchvision


def provenance(device: torch.device) -> dict:
    """Device and library versions that a result comes from."""
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": f"{processor}, {torch.get_num_threads()} threads" if device.type == "cpu" else processor,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
    }


def default_device() -> torch.device:
    """The accelerator if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def commit() -> str:
    """The checked-out commit, marked "-dirty" if the code differs from it; results change as they are made."""
    package = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", package, *arguments], capture_output=True, text=True).stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD")
    return (commit + ("-dirty" if git("status", "--porcelain", "--", package) else "")) or "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
