"""Names of checkpoints, and the folders that they resolve to."""

import pytest
from huggingface_hub.errors import HfHubHTTPError

from chassis.checkpoint_folder import find_checkpoint
from chassis.errors import StartError


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_a_folder_is_taken_as_it_is(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)

    assert find_checkpoint(checkpoint.name) == checkpoint


def test_a_hub_id_is_fetched_without_what_is_not_needed(checkpoint, monkeypatch):
    asked = {}

    def fetch(model, allow_patterns):
        asked[model] = allow_patterns
        return str(checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)

    assert find_checkpoint("owner/name") == checkpoint
    assert "*.safetensors" in asked["owner/name"]
    assert not any("bin" in pattern for pattern in asked["owner/name"])


@pytest.mark.parametrize(
    "name", ["nowhere", "/nowhere/at/all", "./owner/name/deep", "./name", "../name", "~/name"]
)
def test_what_is_neither_folder_nor_id_is_named(name):
    with pytest.raises(StartError, match=name):
        find_checkpoint(name)


@pytest.mark.parametrize(
    "error",
    [
        OSError("no route\nsecond line"),
        ValueError("no route"),
        HfHubHTTPError.__mro__[1]("no route"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)

    with pytest.raises(StartError, match=r"owner/name.*\(no route\)"):
        find_checkpoint("owner/name")


def test_a_file_and_a_folder_without_a_config_are_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()

    with pytest.raises(StartError, match="is a file"):
        find_checkpoint(str(file))
    with pytest.raises(StartError, match=r"holds no config\.json"):
        find_checkpoint(str(tmp_path))


def test_an_empty_name_is_not_the_folder_one_stands_in():
    with pytest.raises(StartError, match="the model is empty"):
        find_checkpoint("")
