import pytest
from checkouts import Checkout


@pytest.fixture
def checkout(root, tmp_path):
    return Checkout(root, tmp_path / "checkout")
