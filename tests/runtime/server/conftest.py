"""One server for all tests that leave it as it was."""

from collections.abc import Iterator

import pytest
from support.server import SHIPPED, Server, served


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    bundles = ["--bundle", str(SHIPPED / "bundle"), "--bundle", str(SHIPPED / "diffusion")]
    more = ["--no-join", "--limit", "requests_per_minute=100000"]
    with served(tmp_path_factory.mktemp("server"), [*bundles, *more]) as one:
        yield one
