import sandlock_proxy


def test_everything_public_exists() -> None:
    assert all(hasattr(sandlock_proxy, name) for name in sandlock_proxy.__all__)
