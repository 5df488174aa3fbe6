import pytest
from support.torch_twin import TinyModels, tiny_models


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Tiny diffusers models, the same for every test; nothing changes them."""
    return tiny_models(tmp_path_factory.mktemp("tiny"))
