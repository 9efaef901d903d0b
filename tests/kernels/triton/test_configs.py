"""Which launch a kernel gets."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from kernels.triton import configs
from kernels.triton.configs import Config, choose
from kernels.triton.launch import Tuned

SMALL, LARGE, WIDE = (Config({"BLOCK": block}) for block in (16, 32, 64))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tuned launches are looked for, on a GPU named for nothing that exists."""
    monkeypatch.setattr(configs, "FOLDER", tmp_path)
    monkeypatch.setattr(configs, "gpu_name", lambda: "gpu-x")
    return tmp_path


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is chosen is kept by kernel, and these kernels differ from test to test.
    configs._nearest.cache_clear()
    monkeypatch.setattr(
        configs, "DEFAULTS", {"k": (Tuned({"dim": 64}, SMALL), Tuned({"dim": 256}, LARGE))}
    )


def write(path: Path, shape: Mapping[str, int], config: Config) -> None:
    entry = {
        "shape": shape,
        "tiles": config.tiles,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }
    path.write_text(json.dumps([entry]))


@pytest.mark.usefixtures("folder", "defaults")
@pytest.mark.parametrize(("dim", "config"), [(1, SMALL), (64, SMALL), (250, LARGE), (4096, LARGE)])
def test_without_a_file_the_nearest_default_is_chosen(dim: int, config: Config) -> None:
    assert choose("k", dim=dim) == config


@pytest.mark.usefixtures("defaults")
def test_of_equally_near_launches_the_tuned_one_is_chosen(folder: Path) -> None:
    tuned = configs.tuned_file("k", "gpu-x", configs.triton_version())
    write(tuned, {"dim": 64, "tokens": 8}, WIDE)

    assert choose("k", dim=64, tokens=4096) == WIDE
    assert choose("k", dim=256, tokens=8) == LARGE, "nearer in what was told first"


@pytest.mark.usefixtures("defaults")
@pytest.mark.parametrize(("gpu", "triton"), [("gpu-y", None), ("gpu-x", "2.0")])
def test_what_was_tuned_elsewhere_is_not_chosen(folder: Path, gpu: str, triton: str | None) -> None:
    write(configs.tuned_file("k", gpu, triton or configs.triton_version()), {"dim": 64}, WIDE)

    assert choose("k", dim=64) == SMALL


@pytest.mark.usefixtures("defaults")
def test_a_size_that_tuning_told_but_the_caller_did_not_is_an_error(folder: Path) -> None:
    write(configs.tuned_file("k", "gpu-x", configs.triton_version()), {"dims": 64}, WIDE)

    with pytest.raises(ValueError, match="dims"):
        choose("k", dim=64)


@pytest.mark.usefixtures("folder", "defaults")
def test_an_unknown_kernel_is_an_error() -> None:
    with pytest.raises(ValueError, match="'other'"):
        choose("other", dim=64)


@pytest.mark.usefixtures("folder", "defaults")
def test_a_forced_launch_holds_until_its_end() -> None:
    with configs.forced("k", WIDE):
        assert choose("k", dim=64) == WIDE

    assert choose("k", dim=64) == SMALL


def test_options_are_a_launch_s_keywords() -> None:
    config = Config({"BLOCK": 8}, num_warps=2, num_stages=3)

    assert config.options() == {"BLOCK": 8, "num_warps": 2, "num_stages": 3}


def test_a_gpu_is_spelt_as_a_file_name() -> None:
    assert configs.spell("NVIDIA H200") == "nvidia-h200"


def test_a_choice_imports_neither_torch_nor_triton() -> None:
    program = (
        "import sys; from kernels.triton.configs import choose; choose('rms_norm', hidden=1);"
        "sys.exit(bool({'torch', 'triton'} & sys.modules.keys()))"
    )
    root = Path(configs.__file__).parents[2]

    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize("name", ["configs.py", "configs/new.json"])
def test_the_hash_tells_a_change_of_sources_and_of_launches(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(configs.__file__)
    copy = tmp_path / "triton"
    shutil.copytree(source.parent, copy)
    monkeypatch.setattr(configs, "__file__", str(copy / "configs.py"))
    before = configs.kernels_hash()
    (copy / "__pycache__").mkdir(exist_ok=True)
    (copy / "__pycache__" / "left.pyc").write_bytes(b"")
    assert configs.kernels_hash() == before

    (copy / name).parent.mkdir(exist_ok=True)
    with (copy / name).open("a") as file:
        file.write(" ")

    assert configs.kernels_hash() != before
