"""llama.cpp, built from the source that the sdist of `llama-cpp-python` carries, and its files.

The checkpoint is converted by llama.cpp's own script and quantised by its own tool.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from bench.peers.servers import stages

VERSION = "0.3.36"  # of llama-cpp-python, whose source names llama.cpp's own commit
_TARGETS = ("llama-server", "llama-bench", "llama-quantize")
_VENDORED = "vendor/llama.cpp/"


@dataclass(frozen=True)
class LlamaCpp:
    """Paths of one version; nothing is touched before `install`."""

    root: Path

    @property
    def folder(self) -> Path:
        """Folder of this version."""
        return self.root / f"llama.cpp-{VERSION}"

    @property
    def source(self) -> Path:
        """Path of the built server."""
        return self.folder / "source"

    @property
    def server(self) -> Path:
        """The program that serves."""
        return self._built("llama-server")

    def install(self, *, jobs: int) -> None:
        """Fetch and build what is not there yet.

        Raises:
            StageFailed: pip, CMake or the compiler failed.
        """
        if not self.source.is_dir():
            self._fetch()
        if not all(self._built(name).exists() for name in _TARGETS):
            self._build(jobs)

    def gguf(self, checkpoint: Path, quantization: str | None) -> Path:
        """The file of a checkpoint; made if it is not there.

        Args:
            checkpoint: in Hugging Face layout.
            quantization: `q8_0` or `q4_0`; None: bf16.

        Raises:
            StageFailed: it cannot be converted.
        """
        made = self.root / "gguf" / f"{checkpoint.name}-{quantization or 'bf16'}.gguf"
        if made.exists():
            return made
        made.parent.mkdir(parents=True, exist_ok=True)
        partial = made.with_suffix(".partial")
        if quantization is None:
            # In a process of its own, for it changes what Python imports.
            convert = (sys.executable, "-m", "bench.peers.servers.gguf_conversion")
            stages.run(self._log, *convert, self.source, checkpoint, partial)
        else:
            whole = self.gguf(checkpoint, None)
            stages.run(self._log, self._built("llama-quantize"), whole, partial, quantization)
        return partial.rename(made)

    @property
    def _log(self) -> Path:
        return self.root / "logs" / "llama.cpp.log"

    def _built(self, name: str) -> Path:
        return self.folder / "build" / "bin" / name

    def _fetch(self) -> None:
        downloads = self.root / "downloads"
        download = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:")
        package = f"llama-cpp-python=={VERSION}"
        stages.run(self._log, *download, "--dest", downloads, package)
        partial = self.folder / "source.partial"
        shutil.rmtree(partial, ignore_errors=True)
        with tarfile.open(downloads / f"llama_cpp_python-{VERSION}.tar.gz") as archive:
            top = f"llama_cpp_python-{VERSION}/{_VENDORED}"
            members = [one for one in archive.getmembers() if one.name.startswith(top)]
            for one in members:
                one.name = one.name.removeprefix(top)
            archive.extractall(partial, members=members, filter="data")
        partial.rename(self.source)

    def _build(self, jobs: int) -> None:
        cmake, *ninja = self._tools()
        build = self.folder / "build"
        # One binary for this machine; neither a web page nor models are fetched by the server.
        options = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF"]
        options += [
            "-DLLAMA_BUILD_TESTS=OFF",
            "-DLLAMA_BUILD_UI=OFF",
            "-DLLAMA_USE_PREBUILT_UI=OFF",
        ]
        stages.run(
            self._log, cmake, "-S", self.source, "-B", build, "-G", "Ninja", *options, *ninja
        )
        stages.run(
            self._log, cmake, "--build", build, "--parallel", str(jobs), "--target", *_TARGETS
        )

    def _tools(self) -> list[str]:
        """CMake, and how it finds Ninja: the machine's own, or from packages of these names."""
        if shutil.which("cmake") and shutil.which("ninja"):
            return ["cmake"]
        python = stages.new_environment(self.folder / "tools")
        stages.run(self._log, python, "-m", "pip", "install", "--quiet", "cmake", "ninja")
        return [str(python.parent / "cmake"), f"-DCMAKE_MAKE_PROGRAM={python.parent / 'ninja'}"]
