"""Deployments that several end-to-end tests share: one in shared memory, one inline."""

import pytest
from support import checkpoints
from support.deployments import local

INLINE = {
    "TRIPTYCH_ROUTER_SHARED_MEMORY": "false",
    "TRIPTYCH_MODEL_SHARED_MEMORY": "false",
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A random dense checkpoint whose tokens are bytes."""
    return checkpoints.write_checkpoint(
        tmp_path_factory.mktemp("tiny"), "llama", max_position_embeddings=2048
    )


@pytest.fixture(scope="session")
def shared_deployment(tiny):
    with local.deployed(tiny, "--dtype", "float32", "--name", "tiny") as deployment:
        yield deployment


@pytest.fixture(scope="session")
def inline_deployment(tiny):
    options = ("--dtype", "float32", "--name", "tiny")
    with local.deployed(tiny, *options, env=INLINE) as deployment:
        yield deployment


@pytest.fixture(params=["shared", "inline"])
def deployment(request):
    """Every test that asks for this runs over shared memory and over inline messages."""
    return request.getfixturevalue(f"{request.param}_deployment")
